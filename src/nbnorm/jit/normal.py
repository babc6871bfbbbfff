"""The standard normal distribution of a vector's lanes.

Its distribution function at -a, where a >= 0, is the error function's complement and falls like

    Phi(-a) = erfc(a / sqrt 2) / 2 = exp(-a^2 / 2) f(a) / (2 + 2.5 a)

The factor f stays between 1 and 1.19. After Shepherd and Laframboise, "Chebyshev Approximation
of (1 + 2x) exp(x^2) erfc x", Mathematics of Computation 36 (1981), it is one polynomial for all a,
in t = (a - 4) / (a + 4); so no lane needs another formula than its neighbour, and the tail keeps
its relative accuracy. Phi(a) is 1 - Phi(-a).
"""

from __future__ import annotations

import math

from nbnorm.jit.elementary import absolute, exp, polynomial, upper_half
from nbnorm.jit.options import inlined
from nbnorm.jit.simd import fma, select, splat

MIDDLE = 4.0  # where t is 0
SLOPE = 1.25

# Of (f - 1) / (a / (a + 4)) as a polynomial in t, the constant first: `python -m
# tests.jit.test_normal` prints them.
COEFFICIENTS = {
    "float32": [
        0.2658554048612707,
        -0.5789750505320931,
        0.5245926973506931,
        -0.3098851093066517,
        0.11804984931465203,
        -0.01984712274412851,
        -0.005756933850987613,
        0.003508028952684016,
        0.0002295461180853741,
        -0.00029195643778766735,
    ],
    "float64": [
        0.26585539124725444,
        -0.5789750563314271,
        0.5245939746142951,
        -0.30988474700891167,
        0.11803075576189279,
        -0.019858172878091943,
        -0.005661282145530578,
        0.003594352757279434,
        6.731695070972402e-05,
        -0.0004939129690408756,
        2.599933559833213e-05,
        7.561774176694262e-05,
        -3.182773063176816e-06,
        -1.31444099349599e-05,
        -5.728675078900489e-07,
        2.382268489541921e-06,
        4.55171435587502e-07,
        -3.896240690124077e-07,
        -1.5501002624565573e-07,
        4.38637696319006e-08,
        3.109369430871276e-08,
        -1.2853040593520413e-09,
        -2.4656878667937783e-09,
    ],
}
_excess = polynomial(**COEFFICIENTS)

# Beyond it exp(-a^2 / 2) is 0 in both types.
LARGEST = 38.0
_DENSITY_AT_0 = 1 / math.sqrt(2 * math.pi)


@inlined
def normal_distribution(z):
    """The density phi(z) and the distribution function Phi(z) of each lane.

    Both are 0 where exp(-z^2 / 2) would be subnormal. A Phi that is a normal number is at most 4
    units in the last place off (4.5 without fma), and NaN where z is NaN.
    """
    largest, one = splat(z, LARGEST), splat(z, 1.0)
    a = absolute(z)
    a = select(a > largest, largest, a)
    e = _exp_of_half_square(a)
    u = a / (a + splat(z, MIDDLE))
    f = fma(u, _excess(fma(splat(z, 2.0), u, splat(z, -1.0))), one)
    tail = e * f / fma(splat(z, 2.0 * SLOPE), a, splat(z, 2.0))
    return splat(z, _DENSITY_AT_0) * e, select(z < splat(z, 0.0), tail, one - tail)


@inlined
def _exp_of_half_square(a):
    """exp(-a^2 / 2), to the last bit or two: rounding a^2 would cost a^2 / 4 of them.

    As in fdlibm's erfc, the square is taken in two parts, the larger one without rounding.
    """
    half = splat(a, 0.5)
    head = upper_half(a)
    large = half * head * head
    small = half * (a - head) * (a + head)
    exponent = large + small
    lost = small - (exponent - large)
    e = exp(splat(a, 0.0) - exponent)
    return fma(splat(a, 0.0) - lost, e, e)
