"""Two-dimensional convolutions and their gradients.

NumPy's im2col and GEMM for now. It works in channels-last order whatever the layout of the data:
a patch is then one row of the matrix, and gathering it copies whole runs of channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from nbnorm import checks
from nbnorm.checks import Array
from nbnorm.functional.gradients import destinations
from nbnorm.functional.sizes import pair, size

Pair: TypeAlias = tuple[int, int]
Sizes: TypeAlias = tuple[int, ...]  # of two axes, vertical first


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
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    axis: int = 1,
    algorithm: str = "auto",
    out: Array | None = None,
) -> Array:
    """Slide a window over images (cross-correlation, as every framework has it).

    With x zero outside the image::

        y[n,k,i,j] = bias[k] + sum over c, r, s of weight[k,c,r,s]
                     x[n, c, i stride + r dilation - padding, j stride + s dilation - padding]

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
    padding : int or pair or "same"
        Zeros added on both sides; "same", for stride 1, keeps the image's size, and an odd zero
        goes to the bottom and the right.
    groups : int
        The first k / groups output channels see the first c / groups input channels, and so on.
    axis : 1 or -1
        The axis of the channels.
    algorithm : "auto"
        How to compute it.
    out : array of y's shape, optional
        Where to write y. It must not overlap x, weight or bias.

    Returns
    -------
    y : array (n, k, h', w'), or (n, h', w', k) with ``axis=-1``, of x's type
        ``h' = (h + padding - dilation (r - 1) - 1) // stride + 1``, where padding counts both
        sides, and w' likewise.

    Raises
    ------
    ValueError
        A shape does not fit, an option is out of range, or out is read-only or overlaps.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import conv2d_forward
    >>> conv2d_forward(np.arange(9.0).reshape(1, 1, 3, 3), np.ones((1, 1, 2, 2)))
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    function = "conv2d_forward"
    g = _geometry(function, x, weight, stride, padding, dilation, groups, axis, algorithm)
    if bias is not None:
        checks.like(function, "bias", bias, (len(weight),))
    inputs = {"x": x, "weight": weight, "bias": bias}
    y = checks.destination(function, "out", out, _output_shape(g, axis), x.dtype, inputs)

    rows = _gather(x, g, axis) @ _as_matrices(weight, g).transpose(0, 2, 1)
    images = rows.reshape(g.groups, g.n, *g.positions, g.k).transpose(1, 2, 3, 0, 4)
    np.add(
        images.reshape(g.n, *g.positions, g.groups * g.k),
        0 if bias is None else bias,
        out=np.moveaxis(y, axis, -1),
        casting="same_kind",
    )
    return y


def conv2d_backward(
    dy: Array,
    x: Array,
    weight: Array,
    *,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
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
    g = _geometry(function, x, weight, stride, padding, dilation, groups, axis, algorithm)
    checks.like(function, "dy", dy, _output_shape(g, axis), x.dtype)
    dx, dweight, dbias = destinations(
        function,
        needs,
        Conv2dGradients,
        out,
        {"dx": x.shape, "dweight": weight.shape, "dbias": (len(weight),)},
        x.dtype,
        {"dy": dy, "x": x, "weight": weight},
    )

    dy_rows = np.moveaxis(dy, axis, -1).reshape(g.n * math.prod(g.positions), g.groups, g.k)
    dy_rows = dy_rows.transpose(1, 0, 2)  # (groups, n h' w', k)
    if dx is not None:
        _scatter(dy_rows @ _as_matrices(weight, g), g, dx, axis)
    if dweight is not None:
        product = dy_rows.transpose(0, 2, 1) @ _gather(x, g, axis)
        dweight[...] = product.reshape(len(weight), *g.window, g.c).transpose(0, 3, 1, 2)
    if dbias is not None:
        # In float64: a float32 sum down a column loses a digit every ten-thousand rows or so.
        dbias[...] = dy_rows.sum(axis=1, dtype=np.float64).reshape(-1)
    return Conv2dGradients(dx, dweight, dbias)


class _Geometry(NamedTuple):
    """The sizes of one convolution; c and k count the channels of one group."""

    n: int
    groups: int
    c: int
    k: int
    image: Sizes  # h, w
    window: Sizes  # r, s
    positions: Sizes  # h', w'
    stride: Sizes
    dilation: Sizes
    before: Sizes  # zeros above and to the left
    padded: Sizes  # h, w with the zeros of both sides


def _geometry(
    function: str,
    x: Array,
    weight: Array,
    stride: int | Pair,
    padding: int | Pair | str,
    dilation: int | Pair,
    groups: int,
    axis: int,
    algorithm: str,
) -> _Geometry:
    """Check every argument that the forward and the backward share."""
    checks.array(function, "x", x, ndim=4)
    checks.array(function, "weight", weight, ndim=4, dtype=x.dtype)
    if axis not in (1, -1):
        raise checks.wrong_value(function, "axis", axis, "1 or -1")
    if algorithm != "auto":
        raise checks.wrong_value(function, "algorithm", algorithm, "'auto'")
    step = pair(function, "stride", stride)
    spread = pair(function, "dilation", dilation)
    groups = size(function, "groups", groups)
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

    reach = [d * (r - 1) for d, r in zip(spread, window, strict=True)]
    if isinstance(padding, str):
        if padding != "same" or step != (1, 1):
            expected = "an int, a pair of ints or, with stride 1, 'same'"
            raise checks.wrong_value(function, "padding", padding, expected)
        before, both = [extra // 2 for extra in reach], reach
    else:
        before = list(pair(function, "padding", padding, least=0))
        both = [2 * zeros for zeros in before]
    padded = h + both[0], w + both[1]
    if padded[0] <= reach[0] or padded[1] <= reach[1]:
        raise checks.wrong_value(
            function,
            "x",
            x,
            f"images that with padding {padding!r} reach the window's {reach[0] + 1, reach[1] + 1}",
        )
    return _Geometry(
        n=n,
        groups=groups,
        c=c,
        k=k // groups,
        image=(h, w),
        window=tuple(window),
        positions=tuple((p - e - 1) // t + 1 for p, e, t in zip(padded, reach, step, strict=True)),
        stride=step,
        dilation=spread,
        before=tuple(before),
        padded=padded,
    )


def _output_shape(g: _Geometry, axis: int) -> Sizes:
    channels = g.groups * g.k
    return (g.n, channels, *g.positions) if axis == 1 else (g.n, *g.positions, channels)


def _gather(x: Array, g: _Geometry, axis: int) -> Array:
    """Lay out each window of x as a row (im2col): (groups, n h' w', r s c)."""
    (top, left), (h, w) = g.before, g.image
    padded = np.zeros((g.n, *g.padded, g.groups * g.c), x.dtype)
    padded[:, top : top + h, left : left + w] = np.moveaxis(x, axis, -1)

    span = [d * (r - 1) + 1 for d, r in zip(g.dilation, g.window, strict=True)]
    windows = sliding_window_view(padded, span, axis=(1, 2))  # (n, ., ., c, span, span)
    windows = windows[:, :: g.stride[0], :: g.stride[1], :, :: g.dilation[0], :: g.dilation[1]]
    windows = windows.reshape(g.n, *g.positions, g.groups, g.c, *g.window)  # still a view
    rows = windows.transpose(3, 0, 1, 2, 5, 6, 4)
    return rows.reshape(g.groups, g.n * math.prod(g.positions), math.prod(g.window) * g.c)


def _scatter(rows: Array, g: _Geometry, dx: Array, axis: int) -> None:
    """Add each row back to the window that it came from, the transpose of `_gather`."""
    padded = np.zeros((g.n, *g.padded, g.groups, g.c), rows.dtype)
    taps = rows.reshape(g.groups, g.n, *g.positions, *g.window, g.c).transpose(4, 5, 1, 2, 3, 0, 6)
    for r, s in np.ndindex(g.window):
        top, left = r * g.dilation[0], s * g.dilation[1]
        down = slice(top, top + g.stride[0] * g.positions[0], g.stride[0])
        across = slice(left, left + g.stride[1] * g.positions[1], g.stride[1])
        padded[:, down, across] += taps[r, s]

    (top, left), (h, w) = g.before, g.image
    image = padded[:, top : top + h, left : left + w]
    np.moveaxis(dx, axis, -1)[...] = image.reshape(g.n, h, w, g.groups * g.c)


def _as_matrices(weight: Array, g: _Geometry) -> Array:
    """Lay out the weights as the rows of `_gather` are: (groups, k, r s c)."""
    taps = weight.reshape(g.groups, g.k, g.c, *g.window).transpose(0, 1, 3, 4, 2)
    return taps.reshape(g.groups, g.k, math.prod(g.window) * g.c)
