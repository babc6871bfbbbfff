"""Which darknet a file is for: told by what only one of them knows, or writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from nbnorm import checks
from nbnorm.interop.darknet.cfg import Section
from nbnorm.interop.darknet.dialect import DIALECTS, FORK, ORIGINAL, Dialect
from nbnorm.interop.darknet.files import FUNCTION
from nbnorm.interop.darknet.weights import Reader

# Known to one of them only. The other skips a section that it does not know, or takes relu for an
# activation, with a line on the terminal.
SECTIONS: Mapping[str, Dialect] = {
    **dict.fromkeys(("logistic", "l2norm"), ORIGINAL),
    **dict.fromkeys(
        ("sam", "scale_channels", "Gaussian_yolo", "reorg3d", "local_avgpool", "empty"), FORK
    ),
}
ACTIVATIONS: Mapping[str, Dialect] = dict.fromkeys(
    ("swish", "mish", "hard_mish", "relu6", "gelu", "revleaky"), FORK
)

# Options that change what is computed or stored.
OPTIONS: Mapping[str, Mapping[Dialect, frozenset[str]]] = {
    "convolutional": {
        FORK: frozenset({
            "antialiasing", "bin_output", "cbn", "coordconv", "dilation", "reverse", "rotate",
            "share_index", "stretch", "stretch_sway", "stride_x", "stride_y", "sway",
        }),
    },
    "crnn": {
        ORIGINAL: frozenset({"hidden_filters", "output_filters"}),
        FORK: frozenset({
            "dilation", "groups", "hidden", "output", "pad", "padding", "size", "stride", "xnor",
        }),
    },
    "gru": {ORIGINAL: frozenset({"tanh"})},
    "maxpool": {
        FORK: frozenset({
            "antialiasing", "maxpool_depth", "maxpool_zero_nonmax", "out_channels", "stride_x",
            "stride_y",
        }),
    },
    "region": {ORIGINAL: frozenset({"background"})},
    "reorg": {ORIGINAL: frozenset({"extra", "flatten"})},
    "rnn": {FORK: frozenset({"logistic"})},
    "route": {FORK: frozenset({"group_id", "groups"})},
    "shortcut": {
        ORIGINAL: frozenset({"alpha", "beta"}),
        FORK: frozenset({"weights_normalization", "weights_type"}),
    },
    "yolo": {FORK: frozenset({"new_coords", "scale_x_y"})},
}  # fmt: skip
ANYWHERE: Mapping[Dialect, frozenset[str]] = {ORIGINAL: frozenset({"dontsave", "numload"})}

# Options of the fork that do nothing to a network that is not trained, and tell all the same.
TRAINING: Mapping[str, frozenset[str]] = {
    "convolutional": frozenset({"assisted_excitation", "grad_centr", "stream", "wait_stream"}),
    "detection": frozenset({"resize"}),
    "dropout": frozenset({"dropblock", "dropblock_size_abs", "dropblock_size_rel"}),
    "net": frozenset({
        "adversarial_lr", "attention", "augment_speed", "blur", "contrastive", "contrastive_color",
        "contrastive_jit_flip", "cutmix", "dynamic_minibatch", "ema_alpha", "gaussian_noise",
        "label_smooth_eps", "letter_box", "loss_scale", "mixup", "mosaic", "mosaic_bound",
        "optimized_memory", "resize_step", "sgdr_cycle", "sgdr_mult", "show_receptive_field",
        "track", "try_fix_nan", "unsupervised", "use_cuda_graph",
    }),
    "region": frozenset({"focal_loss", "resize"}),
    "route": frozenset({"stream", "wait_stream"}),
    "yolo": frozenset({
        "beta_nms", "cls_normalizer", "counters_per_class", "delta_normalizer", "dets_for_show",
        "dets_for_track", "embedding_layer", "focal_loss", "iou_loss", "iou_normalizer",
        "iou_thresh", "iou_thresh_kind", "label_smooth_eps", "max_delta", "nms_kind",
        "obj_normalizer", "objectness_smooth", "resize", "show_details", "sim_thresh",
        "track_ciou_norm", "track_history_size",
    }),
}  # fmt: skip

# What differs between the two in these: eps, or the order in a file.
_DIFFERENT = frozenset({"batchnorm", "gru", "lstm"})


class Sign(NamedTuple):
    """What tells a dialect, and where it stands."""

    dialect: Dialect
    what: str
    changes_results: bool

    def __str__(self) -> str:
        return f"{self.what} is {self.dialect.name}'s only"


def signs(sections: Sequence[Section]) -> Iterator[Sign]:
    """Yield all that tells for whom a cfg was written."""
    for section in sections:
        kind, place = section.kind, f"line {section.line}, {section}"
        if kind in SECTIONS:
            yield Sign(SECTIONS[kind], f"{place}: the section", True)
        activation = section.text("activation", "")
        if activation in ACTIVATIONS:
            yield Sign(ACTIVATIONS[activation], f"{place}: activation={activation}", True)
        for known in (OPTIONS.get(kind, {}), ANYWHERE):
            for dialect, keys in known.items():
                for key in sorted(keys & section.options.keys()):
                    yield Sign(dialect, f"{place}: {key}=", True)
        if kind == "shortcut" and "," in section.text("from", ""):  # the original takes the first
            yield Sign(FORK, f"{place}: from= with more than one layer", True)
        for key in sorted(TRAINING.get(kind, frozenset()) & section.options.keys()):
            yield Sign(FORK, f"{place}: {key}=", False)


def dialect_of(sections: Sequence[Section], reader: Reader | None) -> Dialect:
    """Return the dialect that a cfg and the version in a file of weights tell.

    Without a file of weights, a cfg that both read alike is taken for the original's: its layers
    start random, and `save_weights` writes the version that tells it.

    Raises
    ------
    ValueError
        Two dialects are told; or none, where it makes a difference to what the weights mean.
    """
    told: dict[str, Sign] = {}
    for sign in signs(sections):
        told.setdefault(sign.dialect.name, sign)
    if reader is not None and reader.header.dialect is not None:
        writer = reader.header.dialect
        version = "version {}.{}.{}".format(*reader.header)
        told.setdefault(writer.name, Sign(writer, f"{str(reader.path)!r}: {version}", False))
    if len(told) == 1:
        return DIALECTS[next(iter(told))]
    path = str(sections[0].path)
    if told:
        raise ValueError(
            f"{FUNCTION}: {path!r} is for two dialects: {' and '.join(map(str, told.values()))}; "
            f"expected dialect={_names()}"
        )
    if reader is not None and any(map(_depends, sections)):
        version = "{}.{}.{}".format(*reader.header)
        raise ValueError(
            f"{FUNCTION}: {str(reader.path)!r}: version {version} does not tell whose eps and order"
            f" it is for, and neither does {path!r}; expected dialect={_names()}"
        )
    return ORIGINAL


def named_dialect(name: str, sections: Sequence[Section]) -> Dialect:
    """Return a dialect by name, checked to know all that a cfg has.

    Raises
    ------
    ValueError
        There is no such dialect, or it does not know something that changes the result.
    """
    if name not in DIALECTS:
        raise checks.wrong_value(FUNCTION, "dialect", name, f"one of {list(DIALECTS)}")
    chosen = DIALECTS[name]
    for sign in signs(sections):
        if sign.changes_results and sign.dialect is not chosen:
            path = str(sections[0].path)
            raise ValueError(
                f"{FUNCTION}: {path!r}, {sign}; expected dialect={sign.dialect.name!r}, or a file "
                f"without it"
            )
    return chosen


def _depends(section: Section) -> bool:
    if section.kind in _DIFFERENT:
        return True
    return any(section.text(key, "0") != "0" for key in ("batch_normalize", "cbn"))


def _names() -> str:
    return " or ".join(map(repr, DIALECTS))
