"""Every library held to narrower registers than the processor has, as on an older processor.

Each has a variable of its own for that, which its process must find when it starts. ONNX Runtime
has none, and is left out.
"""

from __future__ import annotations

import os

_NAME = "NBNORM_BENCHMARK_ISA"  # how the processes of a run know of it

AVX2 = {
    # nbnorm. haswell has the feature anyway, but Numba adds the host's where none is named, and
    # Windows takes an empty variable for none.
    "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2",
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own kernels, and torch.compile
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # PyTorch's and TensorFlow's products, OpenVINO
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",  # PyTorch's other products
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",  # JAX
    "OPENBLAS_CORETYPE": "Haswell",  # NumPy
}  # fmt: skip

CHOICES = {"avx2": AVX2}
NOT_HELD = frozenset({"onnxruntime"})


def hold(name: str) -> None:
    """Holds this process, where it has not loaded a library yet, and those it starts."""
    os.environ.update(CHOICES[name])
    os.environ[_NAME] = name


def held() -> str | None:
    """What this process and those it starts are held to."""
    return os.environ.get(_NAME)
