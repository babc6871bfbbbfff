"""Readers driven with damaged files: they read them, or say in which file and where it is wrong."""

from __future__ import annotations

import string
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbnorm.interop.darknet import Network, load_network
from nbnorm.interop.darknet.origin import ACTIVATIONS, OPTIONS
from nbnorm.interop.darknet.sections import SECTIONS
from tests.cases.damage import LONG, QUICK, SHORT, drive
from tests.interop.darknet.files import image_cfg, written

KEYS = sorted(
    {key for known in OPTIONS.values() for keys in known.values() for key in keys}
    | {
        "activation", "alpha", "anchors", "batch_normalize", "beta", "classes", "coords",
        "crop_height", "crop_width", "filters", "from", "kappa", "layers", "mask", "noadjust",
        "num", "output", "pad", "padding", "reverse", "scale", "shortcut", "side", "size",
        "softmax", "sqrt", "stride", "temperature",
    }
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(-3, 9), st.sampled_from([2**31 - 1, 10**9, -(10**9), 10**30, 65536, 1000])
).map(str)
VALUES = st.one_of(
    NUMBERS,
    st.lists(NUMBERS, max_size=4).map(",".join),
    st.sampled_from(["leaky", "linear", *ACTIVATIONS, ".5", "nan", "inf", "1e400", "-0", "", "x"]),
    st.text(string.printable, max_size=5),
)
BODIES = st.lists(
    st.tuples(
        st.sampled_from(sorted(SECTIONS)),
        st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6),
    ),
    max_size=6,
)
CFG = image_cfg(
    2, 6, 6, "convolutional batch_normalize=1 filters=4 size=3 pad=1 activation=leaky",
    "maxpool size=3", "upsample stride=1", "shortcut from=0", "route layers=-1,0",
    "local filters=2", "batchnorm", "reorg", "rnn output=3 hidden=3", "connected output=7",
    "softmax",
)  # fmt: skip


def load(cfg: bytes, weights: bytes | None = None, **options: object) -> Network | None:
    """The network of two files; None where they are refused as they should be."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a backbone, by chance
        paths = [Path(folder, "a.cfg"), Path(folder, "a.weights")]
        paths[0].write_bytes(cfg)
        paths[1].write_bytes(weights or b"")
        try:
            return load_network(*paths[: 1 if weights is None else 2], rng=0, **options)
        except ValueError as error:
            message = str(error)
            assert message.startswith("load_network: ")
            assert "a.cfg'" in message or "a.weights'" in message
            assert len(message) < 2000
            return None


def text_of(sections: list[tuple[str, dict[str, str]]], net: str) -> str:
    lines = ["[net]", net]
    for kind, options in sections:
        lines += [f"[{kind}]", *(f"{key}={value}" for key, value in options.items())]
    return "\n".join(lines)


def check_sections(sections: list[tuple[str, dict[str, str]]], net: str) -> None:
    network = load(text_of(sections, net).encode(errors="replace"))
    if network is None or sum(a.size for a in network.parameters().values()) > 100_000:
        return
    if any(np.prod(step.shape) > 100_000 for step in network):
        return
    for one in (network, network.fold()):
        y = one(np.ones((2, *network.input_shape), np.float32))
        assert y.shape == (2, *network[-1].shape)


def damaged(text: bytes, places: list[tuple[int, int]]) -> bytes:
    text = bytearray(text)
    for place, value in places:
        text[place % len(text)] = value
    return bytes(text)


def check_text(places: list[tuple[int, int]]) -> None:
    load(damaged(CFG.encode(), places))


def check_bytes(content: bytes) -> None:
    load(content)


def weights_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        (cfg,) = written(Path(folder), CFG)
        net = load_network(cfg, rng=0, batchnorm_biases=False)
        net.save_weights(Path(folder, "a.weights"))
        return Path(folder, "a.weights").read_bytes()


WEIGHTS = weights_file()


def check_weights(places: list[tuple[int, int]], length: int, biases: bool | None) -> None:
    file = damaged(WEIGHTS, places)[:length].ljust(length, b"\0")
    net = load(CFG.encode(), file, batchnorm_biases=biases)
    if net is not None:
        assert all(np.isfinite(array).all() for array in net.parameters().values())


NETS = st.sampled_from(
    ["channels=2\nheight=6\nwidth=5", "inputs=12", "channels=8\nheight=4\nwidth=4"]
)
PLACES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4)
TEXT_PLACES = st.lists(
    st.tuples(st.integers(0, 10**6), st.sampled_from(b"-0=[]#;,. x\n\r\x0b\x00\xff1")), max_size=4
)
LENGTHS = st.one_of(st.integers(0, len(WEIGHTS) + 100), st.just(len(WEIGHTS)))
BIASES = st.sampled_from([None, True, False])

KINDS = {
    "sections": (check_sections, (BODIES, NETS)),
    "text": (check_text, (TEXT_PLACES,)),
    "bytes": (check_bytes, (st.binary(max_size=200),)),
    "weights": (check_weights, (PLACES, LENGTHS, BIASES)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(kind):
    check, drawn = KINDS[kind]
    QUICK(given(*drawn)(check))()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_for_a_while(kind):
    drive(*KINDS[kind], SHORT)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_for_long(kind, tally):
    tally(f"damaged files of darknet, {kind}", drive(*KINDS[kind], LONG))


def test_what_is_drawn_is_read_and_refused():
    """The tests above would pass as well if every file was refused."""
    seen = {True: 0, False: 0}

    @settings(QUICK, max_examples=200, database=None, derandomize=True)
    @given(TEXT_PLACES)
    def count(places):
        seen[load(damaged(CFG.encode(), places)) is None] += 1

    count()
    assert min(seen.values()) > 20
    assert load(CFG.encode(), WEIGHTS) is not None
    assert load(CFG.encode(), WEIGHTS[:-1]) is None
