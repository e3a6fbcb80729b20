r"""The recurrence h_t = a_t h_{t-1} + b_t without waiting for h_{t-1}: three orders in which to compute one thing.

A step is an affine map, h -> a h + b. Two steps in a row are one affine map again, so a stretch of time, however long,
is two numbers (per channel and state), and h_t is what the first t steps, taken as one map, make of h_0. Taking
maps together is associative, (f then g) then k = f then (g then k): it does not matter where one begins. Nothing like
it holds for an RNN with a tanh between the steps.

| scan            | rounds, one after the other | compositions       | used where                                      |
|-----------------|-----------------------------|--------------------|-------------------------------------------------|
| sequential_scan | length                      | length             | there is one processor per channel              |
| blelloch_scan   | 2 log2(length)              | about 3 length     | there are processors for all steps              |
| chunked_scan    | chunk + length / chunk      | about 2 length     | there are some: a chunk each                    |

All return every prefix, so `scan(maps)(h_0)` are all states. `ops.selective_scan` runs them: its backend `parallel` is
an associative scan for models, its fused backends are chunked and never hold the maps of all steps at once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from baby_mamba.errors import ConfigError


class AffineMaps(NamedTuple):
    """The maps h -> a h + b of consecutive steps; a and b have one shape (length, ...)."""

    a: Tensor
    b: Tensor

    def __call__(self, h: Tensor) -> Tensor:
        """What each map makes of h, (length, ...)."""
        return self.a * h + self.b

    def then(self, later: AffineMaps) -> AffineMaps:
        """Each map followed by the later one: a_2 (a_1 h + b_1) + b_2 = (a_2 a_1) h + (a_2 b_1 + b_2)."""
        return AffineMaps(later.a * self.a, later.a * self.b + later.b)

    def at(self, index: int | slice | Tensor) -> AffineMaps:
        """The maps of some of the steps."""
        return AffineMaps(self.a[index], self.b[index])


def sequential_scan(maps: AffineMaps) -> AffineMaps:
    """All prefixes, each from the one before: length compositions, one after the other."""
    prefixes = [maps.at(slice(0, 1))]
    for t in range(1, len(maps.a)):
        prefixes.append(prefixes[-1].then(maps.at(slice(t, t + 1))))
    return _join(prefixes)


def blelloch_scan(maps: AffineMaps) -> AffineMaps:
    """All prefixes in 2 log2(length) rounds (Blelloch, 1990, section 1.2): totals up a tree, prefixes down it.

    Up: neighbours are joined to pairs, pairs to fours, and so on, so that each node knows the total of its part. Down:
    each node hears what came before its part. It passes that on to its left child, and to its right child that followed
    by the left child's total. Each round is a single operation on all nodes of a level.
    """
    length = len(maps.a)
    if length == 0:
        return maps
    padding = 2 ** (length - 1).bit_length() - length
    level = _join([maps, _identity(maps, padding)])  # a full tree; the identity at its end changes no prefix before it

    lefts = []
    while len(level.a) > 1:
        left, right = level.at(slice(0, None, 2)), level.at(slice(1, None, 2))
        lefts.append(left)
        level = left.then(right)

    before = _identity(maps, 1)  # nothing comes before the root
    for left in reversed(lefts):
        children = (before, before.then(left))
        before = AffineMaps(*(torch.stack(pair, dim=1).flatten(0, 1) for pair in zip(*children, strict=True)))
    return before.at(slice(0, length)).then(maps)


def chunked_scan(maps: AffineMaps, chunk: int) -> AffineMaps:
    """All prefixes, by chunks of time: within all chunks side by side, then from chunk to chunk.

    1. Each chunk scans its own steps as if nothing came before: all chunks at once.
    2. The totals of the chunks are scanned: length / chunk steps.
    3. What came before a chunk is put before each of its prefixes.

    Raises:
        ConfigError: chunk is below 1.
    """
    if chunk < 1:
        raise ConfigError(f"chunk is {chunk}; expected a number of steps of at least 1")
    length = len(maps.a)
    if length == 0:
        return maps
    chunk = min(chunk, length)
    padded = _join([maps, _identity(maps, -length % chunk)])
    # Steps within a chunk first, so that step i of every chunk is taken at once: (chunk, chunks, ...).
    by_step = AffineMaps(*(x.unflatten(0, (-1, chunk)).transpose(0, 1) for x in padded))
    within = sequential_scan(by_step)
    totals = sequential_scan(within.at(-1))
    before = _join([_identity(maps, 1), totals.at(slice(0, -1))])
    prefixes = before.then(within)
    return AffineMaps(*(x.transpose(0, 1).flatten(0, 1)[:length] for x in prefixes))


def _identity(maps: AffineMaps, length: int) -> AffineMaps:
    """`length` maps h -> h of the same kind."""
    shape = (length, *maps.a.shape[1:])
    return AffineMaps(maps.a.new_ones(shape), maps.b.new_zeros(shape))


def _join(parts: list[AffineMaps]) -> AffineMaps:
    return AffineMaps(torch.cat([part.a for part in parts]), torch.cat([part.b for part in parts]))
