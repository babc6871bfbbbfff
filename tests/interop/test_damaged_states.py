"""States and files of weights, damaged: they are read, or refused with a word on what is wrong."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbnorm.interop.numpynet import load_weights, save_weights
from nbnorm.interop.state import export_state, import_state
from nbnorm.layers import BatchNorm, Conv2dBatchNorm, Dense, DenseBatchNorm, Flatten, Sequential
from tests.cases.damage import LONG, QUICK, SHORT, drive

FRAMEWORKS = "pytorch", "keras", "flax_linen", "flax_nnx", "onnx"
NAMES = ["conv", "bn", "dense"]


def network():
    return Sequential(
        Conv2dBatchNorm(2, 3, (2, 1), bias=True, rng=0), Flatten(), Dense(12, 2, rng=0)
    )


# --- states -----------------------------------------------------------------------------------


def paths_of(tree, before=()):
    """The mappings of a state and the keys of what is in them, at any depth."""
    for key, value in tree.items():
        yield tree, key
        if isinstance(value, dict):
            yield from paths_of(value, (*before, key))


def with_a_number(value, number):
    changed = np.array(value, float)
    changed.reshape(-1)[:1] = number
    return changed


# What becomes of an entry.
VALUES = {
    "of another shape": lambda value: np.zeros((*np.shape(value), 2)),
    "with an axis less": lambda value: np.zeros(np.shape(value)[1:]),
    "turned": lambda value: np.transpose(np.asarray(value)),
    "a list": lambda value: np.asarray(value).tolist(),
    "a ragged list": lambda _: [[1.0], [2.0, 3.0]],
    "text": lambda _: "weights",
    "bytes": lambda _: b"\0" * 16,
    "nothing": lambda _: None,
    "complex": lambda value: np.asarray(value) + 1j,
    "objects": lambda value: np.asarray(value).astype(object),
    "ints": lambda value: np.ones(np.shape(value), np.int64),
    "bools": lambda value: np.asarray(value) > 0,
    "masked": lambda value: np.ma.masked_array(value, True),
    "float16": lambda value: np.ones(np.shape(value), np.float16),
    "of the other byte order": lambda value: np.asarray(value).astype(">f8"),
    "read only": lambda value: np.broadcast_to(np.float64(0.5), np.shape(value)),
    "a mapping": lambda value: {"value": value},
    "an empty mapping": lambda _: {},
    **{
        f"with {number}": lambda value, number=number: with_a_number(value, number)
        for number in (np.nan, np.inf, -1.0, 1e300, -1e-300)
    },
}
KEYS = st.one_of(
    st.integers(-2, 3), st.none(), st.text(max_size=5), st.just(("a", 1)), st.just("conv.weight")
)
DAMAGE = st.one_of(
    st.tuples(st.just("lost"), st.none()),
    st.tuples(st.just("renamed"), KEYS),
    st.tuples(st.just("added"), KEYS),
    st.tuples(st.just("changed"), st.sampled_from(sorted(VALUES))),
)


def damaged(state, damage):
    """A state with some of its entries lost, renamed, added or changed."""
    for place, (kind, what) in damage:
        places = list(paths_of(state))
        if not places:
            return state
        mapping, key = places[place % len(places)]
        if kind == "added":
            mapping[what] = np.ones(3)
            continue
        value = mapping.pop(key)
        if kind == "renamed":
            mapping[what] = value
        elif kind == "changed":
            # A mapping, or what was changed already, may be no array of floats.
            whole = isinstance(value, np.ndarray) and value.dtype.kind == "f"
            mapping[key] = VALUES[what](value) if whole else None
    return state


def read(framework, damage):
    """Whether a damaged state is taken; if not, it has left the layers as they were."""
    net = network()
    before = net.state_dict()
    state = damaged(export_state(net, framework, NAMES), damage)
    try:
        import_state(net, state, framework, NAMES)
    except (ValueError, TypeError) as error:
        message = str(error)
        assert message.startswith("import_state: ")
        assert len(message) < 2000
        for name, array in net.state_dict().items():
            np.testing.assert_array_equal(array, before[name])
        return False
    assert (net[0].running_var >= 0).all() or np.isnan(net[0].running_var).any()
    return True


def check_state(framework, damage):
    read(framework, damage)


# --- NumPyNet's files -------------------------------------------------------------------------


def flat_network():
    return Sequential(DenseBatchNorm(3, 4, rng=0), BatchNorm(4), Dense(4, 2, rng=0))


def file_of_weights():
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "a.weights")
        save_weights(flat_network(), place)
        return place.read_bytes()


FILE = file_of_weights()


def check_file(places, length):
    content = bytearray(FILE)
    for place, value in places:
        content[place % len(content)] = value
    net = flat_network()
    before = net.state_dict()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "a.weights")
        place.write_bytes(bytes(content)[:length].ljust(length, b"\0"))
        try:
            load_weights(net, place)
        except ValueError as error:
            message = str(error)
            assert message.startswith("load_weights: ")
            assert len(message) < 2000
            for name, array in net.state_dict().items():
                np.testing.assert_array_equal(array, before[name])


KINDS = {
    "states": (
        check_state,
        (
            st.sampled_from(FRAMEWORKS),
            st.lists(st.tuples(st.integers(0, 50), DAMAGE), max_size=2),
        ),
    ),
    "files of NumPyNet": (
        check_file,
        (
            st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), max_size=4),
            st.one_of(st.integers(0, len(FILE) + 50), st.just(len(FILE))),
        ),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_states(kind):
    check, drawn = KINDS[kind]
    QUICK(given(*drawn)(check))()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_states_for_a_while(kind):
    drive(*KINDS[kind], SHORT)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_states_for_long(kind, tally):
    tally(f"damaged {kind}", drive(*KINDS[kind], LONG))


def test_what_is_drawn_is_read_and_refused():
    """The tests above would pass as well if every state was refused."""
    seen = {True: 0, False: 0}

    @settings(QUICK, max_examples=200, database=None, derandomize=True)
    @given(*KINDS["states"][1])
    def count(framework, damage):
        seen[read(framework, damage)] += 1

    count()
    assert min(seen.values()) > 20
