"""``nbnorm darknet``."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from nbnorm import cli
from nbnorm.interop.darknet import load_network
from tests.interop.darknet.files import cfg_text, image_cfg, packed, written

DETECTOR = image_cfg(
    3, 8, 8, "convolutional filters=6 size=3 pad=1 activation=linear",
    "yolo classes=1 num=1 anchors=4,4",
)  # fmt: skip


def output_of(capsys, *arguments):
    assert cli.main(["darknet", *map(str, arguments)]) == 0
    return capsys.readouterr().out.split("\n")


def test_layers_shapes_parameters_and_operations(tmp_path, capsys):
    cfg = image_cfg(
        3, 8, 8, "convolutional batch_normalize=1 filters=4 size=3 pad=1 activation=leaky",
        "maxpool stride=2", "route layers=0", "rnn output=5 hidden=5", "connected output=2",
        "softmax",
    )  # fmt: skip
    lines = output_of(capsys, *written(tmp_path, cfg))
    assert lines[0] == "dialect: pjreddie"
    assert lines[2].split() == ["layer", "kind", "of", "gives", "parameters", "MFLOPs"]
    assert lines[3].split() == ["input", "3", "x", "8", "x", "8"]
    rows = [line.split() for line in lines[4:10]]
    weights = 4 * 3 * 9
    assert rows[0] == ["0", "convolutional", "4", "x", "8", "x", "8", str(weights + 16), "0.0"]
    assert rows[1] == ["1", "maxpool", "4", "x", "4", "x", "4"]
    assert rows[2] == ["2", "route", "0", "4", "x", "8", "x", "8"]
    recurrent = 5 * 256 + 5 * 5 + 5 * 5
    assert rows[3] == ["3", "rnn", "5", f"{recurrent + 15:,}", "0.0"]
    assert rows[4] == ["4", "connected", "2", "12", "0.0"]
    assert rows[5] == ["5", "softmax", "2"]
    assert lines[10].split() == ["all", f"{weights + 16 + recurrent + 15 + 12:,}", "0.0"]
    assert re.fullmatch(r"ran on noise in \d+\.\d ms", lines[12])
    assert re.fullmatch(r" +5  softmax +from 0\.\d+ to 0\.\d+", lines[13])


def test_operations_are_two_a_multiplication(tmp_path):
    cfg = image_cfg(
        4, 9, 9, "convolutional filters=6 size=3 stride=2 pad=1 groups=2", "local filters=2 size=2",
        "connected output=3", "lstm output=2", "crnn output=2",
    )  # fmt: skip
    (path,) = written(tmp_path, cfg.replace("[crnn]\noutput=2\n", ""))
    steps = load_network(path)
    convolution, local, connected, lstm = (step.flops for step in steps)
    assert convolution == 2 * 6 * 2 * 9 * 5 * 5
    assert local == 2 * 2 * 6 * 4 * 4 * 4
    assert connected == 2 * 3 * 32
    assert lstm == 2 * 4 * (2 * 3 + 2 * 2)
    (path,) = written(tmp_path, image_cfg(2, 3, 4, "crnn output=5 hidden=4 pad=1"))
    assert load_network(path)[0].flops == 2 * 9 * (4 * 2 + 4 * 4 + 5 * 4) * 3 * 4


def test_a_file_of_weights_is_read(tmp_path, capsys):
    cfg = cfg_text(
        "net inputs=2", "connected output=1 activation=linear", "activation activation=mish"
    )
    lines = output_of(capsys, *written(tmp_path, cfg, packed(100, 0, 0, version=(0, 2, 5))))
    assert lines[0] == "dialect: alexeyab"
    assert lines[-2].split() == ["1", "activation", "from", "100", "to", "100"]


def test_a_backbone_is_told_of(tmp_path, capsys):
    cfg = cfg_text("net inputs=2", "connected output=1", "connected output=9")
    lines = output_of(capsys, *written(tmp_path, cfg, packed(0, 0, 0)))
    assert "has the numbers of 1 layers of 2, the first; the others start random" in lines[0]
    assert lines[0].startswith("warning: load_network: ")


# A box where the picture is white.
WEIGHTS = np.zeros((6, 3, 3, 3))
WEIGHTS[4, 0, 1, 1] = 12
NUMBERS = [0, 0, 0, 0, -6, 9], WEIGHTS


def spot(path, width, height, *, at):
    """A black picture with a white pixel."""
    picture = Image.new("RGB", (width, height))
    picture.putpixel(at, (255, 255, 255))
    picture.save(path)
    return path


def test_boxes_on_a_picture(tmp_path, capsys):
    paths = written(tmp_path, DETECTOR, packed(*NUMBERS))
    picture = spot(tmp_path / "in.png", 8, 8, at=(3, 5))
    names = tmp_path / "names"
    names.write_bytes("first\u2028line\n".encode())
    drawn = tmp_path / "out.png"
    lines = output_of(capsys, *paths, picture, "--output", drawn, "--names", names)
    found = lines.index("1 box")
    assert f"ran on {picture}, 8 x 8, in " in lines[found - 1]
    assert lines[found + 1] == "   99.7%  first\u2028line          from 1, 3 to 5, 7"
    assert lines[found + 2] == f"drawn to {drawn}"
    with Image.open(drawn) as changed:
        assert changed.size == (8, 8)
        assert changed.getpixel((5, 7)) != (0, 0, 0)
        assert changed.getpixel((7, 0)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("version", "net", "letterbox"),
    [((0, 2, 0), "", True), ((0, 2, 5), "", False), ((0, 2, 5), "letter_box=1", True)],
)
def test_boxes_in_a_letterbox(tmp_path, capsys, version, net, letterbox):
    """The original keeps a picture's proportions, the fork if it is told to."""
    cfg = DETECTOR.replace("[net]", f"[net]\n{net}")
    paths = written(tmp_path, cfg, packed(*NUMBERS, version=version))
    picture = spot(tmp_path / "in.png", 8, 4, at=(3, 1))
    options = ["--output", tmp_path / "out.png", "--threshold", 0.9, "--overlap", 0]
    lines = output_of(capsys, *paths, picture, *options)
    (found,) = (line for line in lines if "class 0" in line)
    assert found.endswith("from 1, 0 to 5, 3" if letterbox else "from 1, 0 to 5, 2")


def test_classes_of_a_picture(tmp_path, capsys):
    cfg = image_cfg(3, 4, 4, "connected output=7 activation=linear")
    paths = written(tmp_path, cfg, packed(range(7), np.zeros(7 * 48)))
    Image.new("RGB", (5, 5)).save(tmp_path / "in.png")
    names = tmp_path / "names"
    names.write_text("a\nb\nc\nd\ne\nf\n")
    lines = output_of(capsys, *paths, tmp_path / "in.png", "--names", names)
    assert lines[-6:-1] == [
        "    6.0000  class 6", "    5.0000  f", "    4.0000  e", "    3.0000  d", "    2.0000  c",
    ]  # fmt: skip


def test_another_size(tmp_path, capsys):
    lines = output_of(capsys, *written(tmp_path, DETECTOR), "--size", 16)
    assert "6 x 16 x 16" in lines[5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.cfg"], "No such file"),
        (["test.cfg", "none.weights"], "No such file"),
        (["test.cfg", "test.weights"], r"biases at byte 20 has 0 bytes to the end; expected 24"),
        (["test.weights"], r"line 1: .* before any section; expected \[net\]"),
        (["test.cfg", "full.weights", "none.png"], "No such file"),
        (["test.cfg", "full.weights", "test.cfg"], "cannot identify image file"),
        (
            ["test.cfg", "full.weights", "in.png", "--threshold", "-1"],
            "threshold is -1.0; expected",
        ),
        (["test.cfg", "full.weights", "in.png", "--output", "a.none"], "unknown file extension"),
        (["test.cfg", "--size", "0"], "size is 0; expected an int of 1 or more"),
        (["test.cfg", "--names", "none"], None),
    ],
)
def test_what_is_wrong_ends_it_with_a_message(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, DETECTOR, packed())
    (tmp_path / "full.weights").write_bytes(packed(np.zeros(6 + 6 * 27)))
    Image.new("RGB", (5, 5)).save("in.png")
    with pytest.raises(SystemExit, match=message) as caught:
        cli.main(["darknet", *arguments])
    assert str(caught.value.code).startswith("nbnorm darknet: ")


def test_a_table_of_a_folder(tmp_path, capsys):
    written(tmp_path, DETECTOR)[0].rename(tmp_path / "a.cfg")
    written(tmp_path, "")[0].rename(tmp_path / "b.cfg")
    written(tmp_path, image_cfg(3, 8, 8, "avgpool", "deconvolutional"))[0].rename(
        tmp_path / "c.cfg"
    )
    written(tmp_path, cfg_text("net inputs=3", "gru output=2"))[0].rename(tmp_path / "d.cfg")
    written(tmp_path, image_cfg(3, 8, 8, "crop crop_height=7 crop_width=7", "empty"))[0].rename(
        tmp_path / "e.cfg"
    )
    (tmp_path / "f.txt").write_text("no network")
    head, line, *rows = output_of(capsys, tmp_path, "--size", 4)
    assert head == "| file | dialect | layers | parameters | GFLOPs | runs |"
    assert line == "| --- | --- | ---: | ---: | ---: | --- |"
    assert rows[0] == "| `a.cfg` | either | 2 | 168 | 0.00 | 3 x 4 x 4 to 6 x 4 x 4 |"
    assert rows[1].startswith("| `b.cfg` | | | | | no: ")
    assert rows[2] == "| `c.cfg` | | | | | no: line 8, layer 1 [deconvolutional]: not known |"
    assert rows[3] == "| `d.cfg` | either | 1 | 42 | 0.00 | 3 to 2 |"
    assert rows[4] == "| `e.cfg` | alexeyab | 2 | 0 | 0.00 | 3 x 8 x 8 to 3 x 7 x 7 |"
    assert rows[5:] == ["", "3 of 5 load and run.", ""]
