"""Division by the L1 or L2 norm, and its gradient.

An array is seen as (n, c, s), as in channels.py, where c now counts the values that are summed: it
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
second pass over it finds it in cache. Where there are too few strips for several threads they are
cut into slices, and the kernel runs twice: once to sum, and once to write.

Lanes add in the data's type for `CHAIN` vectors at most and are then carried in float64, as in
sums.py. Where float32 has no such sums, of squares above all, the strip is summed again in float64:
any sum beyond its range, and those below it where eps does not hide them. Where float64 has no
such sum, it is taken again of numbers smaller or larger by a power of two. A norm that is itself
beyond float64, of several numbers next to its end, is kept as minus its 2^-64th part.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from nbnorm.jit.elementary import absolute, narrow
from nbnorm.jit.options import inlined, worker
from nbnorm.jit.parallel import parallel
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
from nbnorm.kernels.copies import transpose
from nbnorm.kernels.norms.kinds import add, lifted, root, roots, subtract_projection

# 1 / d leaves the normal range of float32 where d is near either end of it: x is then multiplied
# by a power of two first, which changes none of its digits.
_LARGE, _DOWN = 2.0**100, 2.0**-64
_SMALL, _UP = 2.0**-100, 2.0**64
_SMALLEST = 5e-324

# Sums of float32 numbers that are taken as they are: none of the summands that matter has lost a
# digit to the ends of the range.
_HIGHEST, _LOWEST = 2.0**126, 2.0**-80


# The same for float64, and what numbers are multiplied by whose sum is not.
_HIGHEST_OF_DOUBLES, _LOWEST_OF_DOUBLES = 2.0**1000, 2.0**-900
_SHRINK, _STRETCH = 2.0**-600, 2.0**600


class NormTiling(NamedTuple):
    """How strips are shared out: a tile is `strips` of them, or one of the `slices` of one strip.

    sample_strips  strips in a sample
    step           from one vector of a strip to the next: s values, or as many times s as fit a
                   vector; 0 where fibres are transposed
    """

    strips: Any
    slices: Any
    sample_strips: Any
    step: Any


class NormWorkspace(NamedTuple):
    """Scratch for each tile.

    lanes          (tiles, lanes) float64
    sums           (tiles, lanes) float64: those of slices, for the second run
    transposed     (tiles c lanes,) of the data's type, for short fibres
    transposed_dy  the same for dy, or None in the forward
    """

    lanes: Any
    sums: Any
    transposed: Any
    transposed_dy: Any


class Passes(NamedTuple):
    """What a run of the kernel does.

    summing    whether it sums; if not, it takes the sums of the first slice in the workspace
    writing    whether it writes; if not, it leaves its sums in the workspace
    streaming  whether it writes past the caches
    """

    summing: Any
    writing: Any
    streaming: Any


class _Strip(NamedTuple):
    """The norms fibre..fibre+fibres-1, of the values first..last-1 or a slice of them.

    A vector takes `count` values, and the next one begins `step` values on; where `count` is more
    than `fibres`, it has several values of each. The whole strip is the values begin..end-1.
    """

    fibre: Any
    fibres: Any
    first: Any
    last: Any
    step: Any
    count: Any
    begin: Any
    end: Any


@inlined
def _reciprocal(d):
    """(lift, factor) with x / d = x lift factor; 0 where d is 0."""
    if d < 0.0:
        return _DOWN, -1.0 / d
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
    factor = select(d < splat(d, _SMALLEST), splat(d, 0.0), one / (d * lift))
    beyond = d < splat(d, 0.0)
    return select(beyond, splat(d, _DOWN), lift), select(beyond, splat(d, -1.0) / d, factor)


@inlined
def _add(sums, dy, x, i, count, others, lift, factor, kind):
    """Adds what belongs to ``x[i : i + count]`` to the lanes of `sums`: |x|, x^2, or dy y."""
    v = load_part(x, i, count, others)
    if dy is None:
        return add(kind, sums, v)
    return fma(load_part(dy, i, count, others), v * lift * factor, sums)


@inlined
def _sum(dy, x, first, last, step, count, lift, factor, kind):
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
            sums = _add(sums, dy, x, i, count, one, lift, factor, kind)
            i += step
        carried = carried + widen(sums)
    if i < last:
        carried = carried + widen(_add(zero, dy, x, i, last - i, zero, lift, factor, kind))
    return carried


@inlined
def _sum_widened(x, first, last, step, count, kind):
    """The same sums of |x| or x^2, in float64 throughout."""
    zero = splat(x, 0.0)
    sums = widen(zero)
    for i in range(first, last, step):
        sums = add(kind, sums, widen(load_part(x, i, min(count, last - i), zero)))
    return sums


@inlined
def _sum_lifted(x, first, last, step, count, lifts, kind):
    """The same sums of numbers that are `lifts` times as large, each lane by its own."""
    zero = splat(x, 0.0)
    sums = widen(zero)
    for i in range(first, last, step):
        v = widen(load_part(x, i, min(count, last - i), zero))
        sums = add(kind, sums, v * lifts)
    return sums


@inlined
def _norm(x, sums, strip, kind, eps):
    """The norm of a fibre whose lanes are summed."""
    summed = total(sums)
    lowest = _LOWEST_OF_DOUBLES if eps < _LOWEST_OF_DOUBLES else 0.0
    if x.itemsize < 8 or lowest <= summed < _HIGHEST_OF_DOUBLES:
        return root(kind, summed + eps)
    lift = _STRETCH if summed < lowest else _SHRINK
    lifts = splat(sums, lift)
    again = total(_sum_lifted(x, strip.begin, strip.end, strip.step, strip.count, lifts, kind))
    d = root(kind, again + lifted(kind, eps, lift))
    return d / lift if d / lift < math.inf or not d < math.inf else -(d * (_DOWN / lift))


@inlined
def _norms(x, sums, row, strip, kind, eps):
    """The norms of a strip of several fibres."""
    d = roots(kind, sums + splat(sums, eps))
    if x.itemsize < 8:
        return d
    one, infinite = splat(sums, 1.0), splat(sums, math.inf)
    lowest = _LOWEST_OF_DOUBLES if eps < _LOWEST_OF_DOUBLES else 0.0
    lifts = select(sums < splat(sums, _HIGHEST_OF_DOUBLES), one, splat(sums, _SHRINK))
    lifts = select(sums < splat(sums, lowest), splat(sums, _STRETCH), lifts)
    if total(absolute(lifts - one)) == 0.0:
        return d
    again = _sum_lifted(x, strip.begin, strip.end, strip.step, strip.count, lifts, kind)
    if strip.count > strip.fibres:
        again = _add_lanes(again, row, strip.count, strip.fibres)
    large = roots(kind, again + lifted(kind, splat(sums, eps), lifts))
    beyond = splat(sums, -_DOWN) / lifts * large
    again = select(large / lifts < infinite, large / lifts, select(large < infinite, beyond, large))
    return select(lifts < one, again, select(lifts > one, again, d))


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
def _divide(out, dy, x, i, count, lift, factor, projection, kind, stream):
    """Writes ``out[i : i + count]``: y, or dx if there is a dy."""
    zero = splat(x, 0.0)
    v = load_part(x, i, count, zero)
    result = v * lift * factor
    if dy is not None:
        g = load_part(dy, i, count, zero)
        result = subtract_projection(kind, g, v, result, projection) * lift * factor
    if stream:
        store_stream(out, i, result)
    else:
        store_part(out, i, result, count)


@inlined
def _write(out, dy, x, first, last, step, count, lift, factor, projection, kind, stream):
    """Writes a strip, its last values first: they are in cache where not all of it is."""
    i = first + (last - first - 1) // step * step
    if i + count > last:
        _divide(out, dy, x, i, last - i, lift, factor, projection, kind, False)
        i -= step
    while i >= first:
        _divide(out, dy, x, i, count, lift, factor, projection, kind, stream)
        i -= step


@inlined
def _add_lanes(sums, row, count, fibres):
    """Adds up the lanes of each fibre among `count`; its sum stands in all of them."""
    store_part(row, 0, sums, count)
    for fibre in range(fibres):
        for lane in range(fibre + fibres, count, fibres):
            row[fibre] += row[lane]
    for lane in range(fibres, count):
        row[lane] = row[lane - fibres]
    return load_part(row, 0, count, sums)


@inlined
def _norms_of_lanes(norms, row, strip, others):
    """The norm of the fibre that each lane belongs to; further lanes are those of `others`."""
    if strip.count <= strip.fibres:
        return load_part(norms, strip.fibre, strip.fibres, others)
    for lane in range(strip.count):
        row[lane] = norms[strip.fibre + lane % strip.fibres]
    return load_part(row, 0, strip.count, others)


@inlined
def _divide_fibre(out, norms, sums_row, dy, x, kind, eps, passes, strip):
    """Sums, or writes, or both, a fibre of neighbours or a slice of one."""
    fibre, first, last = strip.fibre, strip.first, strip.last
    width = lanes(x)
    zero = splat(x, 0.0)
    lift, factor, projection = zero, zero, zero
    if dy is not None:
        one_lift, one_factor = _reciprocal(norms[fibre])
        lift, factor = splat(x, one_lift), splat(x, one_factor)
    if passes.summing:
        sums = _sum(dy, x, first, last, width, width, lift, factor, kind)
        if dy is None and x.itemsize < 8 and not _lowest(eps) <= total(sums) < _HIGHEST:
            sums = _sum_widened(x, first, last, width, width, kind)
    else:
        sums = load_part(sums_row, 0, width, widen(zero))
    if not passes.writing:
        store_part(sums_row, 0, sums, width)
        return
    if dy is None:
        norms[fibre] = _norm(x, sums, strip, kind, eps)
        one_lift, one_factor = _reciprocal(norms[fibre])
        lift, factor = splat(x, one_lift), splat(x, one_factor)
    else:
        projection = splat(x, total(sums))
    _write(out, dy, x, first, last, width, width, lift, factor, projection, kind, passes.streaming)


@inlined
def _divide_strip(out, norms, row, sums_row, dy, x, kind, eps, passes, strip):
    """The same for a strip of several fibres."""
    _, _, first, last, step, count, _, _ = strip
    width = lanes(x)
    zero = splat(x, 0.0)
    lift, factor, projection = zero, zero, zero
    if dy is not None:
        wide_lift, wide_factor = _reciprocals(_norms_of_lanes(norms, row, strip, widen(zero)))
        lift, factor = narrow(x, wide_lift), narrow(x, wide_factor)
    if not passes.summing:
        sums = load_part(sums_row, 0, width, widen(zero))
    elif count == width:
        sums = _sum(dy, x, first, last, step, width, lift, factor, kind)
    else:
        sums = _sum(dy, x, first, last, step, count, lift, factor, kind)
    if dy is None and passes.summing and x.itemsize < 8:
        lacking = _lacking(sums, eps)
        if total(lacking) > 0.0:  # only these, so that no fibre depends on its neighbours
            again = _sum_widened(x, first, last, step, count, kind)
            sums = select(lacking > splat(sums, 0.5), again, sums)
    if not passes.writing:
        store_part(sums_row, 0, sums, width)
        return
    if count > strip.fibres:
        sums = _add_lanes(sums, row, count, strip.fibres)
    if dy is None:
        d = _norms(x, sums, row, strip, kind, eps)
        store_part(norms, strip.fibre, d, strip.fibres)
        wide_lift, wide_factor = _reciprocals(d)
        lift, factor = narrow(x, wide_lift), narrow(x, wide_factor)
    else:
        projection = narrow(x, sums)
    if count == width:
        _write(
            out, dy, x, first, last, step, width, lift, factor, projection, kind,
            passes.streaming,
        )  # fmt: skip
    else:
        _write(out, dy, x, first, last, step, count, lift, factor, projection, kind, False)


@inlined
def _divide_short_fibres(out, norms, work, tile, dy, x, kind, eps, fibre, count, c):
    """`count` fibres of c neighbours each, transposed and back."""
    width = lanes(x)
    row, sums_row = work.lanes[tile], work.sums[tile]
    first = tile * c * width
    last = first + c * width
    strip = _Strip(fibre, count, first, last, width, count, first, last)
    whole = Passes(True, True, False)
    transpose(work.transposed, first, width, x, fibre * c, c, count, c, width)
    if dy is not None:
        transpose(work.transposed_dy, first, width, dy, fibre * c, c, count, c, width)
    _divide_strip(
        work.transposed, norms, row, sums_row, work.transposed_dy, work.transposed, kind, eps,
        whole, strip,
    )  # fmt: skip
    transpose(out, fibre * c, c, work.transposed, first, width, c, count, c)


@worker
def divide_by_norms(lo, hi, out, norms, dy, x, kind, eps, work, passes, tiling, shape):
    """Y, or dx where there is a dy; tile t is slice ``t % slices`` of some strips.

    Python hands the named tuples over as plain ones: see gemm.py.

    lo, hi    tiles
    out       (n c s,), written: y, or dx; may be x in the forward, dy in the backward
    norms     (n s,) float64: d, written in the forward, read in the backward
    dy        (n c s,), or None in the forward
    x         (n c s,)
    kind      L1() or L2()
    eps       added to the sum, not used in the backward
    work      a `NormWorkspace`
    passes    a `Passes`
    tiling    a `NormTiling`
    shape     (n, c, s)
    """
    n, c, s = shape
    work, passes, tiling = NormWorkspace(*work), Passes(*passes), NormTiling(*tiling)
    slices, step = tiling.slices, tiling.step
    width = lanes(x)
    for tile in range(lo, hi):
        slice_ = tile % slices
        strip = tile // slices * tiling.strips
        if step == 0:
            last_fibre = min((strip + tiling.strips) * width, n)
            for fibre in range(strip * width, last_fibre, width):
                count = min(width, n - fibre)
                _divide_short_fibres(out, norms, work, tile, dy, x, kind, eps, fibre, count, c)
            continue
        row = work.lanes[tile]
        sums_row = work.sums[tile if passes.summing else tile - slice_]
        last_strip = min(strip + tiling.strips, n * tiling.sample_strips)
        together = step > s
        size = c * s
        steps = -(-size // step)
        first = steps * slice_ // slices * step
        last = steps * (slice_ + 1) // slices * step
        if s == 1:
            last = min(last, c)
            for fibre in range(strip, last_strip):
                start = fibre * c
                strip_ = _Strip(
                    fibre, 1, start + first, start + last, width, width, start, start + c
                )
                _divide_fibre(out, norms, sums_row, dy, x, kind, eps, passes, strip_)
            continue
        sample = strip // tiling.sample_strips
        column = (strip - sample * tiling.sample_strips) * width
        for _ in range(strip, last_strip):
            start = sample * size
            fibres = s if together else min(width, s - column)
            _divide_strip(
                out, norms, row, sums_row, dy, x, kind, eps, passes,
                _Strip(
                    sample * s + column, fibres, start + first + column,
                    start + min(last + column, size), step, step if together else fibres,
                    start + column, start + size,
                ),
            )  # fmt: skip
            column += width
            if column >= s:
                column = 0
                sample += 1


divide_by_norms_parallel = parallel(divide_by_norms)


@worker
def add_parts(sums, slices):
    """Adds the sums of the slices of each strip, in order, to its first."""
    for first in range(0, len(sums), slices):
        for slice_ in range(first + 1, first + slices):
            for lane in range(sums.shape[1]):
                sums[first, lane] += sums[slice_, lane]
