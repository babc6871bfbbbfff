"""MkDocs' hooks: pages from outside docs/, pages that are made, and scripts beside the pages."""

from __future__ import annotations

import json
import posixpath
import re
import shutil
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # MkDocs loads this file by its path

from benchmarks.tools.dashboard import PAGES as ASV_PAGES  # noqa: E402
from benchmarks.tools.npm import Package  # noqa: E402
from website import api, dashboard, speed  # noqa: E402

# Pages and files of the repository, and where they are in the site. Those of docs/ lie at its root.
PLACES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/results/comparison.json": "results/comparison.json",
    "benchmarks/results/comparison.png": "results/comparison.png",
    "benchmarks/results/dashboard.png": "results/dashboard.png",
    "examples/train_mpi.py": "examples/train_mpi.py",
    **{
        f"notebooks/{path.name}": f"notebooks/{path.name}"
        for path in ROOT.glob("notebooks/*.ipynb")
    },
    **{
        f"website/assets/{path.name}": f"assets/{path.name}"
        for path in (ROOT / "website" / "assets").iterdir()
    },
}
SOURCES = {place: source for source, place in PLACES.items()}

PLOTLY = Package(
    "plotly.js-basic-dist-min",
    "2.35.2",
    "sha512-+apJo+/k9YcDH7W39uIONM+t4P6x15w2MEZnmbi3JjGAl9yW1ZJmyqq4xtynwuIbyU26Nv+4oVu1IULGgUkzlQ==",
)
MATHJAX = Package(
    "mathjax",
    "3.2.2",
    "sha512-Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==",
)
SCRIPTS = {
    "assets/plotly.min.js": (PLOTLY, "plotly-basic.min.js"),
    "assets/tex-svg.js": (MATHJAX, "es5/tex-svg.js"),
}

_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
_ELSEWHERE = re.compile(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=\"(?:https?:)?//[^>]*>")


def on_config(config: MkDocsConfig) -> None:
    """Puts the pages of the API into the menu."""
    for part in config.nav or []:
        if part.get("API") == "api/":
            part["API"] = api.menu()


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds what lies outside docs/, and what is made."""
    for source, place in PLACES.items():
        if source == place:  # mkdocs-jupyter takes files of a folder only
            files.append(File(place, str(ROOT), config.site_dir, config.use_directory_urls))
        else:
            files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    for place, (package, path) in SCRIPTS.items():
        files.append(File.generated(config, place, content=package.file(path)))
    files.append(File.generated(config, "results/speed.json", content=json.dumps(speed.data())))
    files.append(File.generated(config, "dashboard.md", content=dashboard.page()))
    try:
        for place, text in api.pages():
            files.append(File.generated(config, place, content=text))
    except LookupError as error:
        raise PluginError(str(error)) from None


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links between files of the repository into links between pages."""
    here = page.file.src_uri
    source = SOURCES.get(here, f"docs/{here}")

    def moved(link: re.Match[str]) -> str:
        begin, target, end = link.groups()
        if ":" in target:
            return link[0]
        meant = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        place = PLACES.get(meant, meant.removeprefix("docs/"))
        return f"{begin}{posixpath.relpath(place, posixpath.dirname(here) or '.')}{end}"

    if here.startswith("api/") or here == "dashboard.md":
        return markdown
    markdown = _LINK.sub(moved, markdown)
    if here == "speed.md":
        markdown = speed.with_chart(markdown)
    return markdown


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuses a page that asks another host for anything."""
    output = re.sub(r"<link rel=\"canonical\"[^>]*>", "", output)
    if asked := _ELSEWHERE.findall(output):
        raise PluginError(f"{page.file.src_uri} asks another host: {asked}")
    return output


def on_post_build(config: MkDocsConfig) -> None:
    """Puts asv's pages below the dashboard's, if they have been made."""
    if (ASV_PAGES / "index.html").exists():
        shutil.copytree(ASV_PAGES, Path(config.site_dir) / "dashboard", dirs_exist_ok=True)
