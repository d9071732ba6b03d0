"""Shards and the store: what is written is what is read, and torch takes it as it is."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from hlfeat import FeatureStore, collate
from hlfeat.errors import OutputError
from hlfeat.files import write_atomically
from hlfeat.storage.index_entry import IndexEntry
from hlfeat.storage.layout import Layout, ShardFiles
from hlfeat.storage.shard_writer import ShardWriter

FEATURES = {f"d/{i}.wav": np.random.default_rng(i).normal(size=(3 + i, 2, 5)).astype(np.float32) for i in range(7)}


def write(folder: Path, form: str = "npy", dtype: str = "float32", clips: slice = slice(None)) -> FeatureStore:
    folder.mkdir(exist_ok=True)
    (folder / "hlfeat.yaml").write_text("fingerprint: x\nfeatures: {channels: 2, bands: 5}\n")
    items = list(FEATURES.items())[clips]
    for number, part in enumerate(filter(None, (items[:4], items[4:]))):
        with ShardWriter(ShardFiles(Layout(folder), number), form, np.dtype(dtype), 2, 5) as shard:
            for id_, y in part:
                shard.append(IndexEntry(id_, "p/" + id_, duration=1.0), [y.astype(dtype)])
            shard.commit()
    return FeatureStore(folder)


@pytest.mark.parametrize("form", ["npy", "pt"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_round_trip(tmp_path, form, dtype):
    store = write(tmp_path / "o", form, dtype)
    assert len(store) == 7
    assert store.ids == list(FEATURES)
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


@pytest.mark.parametrize("form", ["npy", "pt"])
def test_changing_an_array_changes_nothing_else(tmp_path, form):
    store = write(tmp_path / "o", form)
    store["d/0.wav"][:] = 0
    np.testing.assert_array_equal(store["d/0.wav"], FEATURES["d/0.wav"])
    np.testing.assert_array_equal(FeatureStore(tmp_path / "o")["d/0.wav"], FEATURES["d/0.wav"])


def test_a_store_is_a_dataset(tmp_path):
    store = write(tmp_path / "o")
    assert isinstance(store, Dataset)
    some = Subset(store, [2, 4]) + Subset(store, [0])
    assert [id_ for id_, _ in DataLoader(some, batch_size=None)] == ["d/2.wav", "d/4.wav", "d/0.wav"]


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


@pytest.mark.parametrize(
    ("start", "workers", "form", "dtype"),
    [
        ("fork", 4, "npy", "float32"),
        ("fork", 4, "pt", "float16"),
        ("spawn", 1, "npy", "float16"),
        ("forkserver", 1, "pt", "float32"),
    ],
)
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")  # more than some machine has cores
def test_workers_give_the_batches_of_one_process(tmp_path, start, workers, form, dtype):
    store = write(tmp_path / "o", form, dtype)
    store[6]  # workers inherit, or are sent, a store that is in use
    alone = list(DataLoader(store, batch_size=2, collate_fn=collate))
    batches = list(
        DataLoader(store, batch_size=2, collate_fn=collate, num_workers=workers, multiprocessing_context=start)
    )
    assert [i for b in batches for i in b.ids] == list(FEATURES)
    for a, b in zip(alone, batches, strict=True):
        assert a.ids == b.ids
        torch.testing.assert_close(a.features, b.features, rtol=0, atol=0)
        for id_, length, y in zip(b.ids, b.lengths, b.features, strict=True):
            assert y.dtype == torch.float32
            np.testing.assert_array_equal(y[:length], FEATURES[id_].astype(dtype))
            assert not y[length:].any()


def test_batches_are_padded_to_their_longest(tmp_path):
    store = write(tmp_path / "o")
    batch = collate([store[5], store[0], store[2]])
    assert batch.ids == ["d/5.wav", "d/0.wav", "d/2.wav"]
    assert batch.lengths.tolist() == [8, 3, 5]
    assert batch.features.shape == (3, 8, 2, 5)
    with pytest.raises(ValueError, match=r"expected features \[\*, \[2, 5\]\] as of 'd/0.wav', got 'x' of \[3, 1, 5\]"):
        collate([store[0], ("x", np.zeros((3, 1, 5), np.float32))])


@pytest.mark.parametrize("form", ["npy", "pt"])
def test_reading_some_frames(tmp_path, form):
    store = write(tmp_path / "o", form)
    y = FEATURES["d/5.wav"]
    np.testing.assert_array_equal(store.read("d/5.wav", 2, 6), y[2:6])
    np.testing.assert_array_equal(store.read(5, 3), y[3:])
    np.testing.assert_array_equal(store.read(-2, stop=3), y[:3])
    assert store.read(5, 8).shape == (0, 2, 5)
    assert store.frames.tolist() == [3, 4, 5, 6, 7, 8, 9]
    for start, stop in [(-1, 2), (0, 9), (5, 4)]:
        with pytest.raises(ValueError, match=rf"the 8 frames of 'd/5.wav', got {start} and {stop}"):
            store.read("d/5.wav", start, stop)


def test_nothing_but_the_frames_asked_for_is_read(tmp_path):
    store = write(tmp_path / "o")
    frames, big = 2_000_000, tmp_path / "o/shard-00001.npy"  # a sparse file of 80 MB: 2 million frames of zeros
    big.unlink()
    np.lib.format.open_memmap(big, "w+", np.float32, (frames, 2, 5)).flush()
    record = store.record("d/4.wav") | {"row": 0, "frames": frames}
    (tmp_path / "o/shard-00001.jsonl").write_text(json.dumps(record) + "\n")
    store = FeatureStore(tmp_path / "o")
    tracemalloc.start()
    assert store.read("d/4.wav", 1_000_000, 1_000_010).shape == (10, 2, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_an_unknown_id_names_the_nearest(tmp_path):
    with pytest.raises(KeyError, match=r"no clip 'd/9\.wav' .*near it are d/"):
        write(tmp_path / "o")["d/9.wav"]


def test_an_unknown_id_of_very_many_names_those_that_begin_like_it(tmp_path, monkeypatch):
    monkeypatch.setattr("hlfeat.storage.index.NEIGHBOURS", 1)
    with pytest.raises(KeyError, match=r"near it are d/[34]\.wav, d/[34]\.wav\W$"):
        write(tmp_path / "o")["d/33.wav"]


def test_an_empty_store(tmp_path):
    store = write(tmp_path / "o", clips=slice(0))
    assert (len(store), store.ids, list(store), store.frames.tolist()) == (0, [], [], [])
    assert "d/0.wav" not in store
    assert list(DataLoader(store, num_workers=1)) == []
    with pytest.raises(KeyError, match=r"no clip 'd/0\.wav' in [^;]+/o\W$"):
        store["d/0.wav"]
    with pytest.raises(IndexError):
        store[0]


def test_several_directories_are_one_store(tmp_path):
    write(tmp_path / "a", "npy", clips=slice(5))
    write(tmp_path / "b", "pt", clips=slice(5, 7))
    store = FeatureStore(tmp_path / "b", str(tmp_path / "a"))
    order = ["d/5.wav", "d/6.wav", "d/0.wav", "d/1.wav", "d/2.wav", "d/3.wav", "d/4.wav"]
    assert store.ids == [id_ for id_, _ in store] == [store[i][0] for i in range(7)] == order
    for id_, y in store:
        np.testing.assert_array_equal(y, FEATURES[id_])
        np.testing.assert_array_equal(store[id_], y)
        assert store.record(id_)["path"] == "p/" + id_
    with pytest.raises(KeyError, match=rf"no clip 'x' in {tmp_path}/b, {tmp_path}/a\W$"):
        store["x"]


def test_directories_that_do_not_go_together(tmp_path):
    write(tmp_path / "a", clips=slice(5))
    write(tmp_path / "b", clips=slice(4, 7))
    with pytest.raises(
        OutputError, match=r"'d/4.wav' is there twice: in \S+a/shard-00001.jsonl and in \S+b/shard-00000"
    ):
        FeatureStore(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b/hlfeat.yaml").write_text("features: {channels: 2, bands: 6}\n")
    with pytest.raises(OutputError, match=r"a has {'channels': 2, 'bands': 5}; \S+b has {'channels': 2, 'bands': 6}"):
        FeatureStore(tmp_path / "a", tmp_path / "b")


def test_ids_of_any_file_name(tmp_path):
    ids = ["ä/ж.wav", "\udcff.wav", "a\u2028b.wav", "a", "aa", '"\\\n"']
    (tmp_path / "hlfeat.yaml").write_text("fingerprint: x\n")
    with ShardWriter(ShardFiles(Layout(tmp_path), 0), "npy", np.dtype("f4"), 2, 5) as shard:
        for i, id_ in enumerate(ids):
            shard.append(IndexEntry(id_, id_, duration=1.0), [np.full((1, 2, 5), i, np.float32)])
        shard.commit()
    for store in (FeatureStore(tmp_path), pickle.loads(pickle.dumps(FeatureStore(tmp_path)))):
        assert store.ids == ids
        for i, id_ in enumerate(ids):
            assert id_ in store
            assert store.record(id_)["id"] == id_
            assert store[id_][0, 0, 0] == i
        assert "" not in store
        assert "aaa" not in store
        assert None not in store


@pytest.mark.parametrize("known", [False, True])
def test_a_checksum_is_of_all_chunks_whoever_has_computed_it(tmp_path, known):
    chunks = [np.full((n, 2, 5), n, np.float32) for n in (1, 3)]
    crc32 = zlib.crc32(np.concatenate(chunks).data)
    with ShardWriter(ShardFiles(Layout(tmp_path), 0), "npy", np.dtype("f4"), 2, 5) as shard:
        shard.append(IndexEntry("a", "a", duration=1.0), chunks, crc32 if known else None)
        assert (shard.entries[0].crc32, shard.entries[0].frames) == (crc32, 4)


def test_a_folder_that_grows_or_is_made_anew(tmp_path):
    store = write(tmp_path / "o", clips=slice(4))
    write(tmp_path / "o")
    assert len(store) == 4
    assert store.record("d/3.wav")["frames"] == 6
    assert len(FeatureStore(tmp_path / "o")) == 7
    index = tmp_path / "o/shard-00000.jsonl"
    for changed in (index.read_text().replace("d/3", "d/9"), "\n" + index.read_text()):
        index.write_text(changed)
        with pytest.raises(OutputError, match=r"shard-00000\.jsonl: has changed since it was opened"):
            store.record("d/3.wav")
    index.unlink()
    with pytest.raises(OutputError, match=r"shard-00000\.jsonl: cannot be read: No such file"):
        store.record("d/3.wav")


CLIPS = 1_000_000 if os.environ.get("HLFEAT_TESTS") == "thorough" else 100_000


def test_opening_very_many_clips(tmp_path):
    """A million: under 10 s and under 1 GiB."""
    (tmp_path / "hlfeat.yaml").write_text("fingerprint: x\n")
    rest = {
        "frames": 500,
        "duration": 4.99,
        "sample_rate": 16000,
        "channels": 1,
        "size": 123456,
        "modified": 17 * 10**17,
    }
    for number in range(CLIPS // 1000):
        name = f"shard-{number:05d}"
        ids = (f"speaker-{i % 977}/utterance-{i:07d}.flac" for i in range(1000 * number, 1000 * number + 1000))
        lines = [
            {"id": id_, "path": f"/data/corpora/{id_}", "shard": f"{name}.npy", "row": 500 * i} | rest
            for i, id_ in enumerate(ids)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    code = f"""
import time
import numpy
from hlfeat import FeatureStore

def peak():  # KiB; getrusage counts the process that started this one
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

before, start = peak(), time.process_time()
store = FeatureStore({str(tmp_path)!r})
print(time.process_time() - start, peak() - before)
assert len(store) == {CLIPS}
assert store.record(store.ids[-1])["row"] == 499500
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert float(out[0]) < max(10 * CLIPS / 1e6, 3)  # s
    assert int(out[1]) < 1024**2 * CLIPS / 1e6  # KiB


def test_leaving_without_commit_leaves_no_trace(tmp_path):
    with ShardWriter(ShardFiles(Layout(tmp_path), 0), "npy", np.dtype("f4"), 2, 5) as shard:
        shard.append(IndexEntry("a", "a"), [FEATURES["d/0.wav"]])
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
    (tmp_path / "o/shard-00000.npy").unlink()
    with pytest.raises(OutputError, match=r"shard-00000\.npy: cannot be read: .*No such file"):
        store["d/0.wav"]


def test_a_shard_shorter_than_its_index_is_reported(tmp_path):
    store = write(tmp_path / "o")
    np.save(tmp_path / "o/shard-00001.npy", np.zeros((20, 2, 5), np.float32))
    assert len(store["d/5.wav"]) == 8
    with pytest.raises(OutputError, match=r"shard-00001\.npy: damaged: shorter than its index says"):
        store["d/6.wav"]


def test_damaged_pt_shards_are_reported(tmp_path):
    path = tmp_path / "o/shard-00000.pt"
    write(tmp_path / "o", "pt")
    data = path.read_bytes()
    for damage in (data[:-200], data[:100], b"", b"x" * 5000, None):
        path.unlink()
        if damage is not None:
            path.write_bytes(damage)
        with pytest.raises(OutputError, match=r"shard-00000\.pt: cannot be read"):
            FeatureStore(tmp_path / "o")["d/0.wav"]
    torch.save([1], path)
    with pytest.raises(OutputError, match=r"shard-00000\.pt: cannot be read"):
        FeatureStore(tmp_path / "o")["d/0.wav"]
    torch.save({"d/1.wav": torch.zeros(4, 2, 5)}, path)
    with pytest.raises(OutputError, match=r"shard-00000\.pt: damaged"):
        FeatureStore(tmp_path / "o")["d/0.wav"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line[: len(line) // 2], "line 2: (Unterminated string|Expecting|Invalid)"),
        (lambda line: "", "line 2: Expecting value"),
        (lambda line: "[]", "line 2: expected id, path"),
        (lambda line: line + " {}", "line 2: expected id, path"),
        (lambda line: line.replace("d/1", "\udce9"), "'utf-8' codec"),  # a byte that is not UTF-8
        (lambda line: line.replace('"row"', '"wor"'), "line 2: expected id, path"),
        (lambda line: line.replace('"row": 3', '"row": "3"'), "line 2: expected id, path"),
        (lambda line: line.replace('"row": 3', '"row": -3'), "line 2: expected rows of the shard, got row -3 and 4"),
        (lambda line: line.replace('"row": 3', f'"row": {2**63}'), "line 2: expected rows of the shard"),
        (
            lambda line: line.replace("shard-00000.npy", "../x.npy"),
            "line 2: expected shard-00000.npy or .pt, got '../x",
        ),
        (lambda line: line.replace("d/1", "d/0"), "'d/0.wav' is there twice"),
    ],
)
def test_damaged_index_lines_are_reported(tmp_path, change, message):
    write(tmp_path / "o")
    index = tmp_path / "o/shard-00000.jsonl"
    lines = index.read_text().splitlines()
    lines[1] = change(lines[1])
    index.write_text("\n".join(lines) + "\n", errors="surrogateescape")
    with pytest.raises(OutputError, match=message) as caught:
        FeatureStore(tmp_path / "o")
    assert str(index) in str(caught.value)


def test_a_shard_of_another_name_is_not_opened(tmp_path):
    write(tmp_path / "o")
    index = tmp_path / "o/shard-00000.jsonl"
    index.write_text(index.read_text().replace("shard-00000.npy", "../secret.npy"))
    with pytest.raises(OutputError, match=r"line 1: expected shard-00000\.npy or \.pt, got '\.\./secret\.npy'"):
        FeatureStore(tmp_path / "o")
