"""The pages of the API: one for each public name of nbnorm, one for each package below it.

They are made from the lists of names in the library, and each holds one line that has mkdocstrings
write it from signature and docstring: nothing of them is written by hand.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbnorm
from nbnorm.lazy import names_in_stub

SOURCES = Path(nbnorm.__file__).parent

# Packages and modules of which all public names stand on one page.
MODULES = (
    "nbnorm.layers",
    "nbnorm.kernels",
    "nbnorm.reference",
    "nbnorm.distributed",
    "nbnorm.interop.torch",
    "nbnorm.interop.dask",
    "nbnorm.interop.sklearn",
    "nbnorm.interop.state",
    "nbnorm.interop.darknet",
    "nbnorm.interop.numpynet",
)

_WHOLE = """    options:
      members: false
      show_root_full_path: true
"""


class Entry(NamedTuple):
    """A public name: where it is defined, and the first line of its docstring."""

    name: str
    home: str
    line: str

    @property
    def page(self) -> str:
        """Where its page is, below docs/."""
        return f"api/{self.name}.md"


def entries() -> list[Entry]:
    """The public names of nbnorm itself; a `LookupError` names one without a docstring."""
    found = []
    for name in nbnorm.__all__:
        value = getattr(nbnorm, name)
        written = inspect.getdoc(value)
        if not written or written.startswith(f"{name}("):  # which Python writes for a named tuple
            raise LookupError(f"nbnorm.{name} has no docstring")
        home = value.__module__
        found.append(Entry(name, f"{home}.{name}", written.splitlines()[0]))
    return found


def groups(names: list[Entry]) -> dict[str, list[Entry]]:
    """The names by what they are, for the menu and the index."""
    found: dict[str, list[Entry]] = {"Functions": [], "Layers": [], "Results": []}
    for entry in names:
        if entry.home.startswith("nbnorm.layers."):
            found["Layers"].append(entry)
        elif entry.name.endswith(("Context", "Gradients")):
            found["Results"].append(entry)
        else:
            found["Functions"].append(entry)
    return found


def pages() -> Iterator[tuple[str, str]]:
    """Each page's place and text."""
    named = entries()
    yield "api/index.md", _index(named)
    for entry in named:
        yield entry.page, f"---\ntitle: {entry.name}\n---\n\n::: {entry.home}\n"
    for module in MODULES:
        yield f"api/{module}.md", _module(module)


def menu() -> list[object]:
    """The part of mkdocs.yml's `nav` that shows them."""
    shown: list[object] = ["api/index.md"]
    shown += [
        {title: [{entry.name: entry.page} for entry in found]}
        for title, found in groups(entries()).items()
    ]
    return [*shown, {"Modules": [{module: f"api/{module}.md"} for module in MODULES]}]


def _index(named: list[Entry]) -> str:
    lines = ["# API", "", "Every public name; `import nbnorm` has those of the first three tables."]
    for title, found in groups(named).items():
        lines += ["", f"## {title}", "", "| name | what it is |", "| --- | --- |"]
        lines += [
            f"| [`{e.name}`]({e.name}.md) | {e.line.replace('|', chr(92) + '|')} |" for e in found
        ]
    lines += ["", "## Modules", "", "| module | what it has |", "| --- | --- |"]
    lines += [f"| [`{m}`]({m}.md) | {_documentation(m).splitlines()[0]} |" for m in MODULES]
    return "\n".join(lines) + "\n"


def _module(module: str) -> str:
    """The docstring of a module, and its names that no page of their own have."""
    own = {entry.home for entry in entries()}
    text = f"---\ntitle: {module}\n---\n\n::: {module}\n{_WHOLE}"
    for home in _homes(module):
        if home not in own:
            text += f"\n::: {home}\n    options:\n      heading_level: 2\n"
    return text


def _file(module: str) -> Path:
    """The file of a module: it need not be imported, for which its library would be needed."""
    path = SOURCES.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _documentation(module: str) -> str:
    written = ast.get_docstring(ast.parse(_file(module).read_text(encoding="utf-8")))
    assert written, module
    return written


def _homes(module: str) -> Iterator[str]:
    """Where each public name of a module is defined."""
    file = _file(module)
    if file.with_suffix(".pyi").exists():
        yield from (
            home.replace(":", ".") for home in names_in_stub(module).values() if ":" in home
        )
        return
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported = {
        alias.name: f"{node.module}.{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(module)
        for alias in node.names
    }
    defined = {
        node.name: f"{module}.{node.name}"
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
    }
    found = {**imported, **defined}
    yield from (home for name, home in sorted(found.items()) if not name.startswith("_"))
