"""Bad input: every function, every argument, every way to be wrong, and the odd ways to be right.

What is wrong raises the documented error, which names function, argument, what was given and what
was expected, and writes nothing. What is odd and right gives what the reference gives; where a
function has no reference (layers), what it gives for plain arrays.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import nbnorm
from nbnorm import layers
from tests.robustness import arguments, layer_arguments, page
from tests.robustness.arguments import SIZES, Function
from tests.robustness.kinds import Given

pytestmark = pytest.mark.variant  # float64 throughout

TABLE = [*arguments.TABLE, *layer_arguments.TABLE]
ARGUMENTS = [(function, name) for function in TABLE for name in function.arguments]


def letters_of(function: Function) -> str:
    """The sizes that a function's arrays have, but for those that follow from others."""
    kinds = function.arguments.values()
    letters = {letter for kind in kinds for letter in getattr(kind, "letters", "")}
    return "".join(sorted(letters - {"i", "j"}))


# Float64 throughout: sums of at most 50 numbers of about 1, the worst some 100 roundings off.
TOLERANCE = {"rtol": 1e-11, "atol": 1e-12}
# With float32 for a parameter, or for all.
NARROW = {"rtol": 1e-4, "atol": 1e-5}


def arrays_in(value: Any) -> list[Any]:
    """All arrays in a value, however deep; of an array in larger memory, all that memory."""
    if isinstance(value, np.ndarray):
        return [value.base if isinstance(value.base, np.ndarray) else value]
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        return [array for item in value for array in arrays_in(item)]
    if isinstance(value, layers.Layer):
        return arrays_in((value.parameters(), value.buffers(), value.gradients()))
    return []


def results_in(value: Any) -> list[Any]:
    """The arrays and floats that were returned, in order, but for those of a context."""
    if isinstance(value, (np.ndarray, float)):
        return [value]
    if isinstance(value, tuple) and not type(value).__name__.endswith("Context"):
        return [array for item in value for array in results_in(item)]
    return []


def fault(function: Function, given: Given) -> str | None:
    """Call with what was given; say what is amiss."""
    layer = None if function.layer is None else function.layer()
    taken = function.draw()
    given.put(taken)
    if given.error is None:
        return fault_of_results(function, taken, layer)
    before = state_of(taken, layer)
    try:
        function.call(taken, layer)
    except Exception as error:  # noqa: BLE001  of any kind: it may be the wrong one
        caught = error
    else:
        return "is taken"
    message = str(caught)
    if type(caught) is not given.error:
        return f"{type(caught).__name__}, not {given.error.__name__}: {message}"
    speakers = "|".join(map(re.escape, (function.name, *function.speaks)))
    named = r"\w[\w.\[\]]*" if given.named is None else re.escape(given.named)
    expected = re.escape(given.expected)
    if not re.match(f"(?s)({speakers}): {named} is .*; expected .*{expected}", message):
        return f"{given.error.__name__} says: {message}"
    if state_of(taken, layer) != before:
        return f"something is written before: {message}"
    return None


def state_of(taken: dict[str, Any], layer: Any) -> Any:
    """Everything that an error has to leave as it was."""
    held = None
    kept = ()
    if layer is not None:
        kept = getattr(layer, "_earlier", ())  # batches of cross-iteration batch norm
        held = layer.training, layer.frozen, layer.trainable, id(layer._context), len(kept)
    return [array.tobytes() for array in arrays_in((taken, layer, kept))], held


def fault_of_results(function: Function, taken: dict[str, Any], layer: Any) -> str | None:
    """What is amiss with a call that has to work."""
    narrow = any(array.dtype == np.float32 for array in arrays_in(taken))
    try:
        if function.twin is not None:
            expected = function.twin(taken)
        elif layer is not None:
            plain = {name: plain_copy(value) for name, value in taken.items()}
            expected = function.call(plain, function.layer())
        else:
            expected = None
        results = function.call(taken, layer)
        if expected is None:
            return None
        for result, value in zip(results_in(results), results_in(expected), strict=True):
            np.testing.assert_allclose(result, value, **(NARROW if narrow else TOLERANCE))
    except Exception as error:  # noqa: BLE001  whatever it is
        return f"{type(error).__name__}: {error}"
    return None


def plain_copy(value: Any) -> Any:
    """The same numbers in a plain array."""
    if isinstance(value, dict):
        return {key: plain_copy(item) for key, item in value.items()}
    return np.array(value, order="C") if isinstance(value, np.ndarray) else value


def title(value: Any) -> str:
    return value.name if isinstance(value, Function) else str(value)


@pytest.mark.parametrize(("function", "name"), ARGUMENTS, ids=title)
def test_what_is_given_is_refused_or_right(function, name):
    faults = [
        f"{given.words}: {found}"
        for given in function.arguments[name].given(name, function.draw())
        if (found := fault(function, given)) is not None
    ]
    assert not faults, "\n" + "\n".join(dict.fromkeys(faults))


@pytest.mark.parametrize("function", TABLE, ids=title)
def test_plain_arguments_are_right(function):
    """Which the wrong ones stand in for: were these refused, nothing would be tested."""
    given = Given("plain", lambda taken: None)
    assert fault(function, given) is None


@pytest.mark.parametrize(
    ("function", "letter"),
    [(function, letter) for function in arguments.TABLE for letter in letters_of(function)],
    ids=title,
)
def test_a_size_of_0_is_refused_or_right(function, letter):
    sizes = {letter: 0}
    if letter in function.empty:
        taken = function.draw(**sizes)
        assert fault_of_results(function, taken, None) is None
        return
    with pytest.raises(ValueError, match=r": \w+ is .*; expected ") as caught:
        function.call(function.draw(**sizes))
    assert function.name in str(caught.value) or "context" in function.arguments


@pytest.mark.parametrize("name", layer_arguments.LAYERS)
def test_backward_before_forward_is_refused(name):
    layer = layer_arguments.LAYERS[name]
    dy = np.ones([SIZES[letter] for letter in layer.y])
    expected = rf"^{name}\.backward: context is None; expected a context: call the layer before"
    with pytest.raises(ValueError, match=expected):
        layer.make().backward(dy)
    called = layer.called()
    called.backward(dy)
    with pytest.raises(ValueError, match=expected):
        called.backward(dy)


def test_every_public_name_has_an_entry():
    # Tuples of results hold what they are given; Layer is what layers have in common.
    names = {*nbnorm.__all__, *layers.__all__} - {"Layer"}
    # These have tests of their own: tests/layers/test_statistics.py.
    names -= {"merge_running_statistics", "update_statistics"}
    # Moments have tests of their own: tests/functional/test_moments.py.
    names = {name for name in names if not name.endswith(("Gradients", "Context", "Moments"))}
    assert names == {function.name for function in TABLE if "." not in function.name}


@pytest.mark.parametrize("function", TABLE, ids=title)
def test_every_argument_has_an_entry(function):
    assert sorted(function.signature()) == sorted(function.arguments)


@pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.0.0" or np.dtype(np.longdouble) == np.float64,
    reason="the page is written where values read np.int64(1) and long doubles are a type",
)
def test_the_page_is_what_its_command_writes():
    assert page.PAGE.read_text() == page.text(), "run: python -m tests.robustness.page"
