"""Manifests of lhotse, read and checked by lhotse."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import lhotse
import numpy as np
import pytest
import soundfile
from lhotse import CutSet, FeatureSet, MonoCut, RecordingSet, SupervisionSet

from hlfeat import FeatureStore, load_audio
from hlfeat.conversion import lhotse_cuts, lhotse_records
from hlfeat.conversion.convert import Request, convert
from tests import helpers
from tests.conversion.folders import add_meta
from tests.extraction.runs import run


def converted(folder: Path, tmp_path: Path, invoke) -> CutSet:
    result = invoke("convert", folder, "-o", "new", "--format", "lhotse", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "new/cuts.jsonl.gz"
    cuts = CutSet.from_file(tmp_path / "new/cuts.jsonl.gz").to_eager()
    lhotse.validate(cuts)
    for cut in cuts:
        lhotse.validate(cut.features, read_data=True)
    return cuts


def test_lhotse_reads_the_same_frames(features, tmp_path, invoke):
    cuts, store = converted(features, tmp_path, invoke), FeatureStore(features)
    assert [cut.id for cut in cuts] == [id_ for id_, _ in store]
    for cut, (_, y) in zip(cuts, store, strict=True):
        check_frames(cut, y)
        assert cut.frame_shift == 0.01
        assert cut.sampling_rate == 16000
    loaded = FeatureSet.from_file(tmp_path / "new/features.jsonl.gz")
    assert len(list(loaded)) == 9
    assert not (tmp_path / "new/supervisions.jsonl.gz").exists()


def test_audio_of_cuts_is_what_features_were_computed_of(features, tmp_path, invoke):
    cuts = converted(features, tmp_path, invoke)
    recordings = RecordingSet.from_file(tmp_path / "new/recordings.jsonl.gz").to_eager()
    assert len(recordings) == 9
    compared = 0
    for cut in cuts:
        lhotse.validate(cut.recording)
        if cut.id.endswith((".wav", ".WAV", ".flac", ".aiff")):
            path, channels = cut.recording.sources[0].source, cut.recording.num_channels
            samples = cut.recording.load_audio()
            assert samples.shape == (channels, cut.recording.num_samples)
            ours = load_audio(path, 16000).numpy()[0]
            n = min(len(ours), samples.shape[1])
            assert abs(len(ours) - samples.shape[1]) <= 1
            assert np.abs(samples.mean(0)[20 : n - 20] - ours[20 : n - 20]).max() < 0.02  # another resampler's filter
            compared += 1
    assert compared >= 3


def test_segments_and_supervisions(segments, tmp_path, invoke):
    cuts, store = converted(segments, tmp_path, invoke), FeatureStore(segments)
    for i, cut in enumerate(cuts):
        assert (cut.start, cut.duration) == (i / 2, 0.4)
        assert cut.supervisions[0].duration == 0.4
        assert (cut.load_features() == store[cut.id].reshape(cut.num_frames, -1)).all()
        (supervision,) = cut.supervisions
        assert supervision.speaker == f"sp {i % 2}"
        assert supervision.text == f"words, number {i}\nand more"
        assert supervision.custom == {"fold": str(i)}
        assert cut.recording.duration == 2.0
        assert cut.load_audio().shape == (1, 6400)
    recordings = RecordingSet.from_file(tmp_path / "new/recordings.jsonl.gz").to_eager()
    supervisions = SupervisionSet.from_file(tmp_path / "new/supervisions.jsonl.gz").to_eager()
    assert len(recordings) == 1
    lhotse.qa.validate_recordings_and_supervisions(recordings, supervisions)
    assert [s.start for s in supervisions] == [i / 2 for i in range(4)]


@pytest.mark.parametrize("stack", ["[]", "[{layer: pool, frames: 4}]"])
def test_any_length_has_as_many_frames_as_lhotse_expects(stack, tmp_path, invoke):
    """Lengths around whole and half hops: lhotse rounds, frames are rounded up."""
    (tmp_path / "clips").mkdir()
    for i, samples in enumerate([1600, 1601, 1679, 1680, 1681, 1759, 1760, 4000, 4321]):
        soundfile.write(tmp_path / f"clips/{i}.wav", helpers.tone(1, 16000)[:samples], 16000)
    run(tmp_path / "clips", tmp_path / "features", f"stack={stack}")
    add_meta(tmp_path / "features", lambda i, id_: {"n": i})
    cuts, store = converted(tmp_path / "features", tmp_path, invoke), FeatureStore(tmp_path / "features")
    lengthened = 0
    for cut, (_, y) in zip(cuts, store, strict=True):
        check_frames(cut, y)
        lhotse.validate(cut, read_data=True)  # which loads audio too
        (supervision,) = cut.supervisions
        assert supervision.duration == cut.recording.duration
        lengthened += cut.features.duration > cut.recording.duration
    assert lengthened >= 1
    recordings = RecordingSet.from_file(tmp_path / "new/recordings.jsonl.gz")
    supervisions = SupervisionSet.from_file(tmp_path / "new/supervisions.jsonl.gz")
    lhotse.qa.validate_recordings_and_supervisions(recordings, supervisions)


def check_frames(cut: MonoCut, y: np.ndarray) -> None:
    """All frames are in the features. The cut has them but for one that is over at the end of its recording."""
    y = y.reshape(len(y), -1)
    assert (cut.features.load() == y).all()
    assert cut.end <= cut.recording.duration + 1e-9
    assert cut.num_frames == max(1, lhotse.utils.compute_num_frames(cut.duration, cut.frame_shift, 16000))
    assert len(y) - 1 <= cut.num_frames <= len(y)
    assert (cut.load_features() == y[: cut.num_frames]).all()


def test_synced_files_only(features, tmp_path, monkeypatch):
    """Not all that the machine has to write."""
    synced = []
    monkeypatch.setattr(os, "sync", lambda: pytest.fail("this flushes every file system"))
    monkeypatch.setattr(lhotse_cuts, "sync", lambda f: synced.append(Path(f.name).suffix))
    monkeypatch.setattr(lhotse_cuts, "sync_folder", lambda path: synced.append(path.suffix))
    convert(features, tmp_path / "new", Request("lhotse"))
    assert synced.count(".npy") == 9
    assert synced.count(".tmp") == 3


def test_each_channel_and_archives(tmp_path, invoke):
    x = np.stack([helpers.tone(0.3, 16000), helpers.tone(0.3, 16000, 700)], 1)
    soundfile.write(tmp_path / "it's two.wav", x, 16000, subtype="FLOAT")
    with tarfile.open(tmp_path / "clips.tar", "w") as archive:
        archive.add(tmp_path / "it's two.wav", "in side/a.wav")
    for name in ("it's two.wav", "clips.tar"):
        run(tmp_path / name, tmp_path / "features", "audio.channels=each")
        cuts = converted(tmp_path / "features", tmp_path, invoke)
        assert [cut.channel for cut in cuts] == [0, 1]
        for cut, (_, y) in zip(cuts, FeatureStore(tmp_path / "features"), strict=True):
            assert (cut.load_features() == y.reshape(len(y), -1)).all()
            assert (cut.load_audio()[0] == x[:, cut.channel].astype(np.float32)).all()
        assert len(list(RecordingSet.from_file(tmp_path / "new/recordings.jsonl.gz"))) == 1
        for folder in ("features", "new"):
            shutil.rmtree(tmp_path / folder)


def test_segments_of_a_file_that_is_gone_have_no_recording(segments, tmp_path, invoke, monkeypatch):
    monkeypatch.setattr(lhotse_records, "_seconds", lambda path: None)
    cuts = converted(segments, tmp_path, invoke)
    assert not any(cut.has_recording for cut in cuts)
    assert not (tmp_path / "new/recordings.jsonl.gz").exists()


def test_names_of_columns(segments, tmp_path, invoke):
    meta = {"speaker_id": 7, "transcript": "x", "lang": "de", "sex": "f", "age": 40}
    add_meta(segments, lambda i, id_: meta)
    supervision = next(iter(converted(segments, tmp_path, invoke))).supervisions[0]
    assert (supervision.speaker, supervision.text, supervision.language, supervision.gender) == ("7", "x", "de", "f")
    assert supervision.custom == {"age": 40}
