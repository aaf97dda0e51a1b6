from __future__ import annotations

import pytest

from dpo_lab.data.flips import flip_labels
from dpo_lab.data.preferences import preferences_from_rows

ROWS = [{"prompt": f"p{i}", "chosen": f"good{i}", "rejected": f"bad{i}"} for i in range(40)]
PAIRS = preferences_from_rows(ROWS)


def test_exactly_the_marked_pairs_change_sides() -> None:
    flipped, which = flip_labels(PAIRS, 0.1, seed=3)
    assert int(which.sum()) == 4 and len(flipped) == 40
    for before, after, turned in zip(PAIRS, flipped, which.tolist(), strict=True):
        sides = (before.rejected, before.chosen) if turned else (before.chosen, before.rejected)
        assert (after.prompt, after.chosen, after.rejected, after.row) == (
            before.prompt,
            *sides,
            before.row,
        )


def test_the_seed_decides_which_and_twice_is_nothing() -> None:
    again, other = (flip_labels(PAIRS, 0.5, seed)[1] for seed in (0, 1))
    assert (again == flip_labels(PAIRS, 0.5, 0)[1]).all() and (again != other).any()
    back, _ = flip_labels(flip_labels(PAIRS, 0.5, 0)[0], 0.5, 0)
    assert back.pairs == PAIRS.pairs


@pytest.mark.parametrize(("share", "count"), [(0, 0), (0.26, 10), (1, 40)])
def test_shares_at_the_ends(share: float, count: int) -> None:
    assert int(flip_labels(PAIRS, share)[1].sum()) == count


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        flip_labels(PAIRS, share)
