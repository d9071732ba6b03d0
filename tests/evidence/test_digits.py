"""Spoken digits: reading, who is left out, equal cost, tables."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch

from hlfeat.errors import UsageError
from scripts.evidence import digit_tables, digits

SPEAKERS = ["ann", "bob", "cy"]


@pytest.fixture
def folder(tmp_path):
    """Each digit is a tone of its own: two clips a digit and speaker, of 0.2 to 1 s."""
    for s, speaker in enumerate(SPEAKERS):
        for digit in range(10):
            for i in range(2):
                t = np.arange(1600 + 200 * digit + 4000 * i) / 8000
                soundfile.write(
                    tmp_path / f"{digit}_{speaker}_{i}.wav", 0.3 * np.sin((700 + 1400 * digit + 9 * s) * t), 8000
                )
    return tmp_path


def test_clips_are_read_and_cut(folder):
    found = digits.read_digits(str(folder))
    assert found.levels.shape == (60, 1, digits.ROWS, digits.FRAMES)
    assert found.names[:2] == ["0_ann_0", "0_ann_1"]
    assert found.inside[0].sum() == 10  # 0.2 s
    assert found.inside.sum(dim=1).max() == digits.FRAMES
    assert found.levels.max() == 1
    assert found.levels.min() >= -1
    assert (found.levels[0, :, :, 10:] == 0).all()


def test_a_folder_without_digits(tmp_path):
    with pytest.raises(UsageError, match="expected DIGIT_SPEAKER_NUMBER"):
        digits.read_digits(str(tmp_path))


def test_classifiers_cost_the_same_and_do_not_hear_what_is_padded():
    axis = digits.frontend().axis()
    nets = [digits.Classifier(kind, axis, 3) for kind in digits.STACKS]
    assert len({sum(p.numel() for p in net.parameters()) for net in nets}) == 1
    assert len({net.second.weight.shape for net in nets}) == 1
    x, inside = torch.randn(1, 1, digits.ROWS, digits.FRAMES), torch.zeros(1, digits.FRAMES)
    inside[:, :12] = 1
    x[..., 12:] = 0
    for net in nets:
        assert torch.allclose(net(x, inside), net(x[..., :12], inside[:, :12]), atol=1e-5)
    with pytest.raises(ValueError, match="expected a stack of harmonic"):
        digits.Classifier("round", axis)


def test_neither_tested_nor_judged_speakers_are_learned_from(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(digits, "learn_and_score", lambda job, d, fit, judged: seen.append((job, d, fit, judged)) or {})
    jobs = digits.tuning_jobs(SPEAKERS) + digits.final_jobs(SPEAKERS, dict.fromkeys(SPEAKERS, 2), seeds=2)
    for job in jobs:
        digits.work(job, str(folder))
    assert len(seen) == 3 * 3 + 2 * 3 * 3
    for job, d, fit, judged in seen:
        learned, heard = ({d.speakers[i] for i in side.tolist()} for side in (fit, judged))
        assert heard == {job["judged"]}
        assert not learned & {job["judged"], job["tested"]}
        assert (job["judged"] == job["tested"]) == (job["experiment"] == digits.EXPERIMENT)
        assert len(judged) == 20


def test_the_dilation_is_the_best_of_each_speaker():
    tuned = [
        {**job, "accuracy": {("ann", 3): 0.9, ("bob", 4): 0.8}.get((job["tested"], job["dilation"]), 0.5)}
        for job in digits.tuning_jobs(SPEAKERS)
    ]
    assert digits.best_dilations(tuned) == {"ann": 3, "bob": 4, "cy": 2}


def test_tones_are_learned(folder, monkeypatch):
    monkeypatch.setattr(digits, "STEPS", 30)
    job = digits.final_jobs(SPEAKERS, dict.fromkeys(SPEAKERS, 2), seeds=1)[1]
    record = digits.work(job, str(folder))
    assert record["accuracy"] > 0.8
    assert np.mean(list(record["clips"].values())) == pytest.approx(record["accuracy"])
    assert json.loads(json.dumps(record)) == record


def test_tables_of_digits():
    right = {"harmonic": [1, 1, 1, 0], "plain": [1, 0, 0, 0], "dilated": [1, 1, 1, 0]}
    records = [
        {**job, "accuracy": sum(right[job["stack"]]) / 4,
         "clips": {f"{job['tested']}{i}": r for i, r in enumerate(right[job["stack"]])}}
        for job in digits.final_jobs(SPEAKERS, dict.fromkeys(SPEAKERS, 2), seeds=2)
    ]  # fmt: skip
    text = digit_tables.tables(records)
    assert "| stack | all | ann | bob | cy |" in text
    assert "| plain | 25.0 ± 0.0 | 25.0 | 25.0 | 25.0 |" in text
    assert "| harmonic - plain | **+50.0** (+" in text
    assert "95 % interval over 12 clips" in text
    assert "| harmonic - dilated | +0.0 (+0.0 to +0.0) | +0.0 (+0.0 to +0.0) |" in text
    assert digit_tables.tables(records[:-1]) == digit_tables.tables(records[:9])  # a seed that is not whole is left out
    assert digit_tables.tables([]) == ""
