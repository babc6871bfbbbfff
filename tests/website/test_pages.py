"""What the site's pages are made from."""

from __future__ import annotations

import pytest

import nbnorm
from benchmarks.tools.curves import CURVES
from tests.conftest import import_peer
from website import api, dashboard, speed


def test_there_is_a_page_for_each_public_name():
    pages = dict(api.pages())
    for name in nbnorm.__all__:
        assert f"::: {getattr(nbnorm, name).__module__}.{name}\n" in pages[f"api/{name}.md"]
        assert f"[`{name}`]({name}.md)" in pages["api/index.md"]
    for module in api.MODULES:
        assert pages[f"api/{module}.md"].count(":::") > 1


def test_names_of_modules_are_where_they_are_defined():
    pages = dict(api.pages())
    kernels = pages["api/nbnorm.kernels.md"]
    assert "::: nbnorm.kernels.batch_norm.fused.forward_planes\n" in kernels
    assert "::: nbnorm.interop.torch.conversion.convert\n" in pages["api/nbnorm.interop.torch.md"]
    assert "::: nbnorm.distributed.synchronized\n" in pages["api/nbnorm.distributed.md"]


def test_the_menu_has_all_pages():
    text = str(api.menu())
    assert all(f"'{page}'" in text for page, _ in api.pages())


def test_a_name_without_a_docstring_is_an_error(monkeypatch):
    monkeypatch.setattr(nbnorm, "__all__", ["Undocumented"])
    monkeypatch.setattr(nbnorm, "Undocumented", lambda: None, raising=False)
    with pytest.raises(LookupError, match=r"nbnorm\.Undocumented has no docstring"):
        api.entries()


def test_the_chart_has_every_case_of_every_library():
    found = speed.data()
    assert found["columns"] == ["operation", "layout", "peer", "shape", "ms", "nbnorm"]
    places = [tuple(row[:4]) for row in found["rows"]]
    assert len(places) == len(set(places)) > 1000
    assert all(row[4] > 0 and row[5] > 0 for row in found["rows"])


def test_the_chart_is_before_the_picture():
    page = speed.with_chart("# Speed\n\nText.\n\n![Time of other libraries](x.png)\n")
    assert page.index("nbnorm-chart") < page.index("![Time")
    with pytest.raises(LookupError):
        speed.with_chart("# Speed\n")


def test_the_front_page_has_twenty_curves():
    page = dashboard.page()
    assert len(CURVES) == len(set(map(str, CURVES))) == 20
    for curve in CURVES:
        assert f"| {curve.tells} | `{curve.benchmark}`<br>{', '.join(curve.parameters)} |" in page


# --- docstrings -----------------------------------------------------------------------------

DOCSTRING = """One line.

Code follows::

    y = x

A part
------
=====  ============
name   what
=====  ============
a      one | two
       and more
b, c,  several
d
=====  ============

>>> f(1)
1

Parameters
----------
x : int

Examples
--------
>>> f(2)
2
"""

MARKDOWN = r"""One line.

Code follows:

    y = x


## A part


| name | what |
| --- | --- |
| a | one \| two and more |
| b, c, d | several |

```pycon
>>> f(1)
1
```

Parameters
----------
x : int

Examples
--------
>>> f(2)
2"""


@pytest.mark.peer
def test_docstrings_become_markdown():
    import_peer("griffe")
    from website.docstrings import markdown

    assert markdown(DOCSTRING) == MARKDOWN
