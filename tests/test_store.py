"""Shards and the store: what is written is what is read, and torch takes it as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hlfeat import FeatureStore
from hlfeat.errors import OutputError
from hlfeat.shards import ShardWriter, write_atomically

FEATURES = {f"d/{i}.wav": np.random.default_rng(i).normal(size=(3 + i, 2, 5)).astype(np.float32) for i in range(7)}


def write(folder: Path, form: str = "npy", dtype: str = "float32") -> FeatureStore:
    folder.mkdir(exist_ok=True)
    (folder / "hlfeat.yaml").write_text("fingerprint: x\n")
    items = list(FEATURES.items())
    for number, part in enumerate((items[:4], items[4:])):
        with ShardWriter(folder, number, form, np.dtype(dtype), 2, 5) as shard:
            for id_, y in part:
                shard.append({"id": id_, "path": "p/" + id_, "duration": 1.0}, y.astype(dtype))
            shard.commit()
    return FeatureStore(folder)


@pytest.mark.parametrize("form", ["npy", "pt"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_round_trip(tmp_path, form, dtype):
    store = write(tmp_path / "o", form, dtype)
    assert len(store) == 7
    assert store.ids() == list(FEATURES)
    for i, (id_, y) in enumerate(store):
        assert y.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(y, FEATURES[id_].astype(dtype))
        np.testing.assert_array_equal(store[id_], y)
        assert store[i][0] == id_
    assert "d/3.wav" in store
    assert store[-1][0] == "d/6.wav"
    with pytest.raises(IndexError):
        store[7]


def test_pt_shards_are_plain_tensors_by_id(tmp_path):
    write(tmp_path / "o", "pt")
    shard = torch.load(tmp_path / "o/shard-00000.pt", weights_only=True)
    assert list(shard) == list(FEATURES)[:4]
    assert shard["d/2.wav"].shape == (5, 2, 5)


def test_npy_shards_are_plain_arrays(tmp_path):
    write(tmp_path / "o")
    data = np.load(tmp_path / "o/shard-00001.npy", mmap_mode="r")
    records = [json.loads(line) for line in (tmp_path / "o/shard-00001.jsonl").open()]
    for r in records:
        np.testing.assert_array_equal(data[r["row"] : r["row"] + r["frames"]], FEATURES[r["id"]])


def test_changing_an_array_changes_no_file(tmp_path):
    store = write(tmp_path / "o")
    store["d/0.wav"][:] = 0
    np.testing.assert_array_equal(FeatureStore(tmp_path / "o")["d/0.wav"], FEATURES["d/0.wav"])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("error")
def test_a_data_loader_takes_it_as_it_is(tmp_path, workers):
    store = write(tmp_path / "o")
    seen = {}
    for ids, y in DataLoader(store, batch_size=1, num_workers=workers):
        seen[ids[0]] = y[0].numpy()
    assert list(seen) == list(FEATURES)
    for id_, y in seen.items():
        np.testing.assert_array_equal(y, FEATURES[id_])


def test_an_unknown_id_names_the_nearest(tmp_path):
    with pytest.raises(KeyError, match=r"no clip 'd/9\.wav' .*near it are d/"):
        write(tmp_path / "o")["d/9.wav"]


def test_leaving_without_commit_leaves_no_trace(tmp_path):
    with ShardWriter(tmp_path, 0, "npy", np.dtype("f4"), 2, 5) as shard:
        shard.append({"id": "a", "path": "a"}, FEATURES["d/0.wav"])
        assert [p.name for p in tmp_path.iterdir()] == ["shard-00000.npy.tmp"]
    assert list(tmp_path.iterdir()) == []


def test_a_shard_without_its_index_is_not_there(tmp_path):
    write(tmp_path / "o")
    (tmp_path / "o/shard-00001.jsonl").unlink()
    assert len(FeatureStore(tmp_path / "o")) == 4


def test_an_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "f"
    write_atomically(path, b"old")
    monkeypatch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_damage_is_reported(tmp_path):
    with pytest.raises(OutputError, match="not a feature directory"):
        FeatureStore(tmp_path)
    store = write(tmp_path / "o")
    data = (tmp_path / "o/shard-00000.npy").read_bytes()
    (tmp_path / "o/shard-00000.npy").write_bytes(data[:-200])
    with pytest.raises(OutputError, match=r"shard-00000\.npy: cannot be read"):
        store["d/0.wav"]
    (tmp_path / "o/shard-00000.jsonl").write_text('{"id": ')
    with pytest.raises(OutputError, match=r"shard-00000\.jsonl: damaged"):
        FeatureStore(tmp_path / "o")
