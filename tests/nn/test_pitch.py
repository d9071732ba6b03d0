"""hlfeat.pitch, and the pitches of sounds through the shipped configurations."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hlfeat
from hlfeat.audio.resample import Resampler
from scripts import demo_clips

A2, A4 = 110.0, 440.0
SEMITONES = 110 * 2 ** (np.arange(49) / 12)  # four octaves from A2


def cents(frequency, expected):
    return 1200 * np.log2(np.asarray(frequency) / np.asarray(expected))


def sound(frequency: float, levels: list[float], seconds: float = 1.0, rate: int = 16000) -> torch.Tensor:
    """Harmonics of these levels in dB, with phases of their own."""
    t = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    parts = [
        10 ** (level / 20) * torch.sin(2 * torch.pi * frequency * h * t + h * h)
        for h, level in enumerate(levels, 1)
        if frequency * h < rate / 2
    ]
    return (0.1 * torch.stack(parts).sum(0)).float()


CELLO = [-6.0, 0.0, -3.0, -8.0, -5.0, -12.0, -10.0, -15.0, -18.0, -16.0, -20.0, -25.0]  # a weak fundamental
FLUTE = [0.0, -12.0, -22.0, -35.0]
CLARINET = [0.0, -40.0, -8.0, -38.0, -14.0, -30.0, -20.0]  # odd harmonics
MISSING = [-90.0, 0.0, 0.0, -3.0, -6.0, -6.0]  # no fundamental, as over a telephone


@pytest.fixture(scope="module", params=["pitch-salience", "pitch-salience-fine"])
def extractor(request):
    return hlfeat.build(request.param).eval()


def track(extractor, x, **options):
    with torch.inference_mode():
        return hlfeat.pitch(extractor(x[None])[0, 0], extractor.frontend.centre_freqs(), **options)


@pytest.mark.parametrize(
    ("note", "levels"),
    [(A2, CELLO), (A4, FLUTE), (A4 / 2, CLARINET), (A2, MISSING), (55.0, CELLO), (1760.0, FLUTE), (A4, [0.0])],
    ids=["cello A2", "flute A4", "clarinet A3", "no fundamental A2", "cello A1", "flute A6", "sine A4"],
)
def test_a_note_has_its_pitch(extractor, note, levels):
    found = track(extractor, sound(note, levels))
    middle = slice(15, -15)
    assert np.abs(cents(found.frequency[middle], note)).max() <= 20
    assert found.confidence[middle].min() > 0.6


def test_a_melody_is_followed(extractor):
    """Frère Jacques, begun on C4: at each note's middle, the pitch is the note that is written."""
    melody = [60, 62, 64, 60, 60, 62, 64, 60, 64, 65, 67, 67]
    notes = [440 * 2 ** ((key - 69) / 12) for key in melody]
    found = track(extractor, torch.cat([sound(note, CELLO, 0.4) for note in notes]))
    middles = 20 + 40 * np.arange(len(notes))
    assert np.abs(cents(found.frequency[middles], notes)).max() < 20
    everywhere = np.abs(cents(found.frequency, np.repeat(notes, 40))) < 50
    assert everywhere.mean() > 0.9


def test_the_level_does_not_matter(extractor, rng):
    glide = 200 + 100 * np.arange(32000) / 32000
    x = torch.from_numpy(np.sin(2 * np.pi * np.cumsum(glide) / 16000) + 0.3 * rng.standard_normal(32000)).float() * 0.01
    as_it_is = track(extractor, x)
    for gain in (0.01, 100.0):
        other = track(extractor, x * gain)
        assert (np.abs(cents(other.frequency, as_it_is.frequency)) < 1).mean() >= 0.99
        assert (other.confidence - as_it_is.confidence).abs().max() < 0.01


def test_silence_has_no_pitch(extractor):
    found = track(extractor, torch.zeros(8000))
    assert not found.frequency.any()
    assert not found.confidence.any()


def test_silence_after_a_note_has_no_pitch(extractor):
    found = track(extractor, torch.cat([sound(A4, FLUTE), torch.zeros(16000)]))
    assert not found.confidence[130:].any()
    assert not found.frequency[130:].any()
    assert (found.confidence[15:85] > 0.6).all()


def test_noise_is_not_sure_of_anything(extractor, rng):
    found = track(extractor, torch.from_numpy(rng.standard_normal(32000)).float())
    assert found.confidence.median() < 0.3
    assert found.confidence.max() < 0.5


def test_a_clip_shorter_than_the_window_is_no_error(extractor):
    for samples in (1, 10, 100, 800):
        found = track(extractor, sound(A4, FLUTE)[:samples])
        assert len(found.frequency) == (samples - 1) // 160 + 1
        assert found.frequency.isfinite().all()


def reference(y: np.ndarray, freqs: np.ndarray) -> tuple[list[float], list[float]]:
    """Frame by frame, in float64."""
    octaves = np.log2(freqs)
    frequencies, confidences = [], []
    for frame in y.T.astype(np.float64):
        i = int(frame.argmax())
        place = float(i)
        if 0 < i < len(frame) - 1:
            a, b, c = frame[i - 1 : i + 2]
            if a - 2 * b + c < 0:
                place += (a - c) / (2 * (a - 2 * b + c))
        octave = np.interp(place, np.arange(len(octaves)), octaves)
        share = np.exp(frame - frame.max())
        near = np.abs(octaves - octave) * 1200 <= 50 + 1e-6
        near |= np.abs(np.arange(len(frame)) - place) < 1
        silent = frame.max() == frame.min()
        frequencies.append(0.0 if silent else 2**octave)
        confidences.append(0.0 if silent else (share / share.sum())[near].sum())
    return frequencies, confidences


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_agrees_with_a_loop_over_frames(data):
    rows, frames = data.draw(st.integers(2, 12)), data.draw(st.integers(1, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    y = rng.standard_normal((rows, frames)) * data.draw(st.sampled_from([0.0, 0.1, 1.0, 5.0]))
    freqs = np.cumsum(rng.uniform(5, 300, rows))
    found = hlfeat.pitch(y, freqs)
    frequencies, confidences = reference(y, freqs)
    np.testing.assert_allclose(found.frequency, frequencies, rtol=1e-9)
    np.testing.assert_allclose(found.confidence, confidences, rtol=1e-9, atol=1e-12)


def test_a_parabola_is_read_between_rows():
    for place in (20.0, 20.2, 20.49, 30.7):
        y = -((np.arange(49) - place) ** 2)[:, None]
        assert abs(cents(hlfeat.pitch(y, SEMITONES).frequency.item(), 110 * 2 ** (place / 12))) < 1e-6


def test_batches_channels_and_types():
    y = torch.randn(2, 1, 49, 7)
    found = hlfeat.pitch(y, SEMITONES)
    assert found.frequency.shape == found.confidence.shape == (2, 1, 7)
    assert found.frequency.dtype == torch.float32
    alone = hlfeat.pitch(y[1, 0].numpy(), torch.from_numpy(SEMITONES))
    assert torch.equal(alone.frequency, found.frequency[1, 0])
    assert hlfeat.pitch(torch.zeros(49, 0), SEMITONES).frequency.shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.float32, torch.float64])
def test_types_of_results(dtype):
    y = torch.tensor([[0], [1], [0]], dtype=dtype)
    found = hlfeat.pitch(y, [3000.0, 3333.0, 3700.0])
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert found.frequency.dtype == found.confidence.dtype == expected
    assert abs(found.frequency.item() - 3333) < 10
    assert 0.5 < found.confidence.item() < 1


def test_arrays_that_torch_does_not_take_are_copied(recwarn):
    y = np.arange(6.0).reshape(3, 2)
    expected = hlfeat.pitch(y, SEMITONES[:3])
    y.setflags(write=False)
    assert torch.equal(hlfeat.pitch(y, SEMITONES[:3]).frequency, expected.frequency)
    assert torch.equal(hlfeat.pitch(y[:, ::-1], SEMITONES[:3]).frequency, expected.frequency.flip(0))
    assert not recwarn.list


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_salience_that_is_not_finite_is_refused(value):
    y = np.zeros((3, 2))
    y[1, 1] = value
    with pytest.raises(ValueError, match="expected salience that is finite"):
        hlfeat.pitch(y, SEMITONES[:3])


def test_a_harmonic_sound_is_as_sure_between_two_rows(extractor):
    """A quarter tone off the rows of 12 an octave too."""
    for place in np.arange(0, 1, 0.1):
        found = track(extractor, sound(220 * 2 ** (place / 12), CELLO))
        assert found.confidence[20:80].min() > 0.9, place


def test_rows_may_be_in_any_order(rng):
    y, order = rng.standard_normal((49, 20)), rng.permutation(49)
    in_order, crossed = hlfeat.pitch(y, SEMITONES), hlfeat.pitch(y[order], SEMITONES[order])
    assert torch.equal(in_order.frequency, crossed.frequency)


def test_a_row_at_zero_hertz_is_left_out():
    y = np.zeros((5, 1))
    y[0], y[2] = 9.0, 1.0
    assert hlfeat.pitch(y, [0.0, 100.0, 200.0, 300.0, 400.0]).frequency.item() == pytest.approx(200, abs=1)


@pytest.mark.parametrize(
    ("shape", "freqs", "message"),
    [
        ((3, 5), [1.0, 2.0], "expected salience"),
        ((3,), [1.0, 2.0, 3.0], "expected salience"),
        ((3, 5), [[1.0, 2.0, 3.0]], "expected salience"),
        ((3, 5), [1.0, float("nan"), 3.0], "finite and not negative"),
        ((3, 5), [-1.0, 2.0, 3.0], "finite and not negative"),
        ((1, 5), [0.0], "a row above 0 Hz"),
    ],
)
def test_what_does_not_fit_is_refused(shape, freqs, message):
    with pytest.raises(ValueError, match=message):
        hlfeat.pitch(np.zeros(shape), freqs)


def test_viterbi_leaves_no_frame_alone():
    """A frame that is an octave off between others is pulled back; a leap that stays is followed."""
    y = np.full((49, 60), 0.0)
    y[24, :30], y[36, 30:] = 6.0, 6.0
    y[24, 10], y[36, 10] = 5.5, 6.0  # one frame of thirty
    rows = 110 * 2 ** (np.array([24, 36]) / 12)
    alone = hlfeat.pitch(y, SEMITONES).frequency
    assert alone[10].item() == pytest.approx(rows[1], rel=1e-3)
    path = hlfeat.pitch(y, SEMITONES, viterbi=True).frequency
    assert np.abs(cents(path[:30], rows[0])).max() < 10
    assert np.abs(cents(path[30:], rows[1])).max() < 10


def test_viterbi_follows_a_short_leap_that_is_sure():
    """Three frames an octave up: 24 nats for them, against two leaps of 1 % over 49 rows, 17 nats."""
    y = np.zeros((49, 60))
    y[24] = 6.0
    y[24, 30:33], y[36, 30:33] = 0.0, 8.0
    path = hlfeat.pitch(y, SEMITONES, viterbi=True).frequency
    assert np.abs(cents(path[30:33], SEMITONES[36])).max() < 10
    assert np.abs(cents(path[[29, 33]], SEMITONES[24])).max() < 10


def test_viterbi_on_few_rows_and_frames():
    for rows, frames in ((1, 4), (2, 1), (3, 0), (2, 5)):
        found = hlfeat.pitch(np.ones((rows, frames)), SEMITONES[:rows], viterbi=True)
        assert found.frequency.tolist() == [0.0] * frames


def test_viterbi_without_librosa_says_what_to_install():
    code = (
        "import sys; sys.modules['librosa'] = None\nimport numpy, hlfeat\n"
        "try: hlfeat.pitch(numpy.eye(3), [1, 2, 3], viterbi=True)\n"
        "except hlfeat.UsageError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("viterbi: needs librosa: pip install 'hlfeat[pitch]' (")


@pytest.mark.parametrize(
    ("clip", "melody", "beat"),
    [
        ("strings/open-strings.flac", "E2 A2 D3 G3 B3 E4", 0.5),  # each rings on under the next
        ("strings/harp.ogg", "A4 - E5 - A5 - C5 B4 A4", 0.4),
        ("voice/vowels.wav", "A3 A3 A3 A3 A3", 0.8),  # one for each vowel
        ("voice/telephone.wav", "D3 D3 D3", 2 / 3),  # without the fundamental
    ],
)
def test_the_demos_melodies_are_followed(extractor, clip, melody, beat):
    """At the middle of each beat, the pitch is the note that the score says."""
    rate, _, play = demo_clips.CLIPS[clip]
    samples = demo_clips.finished(play(rate), rate)
    samples = torch.from_numpy(samples.reshape(len(samples), -1).mean(1)).float()
    found = track(extractor, Resampler(extractor.sample_rate)(samples[None], rate)[0])
    for i, name in enumerate(melody.split()):
        if name != "-":
            middle = round((i + 0.5) * beat * 100)
            assert abs(cents(found.frequency[middle].item(), demo_clips.hertz(name))) < 50, (i, name)
            assert found.confidence[middle] > 0.5
