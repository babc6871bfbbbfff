"""The site in a browser that reaches no other host: its pages, its search, its chart."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import nbnorm
from tests.benchmarks.browser import chromium, problems, served
from tests.conftest import import_peer
from website.speed import data

REPOSITORY = Path(__file__).parents[2]
SECONDS = 30

pytestmark = pytest.mark.peer


def build(configuration: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    import_peer("mkdocs")
    import_peer("mkdocs_jupyter")
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-f", configuration, "--site-dir", folder],
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = build(REPOSITORY / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    with served(site) as found:
        yield found


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


def test_every_page_loads(site, address, browser):
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    assert len(pages) > len(nbnorm.__all__)
    for page in pages:
        browser.get(address + page)
        assert until(browser, "return document.querySelector('h1')?.innerText"), page
        assert problems(browser) == [], page


def test_each_public_name_has_a_page(site):
    for name in nbnorm.__all__:
        text = (site / "api" / f"{name}.html").read_text(encoding="utf-8")
        assert "doc-contents" in text
        signature = hasattr(nbnorm, name) and name[0].islower()
        assert not signature or "doc-signature" in text


def test_search_finds_a_function(address, browser):
    browser.get(address + "threads.html")
    field = browser.find_element("css selector", "input[data-md-component=search-query]")
    field.click()
    field.send_keys("batch_norm_forward")
    found = until(
        browser,
        "const found = [...document.querySelectorAll('a.md-search-result__link')].map(a => a.href);"
        "return found.length && found",
    )
    assert any("/api/batch_norm_forward.html" in link for link in found)
    assert problems(browser) == []


def test_formulas_are_set(address, browser):
    browser.get(address + "notebooks/01_from_the_formulas.html")
    until(browser, "return document.querySelectorAll('mjx-container svg').length > 20")
    assert problems(browser) == []


CHOICES = "return [...document.querySelector('[name=%s]').options].map(option => option.value)"
CHOOSE = """
const select = document.querySelector(`[name=${arguments[0]}]`);
select.value = arguments[1];
select.dispatchEvent(new Event("change"));
"""
BARS = "return document.querySelectorAll('.nbnorm-plot .point path').length"


def test_the_chart_shows_what_is_chosen(address, browser):
    from selenium.webdriver import ActionChains

    rows = data()["rows"]
    browser.get(address + "speed.html")
    until(browser, BARS)
    operations = browser.execute_script(CHOICES % "operation")
    assert set(operations) == {row[0] for row in rows}
    for operation in operations:
        browser.execute_script(CHOOSE, "operation", operation)
        layout = browser.execute_script(CHOICES % "layout")[-1]
        browser.execute_script(CHOOSE, "layout", layout)
        peers = browser.execute_script(CHOICES % "peer")
        assert set(peers) == {row[2] for row in rows if row[:2] == [operation, layout]}
        browser.execute_script(CHOOSE, "peer", peers[-1])
        drawn = [row for row in rows if row[:3] == [operation, layout, peers[-1]]]
        assert browser.execute_script(BARS) == len(drawn)
    place = browser.find_element("css selector", ".nbnorm-plot .point path")
    ActionChains(browser).scroll_to_element(place).move_to_element(place).perform()
    told = until(browser, "return document.querySelector('.hovertext')?.textContent")
    assert "nbnorm" in told
    assert "ms" in told
    assert problems(browser) == []


@pytest.mark.slow
def test_a_broken_link_is_an_error(tmp_path):
    """With a page of its own in the place of docs/threads.md."""
    docs = tmp_path / "docs"
    docs.mkdir()
    for page in (REPOSITORY / "docs").glob("*.md"):
        (docs / page.name).write_bytes(page.read_bytes())
    (docs / "threads.md").write_text("# Threads\n\n[Nowhere](nowhere.md)\n")
    text = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    for name in ("website/hooks.py", "website/docstrings.py", "[src]"):
        bare = name.strip("[]")
        text = text.replace(name, name.replace(bare, str(REPOSITORY / bare)))
    (tmp_path / "mkdocs.yml").write_text(text, encoding="utf-8")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    assert "nowhere.md" in done.stderr
