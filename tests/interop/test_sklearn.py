"""ChannelScaler beside scikit-learn's own StandardScaler, and its checks of estimators."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import import_optional_peer

import_optional_peer("sklearn")

from sklearn.base import clone  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from nbnorm.interop.sklearn import ChannelScaler  # noqa: E402

pytestmark = pytest.mark.peer


@parametrize_with_checks([ChannelScaler(), ChannelScaler(ddof=0)])
def test_estimator_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_matrix_is_scaled_as_by_the_standard_scaler(rng, dtype, weighted):
    x = rng.normal(5, 2, (40, 6)).astype(dtype)
    x[:, 2] = 7
    weight = rng.uniform(0.5, 2, 40) if weighted else None
    ours, theirs = (one.fit(x, sample_weight=weight) for one in (ChannelScaler(), StandardScaler()))
    tolerance = (
        {"rtol": 1e-12, "atol": 1e-12} if dtype == np.float64 else {"rtol": 2e-5, "atol": 2e-6}
    )
    for name in ("mean_", "var_", "scale_", "n_samples_seen_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), **tolerance)
    y = ours.transform(x)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, theirs.transform(x), **tolerance)
    np.testing.assert_allclose(ours.inverse_transform(y), x, **tolerance)


@pytest.mark.parametrize("axis", [1, -1])
def test_images_in_parts(rng, axis):
    x = rng.normal(5, 2, (12, 3, 4, 5))
    parts = ChannelScaler(axis=axis, ddof=1)
    for first in range(0, 12, 5):
        parts.partial_fit(x[first : first + 5])
    whole = clone(parts).fit(x)
    np.testing.assert_allclose(parts.mean_, whole.mean_, rtol=1e-13)
    np.testing.assert_allclose(parts.var_, whole.var_, rtol=1e-12)
    assert parts.n_samples_seen_ == whole.n_samples_seen_ == 12
    y = whole.fit_transform(x)
    others = tuple(a for a in range(4) if a != axis % 4)
    np.testing.assert_allclose(y.mean(axis=others), 0, atol=1e-13)
    np.testing.assert_allclose(y.var(axis=others, ddof=1), 1, rtol=1e-13)


def test_set_output_names_the_columns(rng):
    pandas = import_optional_peer("pandas")
    frame = pandas.DataFrame(rng.normal(size=(9, 2)), columns=["a", "b"], index=range(3, 12))
    scaled = ChannelScaler().set_output(transform="pandas").fit_transform(frame)
    assert list(scaled.columns) == ["a", "b"]
    assert list(scaled.index) == list(frame.index)


def test_a_batch_that_is_refused_changes_nothing(rng):
    scaler = ChannelScaler().fit(rng.normal(size=(9, 3)))
    before = scaler.moments_.to_array()
    for bad in (rng.normal(size=(9, 4)), np.full((9, 3), np.nan)):
        with pytest.raises(ValueError, match=r"feature|NaN"):
            scaler.partial_fit(bad)
    with pytest.raises(ValueError, match=r"one weight for each of 2 samples"):
        scaler.partial_fit(np.ones((2, 3)), sample_weight=np.ones(3))
    np.testing.assert_array_equal(scaler.moments_.to_array(), before)
    assert scaler.n_samples_seen_ == 9
