"""Pictures in and out, by Pillow: ``pip install nbnorm[darknet]``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nbnorm.interop.darknet.boxes import Box
from nbnorm.interop.darknet.steps import Shape
from nbnorm.typing import Array

GREY = 0.5  # what darknet puts beside a picture of other proportions


class Placed(NamedTuple):
    """A picture as a network's input, and where in it the picture lies, in parts of it."""

    x: Array  # (1, c, h, w), from 0 to 1
    left: float
    top: float
    width: float
    height: float


def read_picture(path: Path) -> Any:
    """Return a picture of a file, in RGB.

    Raises
    ------
    ModuleNotFoundError
        Pillow is not installed.
    OSError
        The file cannot be read, or is no picture.
    ValueError
        It has more pixels than Pillow takes for a picture.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except Image.DecompressionBombError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error


def placed(picture: Any, input_shape: Shape, *, letterbox: bool) -> Placed:
    """Return a picture as input: stretched, or with grey beside it to keep its proportions.

    Raises
    ------
    ValueError
        The network takes no images of one or three channels.
    """
    from PIL import Image

    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise ValueError(f"the input has shape {input_shape}; expected an image of 1 or 3 channels")
    c, h, w = input_shape
    high, wide = h, w
    if letterbox:
        scale = min(w / picture.width, h / picture.height)
        wide = max(1, int(picture.width * scale))
        high = max(1, int(picture.height * scale))
    left, top = (w - wide) // 2, (h - high) // 2
    small = picture.resize((wide, high), Image.Resampling.BILINEAR)
    pixels = np.asarray(small.convert("L" if c == 1 else "RGB"), np.float32) / 255
    x = np.full((1, c, h, w), GREY, np.float32)
    pixels = pixels.reshape(high, wide, c).transpose(2, 0, 1)
    x[0, :, top : top + high, left : left + wide] = pixels
    return Placed(x, left / w, top / h, wide / w, high / h)


def on_picture(box: Box, place: Placed) -> Box:
    """Return a box of the input in parts of the picture."""
    return box._replace(
        x=(box.x - place.left) / place.width,
        y=(box.y - place.top) / place.height,
        width=box.width / place.width,
        height=box.height / place.height,
    )


def draw(picture: Any, boxes: Iterable[Box], names: Sequence[str]) -> Any:
    """Return a copy of a picture with boxes and their names; `names` may be too few."""
    from PIL import ImageDraw

    drawn = picture.copy()
    pen = ImageDraw.Draw(drawn)
    width = max(1, min(drawn.size) // 200)
    for box in boxes:
        left, top, right, bottom = corners(box, drawn.width, drawn.height)
        colour = f"hsl({box.label * 137 % 360}, 90%, 45%)"  # neighbours far from one another
        pen.rectangle((left, top, right, bottom), outline=colour, width=width)
        text = f"{name_of(box.label, names)} {box.score:.0%}"
        around = pen.textbbox((left, top), text)
        pen.rectangle(around, fill=colour)
        pen.text((left, top), text, fill="white")
    return drawn


def corners(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom in pixels of a picture, within it."""
    half_width, half_height = box.width / 2, box.height / 2
    sides = (
        ((box.x - half_width) * width, width), ((box.y - half_height) * height, height),
        ((box.x + half_width) * width, width), ((box.y + half_height) * height, height),
    )  # fmt: skip
    left, top, right, bottom = (int(min(max(side, 0), most - 1)) for side, most in sides)
    return left, top, right, bottom


def name_of(label: int, names: Sequence[str]) -> str:
    """Return a class's name, or its number."""
    return names[label] if label < len(names) else f"class {label}"
