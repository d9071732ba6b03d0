"""What a store says of itself, and stores of some of its clips."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

import hlfeat
from hlfeat import FeatureStore, OutputError, collate
from tests import helpers
from tests.storage.test_store import FEATURES, write

IDS = list(FEATURES)


@pytest.fixture
def store(tmp_path):
    return write(tmp_path / "o")


def test_ids_are_a_list_that_can_still_be_called(store):
    assert isinstance(store.ids, list)
    assert store.ids == store.ids() == IDS
    assert json.loads(json.dumps(store.ids)) == IDS
    store.ids.reverse()
    assert store.ids == IDS


@pytest.mark.parametrize(
    ("overrides", "shape", "dtype", "text"),
    [
        ([], (1, 80), "float32", "2 clips, 1.0 s, [frames, 1, 80] float32 npy"),
        (["output.dtype=float16", "output.format=pt"], (1, 80), "float16", "[frames, 1, 80] float16 pt"),
        (["output.pool=mean+std"], (160,), "float32", "2 clips, 1.0 s, [vectors, 160] float32 npy"),
    ],
)
def test_what_a_run_wrote(tmp_path, monkeypatch, overrides, shape, dtype, text):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        soundfile.write(f"{name}.wav", helpers.tone(0.5, 16000), 16000)
    config = hlfeat.load_config("log-mel", overrides)
    hlfeat.extract(config, ["a.wav", "b.wav"], "out", hlfeat.Options(workers=1, quiet=True))
    store = FeatureStore("out")
    assert (store.shape, store.dtype) == (shape, np.dtype(dtype))
    assert store[0][1].shape[1:] == shape
    assert store[0][1].dtype == store.dtype
    assert repr(store).startswith("FeatureStore('out': 2 clips, ")
    assert repr(store).endswith(f"{text})")


def test_what_hlfeat_yaml_does_not_say_the_features_do(tmp_path, store):
    (tmp_path / "o/hlfeat.yaml").write_text("fingerprint: x\n")
    store = FeatureStore(tmp_path / "o")
    assert (store.shape, store.dtype) == ((2, 5), np.dtype("float32"))
    for number in range(2):
        (tmp_path / f"o/shard-0000{number}.jsonl").unlink()
    empty = FeatureStore(tmp_path / "o")
    assert repr(empty) == f"FeatureStore('{tmp_path}/o': 0 clips, 0.0 s)"
    for attribute in ("shape", "dtype"):
        with pytest.raises(OutputError, match=r"holds no clip, and hlfeat\.yaml does not say"):
            getattr(empty, attribute)


def test_folders_of_two_types_have_the_wider(tmp_path):
    for name, dtype, clips in (("a", "float16", slice(3)), ("b", "float32", slice(3, 7))):
        write(tmp_path / name, "npy", dtype, clips)
        path = tmp_path / name / "hlfeat.yaml"
        path.write_text(path.read_text() + f"config: {{output: {{dtype: {dtype}}}}}\n")
    assert FeatureStore(tmp_path / "a").dtype == np.float16
    assert FeatureStore(tmp_path / "a", tmp_path / "b").dtype == np.float32
    assert repr(FeatureStore(tmp_path / "a", tmp_path / "b")).startswith(
        f"FeatureStore('{tmp_path}/a', '{tmp_path}/b': 7 clips, 7.0 s, "
    )


SLICES = [slice(2, 5), slice(None, None, -1), slice(-3, None), slice(5, 1, -2), slice(4, 4), slice(None, 99, 3)]


@pytest.mark.parametrize("part", SLICES, ids=str)
def test_a_slice_is_a_store_of_these_clips(store, part):
    view = store[part]
    assert isinstance(view, FeatureStore)
    assert (len(view), view.ids) == (len(IDS[part]), IDS[part])
    assert view.frames.tolist() == store.frames[part].tolist()
    assert (view.shape, view.dtype, view.folders) == (store.shape, store.dtype, store.folders)
    for i, (id_, y) in enumerate(view):
        assert id_ == IDS[part][i] == view[i][0]
        np.testing.assert_array_equal(y, FEATURES[id_])
        np.testing.assert_array_equal(view[id_], y)
        np.testing.assert_array_equal(view.read(i - len(view), 1, 3), y[1:3])
        assert view.record(i) == view.record(id_) == store.record(id_)
    assert [id_ in view for id_ in IDS] == [id_ in IDS[part] for id_ in IDS]
    for i in (len(view), -len(view) - 1):
        with pytest.raises(IndexError):
            view[i]
    assert view[::-1].ids == view.ids[::-1]
    assert view[1:].ids == view.ids[1:]


def test_a_slice_reads_nothing(store, tmp_path):
    for path in (tmp_path / "o").glob("shard*"):
        path.unlink()
    view = store[1:6][::2]
    assert (view.ids, len(view), view.frames.tolist()) == (IDS[1:6:2], 3, [4, 6, 8])
    with pytest.raises(OutputError):
        view[0]


def test_clips_of_a_choice(store):
    view = store.select([5, "d/1.wav", -1])
    assert view.ids == ["d/5.wav", "d/1.wav", "d/6.wav"]
    assert view.select(view.ids[::-1]).ids == view.ids[::-1]
    assert store.select([2, 2]).ids == ["d/2.wav"] * 2
    assert store.select([]).ids == []
    with pytest.raises(KeyError, match=r"no clip 'd/2\.wav' in these 3 clips of [^;]+/o; near it are d/"):
        view["d/2.wav"]
    with pytest.raises(KeyError, match=r"no clip 'd/2\.wav' in these 3 clips"):
        view.select(["d/2.wav"])
    with pytest.raises(IndexError):
        store.select([7])


def test_frames_cannot_be_written(store):
    for some in (store, store[:3]):
        with pytest.raises(ValueError, match="read-only"):
            some.frames[0] = 1


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_views_work_in_workers(store, start):
    view = store[::-2]
    view[0], view.ids
    loader = DataLoader(view, batch_size=2, collate_fn=collate, num_workers=1, multiprocessing_context=start)
    batches = list(loader)
    assert [id_ for batch in batches for id_ in batch.ids] == IDS[::-2]
    for batch in batches:
        for id_, length, y in zip(batch.ids, batch.lengths, batch.features, strict=True):
            torch.testing.assert_close(y[:length], torch.from_numpy(FEATURES[id_]))


def test_pickles(store):
    view = store[4:1:-1]
    view.ids, view.frames, view["d/3.wav"]
    for some in (store, view):
        again = pickle.loads(pickle.dumps(some))
        assert (again.ids, again.frames.tolist(), repr(again)) == (some.ids, some.frames.tolist(), repr(some))
        np.testing.assert_array_equal(again["d/3.wav"], FEATURES["d/3.wav"])
        assert ("d/5.wav" in again) == ("d/5.wav" in some)


def test_times_of_a_view_are_those_of_the_store(tmp_path):
    write(tmp_path / "o")
    path = tmp_path / "o/hlfeat.yaml"
    text = path.read_text().replace("bands: 5", "bands: 5, hop_samples: 160, sample_rate: 16000")
    path.write_text(text + "config: {stack: []}\n")
    store = FeatureStore(tmp_path / "o")
    for key in (1, -1, "d/4.wav"):
        np.testing.assert_array_equal(store[2:5].times(key), store.times(store[2:5].record(key)["id"]))
        np.testing.assert_array_equal(store[2:5].intervals(key), store.intervals(store[2:5].record(key)["id"]))
    other = write(tmp_path / "p", clips=slice(0)).folders[0]
    (other / "hlfeat.yaml").write_text(
        path.read_text().replace("sample_rate: 16000", "sample_rate: 16000, first_centre_samples: 80.0")
    )
    with pytest.raises(OutputError, match=r"frames at the same times: \S+/o from 0 samples; \S+/p from 80 samples"):
        FeatureStore(tmp_path / "o", other)
