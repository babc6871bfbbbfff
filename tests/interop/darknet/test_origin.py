"""Whose file it is: told by the file, or to be named; never another eps unsaid."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.interop.darknet import load_network
from nbnorm.interop.darknet.dialect import DIALECTS
from nbnorm.interop.darknet.origin import ACTIVATIONS, ANYWHERE, OPTIONS, SECTIONS, TRAINING
from nbnorm.interop.darknet.sections import SECTIONS as KNOWN
from tests.interop.darknet.files import cfg_text, image_cfg, packed, written

NORMALIZED = "convolutional batch_normalize=1 filters=2 activation=linear"
NUMBERS = [0, 0], [1, 1], [0, 0], [1e-5, 1e-6], [1, 2]
ORIGINAL, FORK = (0, 2, 0), (0, 2, 5)


def factors(variance, dialect):
    """By what numbers are multiplied whose weight is 1 and 2."""
    variance = np.asarray(variance)
    root = np.sqrt(variance) + 1e-6 if dialect == "pjreddie" else np.sqrt(variance + 1e-5)
    return np.array([1, 2]) / root


@pytest.mark.parametrize(
    ("version", "dialect"),
    [(ORIGINAL, "pjreddie"), (FORK, "alexeyab"), ((0, 2, 1), "alexeyab")],
)
def test_the_version_of_the_weights_tells(tmp_path, version, dialect):
    cfg = image_cfg(1, 1, 1, NORMALIZED)
    net = load_network(*written(tmp_path, cfg, packed(*NUMBERS, version=version)))
    assert net.dialect == dialect
    y = net(np.ones((1, 1, 1, 1), np.float32))
    np.testing.assert_allclose(y.ravel(), factors([1e-5, 1e-6], dialect), rtol=1e-6)


@pytest.mark.parametrize(
    "section",
    [
        "convolutional activation=mish", "convolutional activation=swish",
        "convolutional stride_x=2", "convolutional size=3 pad=1 dilation=2", "convolutional cbn=1",
        "route layers=-1 groups=2 group_id=1", "maxpool stride_y=2", "shortcut from=0,0",
        "sam from=0", "local_avgpool", "reorg3d", "rnn logistic=1", "crnn pad=1",
        "dropout dropblock=1",
    ],
)  # fmt: skip
def test_what_only_the_fork_knows_tells(tmp_path, section):
    cfg = image_cfg(1, 4, 4, NORMALIZED, "upsample stride=1", section)
    assert load_network(*written(tmp_path, cfg)).dialect == "alexeyab"


@pytest.mark.parametrize(
    "section",
    ["logistic", "l2norm", "shortcut from=0 alpha=1", "reorg extra=1", "gru tanh=1",
     "crnn output_filters=2"],
)  # fmt: skip
def test_what_only_the_original_knows_tells(tmp_path, section):
    cfg = image_cfg(1, 4, 4, NORMALIZED, "upsample stride=1", section)
    assert load_network(*written(tmp_path, cfg)).dialect == "pjreddie"


def test_options_of_training_tell(tmp_path):
    cfg = cfg_text("net channels=1 height=4 width=4 mosaic=1", NORMALIZED)
    assert load_network(*written(tmp_path, cfg)).dialect == "alexeyab"
    cfg = image_cfg(6, 4, 4, "yolo classes=1 iou_loss=ciou")
    assert load_network(*written(tmp_path, cfg)).dialect == "alexeyab"
    # They change no result, and so do not matter where the dialect is said.
    assert load_network(*written(tmp_path, cfg), dialect="pjreddie").dialect == "pjreddie"


@pytest.mark.parametrize(
    ("section", "version", "message"),
    [
        (
            "activation activation=mish",
            ORIGINAL,
            r"activation=mish is alexeyab's only and '.*\.weights': version 0\.2\.0 is pjreddie's",
        ),
        (
            "logistic",
            FORK,
            r"\[logistic\]: the section is pjreddie's only and .* 0\.2\.5 is alexeyab",
        ),
        (
            "sam from=0 dontsave=0",
            None,
            r"\[sam\]: the section is alexeyab's only and .* dontsave= is",
        ),
    ],
)
def test_two_dialects_are_told(tmp_path, section, version, message):
    cfg = image_cfg(1, 1, 1, NORMALIZED, section)
    file = None if version is None else packed(*NUMBERS, version=version)
    with pytest.raises(ValueError, match=rf"is for two dialects: line .*{message}") as caught:
        load_network(*written(tmp_path, cfg, file))
    assert str(caught.value).endswith("; expected dialect='pjreddie' or 'alexeyab'")


def test_a_named_dialect_settles_what_two_versions_tell(tmp_path):
    cfg = image_cfg(1, 1, 1, NORMALIZED, "activation activation=mish")
    paths = written(tmp_path, cfg, packed(*NUMBERS, version=ORIGINAL))
    assert load_network(*paths, dialect="alexeyab").dialect == "alexeyab"


@pytest.mark.parametrize("section", [NORMALIZED, "convolutional cbn=1", "batchnorm", "gru", "lstm"])
@pytest.mark.parametrize("version", [(0, 1, 0), (0, 3, 0), (1, 2, 5), (0, 2, -1)])
def test_nothing_is_told_though_it_matters(tmp_path, section, version):
    paths = written(tmp_path, image_cfg(1, 1, 1, section), packed(*NUMBERS, version=version))
    if "cbn" in section:  # which tells
        return
    message = r"test\.weights': version .* does not tell whose eps and order it is for, and neither"
    with pytest.raises(
        ValueError, match=f"{message} .*; expected dialect='pjreddie' or 'alexeyab'"
    ):
        load_network(*paths)


def test_nothing_is_told_and_nothing_is_missing(tmp_path):
    cfg = image_cfg(1, 1, 1, "convolutional filters=2 batch_normalize=0", "softmax")
    file = packed([0, 0], [1, 2], version=(0, 1, 0))
    file = file[:16] + file[20:]  # `seen` has 32 bits
    np.testing.assert_array_equal(
        load_network(*written(tmp_path, cfg, file))[0].layer.weight.ravel(), [1, 2]
    )


def test_a_network_without_a_file_is_the_original_s(tmp_path):
    """And is so again when it has been saved."""
    (cfg,) = written(tmp_path, image_cfg(1, 1, 1, NORMALIZED))
    net = load_network(cfg, rng=0)
    net.buffers()["0.running_var"][...] = 1e-6
    net.save_weights(tmp_path / "new.weights")
    again = load_network(cfg, tmp_path / "new.weights")
    assert net.dialect == again.dialect == "pjreddie"
    x = np.ones((1, 1, 1, 1), np.float32)
    np.testing.assert_array_equal(net(x), again(x))


@pytest.mark.parametrize(
    ("section", "dialect", "what"),
    [
        ("convolutional activation=mish", "pjreddie", "activation=mish is alexeyab's only"),
        ("yolo classes=1 scale_x_y=1.2", "pjreddie", "scale_x_y= is alexeyab's only"),
        ("shortcut from=-2,-3", "pjreddie", "from= with more than one layer is alexeyab's only"),
        ("convolutional stride_x=1", "pjreddie", "stride_x= is alexeyab's only"),
        ("sam from=0", "pjreddie", "the section is alexeyab's only"),
        ("shortcut from=0 beta=2", "alexeyab", "beta= is pjreddie's only"),
        ("softmax dontsave=1", "alexeyab", "dontsave= is pjreddie's only"),
        ("logistic", "alexeyab", "the section is pjreddie's only"),
        ("reorg extra=1", "alexeyab", "extra= is pjreddie's only"),
    ],
)
def test_a_named_dialect_knows_all_that_changes_the_result(tmp_path, section, dialect, what):
    cfg = image_cfg(6, 4, 4, "dropout", "dropout", "dropout", section)
    other = "alexeyab" if dialect == "pjreddie" else "pjreddie"
    message = rf"test\.cfg', line \d+, layer 3 \[\w+\]: {what}; expected dialect='{other}', or a"
    with pytest.raises(ValueError, match=message):
        load_network(*written(tmp_path, cfg), dialect=dialect)


def test_a_layer_that_is_not_saved(tmp_path):
    """The original would write a file that it cannot read again."""
    for section in ("convolutional dontsave=1", "batchnorm dontsave=1", "connected numload=1"):
        with pytest.raises(ValueError, match="expected 0: not supported"):
            load_network(*written(tmp_path, image_cfg(1, 4, 4, section)))


def test_the_tables_speak_of_known_sections():
    kinds = {"net", *KNOWN}
    assert {*OPTIONS, *TRAINING} <= kinds
    assert set(SECTIONS) <= set(KNOWN)
    dialects = set(DIALECTS.values())
    assert {*SECTIONS.values(), *ACTIVATIONS.values(), *ANYWHERE} <= dialects
    for known in OPTIONS.values():
        assert set(known) <= dialects
        assert not frozenset.intersection(*known.values()) or len(known) == 1
