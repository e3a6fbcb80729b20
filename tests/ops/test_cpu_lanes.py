"""Vectors for numba: their arithmetic, their access to memory, and how exact their functions are."""

import numba
import numpy as np
import pytest

from baby_mamba.ops import lanes
from baby_mamba.ops.lanes import LANES

DTYPES = [np.float32, np.float64]


def apply(function, *operands: np.ndarray) -> np.ndarray:
    """`function` of Lanes, on arrays of one size."""
    dtype, size = operands[0].dtype, operands[0].size
    padded = [np.pad(x, (0, -size % LANES)).reshape(-1, LANES) for x in operands]
    out = np.empty_like(padded[0])

    if len(operands) == 1:

        @numba.njit
        def run(x, out):
            x, out = lanes.as_lanes(x), lanes.as_lanes(out)
            for i in range(len(x)):
                out[i] = function(x[i])

    else:

        @numba.njit
        def run(x, y, out):
            x, y, out = lanes.as_lanes(x), lanes.as_lanes(y), lanes.as_lanes(out)
            for i in range(len(x)):
                out[i] = function(x[i], y[i])

    run(*padded, out)
    assert out.dtype == dtype
    return out.ravel()[:size]


@numba.njit
def arithmetic(x, y):
    z = 3 - x / 2.0
    z += y * x
    z *= x
    z -= y
    z /= 4
    return z


@pytest.mark.parametrize("dtype", DTYPES)
def test_arithmetic_is_that_of_numpy(dtype):
    x, y = np.random.default_rng(0).standard_normal((2, 40)).astype(dtype)
    expected = ((3 - x / 2 + y * x) * x - y) / 4
    np.testing.assert_allclose(apply(arithmetic, x, y), expected, rtol=20 * np.finfo(dtype).eps, atol=1e-6)


def test_nan_and_infinity_stay_in_their_lane():
    x = np.linspace(-1, 1, 16, dtype=np.float32)
    x[3], x[7] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        expected = ((3 - x / 2 + x * x) * x - x) / 4
    np.testing.assert_allclose(apply(arithmetic, x, x), expected, rtol=1e-5, atol=1e-6)


@numba.njit
def smaller(x, y):
    return lanes.where_less(x, y, x, y)


def test_no_comparison_with_nan_is_true():
    x = np.array([1, 2, np.nan, 4], np.float32)
    y = np.array([2, 1, 1, np.nan], np.float32)
    np.testing.assert_array_equal(apply(smaller, x, y), np.array([1, 1, 1, np.nan], np.float32))


def units_in_the_last_place(value: np.ndarray, exact: np.ndarray) -> float:
    """Largest error of float32 values."""
    return float(np.max(np.abs(value - exact) / np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)))


EXACT = {
    lanes.exp2: np.exp2,
    lanes.exp: np.exp,
    lanes.sigmoid: lambda x: 1 / (1 + np.exp(-x)),
    lanes.softplus: lambda x: np.logaddexp(x, 0),
}


@pytest.mark.parametrize(
    ("function", "low", "high", "limit"),
    [
        (lanes.exp2, -126, 127.4, 1.0),
        (lanes.exp, -87.3, 88.3, 1.25),
        (lanes.sigmoid, -80, 80, 2.5),
        (lanes.softplus, -80, 80, 4.0),
    ],
    ids=["exp2", "exp", "sigmoid", "softplus"],
)
def test_functions_are_exact_to_the_last_places_of_float32(function, low, high, limit):
    generator = np.random.default_rng(0)
    small = np.exp(generator.uniform(-20, 0, 100_000))
    x = np.concatenate([generator.uniform(low, high, 300_000), small, -small]).astype(np.float32)
    assert units_in_the_last_place(apply(function, x), EXACT[function](x.astype(np.float64))) <= limit


@pytest.mark.parametrize("function", list(EXACT), ids=["exp2", "exp", "sigmoid", "softplus"])
def test_functions_are_exact_in_float64(function):
    x = np.random.default_rng(0).uniform(-30, 30, 10_000)
    exact = EXACT[function](x.astype(np.longdouble))
    assert np.max(np.abs((apply(function, x) - exact) / exact)) <= 10 * np.finfo(np.float64).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_at_the_ends_of_their_range(dtype):
    lowest, highest = np.finfo(dtype).minexp, np.finfo(dtype).maxexp
    x = np.array([0, -0.0, lowest - 1, -np.inf, highest, np.inf, np.nan], dtype)
    np.testing.assert_array_equal(apply(lanes.exp2, x), np.array([1, 1, 0, 0, np.inf, np.inf, np.nan], dtype))
    np.testing.assert_array_equal(
        apply(lanes.exp, x * np.log(2).astype(dtype) * 1.01), np.array([1, 1, 0, 0, np.inf, np.inf, np.nan], dtype)
    )
    np.testing.assert_array_equal(apply(lanes.softplus, x[[3, 5, 6]]), np.array([0, np.inf, np.nan], dtype))
    np.testing.assert_array_equal(apply(lanes.sigmoid, x[[3, 5, 6]]), np.array([0, 1, np.nan], dtype))


def test_every_nan_stays_a_nan():
    # A NaN has spare bits. The trick with the exponent must not make a number of them.
    x = np.array([0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], np.uint32).view(np.float32)
    assert np.isnan(apply(lanes.exp2, x)).all()
    assert np.isnan(apply(lanes.exp, x)).all()


def test_load_and_store_touch_only_the_counted_lanes():
    @numba.njit
    def copy(source, target, i, t, channel, count):
        x = lanes.load(source, i, t, channel, count)
        lanes.store(target, i, t, channel, count, x)
        return lanes.lane_sum(x)

    source = np.arange(2 * 3 * 40, dtype=np.float32).reshape(2, 3, 40)[:, ::2]  # any stride but that of channels
    for channel, count in ((0, 16), (5, 16), (32, 8), (39, 1), (7, 0)):
        target = np.full((2, 2, 40), -1, np.float32)
        total = copy(source, target, 1, 1, channel, count)
        expected = np.full((2, 2, 40), -1, np.float32)
        expected[1, 1, channel : channel + count] = source[1, 1, channel : channel + count]
        np.testing.assert_array_equal(target, expected)
        assert total == source[1, 1, channel : channel + count].sum()


@pytest.mark.parametrize("channels", [0, 1, 15, 16, 17, 40])
def test_rows_are_spread_over_blocks_and_collected_again(channels):
    @numba.njit
    def there_and_back(rows, out, floats):
        array = lanes.empty_lanes((3, rows.shape[1]), rows.dtype)
        lanes.clear(array)
        lanes.read_rows(rows, 2.0, array)
        floats[:] = lanes.as_floats(array)
        lanes.write_rows(array, out)

    rows = np.random.default_rng(0).standard_normal((5, channels)).T
    out, floats = np.empty_like(rows), np.full((3, 5, LANES), np.nan)
    there_and_back(rows, out, floats)
    np.testing.assert_array_equal(out, 2 * rows)
    assert np.count_nonzero(floats) == rows.size  # lanes without a channel are 0


def test_arrays_of_lanes_start_at_a_cache_line():
    @numba.njit
    def address(n):
        return lanes.as_floats(lanes.empty_lanes((n,), np.float32)).ctypes.data

    assert {address(n) % lanes.CACHE_LINE for n in range(1, 50)} == {0}
