"""Whose code the cache runs: the user's own and root's, and only if nobody else can write it."""

from __future__ import annotations

import hashlib
import os
import pickle
import stat
from pathlib import Path

import pytest

from tests.jit.test_cache import (
    RESULT,
    Installation,
    installation,  # noqa: F401  a fixture
    used,  # noqa: F401  a fixture
    warm,  # noqa: F401  a fixture
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no owners and modes on this system")

needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away"
)

ANOTHER = 12345  # a user, whether the system knows a name for him or not


def modes(installed: Installation) -> dict[str, int]:
    """The modes of all that is in the cache, by path; the cache itself is "."."""
    paths = [installed.cache, *installed.cache.rglob("*")]
    return {
        path.relative_to(installed.cache).as_posix(): stat.S_IMODE(path.stat().st_mode)
        for path in paths
    }


def assert_not_trusted(installed: Installation, prepare: str = "") -> None:
    """One warning, and all is compiled anew and kept in the place of what was there."""
    record = installed.run(prepare)
    assert record["y"] == RESULT
    assert record["compiled"] > 0
    [warning] = record["warnings"]
    assert "another user may have written what is in its cache" in warning
    assert str(installed.cache) in warning
    assert "NUMBA_CACHE_DIR" in warning
    again = installed.run(prepare)
    assert (again["y"], again["compiled"], again["warnings"]) == (RESULT, 0, [])


@pytest.mark.slow
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_it_is_made_for_its_user_alone(umask, installation):  # noqa: F811
    installation.cache = installation.cache / "below"
    installation.run(f"os.umask({umask})")
    [root, folder, *entries] = modes(installation).values()
    assert (root, folder) == (0o700, 0o700)
    assert entries
    assert set(entries) == {0o600}
    above = stat.S_IMODE(installation.cache.parent.stat().st_mode)
    assert above == 0o755 & ~umask


@pytest.mark.slow
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_what_others_can_write_is_compiled_anew(mode, used):  # noqa: F811
    for entry in used.entries():
        entry.chmod(mode)
    assert_not_trusted(used)
    assert set(list(modes(used).values())[2:]) == {0o600}


def test_what_others_can_read_is_run(used):  # noqa: F811
    for entry in used.entries():
        entry.chmod(0o644)
    record = used.run()
    assert (record["y"], record["compiled"], record["warnings"]) == (RESULT, 0, [])


@pytest.mark.slow
@needs_root
def test_what_another_user_owns_is_compiled_anew(used):  # noqa: F811
    for entry in used.entries():
        os.chown(entry, ANOTHER, ANOTHER)
    assert_not_trusted(used)
    assert {entry.stat().st_uid for entry in used.entries()} == {0}


class Attack:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self):
        return os.mkdir, (str(self._path),)


@pytest.mark.parametrize("owner", [0, pytest.param(ANOTHER, marks=needs_root)])
def test_an_entry_is_code_and_that_of_another_user_does_not_run(owner, used):  # noqa: F811
    """The same entries run where they are this user's own: so the attack is one."""
    trace = used.cache.parent / "trace"
    payload = pickle.dumps(Attack(trace))
    for entry in used.entries():
        entry.write_bytes(hashlib.sha256(entry.name.encode() + payload).digest() + payload)
        if owner:
            os.chown(entry, owner, owner)
    if owner:
        assert_not_trusted(used)
    else:
        with pytest.raises(AssertionError, match="ends with 1"):
            used.run()
    assert trace.exists() == (owner == 0)


def test_a_cache_is_shared(used):  # noqa: F811
    """Readable by all, and by nobody to be written: what `nbnorm warmup --shared` makes of it."""
    used.cache.chmod(0o1700)
    used.run("from nbnorm.jit.cache import share\nshare()")
    [root, folder, *entries] = modes(used).values()
    assert (root, folder) == (0o1755, 0o755)
    assert set(entries) == {0o644}


# Files are asked for as root asks, so that the test needs no installation that others can read; but
# the process is another user's, and what root wrote is not its own.
AS_ANOTHER_USER = f"""
import ctypes
os.seteuid({ANOTHER})
ctypes.CDLL(None).setfsuid(0)
assert os.geteuid() == {ANOTHER}
"""


@pytest.mark.slow
@needs_root
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="setfsuid is Linux's")
@pytest.mark.parametrize("owner", [0, ANOTHER, ANOTHER + 1])
def test_entries_of_root_are_trusted(owner, used):  # noqa: F811
    """By any user; not so those of a third."""
    for entry in used.entries():
        os.chown(entry, owner, owner)
    record = used.run(AS_ANOTHER_USER)
    assert record["y"] == RESULT
    trusted = owner in (0, ANOTHER)
    assert (record["compiled"] == 0) == trusted
    assert len(record["warnings"]) == (0 if trusted else 1)


def test_entries_that_cannot_be_replaced_mean_one_warning(used):  # noqa: F811
    """In a folder like /tmp, where nobody removes what is another's."""
    for entry in used.entries():
        entry.chmod(0o666)
    prepare = """
from pathlib import Path

def replace(*_):
    raise PermissionError("another user's")

Path.replace = replace
"""
    record = used.run(prepare)
    assert record["compiled"] > 0
    [warning] = record["warnings"]
    assert "another user may have written" in warning
