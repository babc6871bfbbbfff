"""The dashboard's pages work in a browser that reaches no other host."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.tools import dashboard
from tests.benchmarks.browser import chromium, problems, served
from tests.conftest import import_peer

CONFIGURATION = Path(__file__).parents[2] / "asv.conf.json"
SECONDS = 30  # a page that takes longer hangs

# Of a project whose commits change the file `level`.
SUITE = """
from pathlib import Path

class Ratio:
    params = [["small", "large"]]
    param_names = ["shape"]
    unit = "times the limit"

    def track_forward_over_copy(self, shape):
        level = Path(__file__).parents[2] / "level"
        return float(level.read_text()) * {"small": 1.5, "large": 2.5}[shape]

    def track_what_nobody_measures(self, shape):
        return 1
"""
BENCHMARK = "suite.Ratio.track_forward_over_copy"
LEVELS = (1, 1, 3, 3)

# The points of each line of the graph, and how many pixels of its canvas have a colour.
POINTS = """
return $("#main-graph").data("plot").getData().map(line => line.data.map(point => point[1]));
"""
COLOURED = """
const canvas = document.querySelector("#main-graph canvas.flot-base");
const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
let count = 0;
for (let i = 0; i < pixels.length; i += 4)
    if (pixels[i + 3] > 0 && Math.abs(pixels[i] - pixels[i + 2]) > 50) count++;
return count;
"""


@pytest.fixture(scope="module")
def asv(tmp_path_factory):
    """asv, in that project, measured by this one's configuration."""
    import_peer("asv")
    root = tmp_path_factory.mktemp("project")
    suites = root / "benchmarks" / "suites"
    suites.mkdir(parents=True)
    (suites / "__init__.py").touch()
    (suites / "suite.py").write_text(SUITE)
    shutil.copy(CONFIGURATION, root)

    def run(*command: str, **variables: str) -> str:
        environment = os.environ | {"HOME": str(root)} | variables  # asv writes to the home folder
        return subprocess.check_output(command, cwd=root, env=environment, text=True).strip()

    def asv(*arguments: str) -> None:
        run(sys.executable, "-m", "asv", *arguments)

    def commit(day: int, level: float) -> str:
        (root / "level").write_text(f"{level}" + day * "\n")
        run("git", "add", "level")
        names = ("-c", "user.name=nbnorm", "-c", "user.email=nbnorm@localhost")
        date = f"2026-01-{day:02}T12:00:00Z"
        run("git", *names, "commit", "--quiet", "--message", date, GIT_COMMITTER_DATE=date)
        return run("git", "rev-parse", "HEAD")

    run("git", "init", "--quiet", "--initial-branch=main")
    asv("machine", "--yes")
    existing = ("--environment", f"existing:{sys.executable}")
    for day, level in enumerate(LEVELS, start=1):
        hashed = ("--set-commit-hash", commit(day, level))
        asv("run", *existing, *hashed, "--bench", BENCHMARK)
    return asv


@pytest.fixture
def pages(tmp_path):
    return tmp_path / "pages"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def until(driver, script):
    """What a script returns, as soon as that is true."""
    end = time.monotonic() + SECONDS
    while not (found := driver.execute_script(script)):
        assert time.monotonic() < end, f"{script}\n{problems(driver)}"
        time.sleep(0.05)
    return found


@pytest.mark.peer
def test_the_grid_and_a_graph_need_no_network(asv, pages, browser):
    dashboard.publish(asv, pages)
    with served(pages) as address:
        browser.get(address)
        titles = until(
            browser,
            "return [...document.querySelectorAll('#summarygrid-display .benchmark-text')]"
            ".map(title => title.innerText)",
        )
        assert titles == [BENCHMARK.partition(".")[2]]

        browser.find_element("css selector", "#summarygrid-display a").click()
        until(browser, "return $('#main-graph').data('plot')")
        lines = browser.execute_script(POINTS)
        values = sorted(round(value, 3) for line in lines for value in line if value is not None)
        assert values == [1.5, 1.5, 2.5, 2.5, 4.5, 4.5, 7.5, 7.5]
        assert browser.execute_script(COLOURED) > 100

        browser.get(address + "#/summarylist")  # its table is sorted by a plugin
        rows = until(browser, "return $('#summarylist-body tbody tr').length")
        assert rows == 2  # a benchmark for each shape
        browser.get(address + "#/regressions")  # as is this one's
        rows = until(browser, "return $('#regressions-body tbody tr').length")
        assert rows == 2
        assert problems(browser) == []


@pytest.mark.peer
def test_as_asv_makes_them_they_stay_blank(asv, pages, browser):
    """So the test above would see what is missing."""
    asv("publish", "--html-dir", str(pages))
    with served(pages) as address:
        browser.get(address)
        until(browser, "return location.pathname == '/error.html'")
        assert any("ERR_NAME_NOT_RESOLVED" in problem for problem in problems(browser))


@pytest.mark.peer
def test_an_address_that_is_not_known_is_an_error(asv, pages):
    asv("publish", "--html-dir", str(pages))
    index = pages / "index.html"
    index.write_text(index.read_text().replace("jquery-3.3.1.min.js", "jquery-9.9.9.min.js"))
    with pytest.raises(LookupError, match="jquery-9"):
        dashboard.make_offline(pages)
