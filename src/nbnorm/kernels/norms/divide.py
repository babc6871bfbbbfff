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

Lanes add in the data's type for `CHAIN` vectors at most and are then carried in float64, as in
sums.py. Where float32 has no such sums, of squares above all, the strip is summed again in float64:
any sum beyond its range, and those below it where eps does not hide them.
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
from nbnorm.kernels.batch_norm.sums import CHAIN
from nbnorm.kernels.gemm.packing import transpose
from nbnorm.kernels.norms.kinds import add, root, without

# 1 / d leaves the normal range of float32 where d is near either end of it: x is then multiplied
# by a power of two first, which changes none of its digits.
_LARGE, _DOWN = 2.0**100, 2.0**-64
_SMALL, _UP = 2.0**-100, 2.0**64
_SMALLEST = 5e-324

# Sums of float32 numbers that are taken as they are: none of the summands that matter has lost a
# digit to the ends of the range.
_HIGHEST, _LOWEST = 2.0**126, 2.0**-80


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
def _add(sums, dy, x, i, count, others, lift, factor, order):
    """Adds what belongs to ``x[i : i + count]`` to the lanes of `sums`: |x|, x^2, or dy y."""
    v = load_part(x, i, count, others)
    if dy is None:
        return add(sums, v, order)
    return fma(load_part(dy, i, count, others), v * lift * factor, sums)


@inlined
def _sum(dy, x, first, last, step, count, lift, factor, order):
    """Lane by lane the sums of a strip, `count` values at a time and `step` values apart.

    Lanes beyond the count are not 0, so that they do not seem to lack digits.
    """
    zero = splat(x, 0.0)
    one = splat(x, 1.0)
    carried = widen(zero)
    i = first
    while i + count <= last:
        end = min(i + CHAIN * step, last)
        sums = zero
        while i + count <= end:
            sums = _add(sums, dy, x, i, count, one, lift, factor, order)
            i += step
        carried = carried + widen(sums)
    if i < last:
        carried = carried + widen(_add(zero, dy, x, i, last - i, zero, lift, factor, order))
    return carried


@inlined
def _sum_widened(x, first, last, step, count, order):
    """The same sums of |x| or x^2, in float64 throughout."""
    zero = splat(x, 0.0)
    sums = widen(zero)
    for i in range(first, last, step):
        sums = add(sums, widen(load_part(x, i, min(count, last - i), zero)), order)
    return sums


@inlined
def _lowest(eps):
    """The least sum that is taken as it is: any, where eps is so large that it does not matter."""
    return _LOWEST if eps < _LOWEST else 0.0


@inlined
def _lacking(sums, eps):
    """1 in the lanes whose sum is not to be taken as it is, or is not a number; 0 elsewhere."""
    one, zero = splat(sums, 1.0), splat(sums, 0.0)
    lacking = select(sums < splat(sums, _HIGHEST), zero, one)
    return select(sums < splat(sums, _lowest(eps)), one, lacking)


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
def _divide_fibre(out, norm, part, dy, x, fibre, first, last, summing, writing, stream, eps, order):
    """Sums, or writes, or both, x[first : last]: a fibre of neighbours or a slice of one."""
    width = lanes(x)
    zero = splat(x, 0.0)
    lift, factor, along = zero, zero, zero
    if dy is not None:
        one_lift, one_factor = _reciprocal(norm[fibre])
        lift, factor = splat(x, one_lift), splat(x, one_factor)
    if summing:
        sums = _sum(dy, x, first, last, width, width, lift, factor, order)
        if dy is None and x.itemsize < 8 and not _lowest(eps) <= total(sums) < _HIGHEST:
            sums = _sum_widened(x, first, last, width, width, order)
    else:
        sums = load_part(part, 0, width, widen(zero))
    if not writing:
        store_part(part, 0, sums, width)
        return
    if dy is None:
        norm[fibre] = root(total(sums) + eps, order)
        one_lift, one_factor = _reciprocal(norm[fibre])
        lift, factor = splat(x, one_lift), splat(x, one_factor)
    else:
        along = splat(x, total(sums))
    _write(out, dy, x, first, last, width, width, lift, factor, along, order, stream)


@inlined
def _divide_strip(
    out, norm, at, count, row, part, dy, x, first, last, step, used, summing, writing, stream,
    eps, order,
):  # fmt: skip
    """The same for `count` fibres whose norms are ``norm[at : at + count]``.

    A vector has `used` values; if that is more than `count`, several of each fibre.
    """
    width = lanes(x)
    zero = splat(x, 0.0)
    lift, factor, along = zero, zero, zero
    if dy is not None:
        if used > count:
            _spread(norm, at, row, used, count)
            d = load_part(row, 0, used, widen(zero))
        else:
            d = load_part(norm, at, count, widen(zero))
        wide_lift, wide_factor = _reciprocals(d)
        lift, factor = narrow(x, wide_lift), narrow(x, wide_factor)
    if not summing:
        sums = load_part(part, 0, width, widen(zero))
    elif used == width:
        sums = _sum(dy, x, first, last, step, width, lift, factor, order)
    else:
        sums = _sum(dy, x, first, last, step, used, lift, factor, order)
    if dy is None and summing and x.itemsize < 8:
        lacking = _lacking(sums, eps)
        if total(lacking) > 0.0:  # only these, so that no fibre depends on its neighbours
            again = _sum_widened(x, first, last, step, used, order)
            sums = select(lacking > splat(sums, 0.5), again, sums)
    if not writing:
        store_part(part, 0, sums, width)
        return
    if used > count:
        sums = _fold(sums, row, used, count)
    if dy is None:
        d = root(sums + splat(sums, eps), order)
        store_part(norm, at, d, count)
        wide_lift, wide_factor = _reciprocals(d)
        lift, factor = narrow(x, wide_lift), narrow(x, wide_factor)
    else:
        along = narrow(x, sums)
    if used == width:
        _write(out, dy, x, first, last, step, width, lift, factor, along, order, stream)
    else:
        _write(out, dy, x, first, last, step, used, lift, factor, along, order, False)


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
    parts     (tiles, lanes) float64: the sums of slices
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
    n, c, s = shape
    height, slices, in_sample, step = tiling
    width = lanes(x)
    for tile in range(lo, hi):
        row = rows[tile]
        slice_ = tile % slices
        part = parts[tile if summing else tile - slice_]
        strip = tile // slices * height
        last_strip = min(strip + height, -(-n // width) if step == 0 else n * in_sample)
        if step == 0:
            begin = tile * c * width
            end = begin + c * width
            for fibre in range(strip * width, min(last_strip * width, n), width):
                count = min(width, n - fibre)
                transpose(turned, begin, width, x, fibre * c, c, count, c, width)
                if dy is not None:
                    transpose(turned_dy, begin, width, dy, fibre * c, c, count, c, width)
                _divide_strip(
                    turned, norm, fibre, count, row, part, turned_dy, turned, begin, end, width,
                    count, True, True, False, eps, order,
                )  # fmt: skip
                transpose(out, fibre * c, c, turned, begin, width, c, count, c)
            continue
        together = step > s
        size = c * s
        steps = -(-size // step)
        first = steps * slice_ // slices * step
        last = steps * (slice_ + 1) // slices * step
        if s == 1:
            last = min(last, c)
            for fibre in range(strip, last_strip):
                start = fibre * c
                _divide_fibre(
                    out, norm, part, dy, x, fibre, start + first, start + last, summing, writing,
                    stream, eps, order,
                )  # fmt: skip
            continue
        sample = strip // in_sample
        column = (strip - sample * in_sample) * width
        for _ in range(strip, last_strip):
            start = sample * size
            count = s if together else min(width, s - column)
            _divide_strip(
                out, norm, sample * s + column, count, row, part, dy, x, start + first + column,
                start + min(last + column, size), step, step if together else count, summing,
                writing, stream, eps, order,
            )  # fmt: skip
            column += width
            if column >= s:
                column = 0
                sample += 1


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
