"""The command line: what nbnorm finds on this machine, and what it does there.

nbnorm info      versions, processor, threads, the cache of compiled code
nbnorm warmup    compile the common kernels into the cache
nbnorm demo      accuracy and speed in half a screen
nbnorm compare   speed beside what else is installed, in a minute
nbnorm darknet   a network of darknet's files: its layers, and what it gives
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

import nbnorm
from nbnorm.jit import cache, caches, options, target, threading_layer, threads
from nbnorm.kernels.activations import ACTIVATIONS
from nbnorm.launch.machine import L2_CACHE_BYTES, LLC_BYTES
from nbnorm.operations import BY_NAME, parameters
from nbnorm.typing import Array

_NOTHING_COMPILED = "NUMBA_DISABLE_JIT=1: nothing is compiled, and every kernel runs as slow Python"


_EXAMPLES = """\
examples:
  nbnorm info                                  what is here, and where compiled code is kept
  nbnorm warmup                                compile what most need, so that no call waits
  nbnorm warmup --dtype float64 --activation silu
  nbnorm demo                                  batch norm in half a screen
  nbnorm compare --seconds 20                  this machine's own table
  nbnorm COMMAND --help                        what a command takes

exit codes:
  0  done
  1  it failed, and one line on stderr says why
  2  wrong arguments
  130  interrupted by Ctrl-C
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        for line in parsed.command(parsed):
            print(line, flush=True)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"nbnorm: error: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nbnorm",
        description="Batch normalization on CPUs: what it finds on this machine, and does there.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nbnorm {_version('nbnorm')}")
    commands = parser.add_subparsers(required=True, metavar="command")

    text = "show versions, processor, threads and the cache of compiled code"
    info = commands.add_parser("info", help=text, description=text.capitalize() + ".")
    info.set_defaults(command=lambda _: _info())

    warmup = commands.add_parser(
        "warmup",
        help="compile the common kernels into the cache",
        epilog="example: nbnorm warmup --dtype float32 float64 --activation none relu silu",
        description="Compile the common kernels into the cache, so that no later process of this "
        "user waits for the compiler: forward, backward and inference of batch norm, of dense "
        "layers and of convolutions with batch norm, channels-first and channels-last, and of L1 "
        "and L2 normalization, on one thread and on all.",
    )
    warmup.add_argument(
        "--dtype",
        nargs="+",
        choices=["float32", "float64"],
        default=["float32"],
        help="element types (default: float32)",
    )
    warmup.add_argument(
        "--activation",
        nargs="+",
        choices=["none", *ACTIVATIONS],
        default=["none", "relu"],
        help="activations (default: none relu)",
    )
    warmup.add_argument(
        "--shared",
        action="store_true",
        help="let every user read the cache: for an image that root builds and others run",
    )
    warmup.set_defaults(
        command=lambda parsed: _warmup(parsed.dtype, parsed.activation, parsed.shared)
    )

    text = "show accuracy and speed beside NumPy"
    demo = commands.add_parser("demo", help=text, description=text.capitalize() + ".")
    demo.set_defaults(command=lambda _: _demo())

    compare = commands.add_parser(
        "compare",
        help="show speed beside what else is installed",
        description="Time batch norms, dense layers and convolutions beside NumPy, PyTorch if it "
        "is installed, and a copy of the input, all in turn and on as many threads.",
        epilog="example: nbnorm compare --seconds 20",
    )
    compare.add_argument(
        "--seconds", type=float, default=60.0, help="for the times, all in all (default: 60)"
    )
    compare.set_defaults(command=lambda parsed: _compare(parsed.seconds))

    from nbnorm.interop.darknet import command

    text = "show and run a network of darknet's files"
    darknet = commands.add_parser("darknet", help=text, description=command.DESCRIPTION)
    command.add_arguments(darknet)
    darknet.set_defaults(command=command.run)
    return parser


# --- info -----------------------------------------------------------------------------------


def _info() -> Iterator[str]:
    yield f"nbnorm        {_version('nbnorm')}"
    yield f"Python        {platform.python_version()}, {platform.platform(terse=True)}"
    for name in ("NumPy", "Numba", "llvmlite", "tbb"):
        yield f"{name:<14}{_version(name)}"
    yield f"processor     {_processor()}"
    yield f"caches        {_cache_sizes()}"
    threading_layer.start()
    status = threads.status()
    yield f"threads       {status.threads}, by {status.layer or 'no layer'}: {status.reason}"
    yield f"compiled code {_cache_summary()}"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    fma = "with" if target.has_fma() else "without"
    return f"{target.processor_name()}, {8 * target.register_bytes()}-bit registers, {fma} fma"


def _cache_sizes() -> str:
    """Those of the processor; plans assume what launch/machine.py says, on every machine."""
    told = [f"L{level} {size >> 10} kB" for level, size in caches.sizes().items()]
    assumed = f"L2 {L2_CACHE_BYTES >> 10} kB, last {LLC_BYTES >> 10} kB"
    return f"{', '.join(told) or 'not told by the system'} (assumed: {assumed})"


def _cache_summary() -> str:
    folder = cache.cache_folder()
    if folder is None:
        return "not kept" if cache.is_enabled() else "not kept: NBNORM_CACHE=0"
    entries = _files(folder)
    root = folder.parent
    others = sum(_bytes(_files(other)) for other in root.glob("nbnorm-*") if other != folder)
    kept = f" (and {_size(others)} of other versions)" if others else ""
    return f"{len(entries)} kernels, {_size(_bytes(entries))} in {folder}{kept}"


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.is_file()]


def _bytes(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def _size(count: int) -> str:
    return f"{count / (1 << 20):.1f} MB"


# --- warmup ---------------------------------------------------------------------------------


class Warming(NamedTuple):
    """An operation, by its name in the table, on arrays that take its kernels to threads."""

    name: str
    operation: str
    sizes: Mapping[str, Any]
    options: Mapping[str, Any] = MappingProxyType({})


_ORDERS = {"channels-first": 1, "channels-last": -1}
_IMAGES = {"n": 4, "c": 32, "h": 28, "w": 28, "r": 3, "s": 3}

# One for each kind of plan and each algorithm, large enough for threads: see launch/plans.py and
# launch/conv2d/algorithms.py. The second dense layer has so few rows that inference multiplies by
# its weights as they lie.
WARMING = (
    Warming("channels-first, large", "batch_norm", {"n": 32, "c": 64, "p": (56, 56)}),
    Warming("channels-first, small", "batch_norm", {"n": 16, "c": 64, "p": (28, 28)}),
    Warming("channels-last", "batch_norm", {"n": 8, "c": 64, "p": (28, 28)}, {"axis": -1}),
    Warming("(n, c)", "batch_norm", {"n": 128, "c": 4080, "p": ()}),
    Warming("channels-first, tiny", "batch_norm", {"n": 4, "c": 8, "p": (5, 5)}),
    Warming("(n, c), tiny", "batch_norm", {"n": 16, "c": 10, "p": ()}),
    Warming("dense", "dense_batch_norm", {"n": 1024, "c": 128, "k": 128}),
    Warming("dense, few rows", "dense_batch_norm", {"n": 4, "c": 1024, "k": 512}),
    Warming("group norm", "group_norm", {"n": 16, "c": 64, "p": (28, 28)}, {"num_groups": 8}),
    Warming("L1 norm", "l1_normalize", {"n": 1024, "c": 256, "p": ()}),
    Warming("L2 norm", "l2_normalize", {"n": 1024, "c": 256, "p": ()}),
    *(
        Warming(f"{name}, {order}", "conv2d_batch_norm", _IMAGES | {"k": k}, options)
        for order, axis in _ORDERS.items()
        for name, k, options in (
            ("3x3", 128, {"axis": axis, "padding": 1}),
            ("strided", 128, {"axis": axis, "padding": 1, "stride": 2}),
            ("depthwise", 32, {"axis": axis, "padding": 1, "groups": 32}),
        )
    ),
)


def _warmup(dtypes: Sequence[str], activations: Sequence[str], shared: bool) -> Iterator[str]:
    if not options.is_compiling():
        yield _NOTHING_COMPILED
        return
    begin = time.perf_counter()
    before = _kept_count()
    modes = ["one thread"]
    if threads.runs_parallel():
        modes.append(f"{threads.thread_count()} threads")
    steps = [
        (dtype, activation, warming, mode)
        for dtype in dtypes
        for activation in activations
        for warming in WARMING
        for mode in modes
    ]
    for i, (dtype, activation, warming, mode) in enumerate(steps, start=1):
        start, count = time.perf_counter(), _kept()
        if mode == modes[0]:
            with threads.one_thread():
                _train_and_infer(warming, dtype, activation)
        else:
            _train_and_infer(warming, dtype, activation)
        made = _kept() - count
        yield (
            f"{i:>3}/{len(steps)} {_bar(i / len(steps))}  {dtype}  {activation:<12} "
            f"{warming.name:<23} {mode:<10} {time.perf_counter() - start:5.1f} s  {_size(made):>8}"
        )
    if shared:
        cache.share()
    seconds = time.perf_counter() - begin
    if cache.cache_folder() is None:
        yield f"{seconds:.1f} s, and nothing kept: see nbnorm info"
    else:
        yield f"{_kept_count() - before} kernels compiled in {seconds:.1f} s; {_cache_summary()}"


def _kept_count() -> int:
    folder = cache.cache_folder()
    return 0 if folder is None else len(_files(folder))


def _kept() -> int:
    """Bytes of compiled code on disk."""
    folder = cache.cache_folder()
    return 0 if folder is None else _bytes(_files(folder))


def _bar(part: float) -> str:
    """A part of 1, drawn."""
    return f"[{'#' * round(10 * part):<10}]"


def _train_and_infer(warming: Warming, dtype: str, activation: str) -> None:
    operation = BY_NAME[warming.operation]
    given = _drawn(warming, dtype)
    if "activation" in parameters(operation.function("forward")):
        given["activation"] = None if activation == "none" else activation
    for variant in _of_parameter_types(given):
        operation.train(variant)
        if "inference" in operation.directions:
            operation.call("inference", variant)()


def _of_parameter_types(given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The arguments as they are; with the statistics that layers keep; with all in float64.

    Kernels of batch norm are compiled for the types in which numbers of channels come.
    """
    yield given
    for names in (("mean", "var"), ("mean", "var", "gamma", "beta")):
        single = [name for name in names if name in given and given[name].dtype != np.float64]
        if single:
            yield given | {name: given[name].astype(np.float64) for name in single}


def _drawn(warming: Warming, dtype: str) -> dict[str, Any]:
    """Arguments of all its functions, without bias and residual."""
    random = np.random.default_rng(0)
    given = BY_NAME[warming.operation].draw(random, dtype, warming.sizes, **warming.options)
    return {name: value for name, value in given.items() if name not in ("bias", "residual")}


# --- demo -----------------------------------------------------------------------------------

DEMO_SHAPE = (32, 64, 56, 56)
DEMO_SECONDS = 4.0  # for the times
_REDUCED = (0, 2, 3)
_EPS = 1e-5


def _demo() -> Iterator[str]:
    if not options.is_compiling():
        yield _NOTHING_COMPILED
        return
    rng = np.random.default_rng(0)
    x = rng.standard_normal(DEMO_SHAPE, np.float32)
    yield f"{DEMO_SHAPE} float32, {_processor()}, {threads.thread_count()} threads"
    yield ""
    normalized, _ = nbnorm.batch_norm_forward(3 * x + 5, eps=_EPS)
    yield "One channel                     mean        std"
    yield f"  before                    {_mean_and_std(3 * x + 5)}"
    yield f"  after batch_norm_forward  {_mean_and_std(normalized)}"
    yield ""
    yield from _accuracy(x)
    yield ""
    yield from _speed(x)


def _mean_and_std(x: Array) -> str:
    channel = x[:, 0].astype(np.float64)
    return f"{channel.mean():8.5f}   {channel.std():8.5f}"


def _accuracy(x: Array) -> Iterator[str]:
    """Errors against float64, of nbnorm and of what is written first."""
    means = (0.0, 1e2, 1e4, 1e6)
    yield "Largest error of y for channels of std 1 and mean " + _row(means, "{:>10,.0f}")
    errors = []
    x = x[:8]
    for mean in means:
        shifted = x + np.float32(mean)
        y, _ = nbnorm.batch_norm_forward(shifted, eps=_EPS)
        truth = numpy_forward(shifted.astype(np.float64))[0]
        naive = naive_forward(shifted)
        errors.append([np.max(np.abs(result - truth)) for result in (y, naive)])
    ours, naives = zip(*errors, strict=True)
    yield f"  {'nbnorm':<48}" + _row(ours, "{:>10.0e}")
    yield f"  {'float32 NumPy, var = E[x^2] - E[x]^2':<48}" + _row(naives, "{:>10.0e}")


def _row(values: Iterable[float], form: str) -> str:
    return "".join(form.format(value) for value in values)


def _speed(x: Array) -> Iterator[str]:
    """Times of nbnorm, of NumPy and of a copy, in turn."""
    dy = x[::-1].copy()
    y = np.empty_like(x)
    dx = nbnorm.BatchNormGradients(dx=np.empty_like(x))
    _, context = nbnorm.batch_norm_forward(x)
    _, mean, inv_std = numpy_forward(x)
    milliseconds = _timed(
        {
            "forward": lambda: nbnorm.batch_norm_forward(x, out=y),
            "backward": lambda: nbnorm.batch_norm_backward(dy, context, needs=("dx",), out=dx),
            "numpy forward": lambda: numpy_forward(x),
            "numpy backward": lambda: numpy_backward(dy, x, mean, inv_std),
            "copy": lambda: np.copyto(y, x),
        },
        DEMO_SECONDS,
    )
    copy = milliseconds["copy"]
    yield "Time in ms                  forward   backward"
    for name, prefix in (("nbnorm", ""), ("NumPy", "numpy ")):
        forward, backward = milliseconds[f"{prefix}forward"], milliseconds[f"{prefix}backward"]
        yield f"  {name:<22}{forward:>11.1f}{backward:>11.1f}"
    yield f"  {'a copy of x by NumPy':<22}{copy:>11.1f}"


def _timed(tasks: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median milliseconds of each task, run in turn so that a busy moment meets them all."""
    for task in tasks.values():
        task()
    times: dict[str, list[float]] = {name: [] for name in tasks}
    end = time.perf_counter() + seconds
    while not times[next(iter(tasks))] or time.perf_counter() < end:
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def numpy_forward(x: Array) -> tuple[Array, Array, Array]:
    """Batch norm of (n, c, h, w) as it is usually written: y, mean and inv_std."""
    mean = x.mean(_REDUCED, keepdims=True)
    inv_std = 1 / np.sqrt(x.var(_REDUCED, keepdims=True) + x.dtype.type(_EPS))
    return (x - mean) * inv_std, mean, inv_std


def numpy_backward(dy: Array, x: Array, mean: Array, inv_std: Array) -> Array:
    """Its gradient dx."""
    normalized = (x - mean) * inv_std
    along = (dy * normalized).mean(_REDUCED, keepdims=True)
    return inv_std * (dy - dy.mean(_REDUCED, keepdims=True) - normalized * along)


def naive_forward(x: Array) -> Array:
    """Batch norm by the mean of squares minus the squared mean, in the type of x."""
    mean = x.mean(_REDUCED, keepdims=True)
    var = np.maximum((x * x).mean(_REDUCED, keepdims=True) - mean * mean, 0)
    return (x - mean) / np.sqrt(var + x.dtype.type(_EPS))


# --- compare --------------------------------------------------------------------------------

_CONVOLUTION = {"n": 8, "c": 64, "h": 56, "w": 56, "k": 64, "r": 3, "s": 3}
COMPARED = (
    Warming("batch norm, channels-first", "batch_norm", {"n": 32, "c": 128, "p": (28, 28)}),
    Warming("batch norm, channels-last", "batch_norm", {"n": 32, "c": 128, "p": (28, 28)},
            {"axis": -1}),
    Warming("dense + batch norm + ReLU", "dense_batch_norm", {"n": 256, "c": 784, "k": 512},
            {"activation": "relu"}),
    Warming("3x3 conv. + batch norm + ReLU, channels-first", "conv2d_batch_norm", _CONVOLUTION,
            {"padding": 1, "activation": "relu"}),
    Warming("3x3 conv. + batch norm + ReLU, channels-last", "conv2d_batch_norm", _CONVOLUTION,
            {"padding": 1, "activation": "relu", "axis": -1}),
)  # fmt: skip


def _compare(seconds: float) -> Iterator[str]:
    """Milliseconds of each library, and PyTorch's over nbnorm's."""
    if not options.is_compiling():
        yield _NOTHING_COMPILED
        return
    if not seconds > 0:
        raise ValueError(f"--seconds is {seconds:g}; expected more than 0")
    steps = _pytorch_steps()  # imported first, so that nbnorm can share its threads
    peers = f"PyTorch {_version('torch')}" if steps else "PyTorch is not installed"
    yield f"float32, {_processor()}, {threads.thread_count()} threads; {peers}"
    yield "Times in ms; the ratio is PyTorch's over nbnorm's: above 1 nbnorm is faster."
    yield ""
    yield f"{'':<46}{'':<11}{'nbnorm':>8}{'PyTorch':>9}{'ratio':>7}{'NumPy':>8}{'a copy':>8}"
    for warming in COMPARED:
        given = _drawn(warming, "float32")
        for what, tasks in _tasks(warming, given, steps).items():
            found = _timed(tasks, seconds / (2 * len(COMPARED)))
            ratio = found["PyTorch"] / found["nbnorm"] if "PyTorch" in found else None
            yield (
                f"{warming.name:<46}{what:<11}{_cell(found['nbnorm'], 8)}"
                f"{_cell(found.get('PyTorch'), 9)}{_cell(ratio, 7)}{_cell(found.get('NumPy'), 8)}"
                f"{_cell(found['copy'], 8)}"
            )


def _pytorch_steps() -> Callable[..., tuple[Callable[[], object], Callable[[], object]]] | None:
    try:
        from nbnorm.interop.torch.steps import steps
    except ImportError:
        return None
    return steps


def _tasks(
    warming: Warming, given: Mapping[str, Any], steps: Callable[..., Any] | None
) -> dict[str, dict[str, Callable[[], object]]]:
    """What is timed in turn, by what it is."""
    operation = BY_NAME[warming.operation]
    x, dy = given["x"], given["dy"]
    place = np.empty_like(x)
    train: dict[str, Callable[[], object]] = {"nbnorm": lambda: operation.train(given)}
    infer: dict[str, Callable[[], object]] = {"nbnorm": operation.call("inference", given)}
    if steps is not None:
        train["PyTorch"], infer["PyTorch"] = steps(warming.operation, given, threads.thread_count())
    if warming.operation == "batch_norm" and "axis" not in given:
        train["NumPy"] = lambda: numpy_backward(dy, x, *numpy_forward(x)[1:])
    train["copy"] = infer["copy"] = lambda: np.copyto(place, x)
    return {"training": train, "inference": infer}


def _cell(value: float | None, width: int) -> str:
    return f"{'-' if value is None else f'{value:.2f}':>{width}}"
