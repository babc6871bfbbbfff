"""The chart of docs/speed.md: what it is drawn from, and its place in the page.

It is the comparison as it was stored, `benchmarks/results/comparison.json`, by operation, layout,
library and shape; website/assets/chart.js draws it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.compare import results
from benchmarks.compare.peers import PEERS, SUBJECT

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "comparison.json"
PICTURE = "\n![Time of other libraries"

COLUMNS = ("operation", "layout", "peer", "shape", "ms", "nbnorm")

CHART = """
In this chart a bar is another library's time over nbnorm's for one shape: beyond 1 nbnorm is
faster. Point at a bar for the shape, both times and the ratio. The picture below has all of them.

<div class="nbnorm-chart" data-figures="results/speed.json">
<label>Operation <select name="operation"></select></label>
<label>Layout <select name="layout"></select></label>
<label>Library <select name="peer"></select></label>
<div class="nbnorm-plot"></div>
</div>

"""


def data() -> dict[str, Any]:
    """One row a library and case: operation, layout, library, shape, its ms, nbnorm's ms."""
    sections = results.load(RESULTS)
    rows: list[list[Any]] = []
    for found in sections.values():
        ours = {r.case: r.seconds for r in found.records if r.peer == SUBJECT}
        rows += [
            [
                record.case.operation.replace("_", " "),
                record.case.layout + (", out=" if record.case.reuse else ""),
                PEERS[record.peer].label,
                "x".join(map(str, record.case.shape)),
                round(1e3 * record.seconds, 5),
                round(1e3 * ours[record.case], 5),
            ]
            for record in found.records
            if record.peer != SUBJECT and record.case in ours
        ]
    return {"columns": list(COLUMNS), "rows": rows}


def with_chart(page: str) -> str:
    """The page with the chart before its picture."""
    before, picture, after = page.partition(PICTURE)
    if not picture:
        raise LookupError(f"docs/speed.md has no {PICTURE!r}")
    return f"{before}{CHART}{picture}{after}"
