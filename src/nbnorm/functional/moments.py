"""What is known of the values of each channel, in a form that merges: `Moments`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from nbnorm import checks
from nbnorm.functional.arguments import check_input, check_statistics, check_weights
from nbnorm.launch.batch_norm import Whole
from nbnorm.launch.layout import Layout, flat
from nbnorm.launch.statistics import ChannelMoments, Weights, channel_moments
from nbnorm.typing import Array

if TYPE_CHECKING:
    from typing_extensions import Self


class Moments:
    """Count, mean and sum of squared deviations of each channel, to be merged with those of others.

    Parts of a batch, batches of an epoch, chunks of a file or the shares of several machines: the
    moments of all are the sum of theirs. With counts n and m, means apart by d and sums of squares
    Q and R::

        n + m        mean + d m / (n + m)        Q + R + d^2 n m / (n + m)

    (Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979). Nothing is lost by a large mean, which is kept as head and tail, two float64
    numbers whose sum it is. In any order and grouping the results agree to 1e-12 and better; in the
    same order they have the same bits.

    Parameters
    ----------
    shape : int or tuple of ints
        The shape of the kept axes. The moments are those of no values at all, to be updated.

    Raises
    ------
    ValueError
        A size is negative.
    TypeError
        shape is neither an int nor a tuple of ints.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import Moments
    >>> x = np.array([[1.0], [2.0], [6.0], [7.0], [9.0]])
    >>> m = Moments.of(x[:2]) + Moments.of(x[2:])
    >>> m.count, m.mean, m.var()
    (5.0, array([5.]), array([9.2]))
    >>> Moments(1).update(x[:2]).update(x[2:]).var(ddof=1)
    array([11.5])
    """

    __slots__ = ("_count", "_mean", "_squares")

    _count: float
    _mean: Array  # (2, ...): head and tail
    _squares: Array

    def __init__(self, shape: int | tuple[int, ...]) -> None:
        kept = checks.ints("Moments", "shape", shape) if shape != () else ()
        if any(size < 0 for size in kept):
            raise checks.wrong_value("Moments", "shape", shape, "sizes of 0 or more")
        self._count, self._mean, self._squares = 0.0, np.zeros((2, *kept)), np.zeros(kept)

    @classmethod
    def _made(cls, count: float, mean: Array, squares: Array) -> Self:
        new = cls.__new__(cls)
        new._count, new._mean, new._squares = count, mean, squares  # noqa: SLF001  its own
        return new

    @classmethod
    def of(
        cls, x: Array, *, axis: int | tuple[int, ...] = 1, sample_weight: Array | None = None
    ) -> Self:
        """The moments of an array, in one pass over it.

        Parameters
        ----------
        x : array of float32 or float64, any shape of two axes or more, any strides
            May be empty.
        axis : int or tuple of int
            The axis or axes that keep moments of their own; all others are reduced.
        sample_weight : array of bool, float32 or float64, optional
            What each place counts, finite and 0 or more: it broadcasts against x, with the kept
            axes at length 1. A mask is one of zeros and ones. Weights are rounded to x's type.

        Returns
        -------
        Moments

        Raises
        ------
        ValueError
            axis or sample_weight does not fit, or a weight is negative or not finite.
        TypeError
            An argument is of the wrong type.

        Examples
        --------
        >>> import numpy as np
        >>> from nbnorm import Moments
        >>> Moments.of(np.array([[1.0, 10.0], [3.0, 30.0]])).mean
        array([ 2., 20.])
        """
        return cls._of("Moments.of", x, axis, sample_weight)

    @classmethod
    def _of(cls, function: str, x: Array, axis: Any, sample_weight: Any) -> Self:
        layout = check_input(function, x, axis)
        weights = None
        if sample_weight is not None:
            axes = checks.kept_axes(function, axis, x.ndim)
            weights = check_weights(function, x.shape, axes, sample_weight, x.dtype)
        return cls.of_layout(x, layout, weights)

    @classmethod
    def of_layout(cls, x: Array, layout: Layout, weights: Weights | None = None) -> Self:
        """The moments of a checked array: for this library."""
        if weights is not None:
            weights = weights._replace(places=flat(weights.places, layout))
        found = channel_moments(flat(x, layout), layout.shape, weights)
        return cls.of_channels(found, layout.kept)

    @classmethod
    def of_channels(cls, found: ChannelMoments, kept: tuple[int, ...]) -> Self:
        """The moments that a launcher found, in the shape of the kept axes: for this library."""
        count, mean, squares = found
        return cls._made(count, mean.reshape(2, *kept), squares.reshape(kept))

    @classmethod
    def from_statistics(cls, mean: Array, var: Array, count: float, *, ddof: int = 0) -> Self:
        """The moments of so many values with this mean and variance.

        Parameters
        ----------
        mean, var : arrays of float32 or float64 of one shape, that of the kept axes
            var is not negative.
        count : number, 0 or more
        ddof : 0 or 1
            What the variance was taken over: count - ddof.

        Raises
        ------
        ValueError
            Shapes differ, a variance or the count is negative, or the count is not above ddof.
        TypeError
            An argument is of the wrong type.

        Examples
        --------
        >>> import numpy as np
        >>> from nbnorm import Moments
        >>> one, other = (Moments.from_statistics(np.full(1, m), np.ones(1), 2) for m in (2.0, 6.0))
        >>> (one + other).mean, (one + other).var()
        (array([4.]), array([5.]))
        """
        function = "Moments.from_statistics"
        checks.array(function, "mean", mean)
        check_statistics(function, mean.shape, (mean, var))
        count = checks.number(function, "count", count)
        ddof = checks.degrees_of_freedom(function, ddof)
        if count < ddof:
            raise checks.wrong_value(function, "count", count, f"a count of {ddof} or more")
        head = mean.astype(np.float64)
        squares = var.astype(np.float64) * (count - ddof)
        return cls._made(count, np.stack((head, np.zeros_like(head))), squares)

    def update(
        self, x: Array, *, axis: int | tuple[int, ...] = 1, sample_weight: Array | None = None
    ) -> Self:
        """Take in the values of an array, and return these moments; arguments as of `of`."""
        return self._merge("Moments.update", self._of("Moments.update", x, axis, sample_weight))

    def merge(self, other: Moments) -> Self:
        """Take in other moments of the same channels, and return these.

        Raises
        ------
        ValueError
            They are of other channels.
        TypeError
            They are no Moments.
        """
        return self._merge("Moments.merge", other)

    @np.errstate(invalid="ignore", over="ignore")  # of an infinite mean; kernels do not warn either
    def _merge(self, function: str, other: Moments) -> Self:
        check_moments(function, "other", other, self.shape)
        if other._count == 0:
            return self
        if self._count == 0:
            self._count, self._mean, self._squares = (
                other._count, other._mean.copy(), other._squares.copy(),
            )  # fmt: skip
            return self
        (head, tail), (other_head, other_tail) = self._mean, other._mean
        count = self._count + other._count
        share, rest = other._count / count, self._count / count
        distance = (other_head - head) + (other_tail - tail)
        moved = tail + distance * share
        mean = np.stack(_sum_exactly(head, moved))
        infinite = ~np.isfinite(distance)
        if infinite.any():  # of an infinite mean; it stays one whichever of the two has it
            mean[0][infinite] = (head * rest + other_head * share)[infinite]
            mean[1][infinite] = 0.0
        apart = distance * distance * (self._count * share)
        self._count, self._mean = count, mean
        self._squares = self._squares + other._squares + apart
        return self

    def __add__(self, other: Moments) -> Moments:
        if not isinstance(other, Moments):
            return NotImplemented
        return self.copy().merge(other)

    def __radd__(self, other: int) -> Moments:
        """0 is the start of `sum`."""
        return self.copy() if isinstance(other, int) and other == 0 else NotImplemented

    def copy(self) -> Self:
        """The same moments in arrays of their own."""
        return self._made(self._count, self._mean.copy(), self._squares.copy())

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the kept axes."""
        return self._squares.shape

    @property
    def count(self) -> float:
        """Values in a channel, or the sum of their weights."""
        return self._count

    @property
    def mean(self) -> Array:
        """Mean of each channel, float64; 0 where there are no values."""
        return self._mean[0] + self._mean[1]

    def var(self, ddof: int = 0) -> Array:
        """Variance of each channel over count - ddof, float64.

        Raises
        ------
        ValueError
            ddof is neither 0 nor 1, or the count is not above it.
        TypeError
            ddof is no int.
        """
        function = "Moments.var"
        ddof = checks.degrees_of_freedom(function, ddof)
        if not self._count > ddof:
            expected = f"moments of more than {ddof}"
            raise checks.wrong_value(function, "count", self._count, expected)
        return self._squares / (self._count - ddof)

    def std(self, ddof: int = 0) -> Array:
        """The root of `var`."""
        return np.sqrt(self.var(ddof))

    def to_array(self) -> Array:
        """All numbers in one float64 array: the count, heads and tails of the mean, squares.

        That is 3 c + 1 numbers for c channels, for transports that know arrays alone.
        """
        return np.concatenate([[self._count], self._mean.ravel(), self._squares.ravel()])

    @classmethod
    def from_array(cls, array: Array, *, shape: int | tuple[int, ...] | None = None) -> Self:
        """The moments that `to_array` wrote.

        Parameters
        ----------
        array : float64 array (3 c + 1,)
        shape : int or tuple of ints, optional
            The shape of the kept axes, of c channels in all; (c,) if not given.

        Raises
        ------
        ValueError
            The array's length does not fit, or it holds what no values have: a negative count or
            sum of squares, or an infinite count.
        TypeError
            An argument is of the wrong type.

        Examples
        --------
        >>> import numpy as np
        >>> from nbnorm import Moments
        >>> m = Moments.of(np.array([[1.0, 10.0], [3.0, 30.0]]))
        >>> m.to_array()
        array([  2.,   2.,  20.,   0.,   0.,   2., 200.])
        >>> Moments.from_array(m.to_array()).var()
        array([  1., 100.])
        """
        function = "Moments.from_array"
        checks.array(function, "array", array, ndim=1, dtype=np.dtype(np.float64))
        if array.size % 3 != 1:
            raise checks.wrong_value(function, "array", array, "3 c + 1 numbers for c channels")
        kept = cls(array.size // 3 if shape is None else shape).shape
        channels = math.prod(kept)
        if array.size != 3 * channels + 1:
            expected = f"{3 * channels + 1} numbers for shape {kept}"
            raise checks.wrong_value(function, "array", array, expected)
        count = float(array[0])
        mean, squares = np.split(array[1:], [2 * channels])
        if not 0 <= count < math.inf:
            raise checks.wrong_value(function, "count", count, "a finite number, 0 or more")
        if (squares < 0).any():
            given = float(np.nanmin(squares))
            raise checks.wrong_value(function, "squares", given, "no negative sum of squares")
        return cls._made(count, mean.reshape(2, *kept).copy(), squares.reshape(kept).copy())

    def __repr__(self) -> str:
        return f"Moments(count={self._count:g}, shape={self.shape})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.to_array(), self.shape)


def _restored(array: Array, shape: tuple[int, ...]) -> Moments:
    return Moments.from_array(array, shape=shape)


def _sum_exactly(a: Array, b: Array) -> tuple[Array, Array]:
    """The sum of two numbers, rounded, and what the rounding took (Knuth's two-sum)."""
    total = a + b
    added = total - a
    return total, (a - (total - added)) + (b - added)


# What `moments=` takes: those of the whole, or what makes them of those of the part.
Given: TypeAlias = "Moments | Callable[[Moments], Moments]"


def check_moments(function: str, name: str, given: Any, kept: tuple[int, ...]) -> None:
    """Checks for Moments of so many channels."""
    if not isinstance(given, Moments):
        raise checks.wrong_type(function, name, given, f"Moments of shape {kept}")
    if given.shape != kept:
        raise checks.wrong_value(function, name, given, f"Moments of shape {kept}")


def whole_from(function: str, name: str, moments: Moments, ddof: int) -> Whole:
    """What a launcher takes for the moments of a batch of which x is a part."""
    mean, var = moments.mean, moments.var(ddof)
    if (np.isinf(var) & np.isfinite(mean)).any():
        expected = "Moments with variances that float64 can hold"
        raise checks.wrong_value(function, name, moments, expected)
    head, tail = moments._mean  # noqa: SLF001  of a class of this module
    with np.errstate(invalid="ignore"):  # inf - inf
        return Whole(mean, var, (head - mean) + tail, moments.count)


def check_whole(
    function: str,
    given: Any,
    kept: tuple[int, ...],
    ddof: int,
    *,
    weighted: bool,
    callable_only: bool = False,
) -> Whole | Callable[[ChannelMoments], Whole]:
    """What a launcher takes for `moments=`; weights count as they are, values by two or more."""
    least = float(ddof) if weighted else 1.0

    def whole_of(moments: Any) -> Whole:
        check_moments(function, "moments", moments, kept)
        if not moments.count > least:
            expected = f"Moments of a count above {least:g}"
            raise checks.wrong_value(function, "moments", moments, expected)
        return whole_from(function, "moments", moments, ddof)

    if callable(given):
        return lambda part: whole_of(given(Moments.of_channels(part, kept)))
    if callable_only:
        expected = "a callable: what is normalized has no Moments before the product"
        raise checks.wrong_type(function, "moments", given, expected)
    return whole_of(given)
