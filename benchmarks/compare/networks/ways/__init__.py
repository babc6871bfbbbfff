"""The ways to run a network, one adapter a file, each in a process of its own."""

from __future__ import annotations

from benchmarks.compare.peers import Peer

_HERE = __name__
_NUMBA = {"NUMBA_NUM_THREADS": "{threads}"}
_INDUCTOR = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}  # no pool of compiler processes of its own
_OURS = ("nbnorm", "numba", "torch")


def _way(key: str, label: str, **options: object) -> Peer:
    return Peer(key, label, module=f"{_HERE}.{key}", **options)  # type: ignore[arg-type]


# The first is what the losses of all others are compared with.
WAYS = {
    way.key: way
    for way in (
        _way("eager", "PyTorch", distributions=("torch",)),
        _way("eager_last", "PyTorch, channels-last", distributions=("torch",)),
        _way("compiled", "torch.compile", distributions=("torch",), environment=_INDUCTOR),
        _way(
            "compiled_last", "torch.compile, channels-last", distributions=("torch",),
            environment=_INDUCTOR,
        ),
        _way("enabled", "nbnorm, enable()", distributions=_OURS, environment=_NUMBA),
        _way("converted", "nbnorm, convert()", distributions=_OURS, environment=_NUMBA),
    )
}  # fmt: skip
PYTORCH = ("eager", "eager_last", "compiled", "compiled_last")
