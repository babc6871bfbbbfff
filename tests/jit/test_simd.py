"""Each vector operation compiled against its twin in NumPy, and the twins' errors.

A test's function is run twice: compiled, and as Python with every operation replaced by its twin,
which is what NUMBA_DISABLE_JIT=1 does to a whole process.
"""

from __future__ import annotations

import functools
import platform
import re
import types
from fractions import Fraction

import numpy as np
import pytest
from numba.core import config
from numba.core.errors import TypingError

from nbnorm.jit import elementary, options, simd, target
from nbnorm.jit.elementary import absolute, exp, narrow, square_root
from nbnorm.jit.simd import (
    accumulate,
    accumulate_part,
    blend,
    fma,
    lanes,
    load,
    load_part,
    misalignment,
    prefetch,
    select,
    splat,
    splat_register,
    store,
    store_part,
    store_stream,
    total,
    widen,
)
from tests.jit.processes import python

compiled_only = pytest.mark.skipif(config.DISABLE_JIT, reason="nothing is compiled")

TWINS = {
    operation.__name__: getattr(module, f"_{operation.__name__}")
    for module, operations in (
        (elementary, [absolute, exp, narrow, square_root]),
        (simd, [accumulate, accumulate_part, blend, fma, lanes, load, load_part, misalignment]),
        (simd, [prefetch, select, splat, splat_register, store, store_part, store_stream]),
        (simd, [total, widen]),
    )
    for operation in operations
}

DTYPES = ["float32", "float64"]


def plain(function):
    """The function with twins for operations."""
    return types.FunctionType(function.__code__, {**function.__globals__, **TWINS})


@functools.cache
def compiled(function):
    return options.worker(function)


def both(function, *arguments):
    """What the two forms of a function return and write into copies of the arrays."""
    results = []
    for form in (compiled(function), plain(function)):
        copies = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
        value = form(*copies)
        results.append([value, *(a for a in copies if isinstance(a, np.ndarray))])
    return results


def assert_same_bits(function, *arguments):
    for ours, theirs in zip(*both(function, *arguments), strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=isinstance(ours, np.ndarray))


@pytest.fixture(params=DTYPES)
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture
def count(dtype):
    return simd.lane_count(dtype.itemsize)


@pytest.fixture
def hard(rng, count, dtype):
    """Two vectors and a half of values of all sizes, with NaN, infinities, zeros, subnormals."""
    exponent = 30 if dtype == np.float32 else 300
    values = rng.standard_normal(5 * count // 2) * 10.0 ** rng.uniform(-exponent, exponent)
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, float(np.finfo(dtype).smallest_subnormal)]
    values[rng.permutation(values.size)[: len(special)]] = special
    return values.astype(dtype)


# --- memory ---------------------------------------------------------------------------------


def copy_vector(out, x, j, i):
    store(out, j, load(x, i))


@compiled_only
def test_load_and_store_anywhere(hard, count, dtype):
    for i in range(hard.size - count + 1):
        out = np.full(hard.size, 7, dtype)
        assert_same_bits(copy_vector, out, hard, hard.size - count - i, i)


def copy_part(out, x, j, i, count, others):
    store_part(out, j, load_part(x, i, count, load(others, 0)), count)


def widen_part(out, x, i, count, others):
    store(out, 0, load_part(x, i, count, load(others, 0)))


@compiled_only
def test_parts_of_every_length(hard, rng, count, dtype):
    others = rng.standard_normal(count).astype(dtype)
    for part in range(count + 1):
        for i in (0, 3, hard.size - part):
            out = np.full(hard.size, 7, dtype)
            assert_same_bits(copy_part, out, hard, hard.size - part - i, i, part, others)
            assert_same_bits(widen_part, out, hard, i, part, others)


@compiled_only
def test_a_count_beyond_the_lanes_is_all_of_them(hard, count, dtype):
    for part in (count + 1, 2 * count, 2**40):
        out = np.full(hard.size, 7, dtype)
        assert_same_bits(copy_part, out, hard, 1, 2, part, hard)


def stream(out, x, i):
    store_stream(out, i + misalignment(out, i), load(x, 0))


@compiled_only
def test_streaming_stores_at_every_alignment(hard, count, dtype):
    memory = np.zeros(4 * count + 64, dtype)
    worker = compiled(stream)
    for offset in range(target.register_bytes() // dtype.itemsize + 1):
        for i in (0, 1, 5):
            out = memory[offset : offset + 3 * count]
            out[:] = 7
            worker(out, hard, i)
            first = i + simd._misalignment(out, i)
            assert first - i < target.register_bytes() // dtype.itemsize
            assert (out.ctypes.data + first * dtype.itemsize) % target.register_bytes() == 0
            expected = np.full(out.size, 7, dtype)
            expected[first : first + count] = hard[:count]
            np.testing.assert_array_equal(out, expected)
            out[:] = 7
            plain(stream)(out, hard, i)
            np.testing.assert_array_equal(out, expected)


def elements_to_go(x, i):
    return misalignment(x, i)


@compiled_only
def test_between_the_addresses_of_elements_nothing_is_streamed(dtype):
    x = np.zeros(100 * dtype.itemsize + 1, np.uint8)[1:].view(dtype)
    assert not x.flags.aligned
    assert compiled(elements_to_go)(x, 3) == plain(elements_to_go)(x, 3) > x.size


def ask_for(x, i):
    prefetch(x, i)
    return lanes(x)


@compiled_only
def test_a_prefetch_reads_nothing(hard, count):
    for i in (0, -(2**40), 2**40):
        assert both(ask_for, hard, i)[0][0] == count
        assert both(ask_for, hard, i)[1][0] == count


# --- arithmetic -----------------------------------------------------------------------------


def operators(out, a, b, like):
    width = lanes(like)
    for i in range(0, a.size - width + 1, width):
        x, y = load(a, i), load(b, i)
        store(out, 0 * a.size + i, x + y)
        store(out, 1 * a.size + i, x - y)
        store(out, 2 * a.size + i, x * y)
        store(out, 3 * a.size + i, x / y)
        store(out, 4 * a.size + i, select(x < y, x, y))
        store(out, 5 * a.size + i, select(x > y, x, splat(like, 0.1)))
        store(out, 6 * a.size + i, x * splat(x, -3))


@compiled_only
def test_operators(hard, count, dtype, rng):
    other = rng.permutation(hard)
    assert_same_bits(operators, np.zeros(7 * hard.size, dtype), hard, other, hard)
    assert_same_bits(operators, np.zeros(7 * hard.size, dtype), hard, hard, hard)


def multiply_and_add(out, a, b, c):
    store(out, 0, fma(load(a, 0), load(b, 0), load(c, 0)))


@compiled_only
def test_fma(rng, count, dtype):
    """Exactly one rounding where the target has fma; where sums cancel it shows in every bit."""
    for cancelled_bits in (0, 3, 10, 40):
        a, b = rng.standard_normal((2, count)).astype(dtype)
        c = (-a * b * (1 + rng.standard_normal(count) * 2.0**-cancelled_bits)).astype(dtype)
        ours, twins = (r[1] for r in both(multiply_and_add, np.zeros(count, dtype), a, b, c))
        if target.has_fma():
            for lane in range(count):
                exact = Fraction(float(a[lane])) * Fraction(float(b[lane])) + Fraction(
                    float(c[lane])
                )
                half_a_unit = Fraction(float(np.spacing(np.abs(ours[lane])))) / 2
                assert abs(Fraction(float(ours[lane])) - exact) <= half_a_unit
        else:
            np.testing.assert_array_equal(ours, twins)
        tolerance = np.finfo(dtype).eps * np.abs(a * b).max()
        np.testing.assert_allclose(ours, twins, rtol=0, atol=tolerance)


def elementary_functions(out, x, i):
    v = load(x, i)
    store(out, 0, absolute(v))
    store(out, lanes(x), square_root(absolute(v)))
    wide = widen(v)
    store(out, 2 * lanes(x), narrow(x, wide * wide))


@compiled_only
def test_functions_of_one_instruction(hard, count, dtype):
    for i in range(hard.size - count + 1):
        assert_same_bits(elementary_functions, np.full(3 * count, 7, dtype), hard, i)


def blend_registers(out, x, i, count):
    number = splat_register(x, 5.0)
    store_part(out, i, blend(count, load_part(x, i, x.size, number), number), x.size)


@compiled_only
def test_registers_are_vectors_of_fewer_lanes(rng, dtype):
    width = simd.register_lanes(dtype.itemsize)
    x = rng.standard_normal(width + 3).astype(dtype)
    for count in range(width + 2):
        for i in (0, 3):
            out = np.full(width + 3, 7, dtype)
            assert_same_bits(blend_registers, out, x, i, count)
            after = both(blend_registers, out, x, i, count)[0][1]
            first, last = i + min(count, width), i + width
            np.testing.assert_array_equal(after[i:first], x[i:first])
            np.testing.assert_array_equal(after[first:last], 5.0)
            np.testing.assert_array_equal(np.delete(after, slice(i, last)), 7.0)


def copy_wide(out, x, like, i, count):
    store_part(out, i, load_part(x, i, count, widen(splat(like, 5.0))), count + 1)


@compiled_only
def test_float64_parts_with_the_lanes_of_another_vector(rng, count, dtype):
    x = rng.standard_normal(3 * count)
    for part in (0, 1, count // 2 + 1, count - 1, count, 2 * count):
        for i in (0, 3, count):
            assert_same_bits(copy_wide, np.full(3 * count, 7.0), x, np.zeros(1, dtype), i, part)


def sums_of(out, x, parts):
    out[0] = total(load(x, 0))
    wide = widen(load(x, 0))
    out[1] = total(wide)
    out[2] = total(wide * wide + splat(wide, 0.1))
    accumulate(parts, 3, load(x, 1))
    accumulate(parts, 5, widen(load(x, 0)))


@compiled_only
def test_sums(rng, count, dtype):
    x = rng.standard_normal(2 * count).astype(dtype) * 1e10
    parts = rng.standard_normal(count + 8)
    assert_same_bits(sums_of, np.zeros(3), x, parts)
    out = both(sums_of, np.zeros(3), x, parts)[0][1]
    assert out[0] == pytest.approx(x[:count].sum(dtype=np.float64), rel=1e-12)


def part_of_sums(parts, x, i, part):
    accumulate_part(parts, i, load(x, 1), part)


@compiled_only
def test_a_part_is_added_to_sums_and_no_others_are_written(rng, count, dtype):
    x = rng.standard_normal(count + 1).astype(dtype)
    for part in (0, 1, count // 2, count - 1, count, count + 1, 2**40):
        added = min(part, count)
        for i in (0, 3):
            parts = rng.standard_normal(added + i)
            assert_same_bits(part_of_sums, parts, x, i, part)
            after = both(part_of_sums, parts, x, i, part)[0][1]
            np.testing.assert_array_equal(after[i:], parts[i:] + x[1 : 1 + added])


# --- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize("index", [-1, 1, -(2**40), 2**40])
def test_a_twin_raises_beyond_the_array(index, count, dtype):
    x, sums = np.zeros(count, dtype), np.zeros(count)
    vector = simd._load(x, 0)
    for name, arguments in (
        ("load", lambda i: (x, i)),
        ("store", lambda i: (x, i, vector)),
        ("load_part", lambda i: (x, i, count, vector)),
        ("store_part", lambda i: (x, i, vector, count)),
        ("accumulate", lambda i: (sums, i, vector)),
    ):
        TWINS[name](*arguments(0))
        with pytest.raises(IndexError, match="of an array of"):
            TWINS[name](*arguments(index))


@pytest.mark.parametrize(("index", "part"), [(0, -1), (-1, 1), (3, -1), (-1, 0), (9, 3), (11, 1)])
def test_a_part_raises_beyond_the_array(index, part, count, dtype):
    x = np.zeros(10, dtype)
    vector = simd._load(np.zeros(count, dtype), 0)
    with pytest.raises(IndexError):
        TWINS["load_part"](x, index, part, vector)
    with pytest.raises(IndexError):
        TWINS["store_part"](x, index, vector, part)
    with pytest.raises(IndexError):
        TWINS["accumulate_part"](x.astype(np.float64), index, vector, part)
    TWINS["load_part"](x, 10, 0, vector)
    TWINS["store_part"](x, 10, vector, 0)


def test_a_streaming_twin_raises_where_it_is_not_aligned(count, dtype):
    x = np.zeros(2 * count + 64, dtype)
    vector = simd._load(x, 0)
    first = simd._misalignment(x, 0)
    simd._store_stream(x, first, vector)
    with pytest.raises(IndexError, match="not aligned"):
        simd._store_stream(x, first + 1, vector)
    for beyond in (first - count, first + 2 * count):
        with pytest.raises(IndexError, match="of an array of"):
            simd._store_stream(x[: first + count], beyond, vector)


def read_only(x):
    x.setflags(write=False)
    return x


ARRAYS_OF_OTHER_KINDS = {
    "two dimensions": lambda size, dtype: np.zeros((1, size), dtype),
    "gaps": lambda size, dtype: np.zeros(2 * size, dtype)[::2],
    "backwards": lambda size, dtype: np.zeros(size, dtype)[::-1],
    "integers": lambda size, dtype: np.zeros(size, f"i{dtype.itemsize}"),
}


@compiled_only
@pytest.mark.parametrize("kind", ARRAYS_OF_OTHER_KINDS)
def test_the_compiler_refuses_other_arrays(kind, count, dtype):
    x = np.zeros(2 * count, dtype)
    other = ARRAYS_OF_OTHER_KINDS[kind](2 * count, dtype)
    for function, arguments in (
        (copy_vector, (x, other, 0, 0)),
        (copy_vector, (other, x, 0, 0)),
        (copy_part, (x, other, 0, 0, 1, x)),
        (copy_part, (other, x, 0, 0, 1, x)),
        (stream, (other, x, 0)),
        (ask_for, (other, 0)),
        (sums_of, (np.zeros(3), other, np.zeros(2 * count))),
    ):
        with pytest.raises(TypingError, match="expected a contiguous float array"):
            compiled(function)(*arguments)


@compiled_only
def test_the_compiler_refuses_to_write_a_constant_or_another_type(count, dtype):
    x = np.zeros(count, dtype)
    other = np.zeros(count, np.float64 if dtype == np.float32 else np.float32)
    copy, copy_some = compiled(copy_vector), compiled(copy_part)
    with pytest.raises(TypingError, match="expected a writable array"):
        copy(read_only(x.copy()), x, 0, 0)
    with pytest.raises(TypingError, match=r"expected a vector\("):
        copy(other, x, 0, 0)
    with pytest.raises(TypingError, match="expected others of"):
        copy_some(x, x, 0, 0, 1, other)
    with pytest.raises(TypingError, match="writable float64 sums"):
        compiled(sums_of)(np.zeros(3), x, np.zeros(2 * count, np.float32))
    copy(x, read_only(x.copy()), 0, 0)


def test_a_twin_refuses_another_type(count, dtype):
    x = np.zeros(count, dtype)
    vector = simd._load(np.zeros(2 * count, np.float64 if dtype == np.float32 else np.float32), 0)
    for call in (
        lambda: simd._store(x, 0, vector),
        lambda: simd._store_part(x, 0, vector, 1),
        lambda: simd._load_part(x, 0, 1, vector),
    ):
        with pytest.raises(TypeError, match="a vector of float"):
            call()


# --- targets --------------------------------------------------------------------------------


def every_operation(out, sums, x, y, count):
    """One loop with all that kernels are made of."""
    width = lanes(x)
    parts = splat(x, 0.0)
    for i in range(0, x.size - width + 1, width):
        prefetch(x, i + 8 * width)
        v = load(x, i) - load_part(y, i, count, parts)
        w = select(v < parts, exp(v), fma(v, v, parts) / splat(v, 3.0))
        parts = parts + w
        accumulate(sums, 0, w)
        store(out, i, w)
        store_part(out, i, v, count)
    return total(widen(parts))


EMIT_ASSEMBLY = """
import numpy as np
from nbnorm.jit import options, simd, target
from tests.jit.test_simd import every_operation, plain
worker = options.worker(every_operation)
for dtype in (np.float32, np.float64):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 1000)).astype(dtype)
    results = []
    for form in (worker, plain(every_operation)):
        out, sums = np.zeros_like(x), np.zeros(128)
        results.append((form(out, sums, x, y, 7), out, sums))
    for ours, theirs in zip(*results):
        np.testing.assert_allclose(ours, theirs, rtol=2e-6 if dtype == np.float32 else 1e-14)
print(target.register_bytes(), target.has_fma(), simd.lane_count(4), simd.lane_count(8))
print(*worker.inspect_asm().values())
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 processors")
@pytest.mark.parametrize(
    ("processor", "register", "has_fma", "widest", "too_wide"),
    [("haswell", 32, True, "ymm", "zmm"), ("x86-64", 16, False, "xmm", "[yz]mm")],
)
def test_code_for_other_processors(processor, register, has_fma, widest, too_wide):
    if target.register_bytes() < register or (has_fma and not target.has_fma()):
        pytest.skip("this processor cannot run it")
    output, _ = python(
        "-c", EMIT_ASSEMBLY,
        NUMBA_CPU_NAME=processor, NUMBA_CPU_FEATURES="", NBNORM_CACHE=0, NUMBA_NUM_THREADS=1,
    )  # fmt: skip
    described, _, assembly = output.partition("\n")
    assert described == f"{register} {has_fma} {register} {register // 2}"
    assert re.search(widest, assembly)
    assert not re.search(too_wide, assembly)
    assert bool(re.search("vfmadd|vfnmadd|vfmsub", assembly)) == has_fma
    assert not re.search(r"\bfmaf?\b", assembly)  # the C library's, a call for each lane


@compiled_only
def test_the_twins_run_where_nothing_is_compiled():
    code = """
import numpy as np
from nbnorm.jit import simd
try:
    simd.load(np.zeros(3, np.float32), 0)
except IndexError as error:
    print(error)
print(simd.load.__name__, simd.load.__doc__)
"""
    output, _ = python("-c", code, NUMBA_DISABLE_JIT=1)
    first, second = output.splitlines()
    assert re.fullmatch(r"lanes \[0, \d+\) of an array of 3", first)
    assert second.startswith("load The vector")
