"""A network of a cfg's sections, for inference."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np

from nbnorm import checks
from nbnorm.interop.darknet.detection import Detector
from nbnorm.interop.darknet.dialect import Dialect
from nbnorm.interop.darknet.files import PathLike, checked_path
from nbnorm.interop.darknet.steps import INPUT, Merged, Shape, Step
from nbnorm.interop.darknet.weights import Header, packed
from nbnorm.typing import Array


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
    dialect : str
        Whose darknet it computes as: "pjreddie" or "alexeyab".
    letterbox : bool
        Whether pictures keep their proportions in the input, with grey beside them.
    """

    def __init__(
        self,
        steps: list[Step],
        input_shape: Shape,
        dialect: Dialect,
        header: Header,
        *,
        letterbox: bool = False,
        is_folded: bool = False,
    ) -> None:
        self.steps = steps
        self.input_shape = input_shape
        self.header = header
        self.letterbox = letterbox
        self._dialect = dialect
        self._is_folded = is_folded
        self.is_recurrent = any(step.is_recurrent for step in steps)
        last = len(steps) - 1
        self._results = [
            i for i, step in enumerate(steps) if isinstance(step, Detector) or i == last
        ]

    @property
    def dialect(self) -> str:
        """Whose darknet it computes as."""
        return self._dialect.name

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
        """Return the last step's output, and by index those of detections and the last.

        Detections are ``[yolo]``, ``[Gaussian_yolo]``, ``[region]`` and ``[detection]``.

        Parameters
        ----------
        x : float32 array (n, c, h, w), or (n, count), as `input_shape` has it
            With recurrent sections also (steps, n, ...): n sequences side by side, for which
            results have these two axes as well. States begin with zeros at each call.

        Raises
        ------
        ValueError, TypeError
            x is of another shape or type.
        """
        lead = self._checked_lead(x)
        n = math.prod(lead)
        sequences = (1, *lead)[-2:]  # one step of each, where nothing else is said
        outputs = {INPUT: x.reshape(n, *self.input_shape)}
        takers = self._takers()
        for i, step in enumerate(self.steps):
            if not takers[i]:  # no result depends on it
                continue
            first, *others = (outputs[source] for source in step.sources)
            if step.takes is not None:
                first = first.reshape(*(sequences if step.is_recurrent else (n,)), *step.takes)
            with np.errstate(all="ignore"):  # NaN and infinity go on, as in compiled code
                y = step.forward(first, *others)
            outputs[i] = y.reshape(n, *step.shape) if step.is_recurrent else y
            for source in step.sources:
                takers[source] -= 1
                if not takers[source]:  # its memory is free for the next
                    del outputs[source]
        results = {i: outputs[i].reshape(*lead, *self.steps[i].shape) for i in self._results}
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
        return Network(
            steps,
            self.input_shape,
            self._dialect,
            self.header,
            letterbox=self.letterbox,
            is_folded=True,
        )

    def parameters(self) -> dict[str, Array]:
        """Return the learned arrays as ``"0.weight"``: live, to be written in place."""
        return {
            f"{index}.{name}": array
            for index, step in enumerate(self.steps)
            for name, array in step.parameters().items()
        }

    def buffers(self) -> dict[str, Array]:
        """Return the running statistics as ``"0.running_mean"``: live.

        In the older dialect a running variance is not the file's: see `load_network`.
        """
        return {
            f"{index}.{name}": array
            for index, step in enumerate(self.steps)
            for name, array in step.buffers().items()
        }

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

    def _checked_lead(self, x: Array) -> tuple[int, ...]:
        """Return (n,) or (steps, n), the axes of x before those of a sample."""
        checks.array("Network.forward", "x", x, dtype=np.dtype(np.float32))
        lead = x.shape[: max(x.ndim - len(self.input_shape), 0)]
        if x.shape[len(lead) :] != self.input_shape or len(lead) not in (1, 1 + self.is_recurrent):
            sides = ", ".join(map(str, self.input_shape))
            expected = f"shape (n, {sides})"
            if self.is_recurrent:
                expected += f" or (steps, n, {sides})"
            raise checks.wrong_value("Network.forward", "x", x, expected)
        return lead

    def _takers(self) -> Counter[int]:
        """Count the steps that take each step's output, and the caller for the results."""
        takers = Counter(self._results)
        for i in reversed(range(len(self.steps))):
            if takers[i]:
                takers.update(self.steps[i].sources)
        return takers
