"""NumPy arrays that touch memory nobody may touch: each lies against a page without access.

`place("end")` has every new array of NumPy, whoever makes it, end where such a page begins, and
`place("begin")` begin where one ends; on the other side the rest of the array's last page and then
another such page. New memory is all ones, which is NaN to floats. An array's pages vanish with it.

It is NumPy's own hook for this, a table of C functions (NEP 49), which Numba compiles: functions
of Python would be called in the middle of an exception. Linux only, and so nothing is compiled
before `place` is called: where C has no mmap, LLVM ends the process. A process that has called
`place` must end by `os._exit`, before the functions are gone and arrays are not.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc, njit, types
from numba.extending import intrinsic
from numpy._core import multiarray

PAGE = mmap.PAGESIZE
_NO_ACCESS, _READ_AND_WRITE = 0, 3  # PROT_NONE, PROT_READ | PROT_WRITE
_PRIVATE_AND_ANONYMOUS = 0x22  # MAP_PRIVATE | MAP_ANONYMOUS
_FAILED = (1 << 64) - 1

_SET_HANDLER = 304  # PyDataMem_SetHandler's place in NumPy's table, the same in 1.22 to 2.x


def _function(name: str, arguments: int, result: Any = types.uintp) -> Any:
    return types.ExternalFunction(name, result(*[types.uintp] * arguments))


_mmap = _function("mmap", 6)
_munmap = _function("munmap", 2)
_mprotect = _function("mprotect", 3, types.int32)
_memset = _function("memset", 3)
_memmove = _function("memmove", 3)


@intrinsic
def _word(typing_context, address):
    """The word at an address."""

    def generate(context, builder, sig, args):
        return builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()))

    return types.uintp(types.uintp), generate


@intrinsic
def _set_word(typing_context, address, value):
    """Writes a word to an address."""

    def generate(context, builder, sig, args):
        builder.store(args[1], builder.inttoptr(args[0], ir.IntType(64).as_pointer()))
        return context.get_dummy_value()

    return types.none(types.uintp, types.uintp), generate


@njit
def _allocate(at_end, size, filling):
    """[a page that notes both lengths] [no access] [the array] [no access]."""
    size = max(size, types.uintp(1))
    room = (size + PAGE - 1) // PAGE * PAGE
    whole = room + 3 * PAGE
    start = _mmap(0, whole, _NO_ACCESS, _PRIVATE_AND_ANONYMOUS, _FAILED, 0)
    if start == _FAILED:
        return types.uintp(0)
    first = start + 2 * PAGE
    if _mprotect(start, PAGE, _READ_AND_WRITE) or _mprotect(first, room, _READ_AND_WRITE):
        _munmap(start, whole)
        return types.uintp(0)
    _set_word(start, whole)
    _set_word(start + 8, size)
    if filling:
        _memset(first, filling, room)
    return first + room - size if at_end else first


@njit
def _start_of(address):
    """Where the mapping of an array begins, which always lies in the first of its pages."""
    return address // PAGE * PAGE - 2 * PAGE


def _malloc(at_end, size):
    return _allocate(at_end, size, 0xFF)


def _calloc(at_end, count, size):
    return _allocate(at_end, count * size, 0)


def _free(at_end, address, size):
    if address:
        start = _start_of(address)
        _munmap(start, _word(start))


def _realloc(at_end, address, size):
    new = _allocate(at_end, size, 0xFF)
    if new and address:
        start = _start_of(address)
        _memmove(new, address, min(size, _word(start + 8)))
        _munmap(start, _word(start))
    return new


class _Handler(ctypes.Structure):
    """PyDataMem_Handler of NumPy's ndarraytypes.h."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("at_end", ctypes.c_void_p),
        ("malloc", ctypes.c_void_p),
        ("calloc", ctypes.c_void_p),
        ("realloc", ctypes.c_void_p),
        ("free", ctypes.c_void_p),
    )


@functools.cache
def _compiled() -> tuple[Any, ...]:
    """The functions of a `_Handler`, in its order; kept, as arrays need them to the end."""
    word = types.uintp
    return (
        cfunc(word(word, word))(_malloc),
        cfunc(word(word, word, word))(_calloc),
        cfunc(word(word, word, word))(_realloc),
        cfunc(types.void(word, word, word))(_free),
    )


_handlers: list[_Handler] = []  # arrays need theirs as long as they live


def place(where: str) -> None:
    """Has all arrays made from now on, in this thread, lie at the "end" or "begin" of pages."""
    addresses = [function.address for function in _compiled()]
    handler = _Handler(b"guarded", 1, where == "end", *addresses)
    _handlers.append(handler)
    api = ctypes.pythonapi
    api.PyCapsule_New.restype = ctypes.py_object
    api.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    table = api.PyCapsule_GetPointer(multiarray._ARRAY_API, None)
    functions = ctypes.cast(table, ctypes.POINTER(ctypes.c_void_p))
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(functions[_SET_HANDLER])
    set_handler(api.PyCapsule_New(ctypes.addressof(handler), b"mem_handler", None))


def distances(array: np.ndarray) -> tuple[int, int]:
    """Bytes from the beginning of a page to the array, and from the array to the end of one."""
    address = array.__array_interface__["data"][0]
    return address % PAGE, -(address + array.nbytes) % PAGE
