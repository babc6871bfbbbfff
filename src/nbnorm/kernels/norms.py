"""Division by the L1 or L2 norm, and its gradient.

An array is seen as (n, c, s), as in layout.py, where c now counts the values that are summed: it
has n s *fibres* of c values each, s values apart, and

    forward    d = sum(|x|) + eps  or  sqrt(sum(x^2) + eps)     y = x / d
    backward   t = sum(dy x) / d        dx = (dy - sign(x) t) / d  or  (dy - y t) / d

A kernel works through *strips*: as many fibres as one vector reads at a time.

s = 1            one fibre, its neighbours in neighbouring lanes
s <= lanes / 2   the s fibres of a sample; a vector has several values of each
s beyond that    up to `lanes` neighbouring fibres of a sample, a lane for each

Where fibres are short and s is 1, the first form would leave most lanes empty: `lanes` fibres are
transposed in scratch and are then a strip of the third form.

A strip is summed, its norms are found and it is written before the next one begins, so that the
second look at it finds it in cache. Where there are too few strips for several threads they are
cut into slices, and the kernel runs twice: once to sum, and once to write.

`tiling` = (height, slices, in_sample, step): a tile is `height` strips, or one of the `slices` of
one strip. There are `in_sample` strips in a sample, and a strip's vectors begin `step` values
apart: s, or as many times s as fit a vector. Step 0 stands for fibres that are transposed.

Sums are float64 throughout: a float32 squared neither overflows nor vanishes there, and what the
conversion costs is hidden by memory.
"""

from __future__ import annotations

from nbnorm.jit.elementary import narrow
from nbnorm.jit.options import driver, inlined, prange, worker
from nbnorm.jit.simd import (
    fma,
    lanes,
    load_part,
    select,
    splat,
    store_part,
    store_stream,
    total,
    widen,
)
from nbnorm.kernels.orders import add, root, without
from nbnorm.kernels.packing import transpose

# 1 / d leaves the normal range of float32 where d is near either end of it: x is then multiplied
# by a power of two first, which changes none of its digits.
_LARGE, _DOWN = 2.0**100, 2.0**-64
_SMALL, _UP = 2.0**-100, 2.0**64
_SMALLEST = 5e-324


@inlined
def _reciprocal(d):
    """(lift, factor) with x / d = x lift factor; 0 where d is 0."""
    lift = 1.0
    if d > _LARGE:
        lift = _DOWN
    elif d < _SMALL:
        lift = _UP
    return lift, 1.0 / (d * lift) if d != 0.0 else 0.0


@inlined
def _reciprocals(d):
    """The same for a vector."""
    one = splat(d, 1.0)
    lift = select(d > splat(d, _LARGE), splat(d, _DOWN), one)
    lift = select(d < splat(d, _SMALL), splat(d, _UP), lift)
    return lift, select(d < splat(d, _SMALLEST), splat(d, 0.0), one / (d * lift))


@inlined
def _add(sums, dy, x, i, count, order):
    """Adds what belongs to ``x[i : i + count]`` to the lanes of a vector of sums."""
    v = load_part(x, i, count, splat(x, 0.0))
    if dy is None:
        return add(sums, v, order)
    return fma(widen(load_part(dy, i, count, splat(x, 0.0))), widen(v), sums)


@inlined
def _sum(dy, x, first, last, step, count, order):
    """Lane by lane the sums of a strip, `count` values at a time and `step` values apart."""
    sums = widen(splat(x, 0.0))
    i = first
    while i + count <= last:
        sums = _add(sums, dy, x, i, count, order)
        i += step
    if i < last:
        sums = _add(sums, dy, x, i, last - i, order)
    return sums


@inlined
def _divide(out, dy, x, i, count, lift, factor, along, order, stream):
    """Writes ``out[i : i + count]``: y, or dx if there is a dy."""
    zero = splat(x, 0.0)
    v = load_part(x, i, count, zero)
    result = v * lift * factor
    if dy is not None:
        g = load_part(dy, i, count, zero)
        result = without(g, v, result, along, order) * lift * factor
    if stream:
        store_stream(out, i, result)
    else:
        store_part(out, i, result, count)


@inlined
def _write(out, dy, x, first, last, step, count, lift, factor, along, order, stream):
    """Writes a strip, its last values first: they are in cache where not all of it is."""
    i = first + (last - first - 1) // step * step
    if i + count > last:
        _divide(out, dy, x, i, last - i, lift, factor, along, order, False)
        i -= step
    while i >= first:
        _divide(out, dy, x, i, count, lift, factor, along, order, stream)
        i -= step


@inlined
def _fold(sums, row, step, s):
    """Adds up the lanes of each of s fibres; its sum stands in all of them."""
    store_part(row, 0, sums, step)
    for fibre in range(s):
        for lane in range(fibre + s, step, s):
            row[fibre] += row[lane]
    for lane in range(s, step):
        row[lane] = row[lane - s]
    return load_part(row, 0, step, sums)


@inlined
def _spread(norm, at, row, step, s):
    """The norms of s fibres in all of their lanes."""
    for lane in range(step):
        row[lane] = norm[at + lane % s]


@inlined
def _settle_one(norm, at, sums, dy, x, eps, order):
    """The constants of a strip that is one fibre: lift, factor, and t in the backward."""
    value = total(sums)
    if dy is None:
        norm[at] = root(value + eps, order)
    lift, factor = _reciprocal(norm[at])
    return splat(x, lift), splat(x, factor), splat(x, value * lift * factor)


@inlined
def _settle(norm, at, count, row, sums, dy, x, step, together, eps, order):
    """The constants of a strip of `count` fibres; and norm[at : at + count] in the forward.

    `together` tells that a vector has several values of each fibre.
    """
    if together:
        sums = _fold(sums, row, step, count)
    if dy is None:
        d = root(sums + splat(sums, eps), order)
        store_part(norm, at, d, count)
    elif together:
        _spread(norm, at, row, step, count)
        d = load_part(row, 0, step, sums)
    else:
        d = load_part(norm, at, count, sums)
    lift, factor = _reciprocals(d)
    return narrow(x, lift), narrow(x, factor), narrow(x, sums * lift * factor)


@inlined
def _divide_turned(out, norm, turned, turned_dy, scratch, dy, x, first, count, c, eps, order):
    """Divides the fibres first..first+count-1, transposed at `scratch` of the turned arrays."""
    width = lanes(x)
    at = first * c
    end = scratch + c * width
    transpose(turned, scratch, width, x, at, c, count, c, width)
    if dy is not None:
        transpose(turned_dy, scratch, width, dy, at, c, count, c, width)
    sums = _sum(turned_dy, turned, scratch, end, width, width, order)
    lift, factor, along = _settle(
        norm, first, count, norm, sums, turned_dy, x, width, False, eps, order
    )
    _write(turned, turned_dy, turned, scratch, end, width, width, lift, factor, along, order, False)
    transpose(out, at, c, turned, scratch, width, c, count, c)


@inlined
def _divide_strip(
    out, norm, row, part, dy, x, strip, slice_, tiling, summing, writing, stream, eps, order, shape
):
    """Sums, or writes, or both, a slice of a strip; `part` holds its sums in between."""
    _, c, s = shape
    _, slices, in_sample, step = tiling
    width = lanes(x)
    sample = strip // in_sample
    column = (strip - sample * in_sample) * width
    together = step > s
    count = step if together else min(width, s - column)
    start = sample * c * s + column
    end = (sample + 1) * c * s
    steps = -(-(end - start) // step)
    first = start + steps * slice_ // slices * step
    last = min(start + steps * (slice_ + 1) // slices * step, end)

    if not summing:
        sums = load_part(part, 0, width, widen(splat(x, 0.0)))
    elif count == width:
        sums = _sum(dy, x, first, last, step, width, order)
    else:
        sums = _sum(dy, x, first, last, step, count, order)
    if not writing:
        store_part(part, 0, sums, width)
        return

    if s == 1:
        lift, factor, along = _settle_one(norm, strip, sums, dy, x, eps, order)
    else:
        lift, factor, along = _settle(
            norm, sample * s + column, s if together else count, row, sums, dy, x, step, together,
            eps, order,
        )  # fmt: skip
    if count == width:
        _write(out, dy, x, first, last, step, width, lift, factor, along, order, stream)
    else:
        _write(out, dy, x, first, last, step, count, lift, factor, along, order, False)


@worker
def divide_by_norms(
    lo, hi, out, norm, rows, parts, turned, turned_dy, dy, x, eps, order, summing, writing, stream,
    tiling, shape,
):  # fmt: skip
    """Y, or dx where there is a dy; tile t is slice ``t % slices`` of some strips.

    lo, hi    tiles
    out       (n c s,), written: y, or dx; may be x in the forward, dy in the backward
    norm      (n s,) float64: d, written in the forward, read in the backward
    rows      (tiles, lanes) float64, scratch
    parts     (tiles, lanes) float64: the sums of slices; one row will do where there are none
    turned    (tiles c lanes,) of the data's type, scratch for short fibres
    turned_dy the same for dy, or None in the forward
    dy        (n c s,), or None in the forward
    x         (n c s,)
    eps       added to the sum, not used in the backward
    order     L1() or L2()
    summing   whether to sum; if not, the sums are in the first of the parts
    writing   whether to write; if not, the sums are left in parts
    stream    whether to write past the caches
    tiling    (height, slices, in_sample, step), see above
    shape     (n, c, s)
    """
    n, c, _ = shape
    height, slices, in_sample, step = tiling
    width = lanes(x)
    strips = -(-n // width) if step == 0 else n * in_sample
    for tile in range(lo, hi):
        first = tile // slices * height
        slice_ = tile % slices
        for strip in range(first, min(first + height, strips)):
            if step == 0:
                fibre = strip * width
                _divide_turned(
                    out, norm, turned, turned_dy, tile * c * width, dy, x, fibre,
                    min(width, n - fibre), c, eps, order,
                )  # fmt: skip
            else:
                part = parts[0 if slices == 1 else tile if summing else tile - slice_]
                _divide_strip(
                    out, norm, rows[tile], part, dy, x, strip, slice_, tiling, summing, writing,
                    stream, eps, order, shape,
                )  # fmt: skip


@driver
def divide_by_norms_parallel(
    tiles, out, norm, rows, parts, turned, turned_dy, dy, x, eps, order, summing, writing, stream,
    tiling, shape,
):  # fmt: skip
    """`divide_by_norms` over all tiles."""
    for tile in prange(tiles):
        divide_by_norms(
            tile, tile + 1, out, norm, rows, parts, turned, turned_dy, dy, x, eps, order, summing,
            writing, stream, tiling, shape,
        )  # fmt: skip


@worker
def add_parts(parts, slices):
    """Adds the slices of each strip, in order, to its first."""
    for first in range(0, len(parts), slices):
        for slice_ in range(first + 1, first + slices):
            for lane in range(parts.shape[1]):
                parts[first, lane] += parts[slice_, lane]
