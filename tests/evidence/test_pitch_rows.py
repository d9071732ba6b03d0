"""Rows, labels on them, and pitch from them; frames of notes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scripts.evidence.note_frames import (
    LENGTH,
    MOST,
    REACH,
    NoteFrames,
    accuracies,
    frames_of,
    held_out,
    levels_of,
    note_frames,
    subset,
)
from scripts.evidence.notes import Note
from scripts.evidence.pitch_rows import HOP, KINDS, RATE, cents, levels, make_rows, pitch, soft_labels
from tests.evidence.write_soundfont import tone


def note(hertz: float, seconds: float = 0.8, instrument: str = "violin", rate: int = 22050) -> Note:
    samples = tone(hertz, seconds, rate).astype(np.float32) / 32768
    return Note(instrument, "bowed strings", "a", hertz, samples, rate)


def test_labels_lie_on_the_two_rows_beside_them():
    labels = soft_labels(torch.tensor([100.0, 200.0, 400.0]), torch.tensor([100.0, 100 * 2**0.25, 400.0]))
    assert torch.allclose(labels, torch.tensor([[1, 0.75, 0], [0, 0.25, 0], [0, 0, 1.0]]))


def test_labels_beyond_the_rows_are_on_the_last():
    labels = soft_labels(torch.tensor([100.0, 200.0]), torch.tensor([50.0, 900.0]))
    assert labels.tolist() == [[1, 0], [0, 1]]


def test_rows_that_crossed_have_labels_and_pitches_too():
    freqs, order = torch.tensor([100.0, 200.0, 400.0, 800.0]), [2, 0, 3, 1]
    hertz = torch.tensor([120.0, 300.0])
    labels = soft_labels(freqs, hertz)
    assert torch.equal(soft_labels(freqs[order], hertz), labels[order])
    assert torch.equal(pitch(labels[order], freqs[order]), pitch(labels, freqs))


@pytest.mark.parametrize("spacing", ["log", "mel"])
def test_a_parabola_finds_its_top_between_rows(spacing):
    freqs = make_rows(spacing).freqs
    truth = torch.tensor([110.0, 233.1, 1000.0])
    salience = -((freqs.log2()[:, None] - truth.log2()) ** 2)
    assert np.abs(cents(pitch(salience, freqs), truth)).max() < 0.01


def test_a_strongest_row_at_the_end_or_on_a_plateau_is_taken_as_it_is():
    freqs = torch.tensor([100.0, 200.0, 400.0, 800.0])
    salience = torch.tensor([[2.0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]])
    assert pitch(salience, freqs).tolist() == pytest.approx([100, 800, 100])


def test_labels_become_the_pitch_again():
    """Within a tenth of the tolerance, where rows are as near as 24 an octave."""
    freqs, hertz = make_rows("log").freqs, torch.tensor(np.geomspace(30, 5000, 200))
    assert np.abs(cents(pitch(soft_labels(freqs, hertz), freqs), hertz)).max() < 10


def test_levels_do_not_depend_on_loudness():
    x = torch.rand(2, 5, 3) + 0.1
    assert torch.allclose(levels(x), levels(1e-4 * x), atol=1e-6)
    assert levels(x).amax(dim=1).allclose(torch.ones(2, 3))
    assert levels(torch.tensor([[[1.0], [1e-3], [1e-9]]]))[0, :, 0].tolist() == pytest.approx(
        [1, 1 - 30 / 80, 0], abs=0.01
    )


@pytest.mark.parametrize("kind", KINDS)
def test_rows_show_the_partials_of_a_tone(kind):
    rows = make_rows(kind)
    assert (rows.freqs[1:] > rows.freqs[:-1]).all()
    assert rows.freqs[0] <= 30
    assert rows.freqs[-1] == pytest.approx(7040, rel=1e-4)
    found = note_frames([note(440.0)])
    y = levels_of(rows, found)
    assert y.shape == (len(rows.freqs), MOST)
    near = [int((rows.freqs - f).abs().argmin()) for f in (440, 880, 1320, 1760, 660, 1100)]
    present, absent = y[near[:4]].min(), y[near[4:]].max()
    assert present > absent + 0.1  # 8 dB
    # and the axis finds them: harmonic 4 of anchor 2 is an octave up
    assert rows.axis.positions(len(rows.freqs), 4, 2)[3, near[0]].item() == pytest.approx(near[1], abs=1)
    assert abs(rows.wrong_axis.positions(len(rows.freqs), 4, 2)[3, near[0]].item() - near[1]) > 3


def test_frames_begin_50_ms_after_the_onset_and_end_50_ms_before_the_end():
    assert [frames_of(round(RATE * s)) for s in (0.15, 0.139, 0.05, 1, 0.181)] == [2, 1, 1, MOST, 3]
    x = np.zeros(RATE, dtype=np.float32)
    x[800] = 1
    found = note_frames([Note("violin", "bowed strings", "a", 440.0, x, RATE)])
    assert found.clips.shape == (1, LENGTH)
    assert found.clips[0].argmax() == REACH * HOP
    assert found.frame.tolist() == list(range(REACH, REACH + MOST))


def test_crops_show_what_clips_show():
    rows, found = make_rows("mel"), note_frames([note(300.0), note(500.0, 0.25)])
    positions = torch.tensor([0, 5, MOST + 1])
    cropped = rows.levels(found.crops(positions))[..., REACH].T.detach()
    assert torch.allclose(cropped, levels_of(rows, found)[:, positions], atol=0.02)  # filters' tails are cut
    assert torch.equal(levels_of(rows, found, positions), levels_of(rows, found)[:, positions])


def test_accuracy_is_of_frames_then_notes_then_instruments():
    hertz = torch.full((5,), 100.0, dtype=torch.float64)
    of = NoteFrames(
        torch.zeros(3, 1), ["flute", "flute", "cello"], torch.tensor([0, 0, 1, 2, 2]), torch.zeros(5), hertz
    )
    quarter = 2 ** (50 / 1200)
    found = torch.tensor([100 * quarter * 0.9999, 100 * quarter * 1.0001, 100, 200, 99.9])
    assert accuracies(found, of, torch.arange(5)) == {"flute": 0.75, "cello": 0.5}
    assert accuracies(found[2:], of, torch.arange(2, 5)) == {"flute": 1.0, "cello": 0.5}


def test_folds_divide_instruments_and_shares_divide_notes():
    instruments = [name for name in "abcdefg" for _ in range(5)]
    sides = [held_out(instruments, fold) for fold in range(3)]
    for fit, judged in sides:
        assert sorted(fit + judged) == list(range(35))
        assert not {instruments[i] for i in fit} & {instruments[i] for i in judged}
    assert sorted(i for _, judged in sides for i in judged) == list(range(35))
    assert len(subset(range(35), 0.1, 3)) == 4
    assert len(subset(range(35), 0.001, 3)) == 1
    assert subset(range(35), 0.1, 3) == subset(range(35), 0.1, 3) != subset(range(35), 0.1, 4)
    assert subset(range(35), 1.0, 3) == list(range(35))
