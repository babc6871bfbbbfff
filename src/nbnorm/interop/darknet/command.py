"""``nbnorm darknet``: what is in a network's files, and what it sees on a picture."""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbnorm.interop.darknet import boxes, pictures
from nbnorm.interop.darknet.cfg import read_cfg
from nbnorm.interop.darknet.detection import Detector
from nbnorm.interop.darknet.dialect import DIALECTS
from nbnorm.interop.darknet.loading import load_network
from nbnorm.interop.darknet.network import Network
from nbnorm.interop.darknet.origin import signs
from nbnorm.interop.darknet.steps import Shape
from nbnorm.typing import Array

DESCRIPTION = (
    "Show the layers of a network of darknet's files, with their shapes, parameters and "
    "floating-point operations, and run it: on a picture, whose boxes or classes are shown, or on "
    "noise. Of a folder of .cfg files, print a table of which load and run."
)
MOST_SHOWN = 5  # of a classifier's classes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("cfg", type=Path, help="the .cfg file, or a folder of some")
    parser.add_argument(
        "weights", type=Path, nargs="?", help="the .weights file (default: random numbers)"
    )
    parser.add_argument("image", type=Path, nargs="?", help="a picture (needs Pillow)")
    parser.add_argument("--dialect", choices=list(DIALECTS), help="whose darknet is meant")
    parser.add_argument(
        "--size", type=int, help="height and width of the input (default: the cfg's)"
    )
    parser.add_argument("--names", type=Path, help="a file with the name of a class in each line")
    parser.add_argument(
        "--threshold",
        type=float,
        default=boxes.THRESHOLD,
        help="how likely a box must be (default: %(default)s)",
    )
    parser.add_argument(
        "--overlap",
        type=float,
        default=boxes.OVERLAP,
        help="how much of two boxes may be the same (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("predictions.png"),
        help="where to draw boxes (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of random numbers (default: 0)")


def run(options: argparse.Namespace) -> Iterator[str]:
    """Yield the lines to print; what is wrong with a file ends the program with its message."""
    lines = table(options) if options.cfg.is_dir() else show(options)
    try:
        yield from lines
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        raise SystemExit(f"nbnorm darknet: {error}") from error


# --- one network ----------------------------------------------------------------------------


def show(options: argparse.Namespace) -> Iterator[str]:
    """Yield a network's layers, and what it gives."""
    chosen: dict[str, Any] = {"rng": options.seed, "size": options.size}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        network = load_network(options.cfg, options.weights, dialect=options.dialect, **chosen)
    yield from (f"warning: {one.message}" for one in told)
    yield f"dialect: {network.dialect}"
    yield ""
    yield from layers(network)
    yield ""
    network = network.fold()
    names = read_names(options.names)
    if options.image is None:
        yield from run_on_noise(network, options.seed)
    else:
        yield from run_on_picture(network, options, names)


def layers(network: Network) -> Iterator[str]:
    """Yield a row for each layer and one for all."""
    yield f"{'layer':>5}  {'kind':<15}{'of':<15}{'gives':<19}{'parameters':>12}{'MFLOPs':>10}"
    yield f"{'':>5}  {'input':<15}{'':<15}{sides(network.input_shape)}"
    for i, step in enumerate(network):
        far = "" if step.sources == (i - 1,) else ", ".join(map(str, step.sources))
        count, flops = size_of(step.declared()), step.flops
        numbers = f"{count:>12,}{flops / 1e6:>10,.1f}" if count or flops else ""
        yield f"{i:>5}  {step.kind:<15}{far:<15}{sides(step.shape):<19}{numbers}".rstrip()
    yield f"{'all':>5}  {'':<49}{parameters(network):>12,}{flops_of(network) / 1e6:>10,.1f}"


def run_on_noise(network: Network, seed: int) -> Iterator[str]:
    """Yield how long a run takes, and the range of each result."""
    x = np.random.default_rng(seed).random((1, *network.input_shape), np.float32)
    outputs, milliseconds = timed(network, x)
    yield f"ran on noise in {milliseconds:.1f} ms"
    for index, y in outputs.items():
        yield f"{index:>5}  {network[index].kind:<15}from {y.min():.4g} to {y.max():.4g}"


def run_on_picture(
    network: Network, options: argparse.Namespace, names: Sequence[str]
) -> Iterator[str]:
    """Yield what is seen on a picture, and draw the boxes if that is what the network gives."""
    picture = pictures.read_picture(options.image)
    place = pictures.placed(picture, network.input_shape, letterbox=network.letterbox)
    outputs, milliseconds = timed(network, place.x)
    yield f"ran on {options.image}, {picture.width} x {picture.height}, in {milliseconds:.1f} ms"
    if not any(isinstance(step, Detector) for step in network):
        scores = outputs[len(network) - 1][0].ravel()
        for label in np.argsort(-scores, kind="stable")[:MOST_SHOWN]:
            yield f"  {scores[label]:8.4f}  {pictures.name_of(label, names)}"
        return
    found = [
        pictures.on_picture(box, place)
        for box in boxes.find_boxes(
            network, outputs, threshold=options.threshold, overlap=options.overlap
        )
    ]
    yield f"{len(found)} boxes" if len(found) != 1 else "1 box"
    for box in found:
        left, top, right, bottom = pictures.corners(box, picture.width, picture.height)
        name = pictures.name_of(box.label, names)
        yield f"  {box.score:6.1%}  {name:<20}from {left}, {top} to {right}, {bottom}"
    pictures.draw(picture, found, names).save(options.output)
    yield f"drawn to {options.output}"


def timed(network: Network, x: Array) -> tuple[dict[int, Array], float]:
    """Return the results and the milliseconds of a second run: the first one compiles."""
    network.forward(x)
    start = time.perf_counter()
    _, outputs = network.forward(x)
    return outputs, 1e3 * (time.perf_counter() - start)


def read_names(path: Path | None) -> list[str]:
    """Return the lines of a file, which end at line feeds only."""
    if path is None:
        return []
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    return [line.strip() for line in text.removesuffix("\n").split("\n")]


# --- many -----------------------------------------------------------------------------------


def table(options: argparse.Namespace) -> Iterator[str]:
    """Yield a Markdown table of a folder's networks: which load, and run forward once."""
    yield "| file | dialect | layers | parameters | GFLOPs | runs |"
    yield "| --- | --- | ---: | ---: | ---: | --- |"
    paths = sorted(options.cfg.glob("*.cfg"))
    good = 0
    for path in paths:
        row, runs = table_row(path, options)
        good += runs
        yield row
    yield ""
    yield f"{good} of {len(paths)} load and run."


def table_row(path: Path, options: argparse.Namespace) -> tuple[str, bool]:
    """Return a row, and whether the network runs."""
    head = f"| `{path.name}` |"
    try:
        network = load_network(path, dialect=options.dialect, rng=options.seed)
    except ValueError as error:
        reason = str(error).partition(f"{str(path)!r}, ")[2] or str(error)
        reason = reason.partition("; expected one of")[0].replace("|", " ")
        return f"{head} | | | | no: {reason} |", False
    told = any(True for _ in signs(read_cfg(path)))
    numbers = (
        f"{head} {network.dialect if told else 'either'} | {len(network)} | "
        f"{parameters(network):,} | {flops_of(network) / 1e9:,.2f} |"
    )
    small = resized(path, network, options)
    x = np.random.default_rng(options.seed).random((1, *small.input_shape), np.float32)
    y, _ = small.forward(x)
    if not np.isfinite(y).all():
        return f"{numbers} no: a number is not finite |", False
    return f"{numbers} {sides(small.input_shape)} to {sides(y.shape[1:])} |", True


def resized(path: Path, network: Network, options: argparse.Namespace) -> Network:
    """Return the network for images of the size asked for, if it is one of images and can be."""
    if options.size is None or len(network.input_shape) == 1:
        return network
    try:
        return load_network(path, size=options.size, dialect=network.dialect, rng=options.seed)
    except ValueError:
        return network


def sides(shape: Shape) -> str:
    """Return a shape as text."""
    return " x ".join(map(str, shape))


def parameters(network: Network) -> int:
    """Return how many numbers a file of weights has."""
    return sum(size_of(step.declared()) for step in network)


def size_of(declared: dict[str, Shape]) -> int:
    """Return how many numbers some arrays have."""
    return sum(int(np.prod(shape)) for shape in declared.values())


def flops_of(network: Network) -> int:
    """Return the floating-point operations for one sample."""
    return sum(step.flops for step in network)
