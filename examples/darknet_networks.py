"""Run tiny YOLOv3 and ResNet-18 from darknet's files, as they are and folded, and time both.

The weights are random, the running statistics those of one batch of noise. Each network is written
to a file of weights, read again, folded and run on one image.

    python examples/darknet_networks.py [--seconds 5] [cfg ...]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from nbnorm.interop.darknet import Network, load_network

CFGS = Path(__file__).parent / "darknet"


def randomize(net: Network, rng: np.random.Generator, batch: int = 2) -> None:
    """Draw gamma and beta, and take each batch norm's statistics of one batch of noise."""
    for name, array in net.parameters().items():
        if name.endswith("gamma"):
            array[...] = rng.uniform(0.5, 1.5, array.shape)
        elif name.endswith("beta"):
            array[...] = rng.normal(0, 0.1, array.shape)
    layers = [step.layer for step in net if hasattr(step.layer, "running_var")]
    for layer in layers:
        layer.train().momentum = 1  # the running statistics become the batch's
    net(noise(net, rng, batch))
    for layer in layers:
        layer.eval()


def noise(net: Network, rng: np.random.Generator, batch: int = 1) -> np.ndarray:
    """Draw images with numbers from 0 to 1, as darknet feeds a network."""
    return rng.random((batch, *net.input_shape), np.float32)


def saved_and_loaded(cfg: Path, rng: np.random.Generator, **options: Any) -> tuple[Network, int]:
    """Return a network of random weights that went through a file, and the file's bytes."""
    net = load_network(cfg, rng=rng, **options)
    randomize(net, rng)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "random.weights")
        net.save_weights(weights)
        return load_network(cfg, weights, **options), weights.stat().st_size


def difference(net: Network, folded: Network, x: np.ndarray) -> float:
    """Return the largest difference of any result, over the largest number in it."""
    outputs, others = net.forward(x)[1], folded.forward(x)[1]
    return max(float(np.abs(y - others[i]).max() / np.abs(y).max()) for i, y in outputs.items())


def timed(networks: list[Network], x: np.ndarray, seconds: float) -> list[float]:
    """Return median milliseconds of each network, run in turn."""
    times: list[list[float]] = [[] for _ in networks]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not times[0]:
        for net, own in zip(networks, times, strict=True):
            start = time.perf_counter()
            net(x)
            own.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(own) for own in times]


def main() -> None:
    """Print one line a network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cfg", nargs="*", type=Path, default=sorted(CFGS.glob("*.cfg")))
    parser.add_argument(
        "--size", type=int, help="height and width of the image (default: the cfg's)"
    )
    parser.add_argument(
        "--seconds", type=float, default=5, help="to time each network (default: 5)"
    )
    options = parser.parse_args()

    heads = ("weights", 12), ("as it is", 12), ("folded", 12), ("difference", 14)
    print(f"{'network':<16}{'image':<16}" + "".join(f"{head:>{wide}}" for head, wide in heads))
    for cfg in options.cfg:
        rng = np.random.default_rng(0)
        net, size = saved_and_loaded(cfg, rng, size=options.size)
        folded = net.fold()
        x = noise(net, rng)
        error = difference(net, folded, x)  # and the first run, which compiles
        milliseconds = timed([net, folded], x, options.seconds)
        shape = " x ".join(map(str, net.input_shape))
        print(
            f"{cfg.stem:<16}{shape:<16}{size / 1e6:>9.1f} MB"
            + "".join(f"{one:>9.1f} ms" for one in milliseconds)
            + f"{error:>14.1e}"
        )


if __name__ == "__main__":
    main()
