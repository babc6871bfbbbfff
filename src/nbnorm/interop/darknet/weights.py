"""The `.weights` file: a header, then every layer's float32 numbers, nothing between them."""

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from nbnorm.interop.darknet.dialect import FORK, ORIGINAL, Dialect
from nbnorm.interop.darknet.files import FUNCTION, MOST_NUMBERS, length_of
from nbnorm.interop.darknet.steps import Shape, Step
from nbnorm.typing import Array

FLOAT = np.dtype("<f4")


class Header(NamedTuple):
    """The version of darknet that wrote a file, and how many images it had seen in training."""

    major: int
    minor: int
    revision: int
    seen: int = 0

    @property
    def form(self) -> str:
        """How it is packed: `seen` has 64 bits from version 0.2 on, and 32 before."""
        old = self.major * 10 + self.minor < 2
        return "<3iI" if old or self.major >= 1000 or self.minor >= 1000 else "<3iQ"

    @property
    def transposed(self) -> bool:
        """Whether connected weights are (in, out) in the file, not (out, in)."""
        return self.major > 1000 or self.minor > 1000

    @property
    def dialect(self) -> Dialect | None:
        """Whose version it is: the original writes 0.2.0, the fork 0.2.5, both once wrote 0.1.0."""
        if (self.major, self.minor) != (0, 2) or self.revision < 0:
            return None
        return FORK if self.revision else ORIGINAL


class Reader:
    """A file of weights: its header, and what its length says of the rest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.length = length_of(path)
        with path.open("rb") as file:
            start = file.read(struct.calcsize("<3iQ"))
        version = Header(*self._unpack("<3i", start))
        self.header = Header(*self._unpack(version.form, start))
        self.begin = struct.calcsize(version.form)

    def check_length(self, steps: Sequence[Step], *, whole: bool) -> None:
        """Check that the file has as many numbers as some steps declare; if not whole, or more."""
        offset = self.begin
        for step in steps:
            for name, shape in step.declared().items():
                size, left = FLOAT.itemsize * math.prod(shape), self.length - offset
                if left < size:
                    raise self.error(
                        step,
                        f"{name} at byte {offset} has {left} bytes to the end; expected {size}",
                    )
                offset += size
        if whole and offset < self.length:
            left = self.length - offset
            raise self.error(
                steps[-1],
                f"the last, ends at byte {offset} and {left} bytes follow; expected none",
            )

    def read_into(self, steps: Iterable[Step], dialect: Dialect) -> None:
        """Fill the layers of some steps, whose length was checked."""
        with self.path.open("rb") as file:
            file.seek(self.begin)
            for step in steps:
                for name, array in step.stored().items():
                    if array.ndim == 2 and self.header.transposed:
                        values = self._read(file, step, name, array.shape[::-1]).T
                    else:
                        values = self._read(file, step, name, array.shape)
                    array[...] = dialect.to_layer(values) if is_variance(name) else values

    def error(self, step: Step, message: str) -> ValueError:
        """Return the error for what is wrong in the numbers of a step."""
        return ValueError(f"{FUNCTION}: {str(self.path)!r}, {step.section}: {message}")

    def _read(self, file: BinaryIO, step: Step, name: str, shape: Shape) -> Array:
        """Return the next numbers, checked to be finite and, if variances, not negative."""
        offset, count = file.tell(), math.prod(shape)
        values = np.fromfile(file, FLOAT, count)
        if len(values) < count:  # since the length was asked
            raise self.error(step, f"{name} at byte {offset} has {len(values)} of {count} numbers")
        wrong, expected = ~np.isfinite(values), "finite numbers"
        if is_variance(name) and not wrong.any():
            wrong, expected = values < 0, "no negative variance"
        if wrong.any():
            first = int(wrong.argmax())
            byte = offset + FLOAT.itemsize * first
            raise self.error(step, f"{name} is {values[first]} at byte {byte}; expected {expected}")
        return values.reshape(shape)

    def _unpack(self, form: str, start: bytes) -> tuple[int, ...]:
        size = struct.calcsize(form)
        if len(start) < size:
            raise ValueError(
                f"{FUNCTION}: {str(self.path)!r} has {self.length} bytes; expected a header of "
                f"{size} at byte 0"
            )
        return struct.unpack_from(form, start)


def is_variance(name: str) -> bool:
    """Whether an array holds running variances."""
    return name.endswith("rolling_variance")


def check_declared(steps: Iterable[Step]) -> None:
    """Check that all arrays together are in bounds.

    Raises
    ------
    ValueError
        They are not; the message names the layer that goes beyond.
    """
    count = 0
    for step in steps:
        for name, shape in step.declared().items():
            count += math.prod(shape)
            if count > MOST_NUMBERS:
                raise step.section.error(
                    f"{name} would be of shape {shape}, and all layers so far hold {count} numbers;"
                    f" expected at most {MOST_NUMBERS}"
                )


def filled(steps: Sequence[Step], length: int) -> int | None:
    """Return how many of the first steps hold exactly as many bytes; None if no number does.

    Of those that hold nothing as many as possible are counted in.
    """
    sizes = (sum(map(math.prod, step.declared().values())) for step in steps)
    ends = [0, *accumulate(FLOAT.itemsize * size for size in sizes)]
    count = bisect_right(ends, length) - 1
    return count if ends[count] == length else None


def packed(steps: Iterable[Step], header: Header, dialect: Dialect, function: str) -> bytes:
    """Return the bytes of a file.

    Raises
    ------
    ValueError
        A number of a layer is not finite in float32, or one of the header too large.
    """
    return b"".join(_parts(steps, header, dialect, function))


def _parts(
    steps: Iterable[Step], header: Header, dialect: Dialect, function: str
) -> Iterator[bytes]:
    try:
        yield struct.pack(header.form, *header)
    except struct.error as error:
        raise ValueError(f"{function}: header is {header}: {error}") from None
    for step in steps:
        for name, array in step.stored().items():
            values = dialect.to_file(array) if is_variance(name) else array
            if array.ndim == 2 and header.transposed:
                values = values.T
            with np.errstate(over="ignore"):
                stored = values.astype(FLOAT)
            if not np.isfinite(stored).all():
                raise ValueError(f"{function}: {step.section}: {name} is not finite in float32")
            yield stored.tobytes()
