"""docs/parts.md: its examples are right."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import import_optional_peer

PAGE = Path(__file__).parents[1] / "docs" / "parts.md"
DASK, XARRAY = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_examples():
    failed, tried = doctest.testfile(str(PAGE), module_relative=False)
    assert failed == 0
    assert tried > 20


@pytest.mark.peer
def test_dask(tmp_path, monkeypatch, capsys):
    import_optional_peer("dask.array")
    zarr = import_optional_peer("zarr")
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(5, 2, (8, 3, 4, 4))
    zarr.create_array("activations.zarr", data=x, chunks=(2, 2, 4, 4))
    exec(DASK, {})
    assert "100%" in capsys.readouterr().out
    y = zarr.open_array("normalized.zarr")[:]
    np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), 0, atol=1e-12)


@pytest.mark.peer
def test_xarray():
    import_optional_peer("xarray")
    exec(XARRAY, {})
