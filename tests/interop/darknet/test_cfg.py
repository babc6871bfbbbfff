"""The text of a network: what counts, and what is wrong with a bad one."""

from __future__ import annotations

import pytest

from nbnorm.interop.darknet import load_network
from nbnorm.interop.darknet.cfg import read_cfg
from tests.interop.darknet.files import cfg_text, image_cfg, written

CONV = "convolutional filters=4 size=3 pad=1"


def test_white_space_comments_and_second_values_do_not_count(tmp_path):
    text = (
        "\ufeff# a comment\n;another\r\n\n [ net ] # the first\n"
        "  wid th = 4 1 6  \n\theight=32#=rows\nheight=64\n"
        "[conv]\nfilters=255 ; (80 + 5) 3\nactivation = leaky # 0.1\nlayers = -1 , 8\n"
    )
    net, conv = read_cfg(written(tmp_path, text)[0])
    assert (net.kind, net.index, net.line) == ("net", -1, 4)
    assert net.integer("width", 0) == 416
    assert net.integer("height", 0) == 32
    assert (conv.kind, conv.index) == ("convolutional", 0)
    assert conv.integer("filters", 1) == 255
    assert conv.integer("size", 1) == 1
    assert conv.text("activation", "logistic") == "leaky"
    assert conv.integers("layers") == [-1, 8]
    assert conv.integers("mask") == []
    assert conv.real("scale", 0.5) == 0.5


# Which Python takes for ends of lines, or for white space.
SEPARATORS = ["\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


@pytest.mark.parametrize("separator", [*SEPARATORS, "\r"])
def test_lines_end_at_line_feeds_only(tmp_path, separator):
    """A comment goes on after them."""
    (path,) = written(tmp_path, "")
    text = (
        f"[net]\nheight=8\nwidth=8\nchannels=3\n[convolutional]\n# was:{separator}filters=8\n"
        f"filters=4\n#{separator}[dropout]\n"
    )
    path.write_bytes(text.encode())
    (step,) = load_network(path)
    assert step.shape == (4, 8, 8)
    path.write_bytes(text.replace("\n", "\r\n").encode())
    (step,) = load_network(path)
    assert step.shape == (4, 8, 8)


@pytest.mark.parametrize("space", [*SEPARATORS, "\xa0", "\u3000", "\0"])
def test_white_space_is_ascii_s(tmp_path, space):
    (path,) = written(tmp_path, "")
    text = f"[net]\nheight=8\nwidth=8\nchannels=3\n[convolutional]\nfilters={space}4\n"
    path.write_bytes(text.encode())
    message = r"line 5, layer 0 \[convolutional\]: filters is '.*4'; expected an int$"
    with pytest.raises(ValueError, match=message):
        load_network(path)


def test_carriage_returns_are_white_space(tmp_path):
    (path,) = written(tmp_path, "")
    path.write_bytes(b"[net]\r\nhei\rght=8\r\r\nwidth=8\nchannels\r=3\n\r\n[avgpool]\r\n\r")
    assert load_network(path).input_shape == (3, 8, 8)


def test_comments_may_be_in_any_encoding(tmp_path):
    (path,) = written(tmp_path, "")
    path.write_bytes(b"# caf\xe9\n[net]\nheight=1\n[avg]\n")
    assert [section.kind for section in read_cfg(path)] == ["net", "avgpool"]


def test_short_names_of_sections(tmp_path):
    names = ["network inputs=8", "conn output=4 activation=linear", "soft"]
    net = load_network(*written(tmp_path, cfg_text(*names)))
    assert [step.kind for step in net] == ["connected", "softmax"]
    names = ["network channels=1 height=4 width=4", "conv", "max size=2", "avg"]
    net = load_network(*written(tmp_path, cfg_text(*names)))
    assert [step.kind for step in net] == ["convolutional", "maxpool", "avgpool"]


@pytest.mark.parametrize(
    ("section", "shape"),
    [
        ("convolutional", (1, 6, 7)),
        ("convolutional xnor=0 dot=0.0 flipped=0", (1, 6, 7)),
        ("convolutional filters=3 size=3", (3, 4, 5)),
        ("convolutional filters=3 size=3 pad=1", (3, 6, 7)),
        ("convolutional size=3 pad=1 padding=5", (1, 6, 7)),
        ("convolutional size=3 padding=2", (1, 8, 9)),
        ("convolutional size=4 pad=1", (1, 7, 8)),
        ("convolutional size=3 pad=1 stride=2", (1, 3, 4)),
        ("convolutional size=1 pad=1 stride=2", (1, 3, 4)),
        ("convolutional size=3 pad=1 stride=2 stride_x=1", (1, 3, 7)),
        ("convolutional size=3 pad=1 stride_x=3 stride_y=1", (1, 6, 3)),
        ("convolutional size=3 pad=1 dilation=2", (1, 6, 7)),
        ("convolutional size=1 dilation=4", (1, 6, 7)),
        ("maxpool", (2, 6, 7)),
        ("maxpool stride=2", (2, 3, 4)),
        ("maxpool size=2 stride=2", (2, 3, 4)),
        ("maxpool size=2 stride=2 padding=0", (2, 3, 3)),
        ("maxpool size=3 stride=2", (2, 3, 4)),
        ("maxpool size=5 stride=1", (2, 6, 7)),
        ("maxpool size=2 stride_x=2 stride_y=1", (2, 6, 4)),
        ("avgpool", (2, 1, 1)),
        ("upsample", (2, 12, 14)),
        ("upsample stride=3", (2, 18, 21)),
        ("dropout probability=.5", (2, 6, 7)),
        ("l2norm", (2, 6, 7)),
        ("batchnorm", (2, 6, 7)),
        ("softmax", (84,)),
        ("connected output=5", (5,)),
    ],
)
def test_defaults_and_shapes_are_darknets(tmp_path, section, shape):
    net = load_network(*written(tmp_path, image_cfg(2, 6, 7, section)))
    assert net[0].shape == shape


def test_size_takes_the_place_of_the_file_s(tmp_path):
    paths = written(tmp_path, image_cfg(2, 6, 7, "maxpool size=2"))
    assert load_network(*paths, size=9).input_shape == (2, 9, 9)
    assert load_network(*paths, size=(8, 5))[0].shape == (2, 8, 5)


def test_a_printed_network_is_a_table(tmp_path):
    cfg = image_cfg(1, 4, 4, CONV, "convolutional", "route layers=-1,0", "softmax")
    assert repr(load_network(*written(tmp_path, cfg))) == (
        "       input                         1 x 4 x 4\n"
        "    0  convolutional                 4 x 4 x 4\n"
        "    1  convolutional                 1 x 4 x 4\n"
        "    2  route          1, 0           5 x 4 x 4\n"
        "    3  softmax                       80"
    )


def test_a_network_is_a_sequence_of_its_steps(tmp_path):
    net = load_network(*written(tmp_path, image_cfg(1, 4, 4, CONV, "avgpool", "softmax")))
    assert len(net) == 3
    assert [step.kind for step in net] == ["convolutional", "avgpool", "softmax"]
    assert net[-1] is net[2]
    assert list(net.parameters()) == ["0.weight", "0.bias"]
    assert net.parameters()["0.weight"] is net[0].layer.weight
    assert net[1].layer is None


# --- bad files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"test\.cfg' begins with nothing; expected \[net\]"),
        ("# nothing\n", r"begins with nothing; expected \[net\]"),
        ("\n[convolutional]\n", r"begins with \[convolutional\] in line 2; expected \[net\]"),
        ("[net]\nheight=2\n", r"line 1, \[net\]: no section follows"),
        ("height=2\n[net]\n", r"line 1: 'height=2' before any section"),
        ("[net\n", r"line 1: '\[net'; expected \[section\]"),
        ("[net] height=2\n", r"line 1: '\[net\] height=2'; expected \[section\]"),
        ("[net]\nheight\n", r"line 2, \[net\]: 'height'; expected key=value"),
        ("[net]\nheight=\n", r"line 2, \[net\]: 'height='; expected key=value"),
        ("[net]\n[avgpool]\n=3\n", r"line 3, layer 0 \[avgpool\]: '=3'; expected key=value"),
    ],
)
def test_what_is_no_cfg(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"load_network: .*{message}"):
        load_network(*written(tmp_path, text))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        ("net", "there is no input; expected channels, height and width, or inputs"),
        ("net height=4 width=4", "there is no input"),
        ("net height=4 width=4 channels=-1", "channels is -1; expected 0 or more"),
        ("net height=4 width=4.5 channels=1", "width is '4.5'; expected an int"),
        ("net height=4 width=4 channels=1 inputs=9", "inputs is 9; expected .* which is 16"),
    ],
)
def test_what_is_no_input(tmp_path, net, message):
    with pytest.raises(ValueError, match=rf"line 1, \[net\]: {message}"):
        load_network(*written(tmp_path, cfg_text(net, "softmax")))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("deconvolutional", r"not known; expected one of \['Gaussian_yolo', 'activation', "),
        ("convolutional filters=many", "filters is 'many'; expected an int"),
        ("convolutional filters=0", "filters is 0; expected 1 or more"),
        ("convolutional size=0", "size is 0; expected 1 or more"),
        ("convolutional stride=0", "strides are 0 and 0; expected 1 or more"),
        ("convolutional stride_x=-1", "strides are 1 and -1; expected 1 or more"),
        ("convolutional padding=-1", "padding is -1; expected 0 or more"),
        ("convolutional size=7", r"the output would be of shape \(1, -1, -1\)"),
        ("convolutional groups=2", "groups is 2; expected a divisor of 4 channels and 1 filters"),
        ("convolutional groups=3 filters=3", "groups is 3; expected a divisor of 4 channels"),
        ("convolutional activation=sinh", r"activation is 'sinh'; expected one of \['elu', 'gelu'"),
        ("convolutional size=3 dilation=2", "dilation is 2 and padding 0; expected pad=1"),
        ("convolutional size=4 pad=1 dilation=2", "dilation is 2 and padding 2; expected pad=1"),
        ("convolutional xnor=1", "xnor is '1'; expected 0: not supported"),
        ("convolutional flipped=1", "flipped is '1'; expected 0: not supported"),
        ("convolutional dontload=1", "dontload is '1'; expected 0: not supported"),
        ("connected output=0", "output is 0; expected 1 or more"),
        ("connected activation=stairs", "activation is 'stairs'"),
        ("shortcut activation=linear", "from is missing"),
        ("shortcut from=1", "there is no layer 1 before this one"),
        ("shortcut from=-2", "there is no layer -1 before this one"),
        ("shortcut from=-1 weights_type=per_channel", "weights_type is 'per_channel'"),
        ("shortcut from=-1 activation=Tanh", "activation is 'Tanh'"),
        ("shortcut from=a", "from is 'a'; expected ints"),
        ("shortcut from=0,,0", "from is ''; expected ints"),
        ("shortcut from=0,", "from is '0,'; expected a number after the last comma"),
        ("route layers=-1,0,", "layers is '-1,0,'; expected a number after the last comma"),
        ("yolo mask=0,", "mask is '0,'; expected a number after the last comma"),
        ("shortcut from=-1 alpha=nan", "alpha is nan; expected a finite number"),
        ("route", "layers is missing"),
        ("route layers=0,2", "there is no layer 2 before this one"),
        ("route layers=-1 groups=3", "groups is 3; expected a divisor of 4"),
        ("route layers=-1 groups=2 group_id=2", "group_id is 2; expected less than 2"),
        ("maxpool size=2 padding=-1", "padding is -1; expected 0 or more"),
        ("maxpool size=9 padding=0", r"the output would be of shape \(4, -3, -3\)"),
        ("maxpool maxpool_depth=1", "maxpool_depth is '1'; expected 0"),
        ("upsample stride=0", "stride is 0; expected not 0"),
        ("upsample stride=-2", "stride is -2; expected .* a divisor of 5 and 5 if negative"),
        ("upsample scale=big", "scale is 'big'; expected a number"),
        ("softmax groups=3", "groups is 3; expected a divisor of 100"),
        ("softmax temperature=0", "temperature is 0.0; expected more than 0"),
        ("softmax tree=a.tree", "tree is 'a.tree'; expected none: not supported"),
        ("convolutional share_index=0", "share_index is '0'; expected none: not supported"),
        ("convolutional dot=.5", "dot is '.5'; expected 0: not supported"),
        ("convolutional filters=1_0", "filters is '1_0'; expected an int"),
        ("convolutional filters=\u0663", "filters is .*; expected an int"),
        ("upsample scale=1_0", "scale is '1_0'; expected a number"),
        (
            "yolo classes=3",
            r"what comes before has 4 channels; expected 1 \(5 \+ 3\) = 8, by mask and classes",
        ),
        ("yolo num=2 mask=0,2", r"mask is \[0, 2\]; expected numbers below num = 2"),
    ],
)
def test_what_a_section_cannot_be(tmp_path, section, message):
    cfg = image_cfg(1, 5, 5, CONV, section)
    with pytest.raises(ValueError, match=rf"line 11, layer 1 \[\w+\]: {message}"):
        load_network(*written(tmp_path, cfg))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (["convolutional stride=2", "shortcut from=-1", "route layers=0,-1"], None),
        (["maxpool stride=2", CONV, "route layers=-1,-2"], None),
        (
            [CONV, "maxpool stride=2", "route layers=0,1"],
            r"shapes are \[\(4, 6, 6\), \(4, 3, 3\)\]",
        ),
        ([CONV, "maxpool size=3 padding=0", "shortcut from=-2"], None),
        ([CONV, "maxpool stride_x=2", "shortcut from=-2"], r"\(4, 6, 3\) before and \(4, 6, 6\)"),
        (["softmax", "convolutional"], "what comes before is 36 numbers; expected an image"),
        (["softmax", "maxpool"], "what comes before is 36 numbers; expected an image"),
        (["connected output=3", "convolutional"], None),
        ([CONV, "connected output=3", "shortcut from=-2"], None),
        (["connected output=3", CONV, "shortcut from=-2"], None),
    ],
)
def test_shapes_that_do_not_follow(tmp_path, sections, message):
    paths = written(tmp_path, image_cfg(1, 6, 6, *sections))
    if message is None:  # these do
        load_network(*paths)
        return
    with pytest.raises(ValueError, match=message):
        load_network(*paths)


def test_numbers_are_no_image(tmp_path):
    with pytest.raises(ValueError, match=r"layer 0 \[convolutional\]: .* is 8 numbers; expected"):
        load_network(*written(tmp_path, cfg_text("net inputs=8", "convolutional")))


def test_damaged_files_are_refused_or_read(tmp_path, rng):
    """Nothing but a ValueError, whatever a character becomes."""
    cfg = image_cfg(
        2, 6, 6, CONV + " batch_normalize=1 activation=leaky", "maxpool size=2", "upsample",
        "shortcut from=0", "route layers=-1,0", "connected output=7", "batchnorm", "softmax",
    )  # fmt: skip
    (path,) = written(tmp_path, cfg)
    messages = []
    for _ in range(500):
        text = list(cfg)
        for place in rng.integers(len(text), size=2):
            text[place] = rng.choice(list("-0=[]#;,. x\n"))
        path.write_text("".join(text), encoding="utf-8")
        try:
            load_network(path)
        except ValueError as error:
            messages.append(str(error))
    assert 100 < len(messages) < 500
    assert all(message.startswith(f"load_network: {str(path)!r}") for message in messages)
