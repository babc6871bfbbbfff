"""A network of a cfg's sections, for inference."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from nbnorm import checks
from nbnorm.functional.parameters import EPS
from nbnorm.functional.sizes import pair
from nbnorm.interop.darknet.cfg import FUNCTION, PathLike, Section, checked_path, read_cfg
from nbnorm.interop.darknet.dialect import DIALECTS, Dialect
from nbnorm.interop.darknet.plain import (
    Avgpool,
    Dropout,
    L2norm,
    Maxpool,
    Route,
    Shortcut,
    Softmax,
    Upsample,
    Yolo,
)
from nbnorm.interop.darknet.steps import INPUT, Merged, Plan, Shape, Step
from nbnorm.interop.darknet.weighted import Batchnorm, Connected, Convolutional
from nbnorm.interop.darknet.weights import Header, Reader, has_batchnorm_biases, packed, read_into
from nbnorm.layers import Layer
from nbnorm.layers.initialization import Seed
from nbnorm.typing import Array

KINDS: Mapping[str, Callable[[Section, Plan], Step]] = {
    "avgpool": Avgpool,
    "batchnorm": Batchnorm,
    "connected": Connected,
    "convolutional": Convolutional,
    "dropout": Dropout,
    "l2norm": L2norm,
    "maxpool": Maxpool,
    "route": Route,
    "shortcut": Shortcut,
    "softmax": Softmax,
    "upsample": Upsample,
    "yolo": Yolo,
}


class Network:
    """The steps of a network in their order: what `load_network` returns.

    ``net(x)`` gives the last step's output. ``len``, iteration and ``net[i]`` are over the steps,
    which count from 0 as darknet's layers do; ``net[i].layer`` is the `nbnorm.layers.Layer` of one
    that holds numbers, None elsewhere. Printed, a network is a table of its steps.

    Attributes
    ----------
    input_shape : tuple of int
        Of x without the batch: (c, h, w), or (count,).
    header : Header
        What `save_weights` writes first.
    """

    def __init__(
        self,
        steps: list[Step],
        input_shape: Shape,
        dialect: Dialect,
        header: Header,
        *,
        is_folded: bool = False,
    ) -> None:
        self.steps = steps
        self.input_shape = input_shape
        self.header = header
        self._dialect = dialect
        self._is_folded = is_folded
        last = len(steps) - 1
        self._results = [i for i, step in enumerate(steps) if step.kind == "yolo" or i == last]

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __getitem__(self, index: int) -> Step:
        return self.steps[index]

    def __repr__(self) -> str:
        def row(index: object, kind: str, sources: str, shape: Shape) -> str:
            return f"{index:>5}  {kind:<15}{sources:<15}{' x '.join(map(str, shape))}"

        lines = [row("", "input", "", self.input_shape)]
        for i, step in enumerate(self.steps):
            far = () if step.sources == (i - 1,) else step.sources
            lines.append(row(i, step.kind, ", ".join(map(str, far)), step.shape))
        return "\n".join(lines)

    def __call__(self, x: Array) -> Array:
        """Return the last step's output."""
        return self.forward(x)[0]

    def forward(self, x: Array) -> tuple[Array, dict[int, Array]]:
        """Return the last step's output, and by index those of every ``[yolo]`` and the last.

        Parameters
        ----------
        x : float32 array (n, c, h, w), or (n, count), as `input_shape` has it

        Raises
        ------
        ValueError, TypeError
            x is of another shape or type.
        """
        checks.array("Network.forward", "x", x, dtype=np.dtype(np.float32))
        if x.shape[1:] != self.input_shape or x.ndim == 0:
            expected = f"shape (n, {', '.join(map(str, self.input_shape))})"
            raise checks.wrong_value("Network.forward", "x", x, expected)
        outputs = {INPUT: x}
        takers = self._takers()
        for i, step in enumerate(self.steps):
            if not takers[i]:  # no result depends on it
                continue
            first, *others = (outputs[source] for source in step.sources)
            if step.takes is not None:
                first = first.reshape(len(x), *step.takes)
            outputs[i] = step.forward(first, *others)
            for source in step.sources:
                takers[source] -= 1
                if not takers[source]:  # its memory is free for the next
                    del outputs[source]
        results = {i: outputs[i] for i in self._results}
        return results[len(self.steps) - 1], results

    def fold(self) -> Network:
        """Return a network for inference that equals this one, with arrays of its own.

        Batch norms go into the weights of their convolutions and connected layers
        (`nbnorm.fold_batch_norm`), and so does a ``[batchnorm]`` that follows one without an
        activation. A shortcut of two equal shapes is added by the convolution before it while its
        output is in cache.
        """
        steps = [step.fold() for step in self.steps]
        takers = self._takers()
        for i in range(1, len(steps)):
            if steps[i].sources[0] != i - 1 or takers[i - 1] != 1:  # others need it as it is
                continue
            merged = steps[i - 1].merged(steps[i])
            if merged is not None:
                steps[i - 1 : i + 1] = Merged(steps[i - 1]), merged
        return Network(steps, self.input_shape, self._dialect, self.header, is_folded=True)

    def parameters(self) -> dict[str, Array]:
        """Return the learned arrays as ``"0.weight"``: live, to be written in place."""
        return self._gather(lambda layer: layer.parameters())

    def buffers(self) -> dict[str, Array]:
        """Return the running statistics as ``"0.running_mean"``: live.

        In the older dialect a running variance is not the file's: see `load_network`.
        """
        return self._gather(lambda layer: layer.buffers())

    def save_weights(self, path: PathLike) -> None:
        """Write a `.weights` file: of what was read and not changed, the same bytes.

        Raises
        ------
        ValueError
            The network is folded, and has no batch norm to write; or a number is not finite.
        TypeError
            path is none.
        OSError
            The file cannot be written.
        """
        function = "Network.save_weights"
        file = checked_path("path", path, function)
        if self._is_folded:
            raise ValueError(
                f"{function}: the network is folded; expected the one that it was folded from, "
                "which has the batch norms that a file holds"
            )
        file.write_bytes(packed(self.steps, self.header, self._dialect, function))

    def _takers(self) -> Counter[int]:
        """Count the steps that take each step's output, and the caller for the results."""
        takers = Counter(self._results)
        for i in reversed(range(len(self.steps))):
            if takers[i]:
                takers.update(self.steps[i].sources)
        return takers

    def _gather(self, arrays: Callable[[Layer[Any]], dict[str, Array]]) -> dict[str, Array]:
        return {
            f"{index}.{name}": array
            for index, step in enumerate(self.steps)
            if step.layer is not None
            for name, array in arrays(step.layer).items()
        }


def load_network(
    cfg: PathLike,
    weights: PathLike | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    dialect: str = "pjreddie",
    eps: float | None = None,
    momentum: float | None = None,
    batchnorm_biases: bool | None = None,
    rng: Seed = None,
) -> Network:
    r"""Read a network from darknet's files.

    Parameters
    ----------
    cfg : path
        The `.cfg` file: ``[net]``, then any of ``[convolutional]``, ``[connected]``,
        ``[batchnorm]``, ``[shortcut]``, ``[route]``, ``[maxpool]``, ``[avgpool]``, ``[upsample]``,
        ``[dropout]``, ``[softmax]``, ``[l2norm]`` and ``[yolo]``.
    weights : path, optional
        The `.weights` file. Without one the layers start as this library's do, random.
    size : int or pair, optional
        Height and width of the input in place of those of ``[net]``.
    dialect : "pjreddie" or "alexeyab"
        Whose darknet is meant: the original, or its fork. They differ in eps and momentum, in
        whether ``[batchnorm]`` stores biases, and in what ``[shortcut]`` does with images of two
        sizes.
    eps : float, 0 or more, optional
        Of batch norm: in the original 1e-6 and added to the standard deviation, in the fork 1e-5
        and added to the variance. Another number is added in the same place.
    momentum : float from 0 to 1, optional
        The weight of a new batch in the running statistics, for training of single layers: 0.01
        in the original, 0.1 in the fork.
    batchnorm_biases : bool, optional
        Whether ``[batchnorm]`` stores biases. Left to itself, the length of the file tells; without
        a file, the dialect.
    rng : seed or numpy.random.Generator, optional
        For a start without a file.

    Returns
    -------
    Network
        For inference: its layers are in `eval`. In the original's dialect their ``eps`` is that of
        above squared and ``running_var`` is ``var + 2 eps sqrt(var)``, by which
        ``sqrt(running_var + layer.eps)`` is ``sqrt(var) + eps``; `Network.save_weights` undoes it.

    Raises
    ------
    ValueError
        A file says something else than it should. The message names file, layer, and line or byte.
        So do a section or activation that is not known, an option that would change the result and
        is not supported, shapes that do not follow from one another; a file of weights that ends
        early, goes on, or holds a NaN, an infinity or a negative variance.
    TypeError
        An argument is of the wrong type.
    OSError
        A file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from nbnorm.interop.darknet import load_network
    >>> folder = tempfile.TemporaryDirectory()
    >>> cfg, weights = Path(folder.name, "small.cfg"), Path(folder.name, "small.weights")
    >>> _ = cfg.write_text(
    ...     "[net] \n channels=1 \n height=4 \n width=4 \n"
    ...     "[convolutional] \n batch_normalize=1 \n filters=2 \n size=3 \n pad=1 \n"
    ...     "activation=leaky \n [avgpool] \n [softmax]"
    ... )
    >>> net = load_network(cfg, rng=0)
    >>> net
           input                         1 x 4 x 4
        0  convolutional                 2 x 4 x 4
        1  avgpool                       2 x 1 x 1
        2  softmax                       2
    >>> net.save_weights(weights)
    >>> x = np.ones((1, 1, 4, 4), np.float32)
    >>> y = load_network(cfg, weights).fold()(x)
    >>> y.shape, bool(np.allclose(y, net(x), atol=1e-6))
    ((1, 2), True)
    >>> folder.cleanup()
    """
    chosen = _dialect(dialect, eps, momentum)
    net, *sections = read_cfg(cfg)
    if size is not None:
        height, width = pair(FUNCTION, "size", size)
        net.options |= {"height": str(height), "width": str(width)}
    plan = Plan(net, chosen, np.random.default_rng(rng))
    for section in sections:
        if section.kind not in KINDS:
            raise section.error(f"not known; expected one of {sorted(KINDS)}")
        plan.steps.append(KINDS[section.kind](section, plan))

    header, reader = Header(*chosen.version), None
    if weights is not None:
        reader = Reader(checked_path("weights", weights))
        header = reader.header
        if batchnorm_biases is None:
            batchnorm_biases = has_batchnorm_biases(plan.steps, reader)
    if batchnorm_biases is None:
        batchnorm_biases = chosen.batchnorm_biases
    for step in plan.steps:
        if isinstance(step, Batchnorm) and not batchnorm_biases:
            step.layer.beta = None
    if reader is not None:
        read_into(plan.steps, reader, chosen)
    return Network(plan.steps, plan.input_shape, chosen, header)


def _dialect(name: str, eps: float | None, momentum: float | None) -> Dialect:
    if name not in DIALECTS:
        raise checks.wrong_value(FUNCTION, "dialect", name, f"one of {list(DIALECTS)}")
    changed: dict[str, Any] = {}
    if eps is not None:
        changed["eps"] = checks.number(FUNCTION, "eps", eps, EPS)
    if momentum is not None:
        expected = "a number from 0 to 1"
        changed["momentum"] = checks.number(FUNCTION, "momentum", momentum, expected)
        if momentum > 1:
            raise checks.wrong_value(FUNCTION, "momentum", momentum, expected)
    return dataclasses.replace(DIALECTS[name], **changed)
