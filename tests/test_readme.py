"""The README's example works when pasted."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_example(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    assert "(32, 64, 28, 28) (64,)" in capsys.readouterr().out
    assert names["y"].shape == (32, 64, 28, 28)
