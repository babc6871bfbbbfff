"""The libraries of the comparison, one adapter a file, and what each process needs to start.

An adapter is a class `Adapter` with a method for each operation that the library can do:

    def <operation>(self, given: Given) -> Call

It gets the data into the library's own arrays and returns the call to time. An operation without a
method is none of the library's business; a case that a method cannot do raises `Unsupported` and
is reported. Adapters import their library in `__init__`, so that these modules can be imported
where the library is missing.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Peer:
    """One column of the comparison; `environment` is set before its process starts."""

    key: str
    label: str
    distributions: tuple[str, ...]  # whose versions are recorded
    environment: dict[str, str] = field(default_factory=dict)
    counted: bool = True  # False: it is a yardstick, and competes with no one
    module: str = ""  # of its adapter; by default the file of its key

    @property
    def adapter(self) -> str:
        return self.module or f"{__name__}.{self.key}"

    def does(self, operation: str) -> bool:
        """Whether its adapter has a method of this name; the library need not be installed."""
        return hasattr(importlib.import_module(self.adapter).Adapter, operation)


# Every process gets these; "{threads}" is replaced. Libraries that take their thread count by a
# call instead (PyTorch, TensorFlow, ONNX Runtime, OpenVINO) are given it in their adapter.
COMMON_ENVIRONMENT = {
    "OMP_NUM_THREADS": "{threads}",
    "OPENBLAS_NUM_THREADS": "{threads}",
    "MKL_NUM_THREADS": "{threads}",
}

SUBJECT = "nbnorm"

PEERS = {
    peer.key: peer
    for peer in (
        Peer(SUBJECT, "nbnorm", ("nbnorm", "numba", "numpy"), {"NUMBA_NUM_THREADS": "{threads}"}),
        Peer("separate", "nbnorm, separate calls", ("nbnorm", "numba", "numpy"),
             {"NUMBA_NUM_THREADS": "{threads}"}, counted=False),
        Peer("numpy", "NumPy", ("numpy",), counted=False),
        Peer("limits", "memory limit", ("numpy",), counted=False),
        Peer("pytorch", "PyTorch", ("torch",)),
        Peer("pytorch_compiled", "torch.compile", ("torch",),
             {"TORCHINDUCTOR_COMPILE_THREADS": "1"}),  # no pool of compiler processes of its own
        Peer("onednn", "oneDNN", ("torch",)),
        # XLA takes the size of its thread pool from NPROC.
        Peer("jax", "JAX", ("jax", "jaxlib"), {"JAX_PLATFORMS": "cpu", "NPROC": "{threads}"}),
        Peer("tensorflow", "TensorFlow", ("tensorflow", "tensorflow-cpu"),
             {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}),
        Peer("onnxruntime", "ONNX Runtime", ("onnxruntime", "onnx")),
        Peer("openvino", "OpenVINO", ("openvino",)),
    )
}  # fmt: skip
