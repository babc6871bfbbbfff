"""Running statistics of other origins: of many batches at once, and of several machines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from nbnorm import checks
from nbnorm.functional.moments import Moments
from nbnorm.layers.base import Layer
from nbnorm.layers.cross_iteration_batch_norm import CrossIterationBatchNorm
from nbnorm.layers.normalizing import Exchange, Normalizing
from nbnorm.layers.sequential import Sequential
from nbnorm.typing import Array

Result = TypeVar("Result")


def batch_norms(layer: Layer[Any]) -> Iterator[Normalizing[Any]]:
    """The batch norms of a layer, those within a Sequential in its order."""
    if isinstance(layer, Sequential):
        for member in layer:
            yield from batch_norms(member)
    elif isinstance(layer, Normalizing):
        yield layer


def update_statistics(layer: Layer[Any], batches: Iterable[Array]) -> None:
    """Make the moments of many batches the running statistics of a layer's batch norms.

    A moving average remembers batches from when the weights were others, and weighs the last ones
    most. Here the weights stay as they are, and all values of all batches weigh the same
    ("precise" batch norm: Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021,
    https://arxiv.org/abs/2105.07576). Each batch is normalized by its own statistics, as in
    training.

    Parameters
    ----------
    layer : Layer
        A batch norm or a Sequential; it may be in training or in inference, and stays so.
    batches : iterable of arrays
        Inputs of the layer, one or more.

    Raises
    ------
    ValueError
        There is no batch, the layer has no running statistics or is frozen, or a batch does not
        fit; running statistics are then as they were.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.layers import BatchNorm, update_statistics
    >>> layer = BatchNorm(1)
    >>> update_statistics(layer, [np.array([[1.0], [3.0]]), np.array([[5.0], [7.0]])])
    >>> layer.running_mean, layer.running_var.round(3)
    (array([4.]), array([6.667]))
    """
    function = "update_statistics"
    if not isinstance(layer, Layer):
        raise checks.wrong_type(function, "layer", layer, "a Layer")
    norms = list(batch_norms(layer))
    if not norms or any(
        norm.running_mean is None or norm.frozen or isinstance(norm, CrossIterationBatchNorm)
        for norm in norms
    ):
        expected = "batch norms of single batches, with running statistics that are not frozen"
        raise checks.wrong_value(function, "layer", layer, expected)
    if isinstance(batches, np.ndarray) or not isinstance(batches, Iterable):
        raise checks.wrong_type(function, "batches", batches, "an iterable of arrays")
    kept = [(norm, norm.buffers(), norm.exchange, norm.training) for norm in norms]
    before = [{name: array.copy() for name, array in buffers.items()} for _, buffers, *_ in kept]
    recorders = [_Recorder(norm.exchange) for norm in norms]
    try:
        for norm, recorder in zip(norms, recorders, strict=True):
            norm.exchange = recorder
            norm.train()
        for batch in batches:
            layer.forward(batch)
    finally:
        for (norm, buffers, exchange, training), old in zip(kept, before, strict=True):
            norm.exchange = exchange
            norm.train(training)
            for name, array in buffers.items():
                array[...] = old[name]
    found = [recorder.moments for recorder in recorders]
    if found[0] is None:
        raise checks.wrong_value(function, "batches", batches, "one batch or more")
    for norm, moments in zip(norms, found, strict=True):
        assert moments is not None
        buffers = norm.buffers()
        buffers["running_mean"][...] = moments.mean
        buffers["running_var"][...] = moments.var(int(norm.unbiased))


class _Recorder:
    """Adds up the moments of what a batch norm is given, and leaves all else as it is."""

    def __init__(self, exchange: Exchange | None) -> None:
        self._exchange = exchange
        self.moments: Moments | None = None

    def forward(self, call: Callable[[Callable[[Moments], Moments]], Result]) -> Result:
        def recorded(moments: Moments) -> Moments:
            self.moments = moments if self.moments is None else self.moments + moments
            return moments

        if self._exchange is None:
            return call(recorded)
        return self._exchange.forward(lambda whole: call(lambda part: recorded(whole(part))))

    def backward(self, call: Callable[[Callable[[Array], Array]], Result]) -> Result:
        raise NotImplementedError  # nobody goes back


def merge_running_statistics(
    states: Sequence[Mapping[str, Array]], counts: Sequence[float]
) -> dict[str, Array]:
    """The running statistics of several copies of a layer as those of one.

    For federated averaging: each copy has seen data of its own. The merged variance is that of all
    data together: what the copies have within, and what lies between their means. A mean of the
    variances would leave out the latter.

    Parameters
    ----------
    states : mappings from names to arrays
        What ``state_dict()`` of each copy returned.
    counts : numbers above 0
        How much each copy weighs: the number of its samples, say.

    Returns
    -------
    dict
        The entries whose names end in ``running_mean`` and ``running_var``, merged. Others are not
        averaged here.

    Raises
    ------
    ValueError
        There is no state, states have other names or shapes, a variance is negative, or a count is
        not positive.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.layers import merge_running_statistics
    >>> one = {"running_mean": np.array([2.0]), "running_var": np.array([1.0])}
    >>> other = {"running_mean": np.array([6.0]), "running_var": np.array([1.0])}
    >>> merge_running_statistics([one, other], [10, 10])
    {'running_mean': array([4.]), 'running_var': array([5.])}
    """
    function = "merge_running_statistics"
    for name, given in (("states", states), ("counts", counts)):
        if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Sequence):
            raise checks.wrong_type(function, name, given, "a sequence")
    if not states or len(counts) != len(states):
        expected = "one for each state, of which there is one or more"
        raise checks.wrong_value(function, "counts", counts, expected)
    for state in states:
        if not isinstance(state, Mapping):
            raise checks.wrong_type(function, "states", state, "mappings from names to arrays")
    weights = [checks.number(function, "counts", count, "numbers above 0") for count in counts]
    if not all(weights):
        raise checks.wrong_value(function, "counts", counts, "numbers above 0")
    endings = ("running_mean", "running_var")
    names = [{name for name in state if name.rpartition(".")[2] in endings} for state in states]
    if any(other != names[0] for other in names):
        different = sorted({name for other in names for name in other ^ names[0]})
        raise ValueError(
            f"{function}: states differ in {different}; expected the same names in all of them"
        )
    merged: dict[str, Array] = {}
    for name in sorted(name for name in names[0] if name.endswith("running_mean")):
        variance = f"{name.removesuffix('running_mean')}running_var"
        parts = []
        for state, count in zip(states, weights, strict=True):
            if variance not in state:
                raise checks.wrong_value(function, "states", sorted(state), f"{variance} too")
            parts.append(Moments.from_statistics(state[name], state[variance], count))
            if parts[-1].shape != parts[0].shape:
                expected = f"shape {parts[0].shape}, as the first has"
                raise checks.wrong_value(function, name, state[name], expected)
        first, *others = parts
        total = sum(others, first)
        merged[name], merged[variance] = total.mean, total.var()
    return merged
