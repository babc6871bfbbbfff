"""What is told of processors: of this one, and of others by what LLVM makes for them."""

from __future__ import annotations

import ctypes
import sys

import llvmlite.binding as llvm
import pytest

from nbnorm.jit import caches, target

# With a fused multiply-add of vectors, and without.
PROCESSORS = [
    ("x86_64-linux-gnu", "znver4", True),
    ("x86_64-linux-gnu", "haswell", True),
    ("x86_64-linux-gnu", "sandybridge", False),
    ("x86_64-linux-gnu", "nehalem", False),
    ("aarch64-linux-gnu", "", True),
    ("powerpc64le-linux-gnu", "pwr9", True),
    ("s390x-linux-gnu", "z15", True),
]


@pytest.mark.parametrize(("triple", "processor", "expected"), PROCESSORS)
def test_multiply_add_is_known_by_its_names(triple, processor, expected, monkeypatch):
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        machine = llvm.Target.from_triple(triple).create_target_machine(cpu=processor)
    except RuntimeError:
        pytest.skip("this LLVM does not know the processor")
    module = llvm.parse_assembly(target._FMA_16_FLOATS)
    module.triple = triple
    assembly = str(machine.emit_assembly(module))
    monkeypatch.setattr(target, "_fma_assembly", lambda: assembly)
    assert target.has_fma.__wrapped__() == expected


# --- caches ---------------------------------------------------------------------------------


def test_caches_as_linux_tells_them(tmp_path, monkeypatch):
    for index, content in enumerate(
        [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "1024K"), ("3",)]
    ):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in zip(("level", "type", "size"), content, strict=False):
            (folder / name).write_text(f"{text}\n")
    assert dict(caches._by_sysfs(str(tmp_path))) == {1: 48 << 10, 2: 1 << 20}


def test_the_first_to_tell_is_believed(monkeypatch):
    told = [(3, 32 << 20), (2, 0), (1, 32 << 10), (3, 1 << 20), (2, 1 << 20)]
    monkeypatch.setattr(caches, "_told", lambda: iter(told))
    assert caches.sizes() == {1: 32 << 10, 2: 1 << 20, 3: 32 << 20}
    assert list(caches.sizes()) == [1, 2, 3]


def test_a_system_that_tells_none(monkeypatch):
    def told():
        yield 1, 32 << 10
        raise OSError

    monkeypatch.setattr(caches, "_told", told)
    assert caches.sizes() == {1: 32 << 10}


def test_windows_records_are_as_long_as_it_makes_them():
    assert ctypes.sizeof(caches._Processor) == (32 if ctypes.sizeof(ctypes.c_void_p) == 8 else 24)
    assert caches._Processor.details.offset == (16 if ctypes.sizeof(ctypes.c_void_p) == 8 else 8)


@pytest.mark.skipif(sys.platform not in ("darwin", "win32"), reason="others may tell nothing")
def test_this_system_tells_its_caches():
    assert caches.sizes()
