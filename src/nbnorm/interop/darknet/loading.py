"""From files to a network."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from nbnorm import checks
from nbnorm.interop.darknet.cfg import MOST_INT, read_cfg
from nbnorm.interop.darknet.files import FUNCTION, PathLike, checked_path
from nbnorm.interop.darknet.network import Network
from nbnorm.interop.darknet.origin import dialect_of, named_dialect
from nbnorm.interop.darknet.sections import SECTIONS
from nbnorm.interop.darknet.steps import Plan, Step
from nbnorm.interop.darknet.weighted import Batchnorm
from nbnorm.interop.darknet.weights import Header, Reader, check_declared, filled

Seed: TypeAlias = int | Sequence[int] | np.random.SeedSequence | np.random.Generator | None


def load_network(
    cfg: PathLike,
    weights: PathLike | None = None,
    *,
    upto: int | None = None,
    size: int | tuple[int, int] | None = None,
    dialect: str | None = None,
    eps: float | None = None,
    momentum: float | None = None,
    batchnorm_biases: bool | None = None,
    rng: Seed = None,
) -> Network:
    r"""Read a network from darknet's files.

    Parameters
    ----------
    cfg : path
        The `.cfg` file: ``[net]``, then the layers. docs/darknet.md lists which sections and
        options are known.
    weights : path, optional
        The `.weights` file. Without one the layers start as this library's do, random.
    upto : int, optional
        Take only the first layers from the file, that many, as darknet's ``partial`` cuts them off
        for a network to be trained on; the others start random. A file that has the numbers of just
        the first layers is known by its length, with a warning.
    size : int or pair, optional
        Height and width of the input in place of those of ``[net]``.
    dialect : "pjreddie" or "alexeyab", optional
        Whose darknet is meant: the original, or its fork. They differ in eps and momentum, in
        whether ``[batchnorm]`` stores biases, and more (docs/darknet.md). The files tell, by the
        version in the weights and by what only one of the two knows. Where they tell both, or
        nothing though it matters, it must be said.
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
        For layers that no file fills.

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
        is not supported, shapes that do not follow from one another or are beyond bounds; a file of
        weights that ends early, goes on, or holds a NaN, an infinity or a negative variance; a
        dialect that is not told, or does not know what the cfg has. Lengths are compared before
        memory is taken.
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
    path = None if weights is None else checked_path("weights", weights)
    if path is None and upto is not None:
        raise checks.wrong_value(FUNCTION, "upto", upto, "None without a file of weights")
    changes = _changes(eps, momentum)
    net, *sections = every = read_cfg(cfg)
    if size is not None:
        height, width = _height_and_width(size)
        net.options |= {"height": str(height), "width": str(width)}
    reader = None if path is None else Reader(path)
    if dialect is None:
        told = dialect_of(every, reader)
    else:
        told = named_dialect(dialect, every)
    chosen = dataclasses.replace(told, **changes)
    plan = Plan(net, told)
    for section in sections:
        if section.kind not in SECTIONS:
            raise section.error(f"not known; expected one of {sorted(SECTIONS)}")
        plan.steps.append(SECTIONS[section.kind](section, plan))

    own = chosen.batchnorm_biases
    asked = (own, not own) if batchnorm_biases is None else (batchnorm_biases,)
    if reader is None:
        count = 0
        _say_biases(plan.steps, asked[0])
    else:
        count = _filled(plan.steps, reader, upto, asked)
    check_declared(plan.steps)

    # Only from here on memory is taken.
    generator = np.random.default_rng(rng)
    for step in plan.steps:
        step.build(chosen, generator)
    if reader is None:
        header = Header(*chosen.version)
    else:
        header = reader.header
        reader.read_into(plan.steps[:count], chosen)
    letterbox = chosen.letterbox or net.flag("letter_box")
    return Network(plan.steps, plan.input_shape, chosen, header, letterbox=letterbox)


def _filled(steps: list[Step], reader: Reader, upto: int | None, asked: tuple[bool, ...]) -> int:
    """Return how many steps the file fills, by its length if that is not said.

    So does the length tell whether ``[batchnorm]`` has biases, if more than one answer is asked.
    """
    most = len(steps) if upto is None else _checked_upto(upto, len(steps))
    length = reader.length - reader.begin
    counts = {}
    for biases in asked:
        _say_biases(steps, biases)
        counts[biases] = filled(steps[:most], length)
        if counts[biases] == most:
            return most
    for biases, count in counts.items():
        if count and length and upto is None:  # the file of a backbone
            _say_biases(steps, biases)
            warnings.warn(
                f"{FUNCTION}: {str(reader.path)!r} has the numbers of {count} layers of {most}, "
                f"the first; the others start random (upto={count} says so without a warning)",
                stacklevel=3,
            )
            return count
    _say_biases(steps, asked[0])
    reader.check_length(steps[:most], whole=upto is None)
    return most


def _say_biases(steps: list[Step], biases: bool) -> None:
    for step in steps:
        if isinstance(step, Batchnorm):
            step.has_biases = biases


def _checked_upto(upto: int, most: int) -> int:
    expected = f"an int from 1 to {most}, the number of layers"
    if not checks.is_int(upto):
        raise checks.wrong_type(FUNCTION, "upto", upto, expected)
    if not 1 <= upto <= most:
        raise checks.wrong_value(FUNCTION, "upto", upto, expected)
    return int(upto)


def _height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    sides = size if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2:
        raise checks.wrong_value(FUNCTION, "size", size, "an int or a pair of ints")
    for side in sides:
        expected = "an int of 1 or more"
        if not checks.is_int(side):
            raise checks.wrong_type(FUNCTION, "size", side, expected)
        if not 1 <= side <= MOST_INT:
            raise checks.wrong_value(FUNCTION, "size", side, expected)
    height, width = map(int, sides)
    return height, width


def _changes(eps: float | None, momentum: float | None) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    if eps is not None:
        changed["eps"] = checks.number(FUNCTION, "eps", eps, "a finite number, 0 or more")
    if momentum is not None:
        expected = "a number from 0 to 1"
        changed["momentum"] = checks.number(FUNCTION, "momentum", momentum, expected)
        if momentum > 1:
            raise checks.wrong_value(FUNCTION, "momentum", momentum, expected)
    return changed
