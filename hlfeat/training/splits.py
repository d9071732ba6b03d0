"""split_groups: hold out a share of every class, without tearing a group such as a speaker apart."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from hlfeat.errors import UsageError
from hlfeat.text import escape_unprintable


def split_groups(
    labels: Sequence[str], groups: Sequence[str], share: float = 0.2, seed: int = 0
) -> tuple[list[int], list[int]]:
    """Divide examples into those to train with and those to test with; a group is on one side as a whole.

    Clips of one speaker on both sides would flatter the result. Groups are taken in random order until they hold the
    share of every class; a group that would take more than half of a class is left to train with.

    Args:
        labels: the class of each example.
        groups: what must not be on both sides, of each example: its speaker, recording, or a name of its own.
        share: of each class, that is held out: about as much, and at most half of it.
        seed: of the order of groups. The same examples and seed give the same split, whatever the examples' order.

    Returns:
        Positions of the examples to train with, and of those held out, in order.

    Raises:
        UsageError: `share` is impossible, there are not as many groups as labels, or nothing of a class can be held
            out, as it has but one example or one group has more than half of it.

    >>> split_groups(["no", "no", "yes", "yes"], ["ann", "bob", "ann", "bob"], share=0.5)
    ([1, 3], [0, 2])
    """
    if not 0 < share <= 0.5:
        raise UsageError(f"share: expected a number above 0, up to 0.5, got {share}")
    if len(labels) != len(groups):
        raise UsageError(f"groups: expected one for each of {len(labels)} labels, got {len(groups)}")
    members: dict[str, Counter[str]] = defaultdict(Counter)
    for label, group in zip(labels, groups, strict=True):
        members[group][label] += 1
    total, held = Counter(labels), Counter[str]()
    chosen = set()
    order = sorted(members)
    for i in np.random.default_rng(seed).permutation(len(order)).tolist():
        sizes = members[order[i]]
        wanted = any(held[c] < share * total[c] for c in sizes)
        if wanted and all(held[c] + n <= total[c] / 2 for c, n in sizes.items()):
            held += sizes
            chosen.add(order[i])
    for label in sorted(total):
        if not held[label]:
            raise UsageError(
                f"class {escape_unprintable(str(label))}: expected two clips or more, and no speaker or other group "
                "with more than half of them, so that some can be held out"
            )
    sides: tuple[list[int], list[int]] = ([], [])
    for i, group in enumerate(groups):
        sides[group in chosen].append(i)
    return sides
