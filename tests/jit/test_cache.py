"""The cache on disk: what it saves, that it is never stale, and what it does where it cannot be.

The processes run `PROBE` with a copy of the package, which the tests may edit.
"""

from __future__ import annotations

import compileall
import importlib.util
import os
import platform
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from numba.core.caching import NullCache

from nbnorm.jit import cache, options
from tests.jit.processes import PACKAGE, Process, environment

# Inference of a small array, by a few serial kernels. `compiled` counts functions that Numba
# compiled, as against loaded.
PROBE = """
import json, os, sys, warnings
import numpy as np
from numba.core import event
from nbnorm import batch_norm_inference
from nbnorm.jit import cache

PREPARE
x = np.array([[1.0, 2.0], [3.0, 5.0]], np.float32)
mean, var = np.array([1.0, 1.0]), np.array([1.0, 4.0])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with event.install_recorder("numba:compile") as made:
        y = batch_norm_inference(x, mean, var, eps=0.0)
folder = cache.cache_folder()
print(json.dumps({
    "y": y.tolist(),
    "compiled": len(made.buffer) // 2,
    "warnings": [str(w.message) for w in caught],
    "folder": folder and str(folder),
}))
"""
RESULT = [[0.0, 0.5], [2.0, 2.0]]


class Installation:
    """A copy of the package, and a folder for its cache."""

    def __init__(self, folder: Path) -> None:
        self.site = folder / "site"
        self.package = self.site / "nbnorm"
        self.cache = folder / "cache"
        shutil.copytree(PACKAGE, self.package, ignore=shutil.ignore_patterns("__pycache__"))

    def start(self, prepare: str = "", **variables: Any) -> Process:
        env = environment(self.site, **{"NUMBA_CACHE_DIR": self.cache, **variables})
        code = PROBE.replace("PREPARE", prepare)
        return Process("-c", code, env=env, cwd=self.site.parent)

    def run(self, prepare: str = "", **variables: Any) -> dict[str, Any]:
        [record] = self.start(prepare, **variables).records()
        return record

    def entries(self) -> list[Path]:
        return sorted(path for path in self.cache.rglob("*") if path.is_file())

    def edit(self, module: str, text: str) -> None:
        with (self.package / module).open("a") as file:
            file.write(text)


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An installation that has run once; each test works on a copy."""
    result = Installation(tmp_path_factory.mktemp("warm"))
    record = result.run()
    assert record["y"] == RESULT
    assert record["compiled"] > 0
    assert record["warnings"] == []
    assert record["folder"] == str(result.entries()[0].parent)
    return result


@pytest.fixture
def used(warm: Installation, tmp_path: Path) -> Installation:
    """A copy of `warm`: the same sources, and a cache with all that `PROBE` needs."""
    result = Installation(tmp_path)
    shutil.rmtree(result.site)
    shutil.copytree(warm.site, result.site)
    shutil.copytree(warm.cache, result.cache)
    return result


# --- what it is for -------------------------------------------------------------------------


def test_the_second_process_compiles_nothing(used):
    before = used.entries()
    record = used.run()
    assert (record["y"], record["compiled"], record["warnings"]) == (RESULT, 0, [])
    assert used.entries() == before


# As if NUMBA_CACHE_DIR were not set.
NO_CACHE_DIR = "from numba.core import config; config.CACHE_DIR = ''\n"


def test_it_is_in_the_user_s_cache_folder(used):
    """Where platformdirs has it, unless NUMBA_CACHE_DIR says otherwise."""
    home = used.site / "home"
    prepare = f"""
import platformdirs
platformdirs.user_cache_dir = lambda name, appauthor: os.path.join({str(home)!r}, name)
"""
    record = used.run(NO_CACHE_DIR + prepare)
    assert record["compiled"] > 0
    folder = Path(record["folder"])
    assert folder.parent == home / "nbnorm"
    assert list(folder.iterdir())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="caches are elsewhere")
def test_the_user_s_cache_folder_is_that_of_the_xdg_specification(used):
    record = used.run(NO_CACHE_DIR, XDG_CACHE_HOME=used.site / "home")
    assert record["compiled"] > 0
    assert Path(record["folder"]).parent == used.site / "home" / "nbnorm"


def test_it_can_be_turned_off(used):
    used.edit("jit/target.py", "# edited\n")
    before = used.entries()
    for value in ("0", "false"):
        record = used.run(NBNORM_CACHE=value)
        assert (record["y"], record["warnings"], record["folder"]) == (RESULT, [], None)
        assert record["compiled"] > 0
    assert used.entries() == before


def test_nothing_is_kept_where_nothing_is_compiled(installation):
    record = installation.run(NUMBA_DISABLE_JIT=1)
    assert (record["y"], record["compiled"], record["warnings"]) == (RESULT, 0, [])
    assert installation.entries() == []


# --- never stale ----------------------------------------------------------------------------


def loaded_cache(package: Path) -> ModuleType:
    """The cache module of a package, as a new process would load it."""
    spec = importlib.util.spec_from_file_location("loaded_cache", package / "jit" / "cache.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_edit_in_any_module_with_compiled_code_means_another_folder(installation):
    seen = {loaded_cache(installation.package).cache_folder()}
    modules = sorted(
        module
        for floor in ("jit", "kernels")
        for module in installation.package.glob(f"{floor}/**/*.py")
    )
    assert len(modules) > 20
    for module in modules:
        text = module.read_bytes()
        again = loaded_cache(installation.package).cache_folder()
        assert again in seen
        module.write_bytes(text[:-1] + b" ")  # as long as before
        os.utime(module, ns=(0, 0))  # and older
        seen.add(loaded_cache(installation.package).cache_folder())
    (installation.package / "kernels" / "another.py").touch()
    seen.add(loaded_cache(installation.package).cache_folder())
    assert len(seen) == len(modules) + 2


def test_an_edit_elsewhere_compiles_nothing_anew(used):
    """No compiled code comes from the other floors: see the import contracts in pyproject.toml."""
    for module in ("checks.py", "launch/machine.py", "layers/base.py"):
        used.edit(module, "# edited\n")
    assert used.run()["compiled"] == 0


def test_an_edited_helper_is_compiled_anew(used):
    """The kernels' own files are as they were: Numba's cache would not notice."""
    used.edit("jit/llvm.py", "\ndef fma(builder, a, b, c):\n    return builder.fsub(c, a)\n")
    record = used.run()
    assert record["y"] == [[0.0, -1.0], [-2.0, -4.0]]  # shift - (x - head), not + (x - head) scale


def test_an_edit_under_a_running_process_is_not_taken_for_its_own_code(used):
    """The process has imported what no file holds any more: it neither reads nor writes."""
    before = used.entries()
    prepare = "open(cache.__file__, 'a').write('# edited meanwhile')"
    record = used.run(prepare)
    assert record["compiled"] > 0
    assert (record["y"], record["warnings"]) == (RESULT, [])
    assert used.entries() == before
    assert used.run()["compiled"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"), [("NUMBA_BOUNDSCHECK", 1), ("NUMBA_OPT", 1), ("NUMBA_CPU_NAME", "x86-64")]
)
def test_other_settings_mean_other_code(name, value, used):
    if value == "x86-64" and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("names of x86 processors")
    variables = {name: value} | ({"NUMBA_CPU_FEATURES": ""} if name == "NUMBA_CPU_NAME" else {})
    record = used.run(**variables)
    assert record["compiled"] > 0
    assert record["y"] == RESULT
    assert used.run(**variables)["compiled"] == 0
    assert used.run()["compiled"] == 0


def test_functions_of_others_are_not_kept():
    """The folder's name says nothing about their sources."""

    def function(x):
        return x

    if isinstance(options.worker(function), type(function)):
        pytest.skip("nothing is compiled")
    assert type(options.worker(function)._cache) is NullCache
    function.__module__ = "nbnorm.kernels.something"
    assert type(options.worker(function)._cache) is cache.PackageCache


def test_closures_are_refused():
    def make(offset):
        def function(x):
            return x + offset

        return function

    with pytest.raises(TypeError, match="is a closure"):
        cache.PackageCache(make(1), {})


def test_variants_have_entries_of_their_own(tmp_path):
    def entry(name="f", options=None, arguments="int", target="zen"):
        function = SimpleNamespace(__module__="nbnorm.m", __qualname__=name, __closure__=None)
        codegen = SimpleNamespace(magic_tuple=lambda: ("linux", target))
        return cache.PackageCache(function, options or {})._entry(tmp_path, arguments, codegen)

    entries = [
        entry(),
        entry(name="g"),
        entry(options={"parallel": True}),
        entry(arguments="float"),
        entry(target="haswell"),
    ]
    assert len(set(entries)) == 5
    assert entry() == entries[0]


def test_code_with_addresses_of_its_process_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_usable_folder", lambda: tmp_path)

    class Result:
        library = SimpleNamespace(has_dynamic_globals=True)
        codegen = SimpleNamespace(magic_tuple=tuple)

        def _reduce(self):
            return ()

    kept = cache.PackageCache(cache.cache_root, {})
    kept.save_overload("int", Result())
    assert list(tmp_path.iterdir()) == []
    Result.library.has_dynamic_globals = False
    kept.save_overload("int", Result())
    assert len(list(tmp_path.iterdir())) == 1


def test_recompiling_removes_the_variants_of_one_function(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_usable_folder", lambda: tmp_path)
    for name in ("cache_root-1234.bin", "cache_root-5678.bin", "cache_root_of-1234.bin"):
        (tmp_path / name).touch()
    cache.PackageCache(cache.cache_root, {}).flush()
    assert [path.name for path in tmp_path.iterdir()] == ["cache_root_of-1234.bin"]


# --- damage ---------------------------------------------------------------------------------


def garbled(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(255 - byte for byte in content[middle:])


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        garbled,
        lambda _: b"",
        lambda _: b"x" * 99,
    ],
    ids=["truncated", "garbled", "empty", "foreign"],
)
def test_a_damaged_entry_is_compiled_again(damage, used):
    for entry in used.entries():
        entry.write_bytes(damage(entry.read_bytes()))
    record = used.run()
    assert record["compiled"] > 0
    assert (record["y"], record["warnings"]) == (RESULT, [])
    assert used.run()["compiled"] == 0


def test_an_entry_under_the_name_of_another_is_compiled_again(used):
    entries = used.entries()
    contents = [entry.read_bytes() for entry in entries]
    assert len(entries) > 1
    for entry, content in zip(entries, contents[1:] + contents[:1], strict=True):
        entry.write_bytes(content)
    record = used.run()
    assert record["compiled"] > 0
    assert (record["y"], record["warnings"]) == (RESULT, [])


def test_an_entry_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "entry.bin"
    cache._replace(path, b"first")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        cache._replace(path, b"second")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"first"]


# --- nowhere to write -----------------------------------------------------------------------


def assert_one_warning(record: dict[str, Any], reason: str) -> None:
    assert record["y"] == RESULT
    assert record["compiled"] > 0
    [warning] = record["warnings"]
    assert warning.startswith("nbnorm cannot keep compiled code on disk")
    assert reason in warning
    assert "NBNORM_CACHE=0" in warning


def test_an_unwritable_folder_means_one_warning(installation):
    """A folder below a file: unwritable for every user, even root."""
    blocked = installation.site.parent / "file"
    blocked.touch()
    record = installation.run(NUMBA_CACHE_DIR=blocked / "cache")
    assert_one_warning(record, str(blocked))
    assert installation.run(NUMBA_CACHE_DIR=blocked / "cache", NBNORM_CACHE=0)["warnings"] == []


# The size of files limited to 1,000 bytes: what a full disk does to a process.
FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"

needs_limits = pytest.mark.skipif(sys.platform == "win32", reason="no limits on this system")


@needs_limits
def test_a_full_disk_means_one_warning_and_no_debris(installation):
    assert_one_warning(installation.run(FULL, PYTHONDONTWRITEBYTECODE=1), "too large")
    assert installation.entries() == []


@needs_limits
def test_what_is_there_is_read_where_nothing_can_be_written(used):
    record = used.run(FULL)
    assert (record["y"], record["compiled"], record["warnings"]) == (RESULT, 0, [])


NO_HOME = (
    NO_CACHE_DIR
    + """
import pwd
def unknown(_):
    raise KeyError
pwd.getpwuid = unknown
os.environ.pop('HOME', None)
os.environ.pop('XDG_CACHE_HOME', None)
"""
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="homes are elsewhere")
def test_a_user_without_home_is_warned_once(installation):
    record = installation.run(NO_HOME)
    assert_one_warning(record, "there is no home folder")
    assert not (installation.site.parent / "~").exists()  # where the process ran


def test_a_read_only_installation_is_not_touched(used):
    """Entries go to the user's folder, never beside the sources."""
    before = {path: path.stat().st_mtime_ns for path in used.site.rglob("*")}
    shutil.rmtree(used.cache)
    for path in used.site.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        record = used.run(PYTHONDONTWRITEBYTECODE=1)
    finally:
        for path in used.site.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert (record["y"], record["warnings"]) == (RESULT, [])
    assert used.entries()
    assert {path: path.stat().st_mtime_ns for path in used.site.rglob("*")} == before


def test_a_package_in_a_zip_file_works_uncached(installation):
    archive = shutil.make_archive(str(installation.site), "zip", installation.site)
    shutil.rmtree(installation.site)
    installation.site = Path(archive)
    assert_one_warning(installation.run(), "sources")
    assert installation.entries() == []


def test_a_package_without_sources_works_uncached(installation):
    assert compileall.compile_dir(installation.package, quiet=2, legacy=True)
    for source in installation.package.rglob("*.py"):
        source.unlink()
    assert_one_warning(installation.run(), "sources")
    assert installation.entries() == []


# --- many processes, many versions ----------------------------------------------------------


@pytest.mark.slow
def test_processes_that_start_together_share_an_empty_cache(installation):
    together = [installation.start() for _ in range(8)]
    for process in together:
        [record] = process.records()
        assert (record["y"], record["warnings"]) == (RESULT, [])
    assert all(entry.suffix == ".bin" for entry in installation.entries())
    assert installation.run()["compiled"] == 0


def test_folders_long_unused_are_removed(used):
    def folder(name: str, days: float) -> Path:
        path = used.cache / name
        path.mkdir()
        (path / "f.bin").touch()
        age = time.time() - days * 24 * 3600
        os.utime(path, (age, age))
        return path

    old = folder("nbnorm-0123456789abcdef", cache.KEPT_DAYS + 1)
    recent = folder("nbnorm-fedcba9876543210", cache.KEPT_DAYS - 1)
    foreign = folder("somebody-else-s", 1000)
    [current] = {
        path.parent for path in used.entries() if path.parent not in (old, recent, foreign)
    }
    os.utime(current, (0, 0))
    assert used.run()["compiled"] == 0
    assert old.exists()  # nothing was written
    assert current.stat().st_mtime > recent.stat().st_mtime  # marked as used
    used.edit("jit/target.py", "# another version\n")
    assert used.run()["compiled"] > 0
    assert not old.exists()
    assert recent.exists()
    assert foreign.exists()
    assert current.exists()
