"""What a vector is: a type for the compiler, an array of its lanes where nothing is compiled.

`simd` has the operations; the operators ``+ - * / < >`` are defined here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import config, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model


class VectorType(types.Type):
    """`count` lanes of a Numba scalar type in registers."""

    def __init__(self, dtype: Any, count: int) -> None:
        self.dtype = dtype
        self.count = count
        super().__init__(name=f"vector({dtype}, {count})")


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: VectorType) -> None:
        element = manager.lookup(vector.dtype).get_value_type()
        super().__init__(manager, vector, ir.VectorType(element, vector.count))


class Vector(np.ndarray):
    """The lanes of a vector where nothing is compiled; as there, arithmetic gives no warnings."""

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        """NumPy's arithmetic on the lanes."""
        plain = [i.view(np.ndarray) if isinstance(i, Vector) else i for i in inputs]
        with np.errstate(all="ignore"):
            result = getattr(ufunc, method)(*plain, **kwargs)
        return as_vector(result) if isinstance(result, np.ndarray) else result


def as_vector(array: Any) -> Any:
    """An array seen as the lanes of a vector."""
    return array.view(Vector)


def twin(reference: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Declares an intrinsic whose meaning is the NumPy function `reference`."""

    def declare(typing_function: Callable[..., Any]) -> Any:
        if not config.DISABLE_JIT:
            return intrinsic(typing_function)
        for name in ("__doc__", "__name__", "__qualname__"):
            setattr(reference, name, getattr(typing_function, name))
        return reference

    return declare


# Operators are typed and lowered directly: an @overload for each would compile a function per use.


def _define_arithmetic(function: Callable[..., Any], instruction: str) -> None:
    @infer_global(function)
    class _Typing(AbstractTemplate):
        def generic(self, args, _):
            if len(args) == 2 and isinstance(args[0], VectorType) and args[0] == args[1]:
                return signature(args[0], *args)
            return None

    @lower_builtin(function, VectorType, VectorType)
    def _lower(context, builder, sig, args):
        return getattr(builder, instruction)(*args)


def _define_comparison(function: Callable[..., Any], predicate: str) -> None:
    @infer_global(function)
    class _Typing(AbstractTemplate):
        def generic(self, args, _):
            if len(args) == 2 and isinstance(args[0], VectorType) and args[0] == args[1]:
                return signature(VectorType(types.boolean, args[0].count), *args)
            return None

    @lower_builtin(function, VectorType, VectorType)
    def _lower(context, builder, sig, args):
        return builder.fcmp_ordered(predicate, *args)


for _function, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define_arithmetic(_function, _instruction)

for _function, _predicate in (
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
):
    _define_comparison(_function, _predicate)
