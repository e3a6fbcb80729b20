"""Templates that are put together at random: many, and none of those to test with."""

import numpy as np
import pytest

from baby_mamba.extraction import layouts
from baby_mamba.extraction.composition import (
    compose_dates,
    compose_entry,
    compose_heading,
    compose_title,
    structure,
)

TO_TEST_WITH = pytest.mark.parametrize("collection", ["HELD_OUT", "BLIND"])


def test_structure_by_hand() -> None:
    assert structure("{b}{degree}{s}{dates} {d} x\n\t{institution} {sign}") == (
        *("{degree}", "{dates}", "\n", "\t", "{institution}"),
    )


@TO_TEST_WITH
def test_entries_to_test_with_differ_in_more_than_punctuation(collection: str) -> None:
    other = {structure(t) for t in getattr(layouts, collection).education}
    assert not other & {structure(t) for t in layouts.TRAINING.education}
    random = np.random.default_rng(0)
    values, beside = ("{institution}", "{degree}", "{dates}"), ("{city}", "{grade}", "{city}, {country}")
    composed = {structure(compose_entry(random, values, beside, dict.fromkeys(values, ("Key",)))) for _ in range(3000)}
    assert len(composed) > 500
    assert not other & composed


@TO_TEST_WITH
def test_composed_parts_are_none_of_those_to_test_with(collection: str) -> None:
    random, look = np.random.default_rng(0), getattr(layouts, collection)
    dates = {compose_dates(random, year) for year in ("{year}", "{end}") for _ in range(2000)}
    headings = {compose_heading(random) for _ in range(2000)}
    titles = {compose_title(random, ("Education", "Degrees", "Career")) for _ in range(2000)}
    assert min(map(len, (dates, headings, titles))) > 50
    assert not dates & {*look.dates, *look.work_dates}
    assert not headings & {*look.headings}
    assert not titles & {*look.schooling, *look.work, *(title for titles, _ in look.others for title in titles)}
    assert all(template.count("{year}") + template.count("{end}") == 1 for template in dates)
