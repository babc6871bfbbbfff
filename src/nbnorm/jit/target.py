"""What the processor that code is generated for can do: register width, fused multiply-add."""

from __future__ import annotations

import functools

import llvmlite.binding as llvm
from numba.core import config
from numba.core.registry import cpu_target

_FMA_16_FLOATS = """
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
define <16 x float> @probe(<16 x float> %a, <16 x float> %b, <16 x float> %c) {
  %r = call <16 x float> @llvm.fma.v16f32(<16 x float> %a, <16 x float> %b, <16 x float> %c)
  ret <16 x float> %r
}
"""

# Parts of their names on x86-64 and s390x, ARM, others, POWER.
_FMA_INSTRUCTIONS = ("vfma", "fmla", "fmadd", "xvmadd")


def processor_name() -> str:
    """LLVM's name of the processor that code is generated for, such as znver4."""
    return str(config.CPU_NAME or llvm.get_host_cpu_name())


@functools.cache
def _fma_assembly() -> str:
    """The assembly of one 16-float fma on Numba's target.

    Asking the code generator itself is the only answer that also holds under NUMBA_CPU_NAME and
    NUMBA_CPU_FEATURES, where a list of the host's features says nothing about the target's.
    """
    codegen = cpu_target.target_context.codegen()
    module = llvm.parse_assembly(_FMA_16_FLOATS)
    return str(codegen._tm.emit_assembly(module))


@functools.cache
def register_bytes() -> int:
    """Bytes in the widest vector register of the target: 64 (AVX-512), 32 (AVX) or 16."""
    assembly = _fma_assembly()
    if "zmm" in assembly:
        return 64
    if "ymm" in assembly:
        return 32
    return 16


@functools.cache
def has_fma() -> bool:
    """Whether the target multiplies and adds in one instruction.

    Where it cannot, ``llvm.fma`` becomes a call of the C library for every lane.
    """
    assembly = _fma_assembly()
    return any(name in assembly for name in _FMA_INSTRUCTIONS)


@functools.cache
def register_count() -> int:
    """Vector registers that a loop may use: 32 with AVX-512 and on ARM, else 16."""
    return 32 if register_bytes() == 64 or "fmla" in _fma_assembly() else 16
