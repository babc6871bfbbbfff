"""An estimator of scikit-learn that standardizes each channel: `ChannelScaler`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from nbnorm import checks
from nbnorm.functional.batch_norm import batch_norm_inference
from nbnorm.functional.moments import Moments
from nbnorm.typing import Array

if TYPE_CHECKING:
    from typing_extensions import Self


# What nbnorm takes: matrices and images of these types, others made to be of the first.
_OPTIONS: dict[str, Any] = {"dtype": [np.float64, np.float32], "allow_nd": True}


class ChannelScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Bring each channel to a mean of 0 and a variance of 1, by one pass over the data.

    `StandardScaler` for arrays of any number of axes: images (n, c, h, w) have a mean and variance
    for each channel, matrices (n, c) one for each feature. A channel that is constant is only
    centered.

    Parameters
    ----------
    axis : int, default=1
        The axis of the channels.
    ddof : 0 or 1, default=0
        The variance is taken over the count of values less this.

    Attributes
    ----------
    mean_, var_, scale_ : float64 arrays of shape (c,)
        scale_ is the root of var_, and 1 where that is 0.
    n_samples_seen_ : float
        Samples, or the sum of their weights.
    moments_ : Moments
    n_features_in_ : int
        Channels of a matrix; of other arrays the size of their second axis, as scikit-learn has it.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.interop.sklearn import ChannelScaler
    >>> images = np.array([[[[1.0, 3.0]], [[10.0, 30.0]]]])
    >>> scaler = ChannelScaler().fit(images)
    >>> scaler.transform(images)
    array([[[[-1.,  1.]],
    <BLANKLINE>
            [[-1.,  1.]]]])
    >>> np.array_equal(scaler.inverse_transform(scaler.transform(images)), images)
    True
    """

    moments_: Moments
    n_samples_seen_: float

    def __init__(self, *, axis: int = 1, ddof: int = 0) -> None:
        self.axis = axis
        self.ddof = ddof

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Take the mean and variance of each channel.

        Parameters
        ----------
        X : array-like of shape (n, c) or more axes
        y : ignored
        sample_weight : array-like of shape (n,), optional
            What each sample counts.
        """
        for name in ("moments_", "mean_", "var_", "scale_", "n_samples_seen_"):
            if hasattr(self, name):
                delattr(self, name)
        return self.partial_fit(X, y, sample_weight)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:  # noqa: ARG002
        """Take in the values of another batch; arguments as of `fit`."""
        first = not hasattr(self, "moments_")
        x = self._validated(X, reset=first)
        weight = None
        if sample_weight is not None:
            weight = check_array(
                sample_weight, ensure_2d=False, dtype=x.dtype, input_name="sample_weight"
            )
            expected = ""
            if weight.shape != (len(x),):
                expected = f"one weight for each of {len(x)} samples"
            elif not weight.any():
                expected = "weights that are not all zero"
            if expected:
                name = type(self).__name__
                raise checks.wrong_value(name, "sample_weight", weight, expected)
            weight = weight.reshape(-1, *(1,) * (x.ndim - 1))
        own = Moments.of(x, axis=self.axis, sample_weight=weight)
        # Set when nothing can fail any more.
        moments = own if first else self.moments_ + own
        var = moments.var(self.ddof)
        places = x.size // (len(x) * moments.shape[0])
        self.n_samples_seen_ = (0.0 if first else self.n_samples_seen_) + own.count / places
        self.moments_, self.mean_, self.var_ = moments, moments.mean, var
        self.scale_ = np.where(var > 0, np.sqrt(var), 1.0)
        return self

    def transform(self, X: Any) -> Array:
        """Return ``(X - mean_) / scale_``, float32 for float32 and float64 for other types."""
        check_is_fitted(self)
        x = self._validated(X)
        return batch_norm_inference(x, self.mean_, self.scale_**2, axis=self.axis, eps=0.0)

    def inverse_transform(self, X: Any) -> Array:
        """Return ``X scale_ + mean_``."""
        check_is_fitted(self)
        x = self._checked(X)
        zero, one = np.zeros_like(self.mean_), np.ones_like(self.mean_)
        return batch_norm_inference(x, zero, one, self.scale_, self.mean_, axis=self.axis, eps=0.0)

    def _validated(self, X: Any, *, reset: bool = False) -> Array:
        """X as an array that nbnorm takes; the number and names of its features checked."""
        return validate_data(self, X, reset=reset, **_OPTIONS)

    def _checked(self, X: Any) -> Array:
        return check_array(X, estimator=self, **_OPTIONS)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
