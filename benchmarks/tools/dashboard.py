"""The dashboard: a part of the asv suites on a few commits of main, as pages that need no network.

python -m benchmarks.tools.dashboard            measures what is missing, then makes the pages
python -m benchmarks.tools.dashboard --pages    makes the pages of what was measured

asv's pages take their scripts and styles from other hosts. Here the same come from npm, each pinned
by the digest of its package, and lie beside the pages.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.tools.npm import Package, integrity

ROOT = Path(__file__).parents[2]
PAGES = ROOT / ".asv" / "html"  # asv.conf.json: html_dir
VENDOR = "vendor"

# Two minutes a commit, compiling aside: the ratios, a few times, and what starts a process.
SUBSET = (
    r"^batch_norm\.Ratio\..*('32x64x56x56'|'32x256x14x14'|'256x1024')",
    r"^batch_norm\.(Kernel|Function|Layer)\..*'32x256x14x14', 'channels-first'",
    r"^dense_batch_norm\.Fused\..*('256x784x512'|'16384x64x128')",
    r"^dense_batch_norm\.Ratio\.track_step.*('256x784x512'|'16384x64x128')",
    r"^memory\..*batch norm 32",
    r"^startup\.(Import|ImportRatio|Load)\..*(nbnorm|'batch norm')",
)

JQUERY = Package(
    "jquery",
    "3.3.1",
    "sha512-Ubldcmxp5np52/ENotGxlLe6aGMvmF4R8S6tZjsP6Knsaxd/xp3Zrh50cG93lR6nPXyUFwzN3ZSOQI0wRJNdGg==",
)
FLOT = Package(
    "flot",
    "0.8.3",
    "sha512-xg2otcTJDvS+ERK+my4wxG/ASq90QURXtoM4LhacCq0jQW2jbyjdttbRNqU2cPykrpMvJ6b2uSp6SAgYAzj9tQ==",
)
ORDER_BARS = Package(
    "flot-orderbars",
    "1.0.0",
    "sha512-Jv51fvzevUjNXEeozpwEKfPjhiZhfiJddv0WHjduUTCmSF+7T5K7C9c9Y1wIVmUhDBv5fLMjgbwKecT0GIKPZA==",
)
STUPID_TABLE = Package(  # npm has no 1.0.1
    "stupid-table-plugin",
    "1.1.3",
    "sha512-2Vk7XouQPxUQPRe9w0Fu7ZZ8kHLK7rDoLMsCgtKxRNJ7f4dSOGvW9CkHsq5wD6QsaEnWoyLBYH3xOEsrK3yWBg==",
)
MD5 = Package(
    "blueimp-md5",
    "2.19.0",
    "sha512-DRQrD6gJyy8FbiE4s+bDoXS9hiW3Vbx5uCdwvcCf3zLHL+Iv7LtGHLpr+GZV8rHG8tK766FGYBwRbu8pELTt+w==",
)
BOOTSTRAP = Package(
    "bootstrap",
    "3.1.1",
    "sha512-TAzqS8E/ISpVHP29gYhy+1NSV+FJwApDVQhDfgLYsIuUDJiqJzH2DfORN5tiu+Ie2iBLrzEG34t4Rf465cigqg==",
)

# What asv's page asks for, by the end of its address, and where it is.
FILES = {
    "jquery-3.3.1.min.js": (JQUERY, "dist/jquery.min.js"),
    "flot/0.8.3/jquery.flot.min.js": (FLOT, "jquery.flot.js"),
    "flot/0.8.3/jquery.flot.time.min.js": (FLOT, "jquery.flot.time.js"),
    "flot/0.8.3/jquery.flot.selection.min.js": (FLOT, "jquery.flot.selection.js"),
    "flot/0.8.3/jquery.flot.categories.min.js": (FLOT, "jquery.flot.categories.js"),
    "flot-orderbars@1.0.0/js/jquery.flot.orderBars.js": (ORDER_BARS, "js/jquery.flot.orderBars.js"),
    "stupidtable/1.0.1/stupidtable.min.js": (STUPID_TABLE, "stupidtable.min.js"),
    "blueimp-md5/2.19.0/js/md5.min.js": (MD5, "js/md5.min.js"),
    "bootstrap@3.1.1/dist/js/bootstrap.min.js": (BOOTSTRAP, "dist/js/bootstrap.min.js"),
    "bootstrap@3.1.1/dist/css/bootstrap.min.css": (BOOTSTRAP, "dist/css/bootstrap.min.css"),
}

_TAG = re.compile(r"<(?:script|link)\b[^>]*>")
_ADDRESS = re.compile(r'\b(src|href)="(https?://[^"]+)"')
_OF_THE_OTHER_HOST = re.compile(r'\s(?:integrity|crossorigin|referrerpolicy)="[^"]*"')


def make_offline(pages: Path) -> list[str]:
    """Has the page of `asv publish` take everything from its own folder; the files put there."""
    index = pages / "index.html"
    (pages / VENDOR).mkdir(exist_ok=True)
    written = []

    def replaced(tag: re.Match[str]) -> str:
        address = _ADDRESS.search(tag[0])
        if address is None:
            return tag[0]
        package, path = _source(address[2])
        content, name = package.file(path), path.rpartition("/")[2]
        (pages / VENDOR / name).write_bytes(content)
        written.append(name)
        here = f'{address[1]}="{VENDOR}/{name}" integrity="{integrity(content)}"'
        without = _OF_THE_OTHER_HOST.sub("", tag[0])
        return without.replace(address[0], here)

    index.write_text(_TAG.sub(replaced, index.read_text()))
    return written


def _source(address: str) -> tuple[Package, str]:
    for end, source in FILES.items():
        if address.endswith(f"/{end}"):
            return source
    raise LookupError(f"asv's page asks for {address}, which FILES does not name")


def leave_out_unmeasured(pages: Path) -> None:
    """Has the page know only of the benchmarks that were measured: it asks for all their graphs."""
    index = pages / "index.json"
    told = json.loads(index.read_text())
    graphs = pages / "graphs" / "summary"
    told["benchmarks"] = {
        name: benchmark
        for name, benchmark in told["benchmarks"].items()
        if (graphs / f"{name}.json").exists()
    }
    index.write_text(json.dumps(told))


def publish(asv: Callable[..., None], pages: Path = PAGES) -> None:
    """The pages of what was measured."""
    asv("publish", "--html-dir", str(pages))
    make_offline(pages)
    leave_out_unmeasured(pages)


def measure(
    asv: Callable[..., None], commits: Sequence[str], bench: Sequence[str], end: float
) -> None:
    """Runs the suites on each commit; begins no further one after `end`."""
    asv("machine", "--yes")
    chosen = [argument for pattern in bench for argument in ("--bench", pattern)]
    for done, commit in enumerate(commits):
        if done and time.monotonic() > end:
            print(f"The time is up: {len(commits) - done} commits are left out.")
            return
        asv("run", f"{commit}^!", "--skip-existing-successful", *chosen)


def recent(count: int) -> list[str]:
    """The last commits of main that changed the library, the newest first."""
    command = ["git", "rev-list", "--first-parent", f"--max-count={count}", "main", "--", "src"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.split()


def _asv(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "asv", *arguments], cwd=ROOT, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tools.dashboard")
    parser.add_argument("--pages", action="store_true", help="measure nothing")
    parser.add_argument("--commits", type=int, default=4, help="how many (default: 4)")
    parser.add_argument(
        "--minutes", type=float, default=15, help="begin no further commit then (default: 15)"
    )
    parser.add_argument(
        "--bench", nargs="+", default=SUBSET, help="regular expressions (default: a small part)"
    )
    given = parser.parse_args()
    if not given.pages:
        end = time.monotonic() + 60 * given.minutes
        measure(_asv, recent(given.commits), given.bench, end)
    publish(_asv)
    print(f"{PAGES}: `make dashboard-view` shows it.")


if __name__ == "__main__":
    main()
