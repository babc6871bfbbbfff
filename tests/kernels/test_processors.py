"""Code for processors with narrower registers: right, and no wider than they are."""

from __future__ import annotations

import platform
import re

import pytest
from numba.core import config

from nbnorm.jit import target
from tests.jit.processes import python

# In a process of its own: numbers against the reference, then the assembly of every kernel. The
# bounds are those of the other tests (tests/functional), of the result's rms: they leave room for
# a multiply and an addition that are rounded apart.
SCRIPT = """
import numpy as np
import nbnorm
from nbnorm import kernels, reference

BATCH_NORM, PRODUCT, WINOGRAD = 2e-6, 5e-6, 1e-4
rng = np.random.default_rng(0)

def draw(*shape):
    return rng.standard_normal(shape).astype(np.float32)

def check(found, true, bound):
    error = np.abs(found - true).max() / np.sqrt(np.mean(np.square(true)))
    assert error < bound, (error, bound)

for shape in (4, 9, 7, 9), (67, 37), (300, 3):  # planes, columns, columns of joined rows
    x, dy = draw(*shape), draw(*shape)
    y, context = nbnorm.batch_norm_forward(x)
    check(y, reference.batch_norm_forward(x), BATCH_NORM)
    true = reference.batch_norm_backward(dy, x)
    check(nbnorm.batch_norm_backward(dy, context).dx, true.dx, BATCH_NORM)

x, weight, dy = draw(50, 37), draw(45, 37), draw(50, 45)
y, context = nbnorm.dense_batch_norm_forward(x, weight)
found = nbnorm.dense_batch_norm_backward(dy, context)
true = reference.dense_batch_norm_backward(dy, x, weight)
check(y, reference.dense_batch_norm_forward(x, weight), PRODUCT)
check(found.dx, true.dx, PRODUCT)
check(found.dweight, true.dweight, PRODUCT)

for weight, algorithm, groups, bound in (
    (draw(37, 18, 3, 3), "direct", 1, PRODUCT),
    (draw(37, 18, 3, 3), "winograd", 1, WINOGRAD),
    (draw(36, 1, 3, 3), "direct", 18, PRODUCT),
):
    x, options = draw(2, 18, 9, 11), {"padding": 1, "groups": groups}
    true = reference.conv2d_forward(x, weight, **options)
    check(nbnorm.conv2d_forward(x, weight, algorithm=algorithm, **options), true, bound)

dispatchers = [getattr(kernels, name) for name in kernels.__all__]
compiled = [kernel for kernel in dispatchers if getattr(kernel, "signatures", None)]
print(len(compiled))
for kernel in compiled:
    print(*kernel.inspect_asm().values())
"""


@pytest.mark.slow
@pytest.mark.skipif(config.DISABLE_JIT, reason="about machine code")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 processors")
@pytest.mark.parametrize(
    ("processor", "register", "has_fma", "widest", "too_wide"),
    [("haswell", 32, True, "ymm", "zmm"), ("x86-64", 16, False, "xmm", "[yz]mm")],
)
def test_kernels_for_other_processors(processor, register, has_fma, widest, too_wide):
    if target.register_bytes() < register or (has_fma and not target.has_fma()):
        pytest.skip("this processor cannot run it")
    output, _ = python(
        "-c", SCRIPT,
        NUMBA_CPU_NAME=processor, NUMBA_CPU_FEATURES="", NBNORM_CACHE=0, NUMBA_NUM_THREADS=1,
    )  # fmt: skip
    compiled, _, assembly = output.partition("\n")
    assert int(compiled) >= 12
    assert re.search(widest, assembly)
    assert not re.search(too_wide, assembly)
    assert bool(re.search("vfmadd|vfnmadd|vfmsub", assembly)) == has_fma
    assert not re.search(r"\bfmaf?\b", assembly)  # the C library's, a call for each lane
