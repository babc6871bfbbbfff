"""The `.weights` file: a header, then every layer's float32 numbers, nothing between them."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nbnorm.interop.darknet.cfg import FUNCTION
from nbnorm.interop.darknet.dialect import Dialect
from nbnorm.interop.darknet.steps import Step
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


class Reader:
    """A file of weights, read from front to back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path.read_bytes()
        version = Header(*self._unpack("<3i"))
        self.header = Header(*self._unpack(version.form))
        self.offset = struct.calcsize(version.form)

    @property
    def left(self) -> int:
        """How many bytes are still to be read."""
        return len(self.data) - self.offset

    def read(self, step: Step, name: str, shape: tuple[int, ...]) -> Array:
        """Return the next numbers, checked to be there, finite and, if variances, not negative."""
        size = FLOAT.itemsize * int(np.prod(shape))
        if self.left < size:
            raise self._error(
                step,
                f"{name} at byte {self.offset} has {self.left} bytes to the end; expected {size}",
            )
        values = np.frombuffer(self.data, FLOAT, size // FLOAT.itemsize, self.offset)
        wrong, expected = ~np.isfinite(values), "finite numbers"
        if name == "rolling_variance" and not wrong.any():
            wrong, expected = values < 0, "no negative variance"
        if wrong.any():
            first = int(wrong.argmax())
            byte = self.offset + FLOAT.itemsize * first
            raise self._error(
                step, f"{name} is {values[first]} at byte {byte}; expected {expected}"
            )
        self.offset += size
        return values.reshape(shape).astype(np.float32)

    def close(self, last: Step) -> None:
        """Check that the file ends here."""
        if self.left:
            raise self._error(
                last,
                f"the last, ends at byte {self.offset} and {self.left} bytes follow; expected none",
            )

    def _unpack(self, form: str) -> tuple[int, ...]:
        size = struct.calcsize(form)
        if len(self.data) < size:
            raise ValueError(
                f"{FUNCTION}: {str(self.path)!r} has {len(self.data)} bytes; expected a header of "
                f"{size} at byte 0"
            )
        return struct.unpack_from(form, self.data)

    def _error(self, step: Step, message: str) -> ValueError:
        return ValueError(f"{FUNCTION}: {str(self.path)!r}, {step.section}: {message}")


def has_batchnorm_biases(steps: Iterable[Step], reader: Reader) -> bool | None:
    """Whether ``[batchnorm]`` stores biases, by the file's length; None if it fits neither."""
    arrays = [(step.kind, name, array) for step in steps for name, array in step.stored().items()]
    extra = sum(a.size for kind, name, a in arrays if (kind, name) == ("batchnorm", "biases"))
    surplus = reader.left - FLOAT.itemsize * sum(array.size for _, _, array in arrays)
    return {0: True, -FLOAT.itemsize * extra: False}.get(surplus)


def read_into(steps: Iterable[Step], reader: Reader, dialect: Dialect) -> None:
    """Fill the layers from a file, which must have as many numbers as they take."""
    for step in steps:
        for name, array in step.stored().items():
            if name == "weights" and step.kind == "connected" and reader.header.transposed:
                values = reader.read(step, name, array.shape[::-1]).T
            else:
                values = reader.read(step, name, array.shape)
            array[...] = dialect.to_layer(values) if name == "rolling_variance" else values
    reader.close(step)


def packed(steps: Iterable[Step], header: Header, dialect: Dialect, function: str) -> bytes:
    """Return the bytes of a file.

    Raises
    ------
    ValueError
        A number of a layer is not finite in float32, or one of the header too large.
    """
    try:
        parts = [struct.pack(header.form, *header)]
    except struct.error as error:
        raise ValueError(f"{function}: header is {header}: {error}") from None
    for step in steps:
        for name, array in step.stored().items():
            values = dialect.to_file(array) if name == "rolling_variance" else array
            if name == "weights" and step.kind == "connected" and header.transposed:
                values = values.T
            with np.errstate(over="ignore"):
                stored = values.astype(FLOAT)
            if not np.isfinite(stored).all():
                raise ValueError(f"{function}: {step.section}: {name} is not finite in float32")
            parts.append(stored.tobytes())
    return b"".join(parts)
