"""The command: run a suite, or render a stored run. See the package's docstring."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import ModuleType

from benchmarks.compare import (
    batch_norm,
    conv2d_batch_norm,
    dense_batch_norm,
    normalize,
    picture,
    tables,
)
from benchmarks.compare.peers import PEERS, SUBJECT
from benchmarks.compare.protocol import Case, Shape, label
from benchmarks.compare.results import Results
from benchmarks.compare.runner import Comparison

SUITES: dict[str, ModuleType] = {
    suite.NAME: suite for suite in (batch_norm, dense_batch_norm, conv2d_batch_norm, normalize)
}
RIVALS = [key for key, peer in PEERS.items() if peer.counted and key != SUBJECT]
RESULTS = Path(__file__).parent.parent / "results"


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    return options.command(options)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="{" + ",".join([*SUITES, "render"]) + "}")
    for name, suite in SUITES.items():
        operations = list(_short_names(suite))
        run = commands.add_parser(name, help=f"measure {name} beside every installed peer")
        run.set_defaults(command=compare, suite=suite)
        run.add_argument("--quick", action="store_true", help="few shapes, 3 rounds, short turns")
        examples = " ".join(map(label, suite.QUICK_SHAPES[:2]))
        run.add_argument("--shapes", nargs="+", type=_shape, help=f"as {examples}")
        run.add_argument(
            "--only", nargs="+", choices=operations, metavar="OPERATION", help=", ".join(operations)
        )
        run.add_argument(
            "--peers", nargs="+", choices=RIVALS, metavar="PEER", help=", ".join(RIVALS)
        )
        run.add_argument("--rounds", type=int, help="at least; default 5")
        run.add_argument("--seconds", type=float, help="of calls in one turn; default 0.03")
        run.add_argument("--threads", type=int, default=2, help="of each library; default 2")
        run.add_argument(
            "--output",
            type=Path,
            default=RESULTS,
            metavar="DIRECTORY",
            help="where JSON and picture go; default benchmarks/results",
        )
    show = commands.add_parser("render", help="print the README's tables from a stored run")
    show.set_defaults(command=render)
    show.add_argument("results", type=Path)
    return top


def compare(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    suite = options.suite
    partial = any((options.quick, options.shapes, options.only, options.peers))
    shapes = options.shapes or (suite.QUICK_SHAPES if options.quick else suite.SHAPES)
    names = _short_names(suite)
    operations = [names[name] for name in options.only or names]
    left_out = set(RIVALS).difference(options.peers or RIVALS)
    peers = [peer for key, peer in PEERS.items() if key not in left_out]
    comparison = Comparison(
        suite,
        peers,
        threads=options.threads,
        rounds=options.rounds or (3 if options.quick else 5),
        seconds=options.seconds or (0.02 if options.quick else 0.03),
    )
    if (busy := comparison.results.about["load"]) > 0.5:
        print(f"warning: other work keeps {busy:.1f} cores busy", file=sys.stderr)
    plan = comparison.plan(shapes, operations)
    with tqdm(total=sum(len(cases) for *_, cases in plan), unit="case", file=sys.stderr) as bar:

        def progress(case: Case) -> None:
            bar.set_description_str(f"{case.operation} {label(case.shape)} {case.layout}")
            bar.update()

        results = comparison.run(plan, progress)
    if hasattr(suite, "MEMORY") and suite.MEMORY in operations:
        print("measuring memory", file=sys.stderr)
        comparison.measure_memory(suite.memory_cases(), suite.MEMORY_PEERS)
    # A partial run never takes the place of a whole one.
    name = f"{suite.NAME}-partial" if partial else suite.NAME
    options.output.mkdir(parents=True, exist_ok=True)
    results.save(options.output / f"{name}.json")
    print(tables.report(results, suite))
    _draw(results, suite, options.output / f"{name}.png")
    return _subject_failed(results)


def render(options: argparse.Namespace) -> int:
    results = Results.load(options.results)
    print(tables.readme(results, SUITES[results.suite]))
    return 0


def _draw(results: Results, suite: ModuleType, path: Path) -> None:
    try:
        picture.draw(results, suite, path)
    except ImportError as error:
        print(f"no picture: {error}", file=sys.stderr)


def _subject_failed(results: Results) -> bool:
    """Whether nbnorm itself is missing, broke, or was wrong: then there is nothing to compare."""
    return SUBJECT in results.missing or any(
        refusal.peer == SUBJECT and refusal.kind != "unsupported" for refusal in results.refusals
    )


def _short_names(suite: ModuleType) -> dict[str, str]:
    """The operations of a suite by the names that `--only` takes."""
    return {operation.removeprefix(f"{suite.NAME}_"): operation for operation in suite.OPERATIONS}


def _shape(text: str) -> Shape:
    return tuple(int(length) for length in text.split("x"))


if __name__ == "__main__":
    sys.exit(main())
