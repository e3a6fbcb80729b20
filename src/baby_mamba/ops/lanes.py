"""Vectors of channels for numba: what lets the loops of the `cpu` backends read like the algorithm and run like it.

A `Lanes` value holds the same quantity for `LANES` neighbouring channels and lives in vector registers: LLVM maps it to
one register with AVX-512, to two with AVX2, to four with SSE or NEON. Inside a numba function `a * h + b` works on all
lanes at once, numbers are broadcast, and an array of Lanes, made by `empty_lanes`, reads and writes whole vectors. The
instructions carry the `contract` flag alone: a product and a sum may become one fused multiply-add, and NaN and
infinity keep their meaning. Lanes never mix, except in `lane_sum`.

Functions: `exp2`, `exp`, `sigmoid`, `softplus`, without branches. Their largest errors in float32, measured in units in
the last place, are 0.9, 1.1, 2.3 and 3.5; in float64 all are below 10 (`tests/ops/test_cpu_lanes.py`). That holds where
the result is a normal number. exp2 and exp are 0 below that range, infinite above it, and NaN for NaN.

This module imports numba; only the `cpu` backends import this module.
"""

import operator
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, overload, register_model
from numba.np.arrayobj import make_array, populate_array

LANES = 16  # channels in a vector, on every machine and in every dtype
CACHE_LINE = 64  # bytes

_DTYPES = {types.float32: np.dtype(np.float32), types.float64: np.dtype(np.float64)}


class Lanes(types.Type):
    """numba's type of a vector of `LANES` floats."""

    def __init__(self, dtype: types.Float):
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, lanes):
        scalar = manager.lookup(lanes.dtype).get_value_type()
        super().__init__(manager, lanes, ir.VectorType(scalar, LANES))


def _constant(context, lanes, values):
    """An LLVM constant vector; one number stands for all lanes."""
    return ir.Constant(context.get_value_type(lanes), np.broadcast_to(values, LANES).tolist())


def _repeat(builder, scalar):
    """A vector with `scalar` in every lane."""
    vector = ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined)
    first = builder.insert_element(vector, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, vector, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _to_lanes(context, builder, value, given, lanes):
    """`value`, of numba type `given`, as a vector: numbers are converted and repeated."""
    return value if given == lanes else _repeat(builder, context.cast(builder, value, given, lanes.dtype))


def _lanes_among(arguments) -> Lanes | None:
    """The one Lanes type among numba types that are otherwise numbers; None if there is none."""
    found = {a for a in arguments if isinstance(a, Lanes)}
    return found.pop() if len(found) == 1 and all(isinstance(a, (Lanes, types.Number)) for a in arguments) else None


def _define_arithmetic(instruction: str, *operators: Callable) -> None:
    class Template(AbstractTemplate):
        def generic(self, args, kws):
            lanes = _lanes_among(args)
            return signature(lanes, *args) if lanes and len(args) == 2 else None

    def lower(context, builder, sig, args):
        a, b = (_to_lanes(context, builder, *given, sig.return_type) for given in zip(args, sig.args, strict=True))
        return getattr(builder, instruction)(a, b, flags=("contract",))

    for op in operators:
        infer_global(op)(type("Template", (Template,), {}))
        for left, right in ((Lanes, Lanes), (Lanes, types.Number), (types.Number, Lanes)):
            lower_builtin(op, left, right)(lower)


_define_arithmetic("fadd", operator.add, operator.iadd)
_define_arithmetic("fsub", operator.sub, operator.isub)
_define_arithmetic("fmul", operator.mul, operator.imul)
_define_arithmetic("fdiv", operator.truediv, operator.itruediv)


def _view(builder, context, source_type, source, result_type, shape, strides):
    """The memory of the array `source` as an array of another type."""
    source = make_array(source_type)(context, builder, source)
    view = make_array(result_type)(context, builder)
    itemsize = context.get_abi_sizeof(context.get_data_type(result_type.dtype))
    populate_array(
        view,
        data=builder.bitcast(source.data, view.data.type),
        shape=shape(cgutils.unpack_tuple(builder, source.shape)),
        strides=strides(cgutils.unpack_tuple(builder, source.strides)),
        itemsize=context.get_constant(types.intp, itemsize),
        meminfo=source.meminfo,
        parent=source.parent,
    )
    context.nrt.incref(builder, result_type, view._getvalue())
    return view._getvalue()


@intrinsic
def as_lanes(typing_context, array):
    """View a contiguous array (..., LANES) of floats as an array (...) of Lanes."""
    result = types.Array(Lanes(array.dtype), array.ndim - 1, "C", aligned=False)

    def generate(context, builder, sig, args):
        return _view(builder, context, array, args[0], result, lambda x: x[:-1], lambda x: x[:-1])

    return result(array), generate


@intrinsic
def as_floats(typing_context, array):
    """The inverse of `as_lanes`."""
    result = types.Array(array.dtype.dtype, array.ndim + 1, "C")

    def generate(context, builder, sig, args):
        length, stride = (context.get_constant(types.intp, n) for n in (LANES, array.dtype.dtype.bitwidth // 8))
        return _view(builder, context, array, args[0], result, lambda x: [*x, length], lambda x: [*x, stride])

    return result(array), generate


# A numba function that numba functions call; without the wrapper for Python, to which Lanes mean nothing.
helper = njit(forceinline=True, no_cpython_wrapper=True)


@helper
def empty_lanes(shape, dtype):
    """An array of Lanes that starts at a cache line: vectors that straddle two lines take twice as long."""
    size = LANES
    for n in shape:
        size *= n
    memory = np.empty(size + CACHE_LINE, dtype)
    start = -memory.ctypes.data % CACHE_LINE // memory.itemsize
    return as_lanes(memory[start : start + size].reshape((*shape, LANES)))


@helper
def clear(array):
    """Set an array of Lanes to zero."""
    as_floats(array)[:] = 0


@helper
def read_rows(rows, scale, array):
    """Spread scale * rows (channels, n) over an array of Lanes (block, n); lanes without a channel become 0."""
    floats = as_floats(array)
    for k in range(floats.shape[0]):
        for lane in range(LANES):
            channel = k * LANES + lane
            for n in range(floats.shape[1]):
                floats[k, n, lane] = rows[channel, n] * scale if channel < rows.shape[0] else 0.0


@helper
def write_rows(array, rows):
    """Collect rows (channels, n) from an array of Lanes (block, n)."""
    floats = as_floats(array)
    for channel in range(rows.shape[0]):
        for n in range(rows.shape[1]):
            rows[channel, n] = floats[channel // LANES, n, channel % LANES]


def _masked_access(context, builder, array_type, args):
    """(pointer, alignment, mask) of the first `count` lanes at array[i, t, channel:]."""
    array_value, i, t, channel, count = args
    array = make_array(array_type)(context, builder, array_value)
    strides = cgutils.unpack_tuple(builder, array.strides)
    itemsize = array_type.dtype.bitwidth // 8
    offset = builder.add(builder.mul(i, strides[0]), builder.mul(t, strides[1]))
    offset = builder.add(offset, builder.mul(channel, ir.Constant(channel.type, itemsize)))
    vector = ir.VectorType(context.get_value_type(array_type.dtype), LANES)
    pointer = builder.bitcast(cgutils.pointer_add(builder, array.data, offset), vector.as_pointer())
    lane = ir.Constant(ir.VectorType(count.type, LANES), list(range(LANES)))
    mask = builder.icmp_signed("<", lane, _repeat(builder, count))
    return pointer, ir.Constant(ir.IntType(32), itemsize), mask


def _call(builder, name: str, lanes: Lanes, result, args, **flags):
    function_type = ir.FunctionType(result, [a.type for a in args])
    name = f"{name}.v{LANES}f{lanes.dtype.bitwidth}"
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args, **flags)


@intrinsic
def load(typing_context, array, i, t, channel, count):
    """array[i, t, channel : channel + count] with zeros in the other lanes; channels must lie next to each other."""
    lanes = Lanes(array.dtype)

    def generate(context, builder, sig, args):
        pointer, alignment, mask = _masked_access(context, builder, array, args)
        zero = _constant(context, lanes, 0.0)
        return _call(builder, "llvm.masked.load", lanes, zero.type, (pointer, alignment, mask, zero))

    return lanes(array, types.intp, types.intp, types.intp, types.intp), generate


@intrinsic
def store(typing_context, array, i, t, channel, count, value):
    """array[i, t, channel : channel + count] = value, the first `count` lanes of it."""
    lanes = Lanes(array.dtype)

    def generate(context, builder, sig, args):
        *where, value = args
        pointer, alignment, mask = _masked_access(context, builder, array, where)
        _call(builder, "llvm.masked.store", lanes, ir.VoidType(), (value, pointer, alignment, mask))
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, types.intp, types.intp, lanes), generate


@intrinsic
def zero_like(typing_context, array):
    """Lanes of zeros in the dtype of `array`, an array of Lanes or of floats."""
    lanes = array.dtype if isinstance(array.dtype, Lanes) else Lanes(array.dtype)
    return lanes(array), lambda context, builder, sig, args: _constant(context, lanes, 0.0)


@intrinsic
def lane_sum(typing_context, x):
    """The sum over lanes, a number; always in the same order."""

    def generate(context, builder, sig, args):
        scalar = context.get_value_type(x.dtype)
        zero = ir.Constant(scalar, -0.0)
        return _call(builder, "llvm.vector.reduce.fadd", x, scalar, (zero, args[0]), fastmath=("reassoc",))

    return x.dtype(x), generate


@intrinsic
def where_less(typing_context, a, b, then, otherwise):
    """`then` where a < b, else `otherwise`, lane by lane; no comparison with NaN is true."""
    given = (a, b, then, otherwise)
    lanes = _lanes_among(given)

    def generate(context, builder, sig, args):
        a, b, then, otherwise = (_to_lanes(context, builder, *pair, lanes) for pair in zip(args, given, strict=True))
        return builder.select(builder.fcmp_ordered("<", a, b), then, otherwise)

    return (lanes(*given), generate) if lanes else None


@intrinsic
def _two_to_the(typing_context, biased):
    """2^n for integers n, given as biased = n + magic (`_exponents`): its low bits are those of 2^n's exponent."""

    def generate(context, builder, sig, args):
        bits = ir.VectorType(ir.IntType(biased.dtype.bitwidth), LANES)
        mantissa = ir.Constant(bits, [np.finfo(_DTYPES[biased.dtype]).nmant] * LANES)
        return builder.bitcast(builder.shl(builder.bitcast(args[0], bits), mantissa), args[0].type)

    return biased(biased), generate


def _exponents(dtype) -> tuple[float, float, float]:
    """(lowest, highest, magic): 2^lowest reads as 0 and 2^highest as infinity; x + magic is x rounded, and biased."""
    info = np.finfo(_DTYPES[dtype])
    return 1.0 - info.maxexp, float(info.maxexp), 1.5 * 2.0**info.nmant + info.maxexp - 1


def _polynomial(slope: Callable, low: float, high: float, degrees: dict[types.Float, int]):
    """A numba function of Lanes: 1 + x slope(x), where a polynomial interpolates slope at the Chebyshev nodes.

    Being exactly 1 at 0 matters: a state that decays slowly is multiplied by the result thousands of times.

    Args:
        slope: a numpy function that is smooth on [low, high].
        low: where the interval starts.
        high: where it ends.
        degrees: the degree of the whole polynomial by dtype.
    """
    coefficients = {}
    for dtype, degree in degrees.items():
        series = np.polynomial.Chebyshev.interpolate(slope, degree - 1, domain=(low, high))
        coefficients[dtype] = [1.0, *series.convert(kind=np.polynomial.Polynomial).coef]

    @intrinsic
    def evaluate(typing_context, x):
        def generate(context, builder, sig, args):
            *lower, value = (_constant(context, x, c) for c in coefficients[x.dtype])
            for coefficient in reversed(lower):  # Horner's rule
                value = builder.fmul(value, args[0], flags=("contract",))
                value = builder.fadd(value, coefficient, flags=("contract",))
            return value

        return x(x), generate

    return evaluate


_LN2 = (0.6931471805599453, 2.3190468138462996e-17)  # ln 2 in float64, and what that leaves over

# Degrees: of those that make an even number of nodes, so that none is 0, the lowest that the dtype's rounding hides.
_exp2_near_0 = _polynomial(lambda x: np.expm1(x * _LN2[0]) / x, -0.5, 0.5, {types.float32: 6, types.float64: 12})
_artanh_ratio = _polynomial(  # artanh(s) / s as a function of s^2
    lambda w: (np.arctanh(np.sqrt(w)) / np.sqrt(w) - 1) / w, 0.0, 1 / 9, {types.float32: 6, types.float64: 12}
)


def _of_lanes(function: Callable) -> Callable:
    """Register `function`, which maps a dtype to an implementation, as a numba function of Lanes."""

    def stub(x):
        raise NotImplementedError("only inside numba functions")

    @overload(stub, jit_options={"forceinline": True})
    def _(x):
        return function(x.dtype) if isinstance(x, Lanes) else None

    stub.__doc__ = function.__doc__
    return stub


@_of_lanes
def exp2(dtype):
    """2^x."""
    lowest, highest, magic = _exponents(dtype)

    def implementation(x):
        x = where_less(x, lowest, lowest, x)
        x = where_less(highest, x, highest, x)
        biased = x + magic  # the nearest integer to x
        return _exp2_near_0(x - (biased - magic)) * _two_to_the(biased)

    return implementation


@_of_lanes
def exp(dtype):
    """e^x = 2^n e^(x - n ln 2), with ln 2 in two parts so that the difference is exact (Cody and Waite)."""
    lowest, highest, magic = _exponents(dtype)
    log2_e, ln2 = 1 / _LN2[0], _LN2[0]
    scale = 2.0 ** (np.finfo(_DTYPES[dtype]).nmant - 11)
    ln2_head = round(ln2 * scale) / scale  # short: its product with an integer exponent is exact
    ln2_tail = (ln2 - ln2_head) + _LN2[1]

    def implementation(x):
        x = where_less(x, lowest * ln2, lowest * ln2, x)
        x = where_less(highest * ln2, x, highest * ln2, x)
        biased = x * log2_e + magic
        n = biased - magic
        return _exp2_near_0(((x - n * ln2_head) - n * ln2_tail) * log2_e) * _two_to_the(biased)

    return implementation


@helper
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return 1.0 / (1.0 + exp(0.0 - x))


@helper
def softplus(x):
    """log(1 + e^x) = max(x, 0) + 2 artanh(e / (2 + e)) with e = e^-|x|: no overflow, and exact where it is tiny."""
    e = exp(where_less(x, 0.0, x, 0.0 - x))
    ratio = e / (2.0 + e)
    return where_less(x, 0.0, 0.0, x) + 2.0 * ratio * _artanh_ratio(ratio * ratio)
