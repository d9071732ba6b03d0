"""Which groups of clips, such as speakers, go into which part of a split: a matter of hashes, the same everywhere.

Groups are ordered by the SHA-256 of seed and name: no generator of random numbers, whose stream a library might change,
and no order of a set or a dictionary has a say in it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from hlfeat.errors import UsageError
from hlfeat.text import count


def assign_groups(groups: Sequence[str], shares: Sequence[float], seed: int) -> list[int]:
    """The part of each clip, from 1; 0 is what no part has taken.

    In the order of their hashes, a part takes the groups that bring it nearer to its share of the clips. Where all are
    too large for that, it takes the smallest. So no part is empty, and neither is the rest.

    Args:
        groups: of each clip; a group is in one part as a whole.
        shares: of the clips, for each part, from 0 to 1.
        seed: of the hashes.

    Raises UsageError for impossible shares, and for fewer groups than parts and rest.

    >>> assign_groups(["ann", "bob", "ann", "eve", "dan", "bob"], [0.3, 0.2], seed=0)
    [1, 2, 1, 0, 0, 2]
    """
    if not all(0 < share < 1 for share in shares) or not sum(shares) < 1:
        raise UsageError(f"expected shares between 0 and 1 that leave clips to train with, got {_listed(shares)}")
    sizes = Counter(groups)
    if len(sizes) <= len(shares):
        raise UsageError(f"expected at least {count(len(shares) + 1, 'group')} to split, got {len(sizes)}")
    left = sorted(sizes, key=lambda group: hashlib.sha256(f"{seed}\0{group}".encode(errors="surrogatepass")).digest())
    part_of: dict[str, int] = {}
    for part, share in enumerate(shares, 1):
        for group in _take(left, sizes, share * len(groups), keep=len(shares) + 1 - part):
            part_of[group] = part
        left = [group for group in left if group not in part_of]
    return [part_of.get(group, 0) for group in groups]


def _take(left: Sequence[str], sizes: Counter[str], wanted: float, keep: int) -> list[str]:
    """Groups of together about as many clips as are wanted; `keep` groups at least are left over."""
    taken: list[str] = []
    clips = 0
    for group in left:
        if len(left) - len(taken) == keep:
            break
        if abs(clips + sizes[group] - wanted) < abs(clips - wanted):
            taken.append(group)
            clips += sizes[group]
    return taken or [min(left, key=sizes.__getitem__)]


def _listed(shares: Sequence[float]) -> str:
    return ", ".join(f"{share:g}" for share in shares)
