"""From the command to times, tables and splits: what a user does with a folder that `hlfeat extract` wrote."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import yaml

from hlfeat import FeatureStore

RATE = 16000


@pytest.fixture
def table(tmp_path):
    """Three segments of each of four recordings; in each a click, half a second after its start."""
    rows = ["path,id,start,end"]
    for i in range(4):
        x = np.zeros(6 * RATE, np.float32)
        for start in (0.25, 2.25, 4.25):
            x[round((start + 0.5) * RATE)] = 0.9
            rows.append(f"r{i}.wav,r{i}-{start},{start},{start + 1.2}")
        soundfile.write(tmp_path / f"r{i}.wav", x, RATE)
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "table.csv"


def test_segments_of_recordings(table, tmp_path, invoke):
    done = invoke("extract", table, "-o", tmp_path / "out", "-c", "log-mel", "-q")
    assert done.returncode == 0, done.stderr
    store = FeatureStore(tmp_path / "out")
    assert repr(store) == f"FeatureStore('{tmp_path}/out': 12 clips, 14.4 s, [frames, 1, 80] float32 npy)"
    assert (store.shape, store.dtype, store.frames.tolist()) == ((1, 80), np.float32, [120] * 12)
    for id_, features in store[::5]:
        row = int(features.sum((1, 2)).argmax())
        assert store.times(id_)[row] == 0.5
        assert (store.intervals(id_)[row] == [0.495, 0.505]).all()
        assert store.record(id_)["start"] + store.times(id_)[row] == float(id_.split("-")[1]) + 0.5
    parts = store.split(by="path", valid=0.25, test=0.25)
    assert [len(part) for part in parts] == [6, 3, 3]
    recordings = [{id_.split("-")[0] for id_ in part.ids} for part in parts]
    assert sum(map(len, recordings)) == 4
    pytest.importorskip("pandas")
    rows = parts[1].to_pandas()
    assert rows.start.tolist() == [0.25, 2.25, 4.25]
    assert set(rows.path) == {str(tmp_path / f"{recordings[1].pop()}.wav")}


def test_windows_have_start_and_end(table, tmp_path, invoke):
    done = invoke(
        "extract", tmp_path / "r0.wav", "-o", tmp_path / "out", "-c", "log-mel", "--pool", "window:2.5,2", "-q"
    )
    assert done.returncode == 0, done.stderr
    store = FeatureStore(tmp_path / "out")
    assert store.intervals(0).tolist() == [[0, 2.5], [2, 4.5], [4, 6]]
    assert store.times(0).tolist() == [1.25, 3.25, 5]
    features = yaml.safe_load((tmp_path / "out/hlfeat.yaml").read_text())["features"]
    wanted = {"sample_rate": RATE, "first_centre_samples": 0.0, "window_seconds": 2.5, "window_hop_seconds": 2.0}
    assert wanted.items() <= features.items()
    assert repr(store).endswith("1 clip, 6.0 s, [vectors, 80] float32 npy)")
