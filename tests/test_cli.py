"""The command line."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from nbnorm import cli, reference
from nbnorm.jit import cache, caches, options, target, threads
from nbnorm.launch.plans import Columns, Fused, Planes, training_plan
from nbnorm.operations import BY_NAME
from tests.jit.processes import python


def output_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert cli.main(arguments) == 0
    return capsys.readouterr().out.splitlines()


# --- info -----------------------------------------------------------------------------------


def test_info(capsys):
    lines = output_of(capsys, "info")
    told = {line[:14].strip(): line[14:] for line in lines}
    assert told["NumPy"] == np.__version__
    assert re.match(r"\d+\.\d+", told["Numba"])
    assert f"{8 * target.register_bytes()}-bit registers" in told["processor"]
    assert told["processor"].endswith(f"{'with' if target.has_fma() else 'without'} fma")
    status = threads.status()
    assert told["threads"] == f"{status.threads}, by {status.layer}: {status.reason}"
    for level, size in caches.sizes().items():
        assert f"L{level} {size // 1024} kB" in told["caches"]
    assert "(assumed: L2 1024 kB, last 32768 kB)" in told["caches"]
    assert str(cache.cache_folder()) in told["compiled code"]


def test_info_counts_the_cache(capsys, tmp_path, monkeypatch):
    folder = tmp_path / "nbnorm-0000000000000000"
    monkeypatch.setattr(cache, "cache_folder", lambda: folder)
    assert f"0 kernels, 0.0 MB in {folder}" in output_of(capsys, "info")[-1]
    folder.mkdir()
    for name in ("a.bin", "b.bin"):
        (folder / name).write_bytes(bytes(1 << 20))
    assert output_of(capsys, "info")[-1].endswith(f"2 kernels, 2.0 MB in {folder}")
    other = tmp_path / "nbnorm-1111111111111111"
    other.mkdir()
    (other / "a.bin").write_bytes(bytes(3 << 20))
    assert output_of(capsys, "info")[-1].endswith("(and 3.0 MB of other versions)")


def test_info_says_why_nothing_is_kept():
    out, _ = python("-m", "nbnorm", "info", NBNORM_CACHE=0)
    assert out.splitlines()[-1] == "compiled code not kept: NBNORM_CACHE=0"


def test_info_where_no_cache_is_told(capsys, monkeypatch):
    monkeypatch.setattr(caches, "sizes", dict)
    [line] = [line for line in output_of(capsys, "info") if line.startswith("caches")]
    assert line.split(None, 1)[1].startswith("not told by the system (assumed: ")


def test_info_on_one_thread():
    out, _ = python("-m", "nbnorm", "info", NUMBA_NUM_THREADS=1)
    assert re.search(r"^threads +1, by", out, re.MULTILINE)


# --- arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["warmup", "--dtype", "float16"]])
def test_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: nbnorm" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["info"], ["warmup"], ["demo"], ["compare"]])
def test_help(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([*arguments, "--help"])
    assert caught.value.code == 0
    assert "usage: nbnorm" in capsys.readouterr().out


def test_examples_of_the_help_are_right(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    examples = capsys.readouterr().out.partition("examples:")[2].partition("exit codes:")[0]
    commands = [line.split("   ")[0].split()[1:] for line in examples.strip().splitlines()]
    assert len(commands) > 5
    for command in commands:
        if "--help" not in command:
            cli._parser().parse_args(command)


@pytest.mark.skipif(not options.is_compiling(), reason="nothing is compiled")
def test_an_error_is_one_line(capsys):
    assert cli.main(["compare", "--seconds", "-1"]) == 1
    assert capsys.readouterr().err == "nbnorm: error: --seconds is -1; expected more than 0\n"


def test_an_error_of_several_lines_becomes_one(capsys, monkeypatch):
    def fails():
        raise OSError("disk\nfull")
        yield

    monkeypatch.setattr(cli, "_info", fails)
    assert cli.main(["info"]) == 1
    assert capsys.readouterr().err == "nbnorm: error: disk full\n"


def test_ctrl_c_ends_with_its_code(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(cli, "_info", interrupted)
    assert cli.main(["info"]) == 130


@pytest.mark.parametrize("command", ["warmup", "demo", "compare"])
def test_nothing_to_show_where_nothing_is_compiled(command):
    out, _ = python("-m", "nbnorm", command, NUMBA_DISABLE_JIT=1)
    assert out.startswith("NUMBA_DISABLE_JIT=1: nothing is compiled")
    assert len(out.splitlines()) == 1


# --- warmup ---------------------------------------------------------------------------------


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("arrays", [2, 3])
def test_warmup_reaches_every_kind_of_kernel(itemsize, arrays):
    plans = []
    for warming in cli.WARMING:
        if warming.operation != "batch_norm":
            continue
        n, *rest = BY_NAME["batch_norm"].shapes(warming.sizes, **warming.options)["x"]
        if warming.options.get("axis") == -1:
            shape = (n * math.prod(rest[:-1]), rest[-1], 1)
        else:
            shape = (n, rest[0], math.prod(rest[1:]))
        plans.append(training_plan(shape, itemsize, arrays))
    plans = [plan for plan in plans if plan.parallel and plan.tiles > 1]
    assert {type(plan) for plan in plans} == {Fused, Planes, Columns}
    assert {plan.columns for plan in plans if isinstance(plan, Fused)} == {False, True}


# Shapes of other sizes than warmup's, on threads and not.
AFTERWARDS = """
import json
import numpy as np
from numba.core import event
from nbnorm import Conv2dBatchNorm, DenseBatchNorm
from nbnorm import batch_norm_backward, batch_norm_forward, batch_norm_inference
compiled = {}
for shape, axis in (
    ((4, 8, 5, 5), 1), ((16, 32, 32, 32), 1), ((64, 64, 56, 56), 1), ((4, 8, 8, 16), -1),
    ((16, 14, 14, 256), -1), ((16, 10), 1), ((4096, 1024), 1), ((2, 3, 1000), 1),
):
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    gamma = np.ones(shape[axis])
    with event.install_recorder("numba:compile") as made:
        y, context = batch_norm_forward(x, gamma, gamma, axis=axis)
        batch_norm_backward(x, context)
        batch_norm_inference(x, gamma, gamma, gamma, gamma, axis=axis)
    compiled[str(shape)] = len(made.buffer)
for shape, layer in (
    ((9, 5), DenseBatchNorm(5, 7)),
    ((4096, 256), DenseBatchNorm(256, 300)),
    ((2, 3, 9, 9), Conv2dBatchNorm(3, 5, 3, padding=1)),
    ((8, 64, 32, 32), Conv2dBatchNorm(64, 64, 3, padding=1)),
    ((8, 32, 32, 64), Conv2dBatchNorm(64, 64, 3, padding=1, axis=-1)),
    ((8, 32, 32, 64), Conv2dBatchNorm(64, 128, 5, stride=2, axis=-1)),
    ((8, 64, 32, 32), Conv2dBatchNorm(64, 64, 3, groups=64)),
):
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    with event.install_recorder("numba:compile") as made:
        layer.backward(layer(x))
        layer.eval()(x)
    compiled[f"{type(layer).__name__} of {shape}"] = len(made.buffer)
print(json.dumps(compiled))
"""


@pytest.mark.slow
@pytest.mark.alone
def test_after_warmup_no_process_compiles(tmp_path):
    variables = {"NUMBA_CACHE_DIR": tmp_path, "NUMBA_NUM_THREADS": 2}
    arguments = ("-m", "nbnorm", "warmup", "--activation", "none")
    out, _ = python(*arguments, **variables, seconds=600)  # every kernel there is, from nothing
    *steps, last = out.splitlines()
    assert len(steps) == 2 * len(cli.WARMING)
    for number, step in enumerate(steps, start=1):
        assert re.fullmatch(
            rf" *{number}/{len(steps)} \[#* *\]  float32  none .* +\d+\.\d s +\d+\.\d MB", step
        )
    assert "[##########]" in steps[-1]
    count, kept = map(
        int, re.match(r"(\d+) kernels compiled in .* s; (\d+) kernels", last).groups()
    )
    assert count == kept == len(list(tmp_path.glob("nbnorm-*/*.bin")))
    assert count > len(steps)
    for threads_ in (1, 2):
        out, _ = python("-c", AFTERWARDS, **variables | {"NUMBA_NUM_THREADS": threads_})
        assert {name: count for name, count in json.loads(out).items() if count} == {}
    out, _ = python(*arguments, **variables)
    assert out.splitlines()[-1].startswith("0 kernels compiled")


def test_warmup_shares_the_cache_if_asked(monkeypatch, capsys):
    shared = []
    monkeypatch.setattr(cli, "WARMING", ())
    monkeypatch.setattr(cache, "share", lambda: shared.append(True))
    output_of(capsys, "warmup")
    assert shared == []
    output_of(capsys, "warmup", "--shared")
    assert len(shared) == options.is_compiling()


# --- demo -----------------------------------------------------------------------------------


@pytest.mark.skipif(not options.is_compiling(), reason="nothing is compiled")
def test_demo(capsys, monkeypatch):
    monkeypatch.setattr(cli, "DEMO_SHAPE", (16, 4, 12, 12))
    monkeypatch.setattr(cli, "DEMO_SECONDS", 0.05)
    lines = output_of(capsys, "demo")
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 100
    told = {line.strip().split("  ")[0]: line.split() for line in reversed(lines)}
    before, after = told["before"], told["after batch_norm_forward"]
    assert float(before[-2]) == pytest.approx(5, abs=0.5)
    assert float(before[-1]) == pytest.approx(3, abs=0.5)
    assert float(after[-2]) == pytest.approx(0, abs=1e-4)
    assert float(after[-1]) == pytest.approx(1, abs=1e-4)
    ours = next(line.split()[1:] for line in lines if line.startswith("  nbnorm"))
    assert max(map(float, ours)) <= 2e-6
    naive = next(line.split()[-4:] for line in lines if "E[x^2]" in line)
    assert max(map(float, naive)) > 0.1
    times = [re.findall(r"\d+\.\d$", line) for line in lines[-3:]]
    assert all(times)


def test_the_demo_s_numpy_is_batch_norm(rng):
    x = rng.standard_normal((4, 3, 5, 6)) + 10
    dy = rng.standard_normal(x.shape)
    y, mean, inv_std = cli.numpy_forward(x)
    expected = reference.batch_norm_forward(x)
    np.testing.assert_allclose(y, expected, atol=1e-12)
    np.testing.assert_allclose(cli.naive_forward(x), expected, atol=1e-11)
    gradients = reference.batch_norm_backward(dy, x)
    np.testing.assert_allclose(cli.numpy_backward(dy, x, mean, inv_std), gradients.dx, atol=1e-12)


# --- compare --------------------------------------------------------------------------------


@pytest.mark.skipif(not options.is_compiling(), reason="nothing is compiled")
def test_compare(capsys, monkeypatch):
    small = cli.Warming("small", "batch_norm", {"n": 4, "c": 3, "p": (5, 5)})
    monkeypatch.setattr(cli, "COMPARED", (small,))
    monkeypatch.setattr(cli, "_pytorch_steps", lambda: None)
    about, _, _, head, train, infer = output_of(capsys, "compare", "--seconds", "0.01")
    assert about.endswith("PyTorch is not installed")
    assert head.split() == ["nbnorm", "PyTorch", "ratio", "NumPy", "a", "copy"]
    assert re.fullmatch(r"small +training +\d+\.\d\d +- +- +\d+\.\d\d +\d+\.\d\d", train)
    assert re.fullmatch(r"small +inference +\d+\.\d\d +- +- +- +\d+\.\d\d", infer)
    assert len(head) == len(train) == len(infer)


@pytest.mark.skipif(not options.is_compiling(), reason="nothing is compiled")
def test_compare_with_another_library(capsys, monkeypatch):
    small = cli.Warming("small", "batch_norm", {"n": 4, "c": 3, "p": (5, 5)})
    monkeypatch.setattr(cli, "COMPARED", (small,))
    monkeypatch.setattr(cli, "_pytorch_steps", lambda: lambda *_: (lambda: None, lambda: None))
    *_, train, infer = output_of(capsys, "compare", "--seconds", "0.01")
    assert all(len(re.findall(r"\d+\.\d\d", line)) >= 4 for line in (train, infer))
