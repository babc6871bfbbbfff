"""The example of docs/darknet.md prints what the page says."""

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_example(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "darknet.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (printed,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")  # Windows reserves links
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert capsys.readouterr().out.startswith(printed)
    assert (tmp_path / "random.weights").stat().st_size == 35_434_956
