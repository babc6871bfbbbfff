"""Group and instance normalization as functions: forward and backward."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np

from nbnorm import checks
from nbnorm.functional.arguments import Activation, check_normalization, check_places, size
from nbnorm.functional.batch_norm import BatchNormGradients
from nbnorm.functional.contexts import is_array, unfit
from nbnorm.launch import group_norm as launch
from nbnorm.typing import Array


class GroupedContext(launch.Saved):
    """What a backward needs of its forward. It can be used any number of times.

    x, residual, gamma, beta
        The forward's own arrays, by reference: do not change them before the backward.
    statistics : array (4, samples, groups) of float64
        mean, var and inv_std, and the rest of the mean: what it lost where it was rounded to
        float64.
    axis : int
        The axis of the channels.
    """

    __slots__ = ()

    @property
    def mean(self) -> Array:
        """Mean of each group of each sample, float64: (samples, groups)."""
        return self.statistics[0]

    @property
    def var(self) -> Array:
        """Variance of each group of each sample, float64: (samples, groups)."""
        return self.statistics[1]

    @property
    def inv_std(self) -> Array:
        """1 / sqrt(var + eps) of each, float64; 0 where var + eps is 0."""
        return self.statistics[2]


class GroupNormContext(GroupedContext):
    """The context of a `group_norm_forward`."""

    __slots__ = ()


class InstanceNormContext(GroupedContext):
    """The context of an `instance_norm_forward`: a group is a channel."""

    __slots__ = ()


Context = TypeVar("Context", bound=GroupedContext)

_NOWHERE = BatchNormGradients()


def group_norm_forward(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    num_groups: int,
    axis: int = 1,
    eps: float = 1e-5,
    activation: Activation = None,
    residual: Array | None = None,
    out: Array | None = None,
) -> tuple[Array, GroupNormContext]:
    """Normalize groups of channels, each sample's by their own mean and variance.

    With m values in a group of one sample::

        mean = sum(x) / m        var = sum((x - mean)^2) / m
        y = activation(gamma (x - mean) / sqrt(var + eps) + beta + residual)

    (Wu and He 2018, https://arxiv.org/abs/1803.08494.) A sample's y is a function of that sample
    alone: it is the same in training and in inference.

    Parameters
    ----------
    x : array of float32 or float64, any shape of two axes or more, any strides
        The first axis is that of the samples, of which there may be none.
    gamma, beta : arrays (c,) of float32 or float64, optional
        Scale and shift of each channel; 1 and 0 if not given.
    num_groups : int
        How many groups of neighbouring channels, as many in each; 1 normalizes whole samples.
    axis : int
        The axis of the channels, not the first: 1 is channels-first, -1 channels-last.
    eps : float, 0 or more
        Added to the variance. Where ``var + eps`` is 0, y is beta.
    activation : None, the name of an activation, or (name, parameter)
        "relu" or ("leaky_relu", 0.2), say: docs/activations.md lists them.
    residual : array of x's shape and type, optional
        Added before the activation.
    out : array of x's shape and type, optional
        Where to write y. It must not overlap an input, which the backward needs.

    Returns
    -------
    y : array of x's shape and type
    context : GroupNormContext
        For `group_norm_backward`; holds the statistics.

    Raises
    ------
    ValueError
        A shape does not fit, a value is out of range, num_groups does not divide the channels, or a
        group has fewer than two values.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import group_norm_forward
    >>> x = np.array([[1.0, 3.0, 10.0, 30.0]])
    >>> y, context = group_norm_forward(x, num_groups=2, eps=0.0)
    >>> y
    array([[-1.,  1., -1.,  1.]])
    >>> context.mean
    array([[ 2., 20.]])
    """
    num_groups = size("group_norm_forward", "num_groups", num_groups)
    return _forward(
        "group_norm_forward", GroupNormContext, x, num_groups, axis, out, gamma=gamma, beta=beta,
        eps=eps, activation=activation, residual=residual,
    )  # fmt: skip


def group_norm_backward(
    dy: Array,
    context: GroupNormContext,
    *,
    needs: Iterable[str] | None = None,
    out: BatchNormGradients | None = None,
) -> BatchNormGradients:
    """The gradients of `group_norm_forward`, given the gradient of its y.

    With s = sqrt(var + eps), xh = (x - mean) / s and g = dy activation'(z)::

        dbeta = sum(g)        dgamma = sum(g xh)        dresidual = g
        dx = (gamma g - sum(gamma g) / m - xh sum(gamma g xh) / m) / s

    where dbeta and dgamma are sums over a channel of all samples, and those of dx over a group of
    one sample (Wu and He 2018, https://arxiv.org/abs/1803.08494).

    Parameters
    ----------
    dy : array of y's shape and type, any strides
    context : GroupNormContext
        From the forward.
    needs : names of gradients, optional
        Those wanted, out of "dx", "dgamma", "dbeta", "dresidual"; all by default.
    out : BatchNormGradients, optional
        Where to write them, None where they are to be allocated. dx or dresidual may be dy itself;
        otherwise they must not overlap dy, an array of the context or each other.

    Returns
    -------
    BatchNormGradients
        dx and dresidual of x's shape and type, dgamma and dbeta of gamma's and beta's; None for
        what was not asked for and for inputs that the forward was not given.

    Raises
    ------
    ValueError
        A shape does not fit, out overlaps an input, or the context has been changed.
    TypeError
        An argument is of the wrong type, such as the context of another function.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import group_norm_backward, group_norm_forward
    >>> x = np.array([[1.0, 2.0, 6.0]])
    >>> y, context = group_norm_forward(x, np.ones(3), np.zeros(3), num_groups=1)
    >>> gradients = group_norm_backward(np.array([[1.0, 0.0, 2.0]]), context)
    >>> gradients.dbeta
    array([1., 0., 2.])
    >>> float(abs(gradients.dx.sum()).round(12))
    0.0
    """
    return _backward("group_norm_backward", GroupNormContext, dy, context, needs, out)


def instance_norm_forward(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    activation: Activation = None,
    residual: Array | None = None,
    out: Array | None = None,
) -> tuple[Array, InstanceNormContext]:
    """Normalize each channel of each sample by its own mean and variance.

    It is `group_norm_forward` with as many groups as channels
    (Ulyanov, Vedaldi and Lempitsky 2016, https://arxiv.org/abs/1607.08022).

    Parameters
    ----------
    x : array of float32 or float64, any shape of two axes or more, any strides
        The first axis is that of the samples, of which there may be none.
    gamma, beta, axis, eps, activation, residual, out
        As in `group_norm_forward`.

    Returns
    -------
    y : array of x's shape and type
    context : InstanceNormContext
        For `instance_norm_backward`; holds the statistics.

    Raises
    ------
    ValueError
        A shape does not fit, a value is out of range, or a channel of a sample has fewer than two
        values.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import instance_norm_forward
    >>> x = np.array([[[1.0, 3.0], [10.0, 30.0]]])
    >>> y, context = instance_norm_forward(x, eps=0.0)
    >>> y
    array([[[-1.,  1.],
            [-1.,  1.]]])
    >>> context.mean
    array([[ 2., 20.]])
    """
    return _forward(
        "instance_norm_forward", InstanceNormContext, x, None, axis, out, gamma=gamma, beta=beta,
        eps=eps, activation=activation, residual=residual,
    )  # fmt: skip


def instance_norm_backward(
    dy: Array,
    context: InstanceNormContext,
    *,
    needs: Iterable[str] | None = None,
    out: BatchNormGradients | None = None,
) -> BatchNormGradients:
    """The gradients of `instance_norm_forward`, given the gradient of its y.

    Those of `group_norm_backward`, of as many groups as channels
    (Ulyanov, Vedaldi and Lempitsky 2016, https://arxiv.org/abs/1607.08022).

    Parameters
    ----------
    dy : array of y's shape and type, any strides
    context : InstanceNormContext
        From the forward.
    needs, out
        As in `group_norm_backward`.

    Returns
    -------
    BatchNormGradients
        As `group_norm_backward`.

    Raises
    ------
    ValueError
        A shape does not fit, out overlaps an input, or the context has been changed.
    TypeError
        An argument is of the wrong type, such as the context of another function.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import instance_norm_backward, instance_norm_forward
    >>> x = np.array([[[1.0, 2.0, 6.0]]])
    >>> y, context = instance_norm_forward(x, np.ones(1), np.zeros(1))
    >>> instance_norm_backward(np.array([[[1.0, 0.0, 2.0]]]), context).dbeta
    array([3.])
    """
    return _backward("instance_norm_backward", InstanceNormContext, dy, context, needs, out)


def _forward(
    function: str,
    kind: type[Context],
    x: Array,
    num_groups: int | None,
    axis: int,
    out: Array | None,
    **options: Any,
) -> tuple[Array, Context]:
    """Either forward; None are as many groups as channels."""
    checks.array(function, "x", x)
    if x.ndim < 2:
        raise checks.wrong_value(function, "x", x, "two axes or more")
    axis = channel_axis(function, axis, x.ndim)
    c = x.shape[axis]
    if num_groups is None:
        num_groups = c
    elif c % num_groups or not c:
        expected = f"a divisor of the channels ({c})"
        raise checks.wrong_value(function, "num_groups", num_groups, expected)
    normalization = check_normalization(function, x, x.shape, (c,), **options)
    if c and x[:1].size < 2 * num_groups * len(x[:1]):
        expected = "two values or more in each group of channels of a sample"
        raise checks.wrong_value(function, "x", x, expected)
    if out is not None:
        names = ("residual", "gamma", "beta")
        inputs = {"x": x, **{name: options[name] for name in names}}
        checks.writable(function, "out", out, x.shape, x.dtype, inputs)
    y, saved = launch.normalize(x, axis, num_groups, normalization, out)
    return y, kind(*saved)


def channel_axis(function: str, axis: Any, ndim: int) -> int:
    """The axis of the channels, which is not the samples'."""
    expected = f"an int from {1 - ndim} to {ndim - 1}, not the first axis"
    if not checks.is_int(axis):
        raise checks.wrong_type(function, "axis", axis, expected)
    if not -ndim < axis < ndim or axis == 0:
        raise checks.wrong_value(function, "axis", axis, expected)
    return int(axis) % ndim


def _backward(
    function: str,
    kind: type[GroupedContext],
    dy: Array,
    context: GroupedContext,
    needs: Iterable[str] | None,
    out: BatchNormGradients | None,
) -> BatchNormGradients:
    """Either backward."""
    if type(context) is not kind:
        forward = function.replace("backward", "forward")
        article = "an" if kind is InstanceNormContext else "a"
        expected = f"the {kind.__name__} of {article} {forward}"
        raise checks.wrong_type(function, "context", context, expected)
    if not _fits(context):
        raise unfit(function, context)
    x, gamma, beta, residual = context[:4]
    checks.like(function, "dy", dy, x.shape, x.dtype)
    wanted = checks.needs(function, needs, BatchNormGradients._fields)
    if out is None:
        out = _NOWHERE
    else:
        sources = {"dx": x, "dresidual": residual, "dgamma": gamma, "dbeta": beta}
        inputs = {
            "dy": dy, "x": x, "residual": residual, "gamma": gamma, "beta": beta,
            "context.statistics": context.statistics,
        }  # fmt: skip
        over = {"dx": ("dy",), "dresidual": ("dy",)}
        check_places(function, BatchNormGradients, out, wanted, sources, inputs, over=over)
    return BatchNormGradients(*launch.differentiate(dy, context, wanted, out))


def _fits(context: GroupedContext) -> bool:
    """Whether a context's arrays fit together: kernels would read beyond those that do not."""
    x, gamma, beta, residual, statistics, axis, _ = context
    if not (is_array(x, None) and is_array(statistics, None) and 0 < axis < x.ndim):
        return False
    c = x.shape[axis]
    return (
        statistics.dtype == np.float64
        and statistics.ndim == 3
        and statistics.shape[:2] == (4, len(x))
        and (c == 0 or (statistics.shape[2] > 0 and c % statistics.shape[2] == 0))
        and (gamma is None or is_array(gamma, (c,)))
        and (beta is None or is_array(beta, (c,)))
        and (residual is None or (is_array(residual, x.shape) and residual.dtype == x.dtype))
    )
