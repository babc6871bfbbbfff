"""Files that ask for more than they hold, or for more than there is: refused before it is taken."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc

import pytest

from nbnorm.interop.darknet import load_network
from nbnorm.interop.darknet.cfg import MOST_BYTES
from nbnorm.interop.darknet.files import MOST_NUMBERS
from tests.interop.darknet.files import cfg_text, image_cfg, packed, written

MOST_MEMORY = 4 << 20  # of bytes, while a file is refused
MOST_MESSAGE = 2000  # of characters, the paths included


def refusal(*arguments, **options):
    """The message of a ValueError that takes neither memory nor long to come."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"^load_network: ") as caught:
            load_network(*arguments, **options)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST_MEMORY
    message = str(caught.value)
    assert len(message) < MOST_MESSAGE
    assert str(arguments[0]) in message or str(arguments[1]) in message
    return message


@pytest.mark.parametrize(
    "section",
    [
        "convolutional filters=1000000000",
        "convolutional filters=100000 size=201 pad=1",
        "convolutional size=1000000000 pad=1",
        "convolutional size=3 dilation=1000000000 pad=1",
        "convolutional padding=1000000000",
        "convolutional size=1000000000 padding=1000000000",
        "convolutional padding=1000000000 stride=1000000000",
        "crnn size=3 padding=1000000000 stride=1000000000",
        "connected output=1000000000",
        "connected output=100000000",
        "local filters=1000000000",
        "local filters=2000 size=60",
        "maxpool padding=1000000000",
        "upsample stride=1000000000",
        "upsample stride=-1000000000",
        "reorg stride=1000000000",
        "reorg stride=1000000000 reverse=1",
        "reorg extra=1000000000",
        "reorg3d stride=1000000000",
        "crop crop_height=1000000000",
        "normalization size=1000000000",
        "softmax groups=1000000000",
        "yolo num=1000000000",
        "yolo classes=1000000000",
        "Gaussian_yolo num=1000000000",
        "region num=1000000000",
        "detection side=1000000000 coords=4",
        "rnn hidden=1000000000 output=1",
        "rnn output=1000000000 logistic=0",
        "gru output=100000",
        "lstm output=100000",
        "crnn hidden=1000000000 pad=1",
        "crnn output=1000000000 pad=1",
        "crnn hidden=100000 pad=1",
        "convolutional filters=2147483648",
        "convolutional filters=99999999999999999999999999",
        f"convolutional filters={'9' * 5000}",
    ],
)
@pytest.mark.parametrize("numbers", [None, [1, 2, 3]])
def test_numbers_beyond_bounds(tmp_path, section, numbers):
    file = None if numbers is None else packed(*numbers)
    refusal(*written(tmp_path, image_cfg(4, 64, 64, section), file), dialect=None)


@pytest.mark.parametrize(
    "net",
    [
        "net channels=1000000000 height=2 width=2",
        "net channels=3 height=100000 width=100000",
        "net channels=2000000000 height=2000000000 width=2000000000",
        "net inputs=1000000000",
        "net inputs=1000000000 channels=10 height=10000 width=10000",
    ],
)
def test_an_input_beyond_bounds(tmp_path, net):
    message = refusal(*written(tmp_path, cfg_text(net, "convolutional")))
    assert f"numbers; expected at most {MOST_NUMBERS}" in message


def test_layers_that_are_too_large_together(tmp_path):
    cfg = cfg_text("net inputs=10000", *["connected output=10000"] * 6)
    message = refusal(*written(tmp_path, cfg))
    assert (
        "layer 5 [connected]: weights would be of shape (10000, 10000), and all layers" in message
    )


def test_a_long_file_is_not_read(tmp_path):
    (path,) = written(tmp_path, "[net]\n" + "#" * MOST_BYTES)
    message = f"has {MOST_BYTES + 6} bytes; expected a cfg of at most {MOST_BYTES}"
    assert message in refusal(path)


@pytest.mark.parametrize(
    "cfg",
    [
        image_cfg(1, 2, 2, f"convolutional activation={'x' * 500_000}"),
        image_cfg(1, 2, 2, f"convolutional filters={'x' * 500_000}"),
        image_cfg(1, 2, 2, f"convolutional xnor={'x' * 500_000}"),
        image_cfg(1, 2, 2, f"softmax tree={'x' * 500_000}"),
        image_cfg(1, 2, 2, f"{'x' * 500_000}"),
        image_cfg(1, 2, 2, f"{'x' * 500_000} activation=mish", "logistic"),
        image_cfg(1, 2, 2, f"route layers={'0,' * 200_000}0"),
        image_cfg(1, 2, 2, "dropout", f"route layers={'0,' * 1000}9"),
        image_cfg(1, 2, 2, "dropout", "maxpool stride=2", f"route layers={'0,' * 1000}1"),
        image_cfg(1, 2, 2, "dropout", f"shortcut from={'0,' * 200_000}0"),
        image_cfg(1, 2, 2, f"yolo num=1 mask={'9,' * 1000}9"),
        image_cfg(1, 2, 2, f"yolo num=1 anchors={'9,' * 200_000}9"),
        "[net]\n" + "x" * 500_000,
        "x" * 500_000,
        "[" + "x" * 500_000,
        "[" + "x" * 500_000 + "]",
        "[net]" + "x" * 500_000,
    ],
)
def test_messages_are_short(tmp_path, cfg):
    refusal(*written(tmp_path, cfg))


def test_sources_are_counted_before_they_are_read(tmp_path):
    """Two million of them took 20 seconds."""
    cfg = image_cfg(1, 2, 2, "dropout", f"shortcut from={'x,' * 500_000}x")
    message = refusal(*written(tmp_path, cfg))
    assert "layer 1 [shortcut]: from has 500001 numbers; expected at most 1024" in message


# --- what is no regular file ----------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_not_waited_for(tmp_path):
    cfg, _ = written(tmp_path, image_cfg(1, 1, 1, "connected"), b"")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert f"{str(pipe)!r} is no regular file" in refusal(cfg, pipe)
    assert f"{str(pipe)!r} is no regular file" in refusal(pipe)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
@pytest.mark.skipif(os.name == "nt", reason="no such devices here")
def test_a_device_is_not_read(tmp_path, device):
    (cfg,) = written(tmp_path, image_cfg(1, 1, 1, "connected"))
    assert "is no regular file; expected one" in refusal(cfg, device)
    assert "is no regular file; expected one" in refusal(device)


def test_a_folder(tmp_path):
    (cfg,) = written(tmp_path, image_cfg(1, 1, 1, "connected"))
    assert "is no regular file; expected one" in refusal(cfg, tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="files are not sparse by themselves here")
def test_a_sparse_file_is_not_read(tmp_path):
    cfg, file = written(tmp_path, image_cfg(1, 1, 1, "connected"), packed(1, 2))
    os.truncate(file, 1 << 40)
    message = f"the last, ends at byte 28 and {(1 << 40) - 28} bytes follow; expected none"
    assert message in refusal(cfg, file)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is told by /proc")
def test_a_file_s_length_is_compared_first(tmp_path):
    """Weights for 200 MB that are not there, in an address space that would not hold them."""
    cfg = cfg_text("net inputs=10000", "connected output=5000")
    paths = written(tmp_path, cfg, packed(1, 2, 3))
    code = (
        "import resource, sys\n"
        "from nbnorm.interop.darknet import load_network\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)\n"
        "try:\n"
        "    load_network(*sys.argv[1:])\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths)], check=True, capture_output=True, text=True
    )
    assert "biases at byte 20 has 12 bytes to the end; expected 20000" in run.stdout
