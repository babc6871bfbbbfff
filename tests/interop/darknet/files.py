"""Files of darknet as tests write them, by hand: text, and numbers packed by struct."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

VERSION = (0, 2, 0)


def image_cfg(c: int, h: int, w: int, *sections: str) -> str:
    """The text of a cfg: ``"maxpool size=2"`` is a section of that name."""
    return cfg_text(f"net channels={c} height={h} width={w}", *sections)


def cfg_text(*sections: str) -> str:
    lines = []
    for section in sections:
        kind, *options = section.split()
        lines += [f"[{kind}]", *options, ""]
    return "\n".join(lines)


def packed(*numbers: object, version: tuple[int, int, int] = VERSION, seen: int = 7) -> bytes:
    """A file of weights, with `seen` in 64 bits."""
    return struct.pack("<iiiQ", *version, seen) + floats(*numbers)


def floats(*numbers: object) -> bytes:
    flat = [float(one) for group in numbers for one in np.ravel(group)]
    return struct.pack(f"<{len(flat)}f", *flat)


def written(folder: Path, cfg: str, weights: bytes | None = None) -> list[Path]:
    """The paths of a cfg and, if given, of a file of weights."""
    paths = [folder / "test.cfg"]
    paths[0].write_text(cfg, encoding="utf-8")
    if weights is not None:
        paths.append(folder / "test.weights")
        paths[1].write_bytes(weights)
    return paths
