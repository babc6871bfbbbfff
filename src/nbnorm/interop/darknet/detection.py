"""Sections that predict boxes."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import numpy as np

from nbnorm.checks import describe
from nbnorm.interop.darknet import images
from nbnorm.interop.darknet.activations import logistic
from nbnorm.interop.darknet.cfg import MOST_LISTED, Section
from nbnorm.interop.darknet.steps import Plan, Shape, Step
from nbnorm.typing import Array


class Candidates(NamedTuple):
    """Boxes in parts of the network's input, before the overlapping ones are dropped."""

    centres: Array  # (m, 2): x and y
    sizes: Array  # (m, 2): width and height
    scores: Array  # (m, classes)


class Detector(Step):
    """A section whose output is boxes."""

    classes: int

    @abstractmethod
    def candidates(self, y: Array, image: tuple[int, int]) -> Candidates:
        """Return what the output for one sample says, of an input that is `image` high and wide."""


class Anchored(Detector):
    """For each pixel and each of some anchors a box: so many entries, then the classes.

    An entry is a plane of numbers; the channels are the entries of the first anchor, then those of
    the second, and so on.
    """

    counted_by = "mask"
    anchors_in_pixels = False  # of the output, or else of the network's input

    def __init__(self, section: Section, plan: Plan, entries: int) -> None:
        self.takes = c, h, w = plan.image_before(section)
        self.classes = section.integer("classes", 20, least=1)
        total = section.integer("num", 1, least=1)
        if total > MOST_LISTED:
            raise section.error(f"num is {total}; expected at most {MOST_LISTED}")
        self.mask = self.masked(section, total)
        self.entries = entries + self.classes
        expected = len(self.mask) * self.entries
        if c != expected:
            raise section.error(
                f"what comes before has {c} channels; expected {len(self.mask)} ({entries} + "
                f"{self.classes}) = {expected}, by {self.counted_by} and classes"
            )
        sizes = section.reals("anchors")[: 2 * total]
        sizes += [0.5] * (2 * total - len(sizes))
        self.anchors = np.reshape(sizes, (total, 2))[self.mask]
        super().__init__(section, (c, h, w))

    def masked(self, section: Section, total: int) -> list[int]:
        """Return which of the anchors are this section's."""
        mask = section.integers("mask") or list(range(total))
        if not all(0 <= anchor < total for anchor in mask):
            raise section.error(f"mask is {describe(mask)}; expected numbers below num = {total}")
        return mask

    def split(self, y: Array) -> Array:
        """Return (n, anchors, entries, h, w)."""
        n, _, h, w = y.shape
        return y.reshape(n, len(self.mask), self.entries, h, w)

    def candidates(self, y: Array, image: tuple[int, int]) -> Candidates:
        """Return a candidate for each anchor and pixel, in that order."""
        entries = self.split(y[np.newaxis])[0].astype(np.float64)
        *_, h, w = entries.shape
        # (anchors, entries, h, w) to (anchors, h, w, entries)
        entries = np.moveaxis(entries, 1, -1)
        pixels = np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=-1)
        centres, sizes, scores = self.decoded(entries)
        anchors = self.anchors / ((w, h) if self.anchors_in_pixels else image[::-1])
        return Candidates(
            ((pixels + centres) / (w, h)).reshape(-1, 2),
            (sizes * anchors[:, np.newaxis, np.newaxis]).reshape(-1, 2),
            scores.reshape(-1, self.classes),
        )

    @abstractmethod
    def decoded(self, entries: Array) -> tuple[Array, Array, Array]:
        """Return x and y in the pixel, width and height in anchors, and scores."""


class Yolo(Anchored):
    """x and y, width and height, objectness and the classes: logistic, but for the size.

    x and y are stretched by ``scale_x_y`` about 1/2. With ``new_coords`` the layer before has
    applied the logistic function, to the size too.
    """

    def __init__(self, section: Section, plan: Plan) -> None:
        super().__init__(section, plan, entries=5)
        self.scale_x_y = section.real("scale_x_y", 1)
        self.new_coords = section.flag("new_coords")

    def forward(self, *inputs: Array) -> Array:
        """Apply the logistic function where it belongs."""
        y = inputs[0].copy()
        entries = self.split(y)
        if not self.new_coords:
            entries[:, :, :2] = logistic(entries[:, :, :2])
            entries[:, :, 4:] = logistic(entries[:, :, 4:])
        stretch(entries[:, :, :2], self.scale_x_y)
        return y

    def decoded(self, entries: Array) -> tuple[Array, Array, Array]:
        """Return what `Anchored` turns into boxes."""
        sizes = entries[..., 2:4]
        sizes = 4 * sizes**2 if self.new_coords else exp(sizes)
        return entries[..., :2], sizes, entries[..., 4:5] * entries[..., 5:]


class GaussianYolo(Anchored):
    """As `Yolo`, with a deviation after each of x, y, width and height: logistic too."""

    def __init__(self, section: Section, plan: Plan) -> None:
        if (point := section.text("yolo_point", "center")) != "center":
            raise section.error(
                f"yolo_point is {describe(point)}; expected 'center': not supported"
            )
        super().__init__(section, plan, entries=9)
        self.scale_x_y = section.real("scale_x_y", 1)

    def forward(self, *inputs: Array) -> Array:
        """Apply the logistic function where it belongs."""
        y = inputs[0].copy()
        entries = self.split(y)
        kept = entries[:, :, 4:7:2].copy()
        entries[...] = logistic(entries)
        entries[:, :, 4:7:2] = kept
        stretch(entries[:, :, :3:2], self.scale_x_y)
        return y

    def decoded(self, entries: Array) -> tuple[Array, Array, Array]:
        """Return what `Anchored` turns into boxes; a score falls with the mean deviation."""
        certainty = 1 - entries[..., 1:8:2].mean(axis=-1, keepdims=True)
        scores = entries[..., 8:9] * entries[..., 9:] * certainty
        return entries[..., :3:2], exp(entries[..., 4:7:2]), scores


class Region(Anchored):
    """x and y, width and height, objectness and the classes: logistic x, y and objectness.

    Classes are a softmax, if it says so: in the original logistic else, in the fork as they come.
    The fork holds the same numbers in another order, and applies the logistic function to x and y
    only where it makes boxes.
    """

    counted_by = "num"
    anchors_in_pixels = True

    def __init__(self, section: Section, plan: Plan) -> None:
        section.refuse("background")
        section.refuse_any("tree")
        if section.integer("coords", 4) != 4:
            raise section.error(f"coords is {section.integer('coords', 4)}; expected 4")
        super().__init__(section, plan, entries=5)
        self.softmax = section.flag("softmax")
        self.logistic_classes = not self.softmax and plan.dialect.region_logistic

    def masked(self, section: Section, total: int) -> list[int]:  # noqa: ARG002
        """Return all of them."""
        return list(range(total))

    def forward(self, *inputs: Array) -> Array:
        """Apply logistic and softmax where they belong."""
        y = inputs[0].copy()
        entries = self.split(y)
        entries[:, :, :2] = logistic(entries[:, :, :2])
        entries[:, :, 4] = logistic(entries[:, :, 4])
        classes = entries[:, :, 5:]
        if self.softmax:
            classes[...] = images.softmax_along(classes, 2)
        elif self.logistic_classes:
            classes[...] = logistic(classes)
        return y

    def decoded(self, entries: Array) -> tuple[Array, Array, Array]:
        """Return what `Anchored` turns into boxes."""
        return entries[..., :2], exp(entries[..., 2:4]), entries[..., 4:5] * entries[..., 5:]


class Detection(Detector):
    """The first YOLO's: for each cell its classes, then objectness of boxes, then the boxes."""

    def __init__(self, section: Section, plan: Plan) -> None:
        inputs = math.prod(plan.before(section))
        self.takes: Shape = (inputs,)
        self.classes = section.integer("classes", 1, least=1)
        self.side = section.integer("side", 7, least=1)
        self.boxes = section.integer("num", 1, least=1)
        self.softmax = section.flag("softmax")
        self.is_root = section.flag("sqrt")
        coords = section.integer("coords", 1, least=1)
        expected = self.side**2 * (self.boxes * (1 + coords) + self.classes)
        if coords != 4:
            raise section.error(f"coords is {coords}; expected 4")
        if inputs != expected:
            raise section.error(
                f"what comes before has {inputs} numbers; expected {self.side}^2 ({self.boxes} "
                f"(1 + {coords}) + {self.classes}) = {expected}, by side, num, coords and classes"
            )
        super().__init__(section, (inputs,))

    def forward(self, *inputs: Array) -> Array:
        """Apply the softmax to each cell's classes, if there is one."""
        (x,) = inputs
        if not self.softmax:
            return x
        y = x.copy()
        count = self.side**2 * self.classes
        cells = x[:, :count].reshape(len(x), self.side**2, self.classes)
        y[:, :count] = images.softmax_along(cells, 2).reshape(len(x), count)
        return y

    def candidates(self, y: Array, image: tuple[int, int]) -> Candidates:  # noqa: ARG002
        """Return a candidate for each cell and box, in that order."""
        cells = self.side**2
        classes, objectness, boxes = np.split(
            y.astype(np.float64), np.cumsum([cells * self.classes, cells * self.boxes])
        )
        scores = classes.reshape(cells, 1, -1) * objectness.reshape(cells, self.boxes, 1)
        boxes = boxes.reshape(cells, self.boxes, 4)
        rows, columns = np.divmod(np.arange(cells), self.side)
        corner = np.stack([columns, rows], axis=-1)[:, np.newaxis]
        sizes = boxes[..., 2:] ** 2 if self.is_root else boxes[..., 2:]
        return Candidates(
            ((boxes[..., :2] + corner) / self.side).reshape(-1, 2),
            sizes.reshape(-1, 2),
            scores.reshape(-1, self.classes),
        )


def stretch(centres: Array, factor: float) -> None:
    """Stretch numbers about 1/2, in place."""
    centres *= centres.dtype.type(factor)
    centres -= centres.dtype.type(0.5 * (factor - 1))


def exp(x: Array) -> Array:
    """Return the exponential; infinite sizes are dropped with their boxes."""
    with np.errstate(over="ignore"):
        return np.exp(x)
