"""The L1 and L2 penalty of an array and their gradients, in one pass.

    sum(|x|)   and   weight sign(x)
    sum(x^2)   and   weight x

Sums are float64 throughout: a float32 squared neither overflows nor vanishes there, and what the
conversion costs is hidden by memory.
"""

from __future__ import annotations

from nbnorm.jit.options import inlined, worker
from nbnorm.jit.parallel import parallel
from nbnorm.jit.simd import lanes, load_part, splat, store_part, total, widen
from nbnorm.kernels.norms.kinds import add, penalty_gradient


@inlined
def _penalize(sums, gradient, dy, x, i, count, weight, kind):
    """Adds ``x[i : i + count]`` to the sums and writes its gradient."""
    zero = splat(x, 0.0)
    v = load_part(x, i, count, zero)
    if gradient is not None:
        g = penalty_gradient(kind, v, weight)
        if dy is not None:
            g = g + load_part(dy, i, count, zero)
        store_part(gradient, i, g, count)
    return add(kind, sums, widen(v))


@worker
def penalize(lo, hi, sums, gradient, dy, x, weight, kind, size):
    """The penalty's sums and its gradient; tile t is the values t size to (t + 1) size - 1.

    lo, hi    tiles
    sums      (tiles,) float64: sum(|x|) or sum(x^2) of each tile, written
    gradient  (m,), written, or None; may be x or dy
    dy        (m,), added to the gradient, or None
    x         (m,)
    weight    what the gradient is multiplied by
    kind      L1() or L2()
    size      values in a tile
    """
    width = lanes(x)
    for tile in range(lo, hi):
        i = tile * size
        end = min(i + size, x.size)
        factor = splat(x, weight)
        found = widen(splat(x, 0.0))
        while i + width <= end:
            found = _penalize(found, gradient, dy, x, i, width, factor, kind)
            i += width
        if i < end:
            found = _penalize(found, gradient, dy, x, i, end - i, factor, kind)
        sums[tile] = total(found)


penalize_parallel = parallel(penalize)
