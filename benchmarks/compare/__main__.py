"""The command: measure suites, or put what was measured into the pages. See the package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import ModuleType

from benchmarks.compare import picture, readme, results, tables
from benchmarks.compare.networks import command as networks
from benchmarks.compare.peers import SUBJECT
from benchmarks.compare.protocol import Shape, label
from benchmarks.compare.results import Results, Sections
from benchmarks.compare.session import RIVALS, Options, Session
from benchmarks.compare.suites import batch_norm, conv2d_batch_norm, dense_batch_norm, normalize
from benchmarks.tools import isa, machine

SUITES: dict[str, ModuleType] = {
    suite.NAME: suite for suite in (batch_norm, dense_batch_norm, conv2d_batch_norm, normalize)
}
ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    return options.command(options)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    names = ["all", *SUITES, "networks", "readme"]
    commands = top.add_subparsers(required=True, metavar="{" + ",".join(names) + "}")
    every = commands.add_parser("all", help="measure every suite")
    every.set_defaults(command=compare, name="all", suites=list(SUITES.values()))
    every.set_defaults(shapes=None, only=None)
    _add_options(every)
    for name, suite in SUITES.items():
        operations = list(_short_names(suite))
        run = commands.add_parser(name, help=f"measure {name} beside every installed peer")
        run.set_defaults(command=compare, name=name, suites=[suite])
        examples = " ".join(map(label, suite.QUICK_SHAPES[:2]))
        run.add_argument("--shapes", nargs="+", type=_shape, help=f"as {examples}")
        run.add_argument(
            "--only", nargs="+", choices=operations, metavar="OPERATION", help=", ".join(operations)
        )
        _add_options(run)
    networks.add(commands.add_parser("networks", help="whole networks in PyTorch"), RESULTS)
    show = commands.add_parser("readme", help="put the stored tables into README and docs")
    show.set_defaults(command=publish)
    show.add_argument("--check", action="store_true", help="change nothing; fail if it would")
    return top


def _add_options(run: argparse.ArgumentParser) -> None:
    run.add_argument("--quick", action="store_true", help="few shapes, 3 rounds, short turns")
    run.add_argument(
        "--thorough", action="store_true",
        help="9 rounds of long turns, and what is slow to compile on every shape",
    )  # fmt: skip
    run.add_argument("--peers", nargs="+", choices=RIVALS, metavar="PEER", help=", ".join(RIVALS))
    run.add_argument("--isa", choices=isa.CHOICES, help="hold every library to it")
    run.add_argument("--rounds", type=int, help="at least; by default the suite's")
    run.add_argument("--seconds", type=float, help="of calls in one turn; by default the suite's")
    run.add_argument("--threads", type=int, default=2, help="of each library; default 2")
    run.add_argument(
        "--output", type=Path, default=RESULTS, metavar="DIRECTORY",
        help="where JSON and picture go; default benchmarks/results",
    )  # fmt: skip


def compare(arguments: argparse.Namespace) -> int:
    if arguments.isa:
        isa.hold(arguments.isa)
    options = _options(arguments)
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    kept = results.load(output / f"{arguments.isa or 'comparison'}.json")
    if (busy := machine.load()) > 0.5:
        print(f"warning: other work keeps {busy:.1f} cores busy", file=sys.stderr)
    journal = f"{arguments.name}{'-partial' if options.partial else ''}.unfinished"
    if arguments.isa:
        journal = f"{arguments.isa}-{journal}"
    session = Session(arguments.suites, options, output / journal, kept)
    if session.journal.parts:
        print(f"going on with the run of {session.journal.begun}", file=sys.stderr)
    try:
        found = session.run()
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    for name, section in found.items():
        print(f"{tables.report(section, SUITES[name])}\n")
    # A partial run never takes the place of a whole one; what is held has a file of its own.
    name = arguments.isa or ("partial" if options.partial else "comparison")
    sections = found if name == "partial" else _in_order(kept | found)
    results.save(output / f"{name}.json", sections)
    _draw(sections, output / f"{name}.png")
    return any(map(_subject_failed, found.values()))


def publish(arguments: argparse.Namespace) -> int:
    sections = results.load(RESULTS / "comparison.json")
    held = {name: results.load(RESULTS / f"{name}.json") for name in isa.CHOICES}
    stale = []
    for name, found in readme.pages(sections, held, SUITES).items():
        page = ROOT / name
        before = page.read_text(encoding="utf-8")
        try:
            after = readme.rendered(before, found)
        except ValueError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        if after != before:
            stale.append(name)
            if not arguments.check:
                page.write_text(after, encoding="utf-8")
    if not arguments.check:
        _draw(sections, RESULTS / "comparison.png")
        return 0
    if not picture.shows(RESULTS / "comparison.png", sections):
        stale.append("comparison.png")
    if stale:
        print(f"not what comparison.json says: {', '.join(stale)}", file=sys.stderr)
    return bool(stale)


def _options(arguments: argparse.Namespace) -> Options:
    operations = None
    if arguments.only:
        names = _short_names(*arguments.suites)
        operations = tuple(names[name] for name in arguments.only)
    return Options(
        threads=arguments.threads,
        quick=arguments.quick,
        thorough=arguments.thorough,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        shapes=arguments.shapes and tuple(arguments.shapes),
        operations=operations,
        peers=arguments.peers and tuple(arguments.peers),
    )


def _in_order(sections: Sections) -> Sections:
    return {name: sections[name] for name in SUITES if name in sections}


def _draw(sections: Sections, path: Path) -> None:
    try:
        picture.draw(sections, SUITES, path)
    except ImportError as error:
        print(f"no picture: {error}", file=sys.stderr)


def _subject_failed(section: Results) -> bool:
    """Whether nbnorm itself is missing, broke, or was wrong: then there is nothing to compare."""
    return SUBJECT in section.missing or any(
        refusal.peer == SUBJECT and refusal.kind != "unsupported" for refusal in section.refusals
    )


def _short_names(suite: ModuleType) -> dict[str, str]:
    """The operations of a suite by the names that `--only` takes."""
    return {operation.removeprefix(f"{suite.NAME}_"): operation for operation in suite.OPERATIONS}


def _shape(text: str) -> Shape:
    return tuple(int(length) for length in text.split("x"))


if __name__ == "__main__":
    sys.exit(main())
