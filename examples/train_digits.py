"""Train a small network on handwritten digits, with and without batch norm, and compare.

The data are the 1,797 real 8x8 images of scikit-learn's `load_digits`, a fifth of them held out.
The two networks start from the same weights, see the same batches in the same order and differ in
batch norm alone. Each is trained at several learning rates, from several seeds.

    python examples/train_digits.py [--quick] [--output build/digits.png]
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from nbnorm.layers import SGD, Activation, Conv2d, Conv2dBatchNorm, Dense, Flatten, Sequential

LEARNING_RATES = (0.002, 0.01, 0.05, 0.2)
SEEDS = 3
EPOCHS = 15
BATCH = 32
MOMENTUM = 0.9


class Data(NamedTuple):
    """Images (n, 1, 8, 8) in float32, from 0 to 1, and their digits (n,)."""

    train_images: np.ndarray
    train_digits: np.ndarray
    test_images: np.ndarray
    test_digits: np.ndarray


class Run(NamedTuple):
    """What one training left behind."""

    accuracies: list[float]  # percent of the held-out images, after each epoch
    step_ms: float  # median, so that compiling in the first step does not count
    diverged: bool  # the loss stopped being a finite number


Results = dict[tuple[float, bool], list[Run]]  # by learning rate and batch norm: one run a seed


def load() -> Data:
    """Split the images, the same way every time and every digit in proportion."""
    digits = load_digits()
    images = (digits.images[:, np.newaxis] / 16).astype(np.float32)
    train_images, test_images, train_digits, test_digits = train_test_split(
        images, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    return Data(train_images, train_digits, test_images, test_digits)


def network(batch_norm: bool, seed: int) -> Sequential:
    """Stack three convolutions and a dense layer."""

    def convolution(c: int, k: int, stride: int) -> Conv2dBatchNorm | Sequential:
        # [seed, k]: each layer's own seed, so that both networks start from the same weights.
        # Batch norm would subtract a bias again with the mean; its beta takes the bias's place.
        geometry = {"kernel_size": 3, "stride": stride, "padding": 1}
        if batch_norm:
            return Conv2dBatchNorm(c, k, **geometry, activation="relu", rng=[seed, k])
        return Sequential(Conv2d(c, k, **geometry, rng=[seed, k]), Activation("relu"))

    return Sequential(
        convolution(1, 16, stride=1),  # 8x8
        convolution(16, 32, stride=2),  # 4x4
        convolution(32, 64, stride=2),  # 2x2
        Flatten(),
        Dense(64 * 2 * 2, 10, rng=[seed, 10]),
    )


def cross_entropy(logits: np.ndarray, digits: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean of -log softmax(logits)[digit], and its gradient."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    answers = np.arange(len(digits)), digits
    gradient = np.exp(log_softmax)
    gradient[answers] -= 1
    return -float(log_softmax[answers].mean()), gradient / len(digits)


@np.errstate(all="ignore")  # a run that diverges is a result here, not a warning
def train(data: Data, lr: float, batch_norm: bool, seed: int, epochs: int, progress: tqdm) -> Run:
    """Train one network and test it after each epoch."""
    net = network(batch_norm, seed)
    optimizer = SGD(net, lr, MOMENTUM)
    rng = np.random.default_rng(seed)
    accuracies: list[float] = []
    seconds = []
    diverged = False
    for _ in range(epochs):
        order = rng.permutation(len(data.train_images))
        for first in range(0, len(order) - BATCH + 1, BATCH):
            if diverged:  # for good: the accuracy stays what it is now
                break
            batch = order[first : first + BATCH]
            start = time.perf_counter()
            loss, dlogits = cross_entropy(net(data.train_images[batch]), data.train_digits[batch])
            net.backward(dlogits)
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - start)
            diverged = not np.isfinite(loss)
        # Folded: the running statistics are worked into the weights, as one would deploy it.
        predicted = net.fold()(data.test_images).argmax(axis=1)
        accuracies.append(100 * float(np.mean(predicted == data.test_digits)))
        progress.update()
    return Run(accuracies, 1e3 * float(np.median(seconds)), diverged)


def final(runs: list[Run]) -> np.ndarray:
    """Return each run's accuracy after its last epoch."""
    return np.array([run.accuracies[-1] for run in runs])


def step_ms(runs: list[Run]) -> float:
    """Return the time of a step: the median, as one run may meet a busy machine."""
    return float(np.median([run.step_ms for run in runs]))


def epochs_to_95(runs: list[Run]) -> str:
    """Say how many epochs it took, on the mean, to 95 % accuracy."""
    reached = [np.argmax(np.array(r.accuracies) >= 95) + 1 for r in runs if max(r.accuracies) >= 95]
    if not reached:
        return "never"
    partly = f" ({len(reached)} of {len(runs)} runs)" if len(reached) < len(runs) else ""
    return f"{np.mean(reached):.1f}{partly}"


def table(results: Results) -> str:
    """Lay out every learning rate, without and with batch norm."""
    line = "{:>13}  {:<10}  {:>15}  {:>14}  {:<18}  {:>9}".format
    head = "learning rate|batch norm|test accuracy %|lowest-highest|epochs to 95 %|ms a step"
    lines = [line(*head.split("|"))]
    for (lr, batch_norm), runs in results.items():
        last = final(runs)
        lines.append(
            line(
                lr,
                "with" if batch_norm else "without",
                f"{last.mean():.1f}",
                f"{last.min():.1f}-{last.max():.1f}",
                epochs_to_95(runs),
                f"{step_ms(runs):.2f}",
            )
        )
    return "\n".join(lines)


def findings(results: Results) -> str:
    """Say in words what the table shows."""
    lines, top, low, step = [], {}, {}, {}
    for kind, name in ((True, "With"), (False, "Without")):
        runs = {lr: runs for (lr, batch_norm), runs in results.items() if batch_norm == kind}
        mean = {lr: final(of_one_rate).mean() for lr, of_one_rate in runs.items()}
        best, worst = max(mean, key=mean.__getitem__), min(mean, key=mean.__getitem__)
        every = [run for of_one_rate in runs.values() for run in of_one_rate]
        top[kind], low[kind], step[kind] = mean[best], mean[worst], step_ms(every)
        lines.append(
            f"{name} batch norm the network reads {top[kind]:.1f} % of the held-out digits at its\n"
            f"best learning rate, {best} (epochs to 95 %: {epochs_to_95(runs[best])}), and "
            f"{low[kind]:.1f} % at its worst, {worst}.\nThe loss of "
            f"{sum(run.diverged for run in every)} of {len(every)} runs stopped being finite."
        )
    lines.append(
        f"Batch norm gains {top[True] - top[False]:+.1f} points at the best learning rates and "
        f"{low[True] - low[False]:+.1f} at the worst.\n"
        f"A step takes {step[True]:.2f} ms with it and {step[False]:.2f} ms without.\n"
        "The best rates were chosen on the held-out digits themselves, which flatters both."
    )
    return "\n".join(lines)


def draw(results: Results, path: Path) -> None:
    """Draw the learning curves: a panel a learning rate, mean and range over the seeds."""
    plt.switch_backend("Agg")  # into a file: no display needed
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    rates = sorted({lr for lr, _ in results})
    figure, panels = plt.subplots(
        1,
        len(rates),
        figsize=(1 + 3 * len(rates), 4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    xticks = [1, *range(5, 1 + len(results[rates[0], True][0].accuracies), 5)]
    for panel, lr in zip(panels[0], rates, strict=True):
        for batch_norm, color in ((True, "tab:blue"), (False, "tab:orange")):
            # Error, on a logarithmic axis: there 97 % and 99 % are well apart.
            error = 100 - np.array([run.accuracies for run in results[lr, batch_norm]])
            error = error.clip(0.25)  # none at all would be off the axis
            epochs = np.arange(1, error.shape[1] + 1)
            label = f"{'with' if batch_norm else 'without'} batch norm"
            panel.plot(epochs, error.mean(axis=0), color=color, label=label)
            panel.fill_between(
                epochs, error.min(axis=0), error.max(axis=0), color=color, alpha=0.2, lw=0
            )
        panel.set(
            title=f"learning rate {lr}",
            xlabel="epoch",
            xticks=xticks,
            yscale="log",
            ylim=(0.25, 100),
        )
        panel.grid(alpha=0.3)
    ticks = (0.5, 1, 2, 5, 10, 20, 50, 100)
    panels[0, 0].set_yticks(ticks, labels=map(str, ticks))
    panels[0, 0].set_yticks([], minor=True)
    panels[0, 0].set_ylabel("test error (%)")
    panels[0, -1].legend(frameon=False)
    seeds = len(next(iter(results.values())))
    figure.suptitle(f"Handwritten digits: mean and range over {seeds} seeds")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train every network, print the table and what it shows, save the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="one learning rate, one seed, 4 epochs"
    )
    parser.add_argument("--output", type=Path, default=Path("build/digits.png"), help="the picture")
    options = parser.parse_args()
    rates, seeds, epochs = ((0.05,), 1, 4) if options.quick else (LEARNING_RATES, SEEDS, EPOCHS)

    data = load()
    results: Results = {}
    with tqdm(total=len(rates) * 2 * seeds * epochs, unit="epoch") as progress:
        for lr in rates:
            for batch_norm in (False, True):
                progress.set_description(
                    f"learning rate {lr}, {'with' if batch_norm else 'without'} batch norm"
                )
                results[lr, batch_norm] = [
                    train(data, lr, batch_norm, seed, epochs, progress) for seed in range(seeds)
                ]

    print(f"\n{table(results)}\n\n{findings(results)}\n")
    draw(results, options.output)
    print(f"Learning curves: {options.output}")


if __name__ == "__main__":
    main()
