"""The long form of test_cache.py: every module edited, entries damaged at random, writers killed.

Run by `make soak`.
"""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pytest

from tests.jit.processes import PACKAGE
from tests.jit.test_cache import (
    RESULT,
    garbled,
    installation,  # noqa: F401  a fixture
    used,  # noqa: F401  a fixture
    warm,  # noqa: F401  a fixture
)

pytestmark = pytest.mark.soak

MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

DAMAGES = ("truncated", "bit", "zeros", "garbled", "longer", "gone", "folder")

# A process that imports every module, and in it the edited one: what was appended has been run.
SEES_THE_EDIT = """
import importlib, pkgutil, nbnorm
for module in pkgutil.walk_packages(nbnorm.__path__, "nbnorm."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert sys.edited, "stale"
"""


@pytest.mark.parametrize("module", [name for name in MODULES if "__main__" not in name])
def test_an_edit_in_any_module_takes_effect(module, used, warm, tally):  # noqa: F811
    used.edit(module, "\nimport sys\nsys.edited = True\n")
    record = used.run(SEES_THE_EDIT)
    assert (record["y"], record["warnings"]) == (RESULT, [])
    everything = len(warm.entries())
    if module.startswith(("jit/", "kernels/")):
        assert record["compiled"] >= everything  # nothing came from the cache
    else:
        assert record["compiled"] == 0
    assert used.run(SEES_THE_EDIT)["compiled"] == 0
    tally("faults injected")
    tally("calls made", 2)


def test_damage_at_random(used, tally):  # noqa: F811
    rng = random.Random(0)
    for _ in range(100):
        entries = used.entries()
        for entry in rng.sample(entries, rng.randint(1, len(entries))):
            content = bytearray(entry.read_bytes())
            at = rng.randrange(len(content))
            damage = rng.choice(
                ["truncated", "bit", "zeros", "garbled", "longer", "gone", "folder"]
            )
            if damage == "truncated":
                del content[at:]
            elif damage == "bit":
                content[at] ^= 1 << rng.randrange(8)
            elif damage == "zeros":
                content[at:] = bytes(len(content) - at) if any(content[at:]) else b"x"
            elif damage == "garbled":
                content = bytearray(garbled(bytes(content)))
            elif damage == "longer":
                content += b"x"
            entry.write_bytes(content)
            if damage in ("gone", "folder"):
                entry.unlink()
            if damage == "folder":
                entry.mkdir()
            tally("faults injected")
        record = used.run()
        assert record["y"] == RESULT
        assert record["compiled"] > 0
        tally("calls made")
        for path in used.cache.rglob("*.bin"):
            if path.is_dir():
                assert "cannot keep compiled code" in record["warnings"][0]
                path.rmdir()
        if not record["warnings"]:
            assert used.run()["compiled"] == 0
            tally("calls made")
        else:
            assert used.run()["warnings"] == []


def test_processes_killed_while_they_write(installation, tally):  # noqa: F811
    """Of eight that start on an empty cache, five are killed; nobody minds what they leave."""
    rng = random.Random(0)
    for _ in range(6):
        shutil.rmtree(installation.cache, ignore_errors=True)
        together = [installation.start() for _ in range(8)]
        for process in together[:5]:
            time.sleep(rng.uniform(0.0, 2.0))
            process.kill()
            tally("faults injected")
        for process in together[5:]:
            [record] = process.records()
            assert (record["y"], record["warnings"]) == (RESULT, [])
            tally("calls made")
        assert installation.run()["compiled"] == 0
        tally("calls made")


def test_all_is_read_only(used, tmp_path: Path, tally):  # noqa: F811
    """A cache that was filled ahead and may not be written, for a version of another user."""
    for path in (used.site, used.cache):
        for one in path.rglob("*"):
            one.chmod(0o555 if one.is_dir() else 0o444)
    try:
        record = used.run(PYTHONDONTWRITEBYTECODE=1)
    finally:
        for path in (used.site, used.cache):
            for one in path.rglob("*"):
                one.chmod(0o755 if one.is_dir() else 0o644)
    assert (record["y"], record["compiled"], record["warnings"]) == (RESULT, 0, [])
    tally("calls made")
