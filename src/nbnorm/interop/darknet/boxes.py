"""Boxes of what a network detects: the likely ones of its candidates, each object once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from nbnorm import checks
from nbnorm.interop.darknet.detection import Detector
from nbnorm.interop.darknet.network import Network
from nbnorm.typing import Array

THRESHOLD = 0.5
OVERLAP = 0.45

# Each of a class is compared with all likelier ones: beyond so many the least likely are left out.
MOST_CANDIDATES = 4096


class Box(NamedTuple):
    """A box: its centre, width and height in parts of the network's input; a class; how likely."""

    x: float
    y: float
    width: float
    height: float
    label: int
    score: float


def find_boxes(
    network: Network,
    outputs: Mapping[int, Array],
    sample: int = 0,
    *,
    threshold: float = THRESHOLD,
    overlap: float = OVERLAP,
) -> list[Box]:
    r"""Return the boxes in what `Network.forward` returned second, the likeliest first.

    Parameters
    ----------
    network : Network
        One with ``[yolo]``, ``[Gaussian_yolo]``, ``[region]`` or ``[detection]``.
    outputs : mapping from int to array
        The outputs by index.
    sample : int
        Which of the batch.
    threshold : float
        How likely a box must be, the product of objectness and class, as darknet has it.
    overlap : float
        Of two boxes of one class whose intersection is a larger part of their union, the less
        likely is dropped.

    Raises
    ------
    ValueError
        The network has no such section, or a number is not one.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from nbnorm.interop.darknet import find_boxes, load_network
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cfg = Path(folder, "one.cfg")
    ...     _ = cfg.write_text(
    ...         "[net]\n channels=6\n height=4\n width=4\n[yolo]\n classes=1\n anchors=2,1\n"
    ...     )
    ...     network = load_network(cfg)
    >>> x = np.full((1, 6, 4, 4), -9, np.float32)
    >>> x[0, :, 1, 2] = 0, 0, 0, 0, 3, 3  # a pixel that has seen something
    >>> for box in find_boxes(network, network.forward(x)[1]):
    ...     print([round(number, 3) for number in box])
    [0.625, 0.375, 0.5, 0.25, 0, 0.907]
    """
    function = "find_boxes"
    expected = "a finite number, 0 or more"
    threshold = checks.number(function, "threshold", threshold, expected)
    overlap = checks.number(function, "overlap", overlap, expected)
    detectors = [(i, step) for i, step in enumerate(network) if isinstance(step, Detector)]
    if not detectors:
        raise ValueError(
            f"{function}: network has no boxes; expected one with a [yolo] or the like"
        )
    _, h, w = network.input_shape if len(network.input_shape) == 3 else (1, 1, 1)
    found: list[Box] = []
    for index, step in detectors:
        found += _likely(step, outputs[index][sample], (h, w), threshold)
    return sorted(_distinct(found, overlap), key=lambda box: -box.score)


def _likely(
    step: Detector, output: Array, image: tuple[int, int], threshold: float
) -> Iterator[Box]:
    centres, sizes, scores = step.candidates(output, image)
    likely = (scores > threshold) & np.isfinite(sizes).all(axis=1, keepdims=True)
    for place, label in zip(*np.nonzero(likely), strict=True):
        x, y = map(float, centres[place])
        width, height = map(float, sizes[place])
        yield Box(x, y, width, height, int(label), float(scores[place, label]))


def _distinct(found: list[Box], overlap: float) -> Iterator[Box]:
    for label in sorted({box.label for box in found}):
        boxes = sorted((box for box in found if box.label == label), key=lambda box: -box.score)
        left = np.array([box[:4] for box in boxes[:MOST_CANDIDATES]])
        places = np.arange(len(left))
        while len(places):
            best, places = places[0], places[1:]
            yield boxes[best]
            places = places[intersection_over_union(left[best], left[places]) <= overlap]


def intersection_over_union(one: Array, others: Array) -> Array:
    """Return how much of their union one box and each of some others have in common."""
    low = np.maximum(one[:2] - one[2:] / 2, others[:, :2] - others[:, 2:] / 2)
    high = np.minimum(one[:2] + one[2:] / 2, others[:, :2] + others[:, 2:] / 2)
    common = np.maximum(high - low, 0).prod(axis=1)
    union = one[2:].prod() + others[:, 2:].prod(axis=1) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)
