"""Two-dimensional convolutions and their gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import numpy as np

from nbnorm import checks
from nbnorm.functional.arguments import Form, check_places, pair, size
from nbnorm.launch.conv2d import algorithms
from nbnorm.launch.conv2d.convolution import Convolution
from nbnorm.typing import Array

Pair: TypeAlias = tuple[int, int]
Padding: TypeAlias = int | Pair | tuple[Pair, Pair] | str

ALGORITHMS = ("auto", "direct", "winograd")
PADDINGS = ("valid", "same", "same_lower")


class Conv2dGradients(NamedTuple):
    """Gradients of a convolution; None where not asked for."""

    dx: Array | None = None
    dweight: Array | None = None
    dbias: Array | None = None


def conv2d_forward(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    axis: int = 1,
    algorithm: str = "auto",
    out: Array | None = None,
) -> Array:
    """Slide a window over images (cross-correlation, as every framework has it).

    With x zero outside the image::

        y[n,k,i,j] = bias[k] + sum over c, r, s of weight[k,c,r,s]
                     x[n, c, i stride + r dilation - top, j stride + s dilation - left]

    Parameters
    ----------
    x : array (n, c, h, w), or (n, h, w, c) with ``axis=-1``
        float32 or float64.
    weight : array (k, c / groups, r, s), in either layout
        Of x's type.
    bias : array (k,), optional
        float32 or float64.
    stride, dilation : int or pair
        The step from window to window, and from tap to tap within one.
    padding : int, pair, ((top, bottom), (left, right)), "valid", "same" or "same_lower"
        Zeros added around the image: as many on all sides, above and below and left and right, or
        on each side; "valid" is 0. "same" makes h' = h / stride, rounded up, as TensorFlow's and
        ONNX's SAME_UPPER: it adds ``max(0, (h' - 1) stride + dilation (r - 1) + 1 - h)`` rows, an
        odd one below, and columns likewise, an odd one right; "same_lower" adds the odd one above
        and left.
    groups : int
        The first k / groups output channels see the first c / groups input channels, and so on.
    axis : 1 or -1
        The axis of the channels.
    algorithm : "auto", "direct" or "winograd"
        How to compute it. Winograd's F(4x4, 3x3), for windows 3x3 of stride 1, multiplies a quarter
        as often and rounds more: on standard-normal float32 data, its results are within 1e-4 of
        the output's rms, direct ones within 5e-6; in float64 both are within 1e-12. An infinity
        or NaN in x spreads to the 4x4 pixels of its tile. "auto" takes whichever is faster.
    out : array of y's shape, optional
        Where to write y. It must not overlap x, weight or bias.

    Returns
    -------
    y : array (n, k, h', w'), or (n, h', w', k) with ``axis=-1``, of x's type
        ``h' = (h + top + bottom - dilation (r - 1) - 1) // stride + 1``, and w' likewise.

    Raises
    ------
    ValueError
        A shape does not fit, an option is out of range, or out is read-only or overlaps.
    TypeError
        An argument is of the wrong type.

    Notes
    -----
    Scratch memory, kept by the thread for its next call up to 64 MiB: the weights in another order
    (once their size; four times for Winograd), and for each of at most 8 parts of the batch a
    block of the input and of what is worked out from it, some 256 KiB each, more only where a row
    of images or 192 pixels (64 tiles for Winograd, each 36 numbers a channel) take more.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import conv2d_forward
    >>> conv2d_forward(np.arange(9.0).reshape(1, 1, 3, 3), np.ones((1, 1, 2, 2)))
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    function = "conv2d_forward"
    conv = check_convolution(
        function, x, weight, stride, padding, dilation, groups, axis, algorithm
    )
    if bias is not None:
        checks.like(function, "bias", bias, (len(weight),))
    if out is not None:
        inputs = {"x": x, "weight": weight, "bias": bias}
        checks.writable(function, "out", out, conv.output_shape, x.dtype, inputs)
    return algorithms.convolve(x, weight, bias, conv, out)


def conv2d_backward(
    dy: Array,
    x: Array,
    weight: Array,
    *,
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    axis: int = 1,
    algorithm: str = "auto",
    needs: Iterable[str] | None = None,
    out: Conv2dGradients | None = None,
) -> Conv2dGradients:
    """Differentiate `conv2d_forward`.

    Parameters
    ----------
    dy : array of y's shape and x's type
        The gradient of the loss with respect to y.
    x, weight, stride, padding, dilation, groups, axis, algorithm
        What the forward was given.
    needs : names among "dx", "dweight", "dbias", optional
        The gradients wanted; by default all.
    out : Conv2dGradients, optional
        Where to write: an array, or None to allocate, in each place.

    Returns
    -------
    Conv2dGradients
        dx, dweight and dbias of the shapes of x, weight and bias, in x's type; None where not
        asked for.

    Raises
    ------
    ValueError
        A shape does not fit, an option is out of range, needs has an unknown name, or an array
        of out is read-only or overlaps another.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import conv2d_backward
    >>> x, weight = np.arange(9.0).reshape(1, 1, 3, 3), np.ones((1, 1, 2, 2))
    >>> conv2d_backward(np.ones((1, 1, 2, 2)), x, weight, needs=["dweight"]).dweight
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    function = "conv2d_backward"
    conv = check_convolution(
        function, x, weight, stride, padding, dilation, groups, axis, algorithm
    )
    checks.like(function, "dy", dy, conv.output_shape, x.dtype)
    wanted = checks.needs(function, needs, Conv2dGradients._fields)
    if out is None:
        out = Conv2dGradients()
    else:
        sources: dict[str, Array | Form] = {
            "dx": x, "dweight": weight, "dbias": Form(weight.shape[:1], x.dtype)
        }  # fmt: skip
        inputs = {"dy": dy, "x": x, "weight": weight}
        check_places(function, Conv2dGradients, out, wanted, sources, inputs)
    gradients = algorithms.differentiate(dy, x, weight, conv, wanted, out)
    return Conv2dGradients(*gradients)


def check_window(
    function: str,
    stride: int | Pair,
    padding: Padding,
    dilation: int | Pair,
    groups: int,
    axis: int,
) -> tuple[Pair, tuple[Pair, Pair] | str, Pair, int]:
    """Check how the window moves; return stride, padding (or its name), dilation, groups."""
    if not checks.is_int(axis):
        raise checks.wrong_type(function, "axis", axis, "1 or -1")
    if axis not in (1, -1):
        raise checks.wrong_value(function, "axis", axis, "1 or -1")
    step = pair(function, "stride", stride)
    spread = pair(function, "dilation", dilation)
    groups = size(function, "groups", groups)
    return step, _check_padding(function, padding), spread, groups


def _check_padding(function: str, padding: Padding) -> tuple[Pair, Pair] | str:
    """Return ((top, bottom), (left, right)), or the name of a padding that sizes decide."""
    expected = f"an int, a pair, ((top, bottom), (left, right)) or one of {PADDINGS}"
    if isinstance(padding, str):
        if padding not in PADDINGS:
            raise checks.wrong_value(function, "padding", padding, expected)
        return ((0, 0), (0, 0)) if padding == "valid" else padding
    sides = padding if isinstance(padding, (tuple, list)) else (padding, padding)
    if len(sides) != 2:
        raise checks.wrong_value(function, "padding", padding, expected)
    rows, columns = (pair(function, "padding", side, least=0) for side in sides)
    return rows, columns


def _zeros(padding: str, size: int, covered: int, step: int) -> Pair:
    """Return the zeros before and after one axis for "same" and "same_lower".

    `covered` is how much of the axis a dilated window covers.
    """
    positions = -(-size // step)
    zeros = max(0, (positions - 1) * step + covered - size)
    fewer, more = zeros // 2, zeros - zeros // 2
    return (fewer, more) if padding == "same" else (more, fewer)


def check_convolution(
    function: str,
    x: Array,
    weight: Array,
    stride: int | Pair,
    padding: Padding,
    dilation: int | Pair,
    groups: int,
    axis: int,
    algorithm: str,
) -> Convolution:
    """Check every argument that the forward and the backward share."""
    checks.array(function, "x", x, ndim=4)
    checks.array(function, "weight", weight, ndim=4, dtype=x.dtype)
    checks.choice(function, "algorithm", algorithm, ALGORITHMS)
    step, zeros, spread, groups = check_window(function, stride, padding, dilation, groups, axis)
    n, h, w, channels = np.moveaxis(x, axis, -1).shape
    k, c, *window = weight.shape
    if 0 in weight.shape or c * groups != channels or k % groups:
        raise checks.wrong_value(
            function,
            "weight",
            weight,
            f"shape (k, c / groups, r, s) for c = {channels}, groups = {groups} that divide k, "
            "and no size of 0",
        )

    covered = tuple(d * (r - 1) + 1 for d, r in zip(spread, window, strict=True))
    if isinstance(zeros, str):
        rows, columns = (_zeros(zeros, *sizes) for sizes in zip((h, w), covered, step, strict=True))
    else:
        rows, columns = zeros
    padded = h + sum(rows), w + sum(columns)
    if padded[0] < covered[0] or padded[1] < covered[1]:
        expected = f"images that with padding {padding!r} reach the window's {covered}"
        raise checks.wrong_value(function, "x", x, expected)
    conv = Convolution(
        n=n,
        groups=groups,
        c=c,
        k=k // groups,
        image=(h, w),
        window=tuple(window),
        positions=tuple((p - e) // t + 1 for p, e, t in zip(padded, covered, step, strict=True)),
        stride=step,
        dilation=spread,
        before=(rows[0], columns[0]),
        axis=axis,
        algorithm=algorithm,
    )
    if algorithm == "winograd" and not algorithms.has_winograd(conv):
        expected = (
            "'auto' or 'direct', unless windows are 3x3 of stride 1, dilation 1 and one group"
        )
        raise checks.wrong_value(function, "algorithm", algorithm, expected)
    return conv
