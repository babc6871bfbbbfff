"""Train on handwritten digits over several processes, and compare with one that has it all.

Each process sees its share of every batch. Batch norms take the statistics of the whole batch, and
each process weighs its gradients by its count, so that their sum is the gradient of the whole: the
processes, which start from the same weights, keep the same weights. Rank 0 then trains alone on
whole batches and says how far apart the weights are.

    mpiexec -n 4 python examples/train_mpi.py [--dtype float32] [--steps 50]
"""

import argparse

import numpy as np
from mpi4py import MPI
from sklearn.datasets import load_digits

from nbnorm.distributed import mpi, synchronized
from nbnorm.layers import SGD, Conv2dBatchNorm, Dense, DenseBatchNorm, Flatten, Sequential

BATCH = 61  # a prime: no number of processes has equal shares
LEARNING_RATE = 0.05
MOMENTUM = 0.9


def network(dtype: str) -> Sequential:
    """Two convolutions and two dense layers, from the same weights each time."""
    geometry = {"kernel_size": 3, "padding": 1, "activation": "relu", "dtype": dtype}
    return Sequential(
        Conv2dBatchNorm(1, 16, **geometry, rng=0),  # 8x8
        Conv2dBatchNorm(16, 32, **geometry, stride=2, rng=1),  # 4x4
        Flatten(),
        DenseBatchNorm(32 * 4 * 4, 64, activation="relu", dtype=dtype, rng=2),
        Dense(64, 10, dtype=dtype, rng=3),
    )


def cross_entropy_gradient(logits: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """Of the sum of -log softmax(logits)[digit], which adds up over processes as no mean does."""
    gradient = np.exp(logits - logits.max(axis=1, keepdims=True))
    gradient /= gradient.sum(axis=1, keepdims=True)
    gradient[np.arange(len(digits)), digits] -= 1
    return gradient


def train(net: Sequential, steps: int, dtype: str, rank: int, size: int, comm: MPI.Comm) -> None:
    """Train in place, on the share of each batch that a rank of so many has."""
    pixels, digits = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 1, 8, 8) / 16).astype(dtype)
    optimizer = SGD(net, LEARNING_RATE, MOMENTUM)
    rng = np.random.default_rng(0)  # the same batches on all ranks
    for _ in range(steps):
        batch = rng.choice(len(images), BATCH, replace=False)
        mine = np.array_split(batch, size)[rank]
        net.backward(cross_entropy_gradient(net(images[mine]), digits[mine]))
        for gradient in net.gradients().values():
            # The mean over the batch. In float64 and in the order of the ranks: the same bits on
            # all of them.
            gradient[...] = sum(comm.allgather(gradient.astype(np.float64))) / BATCH
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    """Train over all processes, then alone, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()

    comm = MPI.COMM_WORLD
    net = synchronized(network(options.dtype), mpi(comm))
    train(net, options.steps, options.dtype, comm.rank, comm.size, comm)
    others = comm.allgather({name: array.tobytes() for name, array in net.state_dict().items()})
    if comm.rank != 0:
        return
    alone = network(options.dtype)
    train(alone, options.steps, options.dtype, 0, 1, MPI.COMM_SELF)
    apart = max(np.abs(net.state_dict()[k] - v).max() for k, v in alone.state_dict().items())
    same = "the same bits" if all(other == others[0] for other in others) else "other bits"
    print(f"{comm.size} processes have {same} after {options.steps} steps.")
    print(f"One process with the whole batches is {apart:.1e} off ({options.dtype}).")


if __name__ == "__main__":
    main()
