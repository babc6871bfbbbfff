"""NaN, infinity and overflow: no warning is raised (they are errors here), NaN stays where it is.

Each array of each function gets one such number. NaN comes out where the reference has it and
nowhere else; with infinity and 1e300, whose sums overflow in an order of their own, it is enough
that nobody warns.
"""

from __future__ import annotations

import numpy as np
import pytest
from numba.core import config

from nbnorm import reference
from tests.robustness import arguments
from tests.robustness.kinds import Data
from tests.robustness.test_bad_input import TOLERANCE, results_in, title

pytestmark = [
    pytest.mark.variant,  # float64 throughout
    pytest.mark.skipif(config.DISABLE_JIT, reason="NumPy, in the place of compiled code, warns"),
]

CASES = [
    (function, name)
    for function in arguments.TABLE
    for name, kind in function.arguments.items()
    if isinstance(kind, Data)
]


@pytest.mark.parametrize("number", [np.nan, np.inf, -1e300])
@pytest.mark.parametrize(("function", "name"), CASES, ids=title)
def test_one_number_spoils_no_more_than_it_must(function, name, number):
    if name == "var" and number < 0:
        pytest.skip("refused")
    taken = function.draw()
    taken[name].reshape(-1)[-1] = number
    if (function.name, name, number) == ("cross_iteration_batch_norm_forward", "x", -1e300):
        with pytest.raises(ValueError, match=r"x with earlier is .* float64 can hold"):
            function.call(taken)
        return
    with np.errstate(all="ignore"):
        expected = results_in(function.twin(taken))
    results = results_in(function.call(taken))
    if not np.isnan(number):
        return
    for result, value in zip(map(np.asarray, results), map(np.asarray, expected), strict=True):
        spoilt = np.isnan(value)
        if value.ndim == 4 and "backward" in function.name:
            # Zeros around an image are multiplied too, each by weights of its own: a channel counts
            # as one.
            spoilt |= spoilt.any(axis=(0, 2, 3), keepdims=True)
        np.testing.assert_allclose(result[~spoilt], value[~spoilt], **TOLERANCE)
        # A NaN of a gradient that an activation masks does not come out.
        if "backward" not in function.name and "gradient" not in function.name:
            assert np.isnan(result[spoilt]).all()


def test_the_reference_keeps_nan_in_its_channel():
    x = np.random.default_rng(0).standard_normal((4, 3, 5))
    x[1, 2, 3] = np.nan
    y = reference.batch_norm_forward(x)
    assert np.isnan(y[:, 2]).all()
    assert np.isfinite(y[:, :2]).all()
