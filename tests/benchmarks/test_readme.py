"""README, docs and benchmarks/README say what the committed measurements do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.accuracy import __main__ as accuracy
from benchmarks.accuracy import pages
from benchmarks.compare import __main__ as command
from benchmarks.compare import picture, readme
from benchmarks.compare.readme import BEGIN, END, rendered
from benchmarks.compare.results import load, save
from tests.benchmarks.test_compare import CASES, results_of

README = Path(__file__).parents[2] / "README.md"


def place(name: str) -> str:
    return f"{BEGIN.format(name)}\n{END}"


def test_pages_agree_with_the_committed_comparison() -> None:
    sections = load(command.RESULTS / "comparison.json")
    held = {"avx2": load(command.RESULTS / "avx2.json")}
    assert sections
    assert held["avx2"]
    for name, found in readme.pages(sections, held, command.SUITES).items():
        text = (command.ROOT / name).read_text(encoding="utf-8")
        assert found
        assert rendered(text, found) == text, "python -m benchmarks.compare readme"
    assert picture.shows(command.RESULTS / "comparison.png", sections)


def test_pages_agree_with_the_committed_accuracy() -> None:
    document = json.loads(accuracy.RESULTS.read_text())
    assert pages.PAGE.read_text(encoding="utf-8") == pages.whole(document), (
        "python -m benchmarks.accuracy --pages"
    )
    text = README.read_text(encoding="utf-8")
    assert pages.with_table(text, document) == text, "python -m benchmarks.accuracy --pages"


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_tables_stand_between_their_markers_and_nothing_else_changes() -> None:
    found = {"one": "| a |", "two": "| b |"}
    text = f"before\n\n{place('two')}\n\nbetween\n{place('one')}\nafter\n"
    once = rendered(text, found)
    assert once.startswith("before\n\n<!-- two")
    assert once.endswith(f"\n\nbetween\n{BEGIN.format('one')}\n| a |\n{END}\nafter\n")
    assert rendered(once, found) == once


@pytest.mark.parametrize("text", ["", place("unknown"), place("one") + place("one")])
def test_places_and_tables_must_match(text: str) -> None:
    with pytest.raises(ValueError, match="the text has places for"):
        rendered(text, {"one": ""})


def test_the_command_writes_and_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="it comes with the extra bench, not with test")
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    suite = place("batch_norm")
    texts = {"README.md": place("speed"), "docs/speed.md": suite, "benchmarks/README.md": suite}
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    save(tmp_path / "comparison.json", {"batch_norm": results_of(CASES)})
    assert command.main(["readme", "--check"]) == 1
    stale = "README.md, docs/speed.md, benchmarks/README.md, comparison.png"
    assert stale in capsys.readouterr().err
    assert {name: (tmp_path / name).read_text() for name in texts} == texts
    assert command.main(["readme"]) == 0
    assert command.main(["readme", "--check"]) == 0
    assert "| 7.00 x" in (tmp_path / "benchmarks/README.md").read_text()
    (tmp_path / "docs/speed.md").write_text("no place")
    assert command.main(["readme"]) == 1
    assert "docs/speed.md: the text has places for []" in capsys.readouterr().err
