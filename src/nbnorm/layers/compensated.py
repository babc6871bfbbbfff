"""Cross-iteration batch norm that follows the change of the weights in front of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from nbnorm import checks
from nbnorm.functional.batch_norm import batch_norm_inference
from nbnorm.functional.conv2d import conv2d_backward
from nbnorm.functional.dense import dense_backward
from nbnorm.functional.moments import Moments
from nbnorm.layers.conv2d import Conv2d
from nbnorm.layers.cross_iteration_batch_norm import CrossIterationBatchNorm
from nbnorm.layers.dense import Dense
from nbnorm.layers.folding import follows
from nbnorm.layers.sequential import SampleWeight, Sequential, SequentialContext
from nbnorm.typing import Array

if TYPE_CHECKING:
    from typing_extensions import Self


class _Batch(NamedTuple):
    """What is kept of a batch: its moments, the parameters then, the derivatives by them."""

    moments: Moments
    weight: Array
    bias: Array | None
    dmean: Array
    dvar: Array


class Compensated(Sequential):
    """A `Dense` or `Conv2d` and its `CrossIterationBatchNorm`, following the change of weights.

    The statistics of earlier batches belong to the weights of their time. They are carried over to
    those of now by a Taylor expansion, with D the change of the weights since::

        mean' = mean + d(mean)/d(weight) D        var' = max(0, var + d(var)/d(weight) D)

    as proposed by Yao et al., "Cross-Iteration Batch Normalization", 2020,
    https://arxiv.org/abs/2002.05712, section 3: the derivatives are by the weights of the
    layer directly in front alone, those by layers before it being small, and what was kept counts
    as constant in the backward. The paper expands the mean of squares in the place of the variance
    and takes the larger of it and the square of the mean', which comes to the same
    but for a term of second order, and for digits where the mean is large.

    Each training step works out one more gradient of the weights, for d(var)/d(weight), and
    ``window - 1`` times two arrays like the weight are kept. Otherwise this is
    ``Sequential(product, normalization)``: the same names, the same `fold`.

    Parameters
    ----------
    product : Dense or Conv2d
    normalization : CrossIterationBatchNorm
        Along the product's channels.

    Raises
    ------
    ValueError
        The normalization is not along the product's channels.
    TypeError
        A layer is of another kind.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.layers import Compensated, Conv2d, CrossIterationBatchNorm, SGD
    >>> layer = Compensated(Conv2d(3, 4, 3, rng=0), CrossIterationBatchNorm(4, window=8))
    >>> optimizer = SGD(layer, lr=0.1)
    >>> rng = np.random.default_rng(0)
    >>> for step in range(3):
    ...     y = layer(rng.standard_normal((2, 3, 5, 5), dtype=np.float32))
    ...     dx = layer.backward(np.cos(y))
    ...     optimizer.step()
    >>> dx.shape
    (2, 3, 5, 5)
    """

    layers: tuple[Any, ...]

    def __init__(self, product: Dense | Conv2d, normalization: CrossIterationBatchNorm) -> None:
        if not isinstance(product, (Dense, Conv2d)):
            raise checks.wrong_type("Compensated", "product", product, "a Dense or a Conv2d")
        if not isinstance(normalization, CrossIterationBatchNorm):
            expected = "a CrossIterationBatchNorm"
            raise checks.wrong_type("Compensated", "normalization", normalization, expected)
        if not follows(product, normalization):
            expected = f"a batch norm of the channels of {product}"
            raise checks.wrong_value("Compensated", "normalization", normalization, expected)
        super().__init__(product, normalization)
        self._earlier: tuple[_Batch, ...] = ()

    def __repr__(self) -> str:
        return super().__repr__().replace("Sequential", "Compensated", 1)

    def forward(
        self, x: Array, residual: Array | None = None, *, sample_weight: SampleWeight = None
    ) -> tuple[Array, SequentialContext]:
        """Return y and the context; in training, remember the batch's statistics.

        The residual is the batch norm's. Places have no weights here, as in it.
        """
        if sample_weight is not None:
            name = "Compensated.forward"
            raise checks.wrong_type(name, "sample_weight", sample_weight, "None: it takes none")
        product, normalization = self.layers
        if not normalization.training or normalization.frozen:
            return super().forward(x, residual)
        z, context = product.forward(x)
        earlier = self._earlier[: normalization.window - 1]
        y, normalized, own = normalization.forward_after(
            [_carried_over(batch, product) for batch in earlier], z, residual
        )
        self._earlier = earlier
        if normalization.window > 1:
            dmean, dvar = statistics_gradients(product, x, z, own)
            bias = None if product.bias is None else product.bias.copy()
            latest = _Batch(own, product.weight.copy(), bias, dmean, dvar)
            self._earlier = (latest, *earlier)[: normalization.window - 1]
        return y, SequentialContext([context, normalized])

    def _infer(self, x: Array, residual: Array | None = None, **weights: Any) -> Array:
        normalization = self.layers[1]
        if weights or (normalization.training and not normalization.frozen):
            return self.forward(x, residual, **weights)[0]
        return super()._infer(x, residual)

    def forget(self) -> Self:
        """Forget the earlier batches, and return the layer."""
        self._earlier = ()
        return self


def statistics_gradients(
    product: Dense | Conv2d, x: Array, z: Array, own: Moments
) -> tuple[Array, Array]:
    """d(mean)/d(weight) and d(var)/d(weight) of a product's outputs z, by its gradient of weights.

    Both in the shape of the weight; the former, the same for every channel of a group, is one row
    for each group.
    """
    k = len(product.weight)
    weight = product.weight
    axis = -1 if isinstance(product, Dense) else product.options["axis"]
    # 2 (z - mean) / m, compiled: the batch norm of a variance of 1 and a gamma of 2 / m.
    deviation = batch_norm_inference(
        z, own.mean, np.ones(k), np.full(k, 2 / own.count), axis=axis, eps=0
    )
    if isinstance(product, Dense):
        dvar = dense_backward(deviation, x, weight, needs=("dweight",)).dweight
        mean = x.mean(axis=tuple(range(x.ndim - 1)), dtype=np.float64)
        return mean.astype(x.dtype)[np.newaxis], cast(Array, dvar)
    options, groups = product.options, product.options["groups"]
    dvar = conv2d_backward(deviation, x, weight, **options, needs=("dweight",)).dweight
    # The mean weighs samples alike, and the channels of a group: their sum and one channel do.
    total = x.sum(axis=0, keepdims=True, dtype=np.float64).astype(x.dtype)
    shape = [1, *z.shape[1:]]
    shape[axis] = groups
    even = np.full(shape, 1 / own.count, z.dtype)
    first = np.ascontiguousarray(weight[:: k // groups])  # its shape is all that counts
    dmean = conv2d_backward(even, total, first, **options, needs=("dweight",)).dweight
    return cast(Array, dmean), cast(Array, dvar)


def _carried_over(batch: _Batch, product: Dense | Conv2d) -> Moments:
    """The statistics of an earlier batch under the weights of now."""
    k = len(product.weight)
    change = product.weight - batch.weight
    by_group = change.reshape(len(batch.dmean), -1, batch.dmean[0].size)
    dmean = batch.dmean.reshape(len(batch.dmean), -1)
    mean = batch.moments.mean + np.einsum("gki,gi->gk", by_group, dmean).reshape(k)
    if product.bias is not None and batch.bias is not None:
        mean += product.bias - batch.bias
    var = batch.moments.var() + np.einsum(
        "ki,ki->k", change.reshape(k, -1), batch.dvar.reshape(k, -1)
    )
    return Moments.from_statistics(mean, np.maximum(var, 0.0), batch.moments.count)
