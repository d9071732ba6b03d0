"""Splits by groups: whole groups, the share of every class, the same for the same seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import hlfeat
from hlfeat import UsageError


def examples(seed: int) -> tuple[list[str], list[str]]:
    """Labels and groups: 30 speakers of other numbers of clips, who say several classes."""
    rng = np.random.default_rng(seed)
    speakers = rng.integers(30, size=300)
    return [f"class {i}" for i in rng.integers(4, size=300)], [f"s{i}" for i in speakers]


@pytest.mark.parametrize("seed", range(20))
def test_groups_stay_whole_and_every_class_has_its_share(seed):
    labels, groups = examples(seed)
    kept, held = hlfeat.split_groups(labels, groups, 0.2, seed)
    assert sorted(kept + held) == list(range(300))
    assert kept == sorted(kept)
    assert held == sorted(held)
    assert not {groups[i] for i in kept} & {groups[i] for i in held}
    total, out = Counter(labels), Counter(labels[i] for i in held)
    largest = max(Counter(zip(labels, groups, strict=True)).values())
    for label, n in total.items():
        assert 0.2 * n <= out[label] <= n / 2
    # The last group was taken as some class lacked its share.
    assert any(out[label] < 0.2 * n + largest for label, n in total.items())


def test_the_order_of_examples_does_not_matter_but_the_seed_does():
    labels, groups = examples(0)
    held = {groups[i] for i in hlfeat.split_groups(labels, groups, seed=1)[1]}
    order = np.random.default_rng(0).permutation(300)
    shuffled = [labels[i] for i in order], [groups[i] for i in order]
    assert {shuffled[1][i] for i in hlfeat.split_groups(*shuffled, seed=1)[1]} == held
    assert {groups[i] for i in hlfeat.split_groups(labels, groups, seed=2)[1]} != held


@pytest.mark.parametrize(
    ("labels", "groups", "share", "message"),
    [
        (["a", "a", "b"], ["1", "2", "3"], 0.2, "class b: expected two clips or more"),
        (["a", "a", "a"], ["1", "1", "2"], 0.5, None),
        (["a", "a", "a", "a"], ["1", "1", "1", "1"], 0.2, "class a: .* no speaker or other group with more than half"),
        (["a", "a"], ["1"], 0.2, "groups: expected one for each of 2 labels, got 1"),
        (["a", "a"], ["1", "2"], 0.6, "share: expected a number above 0, up to 0.5, got 0.6"),
        (["a", "a"], ["1", "2"], 0.0, "share: expected"),
    ],
)
def test_what_cannot_be_split(labels, groups, share, message):
    if message is None:
        assert hlfeat.split_groups(labels, groups, share) == ([0, 1], [2])
        return
    with pytest.raises(UsageError, match=message):
        hlfeat.split_groups(labels, groups, share)
