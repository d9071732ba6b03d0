"""The examples in the docstrings of the storage package are true."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

import hlfeat
from hlfeat import partition
from hlfeat.storage import collate, layout, shard_writer, split, store, times
from hlfeat.storage.index_entry import IndexEntry
from hlfeat.storage.layout import Layout, ShardFiles
from hlfeat.storage.shard_writer import ShardWriter


@pytest.fixture
def features_dir(tmp_path):
    """Three clips of one second, of 2 channels and 40 bands."""
    (tmp_path / "hlfeat.yaml").write_text(
        "fingerprint: x\n"
        "features: {channels: 2, bands: 40, hop_samples: 160, sample_rate: 16000, first_centre_samples: 0.0}\n"
        "config: {output: {dtype: float32}}\n"
    )
    with ShardWriter(ShardFiles(Layout(tmp_path), 0), "npy", np.dtype("f4"), 2, 40) as shard:
        for id_ in ("a.wav", "b.wav", "c.wav"):
            shard.append(IndexEntry(id_, id_, duration=1.0), [np.zeros((101, 2, 40), np.float32)])
        shard.commit()
    return tmp_path


@pytest.mark.parametrize("module", [layout, shard_writer, collate, store, partition, times, split])
def test_examples(module, features_dir):
    results = doctest.testmod(module, extraglobs={"features_dir": features_dir, "hlfeat": hlfeat})
    assert results.attempted
    assert not results.failed
