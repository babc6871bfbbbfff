"""Run the notebooks from top to bottom, with a kernel of this Python each.

    python notebooks/execute.py [NOTEBOOK ...]        their outputs in place
    python notebooks/execute.py --output build/notebooks    elsewhere, the committed ones untouched

A cell that fails ends it with the cell's traceback. What would differ from run to run without
saying anything (times of execution, the Python's patch version) is left out of the file.
"""

import argparse
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
LONGEST_CELL = 300  # seconds: its first call may have to compile


def execute(path: Path, target: Path) -> float:
    """Run one notebook in its own folder, write it with its outputs; return the seconds it took."""
    start = time.perf_counter()
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=LONGEST_CELL,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(HERE)}},
    )
    client.execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02}"
    nbformat.write(notebook, target)
    return time.perf_counter() - start


def main() -> None:
    """Run those that were asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of them")
    parser.add_argument("--output", type=Path, metavar="DIRECTORY", help="default: in place")
    options = parser.parse_args()
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
    for path in options.notebooks or sorted(HERE.glob("*.ipynb")):
        target = options.output / path.name if options.output else path
        print(f"{path.name}: {execute(path, target):.0f} s")


if __name__ == "__main__":
    main()
