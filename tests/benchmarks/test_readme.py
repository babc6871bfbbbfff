"""The README's tables and picture are those of the committed comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.compare import __main__ as command
from benchmarks.compare import picture
from benchmarks.compare.readme import BEGIN, END, rendered
from benchmarks.compare.results import load, save
from tests.benchmarks.test_compare import CASES, results_of

PLACE = f"{BEGIN.format('batch_norm')}\n{END}"


def test_the_readme_agrees_with_the_committed_comparison() -> None:
    sections = load(command.RESULTS / "comparison.json")
    text = command.README.read_text(encoding="utf-8")
    assert sections
    assert rendered(text, sections, command.SUITES) == text, "python -m benchmarks.compare readme"
    assert picture.shows(command.RESULTS / "comparison.png", sections)


def test_tables_stand_between_their_markers_and_nothing_else_changes() -> None:
    sections = {"batch_norm": results_of(CASES)}
    text = f"before\n\n{PLACE}\n\nafter\n"
    once = rendered(text, sections, command.SUITES)
    assert once.startswith("before\n\n<!-- comparison batch_norm")
    assert once.endswith("\n\nafter\n")
    assert "| 7.00 x" in once
    assert rendered(once, sections, command.SUITES) == once


@pytest.mark.parametrize("text", ["", PLACE.replace("batch_norm", "unknown"), PLACE + PLACE])
def test_places_and_suites_must_match(text: str) -> None:
    with pytest.raises(ValueError, match="the text has places for"):
        rendered(text, {"batch_norm": results_of(CASES)}, command.SUITES)


def test_the_command_writes_and_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="it comes with the extra bench, not with test")
    monkeypatch.setattr(command, "README", tmp_path / "README.md")
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    command.README.write_text(PLACE)
    save(tmp_path / "comparison.json", {"batch_norm": results_of(CASES)})
    assert command.main(["readme", "--check"]) == 1
    assert "README.md, comparison.png" in capsys.readouterr().err
    assert command.README.read_text() == PLACE
    assert command.main(["readme"]) == 0
    assert command.main(["readme", "--check"]) == 0
    command.README.write_text("no place")
    assert command.main(["readme"]) == 1
    assert "the text has places for []" in capsys.readouterr().err
