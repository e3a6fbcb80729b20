"""Three orders of one scan: the states of the plain loop, at odd lengths, and the algebra that allows it."""

import math

import pytest
import torch

from baby_mamba.errors import ConfigError
from baby_mamba.ops.selective_scan.parallel import associative_scan
from baby_mamba.theory import AffineMaps, blelloch_scan, chunked_scan, sequential_scan

SCANS = {
    "sequential": sequential_scan,
    "blelloch": blelloch_scan,
    "chunks of 1": lambda maps: chunked_scan(maps, 1),
    "chunks of 8": lambda maps: chunked_scan(maps, 8),
    "one chunk": lambda maps: chunked_scan(maps, 1000),
}


def random_maps(length: int, dtype: torch.dtype = torch.float64) -> AffineMaps:
    generator = torch.Generator().manual_seed(length)
    return AffineMaps(*torch.randn(2, length, 3, 2, dtype=dtype, generator=generator))


@pytest.mark.parametrize("scan", SCANS.values(), ids=SCANS)
@pytest.mark.parametrize("length", [1, 2, 3, 8, 63, 100])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_every_scan_is_the_loop(scan, length: int, dtype: torch.dtype) -> None:
    maps = random_maps(length, dtype)
    start = torch.ones(3, 2, dtype=dtype)
    h, expected = start, []
    for a, b in zip(*maps, strict=True):
        h = a * h + b
        expected.append(h)
    torch.testing.assert_close(scan(maps)(start), torch.stack(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scan", SCANS.values(), ids=SCANS)
def test_no_steps(scan) -> None:
    assert scan(random_maps(0)).b.shape == (0, 3, 2)


@pytest.mark.parametrize("scan", SCANS.values(), ids=SCANS)
def test_gradients(scan) -> None:
    a, b = (x.requires_grad_() for x in random_maps(5))
    assert torch.autograd.gradcheck(lambda a, b: tuple(scan(AffineMaps(a, b))), (a, b))


def test_it_is_what_the_operation_runs() -> None:
    maps = random_maps(37)
    at_rest = torch.zeros(3, 2, dtype=torch.float64)
    theirs = associative_scan(maps.a[None], maps.b[None])[0]
    torch.testing.assert_close(blelloch_scan(maps)(at_rest), theirs, rtol=1e-9, atol=1e-9)


def test_maps_are_associative_but_do_not_commute() -> None:
    f, g, k = (random_maps(length=4).at(i) for i in range(3))
    torch.testing.assert_close(f.then(g).then(k), f.then(g.then(k)))
    torch.testing.assert_close(f.then(g)(torch.ones(3, 2).double()), g(f(torch.ones(3, 2).double())))
    assert not torch.allclose(f.then(g).b, g.then(f).b)


@pytest.mark.parametrize(
    ("scan", "rounds"),
    [(sequential_scan, 63), (blelloch_scan, 2 * 6 + 1), (lambda maps: chunked_scan(maps, 8), 7 + 7 + 1)],
    ids=["sequential", "blelloch", "chunked"],
)
def test_rounds_are_as_promised(scan, rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted over a length of 64: log2(64) = 6 levels up and 6 down; 8 chunks of 8."""
    sizes = []
    then = AffineMaps.then

    def counting(self: AffineMaps, later: AffineMaps) -> AffineMaps:
        sizes.append(max(self.a[..., 0, 0].numel(), later.a[..., 0, 0].numel()))
        return then(self, later)

    monkeypatch.setattr(AffineMaps, "then", counting)
    scan(random_maps(64))
    assert len(sizes) == rounds
    assert sum(sizes) <= 3 * 64 + math.log2(64)


def test_a_chunk_needs_a_step() -> None:
    with pytest.raises(ConfigError, match="chunk is 0; expected a number of steps of at least 1"):
        chunked_scan(random_maps(4), 0)
