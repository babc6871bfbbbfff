"""docs/darknet.md: its example prints what it says, its tables have what there is."""

import re
import shutil
from pathlib import Path

from nbnorm.interop.darknet.activations import FUNCTIONS, IN_LAYERS
from nbnorm.interop.darknet.sections import SECTIONS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "darknet.md").read_text(encoding="utf-8")


def test_every_section_and_activation_is_listed():
    table, _, after = PAGE.partition("## Sections\n")[2].partition("\nDefaults are")
    listed = re.findall(
        r"`\[(\w+)\]`", "".join(row.split("|")[1] for row in table.split("\n") if "|" in row)
    )
    assert sorted(listed) == sorted({"net", "lrn", *SECTIONS})
    activations = after.partition("Activations:")[2].partition(".\n")[0]
    assert sorted(re.findall(r"`(\w+)`", activations)) == sorted({*IN_LAYERS, *FUNCTIONS})


def test_the_table_of_networks_counts_right():
    rows = re.findall(r"^\| `\w+__.*\.cfg` \|.*\|$", PAGE, re.MULTILINE)
    good = sum("| no: " not in row for row in rows)
    assert PAGE.endswith(f"\n{good} of {len(rows)} load and run.\n")
    assert f"[Of {len(rows)} public networks](#public-networks) {good} load and run." in PAGE


def test_example(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (printed,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")  # Windows reserves links
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert capsys.readouterr().out.startswith(printed)
    assert (tmp_path / "random.weights").stat().st_size == 35_434_956
