"""Batches: every clip once, no more padding than allowed, decided by lengths alone."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from hlfeat.extraction.batching import pad, plan_batches


@given(lengths=st.lists(st.integers(1, 1000), max_size=50), limit=st.integers(1, 3000))
def test_every_clip_is_in_one_batch_within_the_limit(lengths, limit):
    batches = plan_batches(lengths, limit)
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= limit
    firsts = [lengths[b[0]] for b in batches]
    assert firsts == sorted(firsts, reverse=True)


def test_padding():
    x, lengths = pad([torch.ones(3), torch.ones(1)])
    assert x.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert lengths.tolist() == [3, 1]
