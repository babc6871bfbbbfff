"""The front page of the dashboard: which curves to watch, and what was last said of each."""

from __future__ import annotations

import json

from benchmarks.regressions import SAVED, Verdict
from benchmarks.tools.curves import CURVES
from benchmarks.tools.dashboard import PAGES

PAGE = """# Dashboard

How fast the library is from commit to commit, by [asv](https://asv.readthedocs.io)'s suites.
{pages}

## The curves to watch

Twenty ratios, since what slows a machine slows both of their sides: a rise is a regression, unless
it is within the noise, which is at least the band given here. "Last" is the ratio, and the change
that `python -m benchmarks.regressions` found when it was last kept{about}.

| what it tells | curve | last | change | noise | verdict |
| --- | --- | --- | --- | --- | --- |
{rows}

How to read and to measure them: [Benchmarks](benchmarks.md#reading-a-result).
"""
MADE = '<p><a href="dashboard/index.html">asv\'s pages: all curves</a></p>'
NOT_MADE = "asv's pages are not part of this build: `make dashboard docs` measures and adds them."


def page() -> str:
    """Its text, with the verdicts that benchmarks/results keeps."""
    kept = json.loads(SAVED.read_text()) if SAVED.exists() else {"verdicts": []}
    verdicts = {row["curve"]: Verdict(**row) for row in kept["verdicts"]}
    rows = []
    for curve in CURVES:
        found = verdicts.get(str(curve))
        told = (
            [f"{found.head:.2f}", f"{found.change:+.0%}", f"{found.noise:.0%}", found.word]
            if found
            else ["-", "-", f"{curve.band:.0%}", "not measured"]
        )
        name = f"`{curve.benchmark}`<br>{', '.join(curve.parameters)}"
        rows.append(f"| {' | '.join([curve.tells, name, *told])} |")
    about = ""
    if verdicts:
        about = (
            f" ({kept['date']}, {kept['head']} against {kept['base']}, {kept['rounds']} rounds, "
            f"{kept['machine']['processor']})"
        )
    made = (PAGES / "index.html").exists()
    return PAGE.format(pages=MADE if made else NOT_MADE, about=about, rows="\n".join(rows))
