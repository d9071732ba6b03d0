"""Synthesises the demo's clips: plucked strings, a singing voice, bells and glides, in several formats and rates.

    python scripts/demo_clips.py FOLDER

The samples are the same on every machine. One file is broken on purpose, to show what becomes of such a clip.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

PEAK, RMS = 0.5, 0.1  # at most, of full scale: headroom, and clips that are about equally loud
SEMITONES = {"C": -9, "D": -7, "E": -5, "F": -4, "G": -2, "A": 0, "B": 2}  # from A of the same octave

# Formants of a tenor: frequencies of the vowels and, common to all of them, bandwidths; hertz.
VOWELS = {
    "a": (650, 1080, 2650, 2900, 3250),
    "e": (400, 1700, 2600, 3200, 3580),
    "i": (290, 1870, 2800, 3250, 3540),
    "o": (400, 800, 2600, 2800, 3000),
    "u": (350, 600, 2700, 2900, 3300),
}
BANDWIDTHS = (80, 90, 120, 130, 140)

# Partials of a tuned bell: ratio to the strike note, amplitude, seconds until it has died away by 60 dB.
BELL = (
    (0.5, 0.5, 4.0),  # hum
    (1.0, 1.0, 3.0),  # prime
    (1.2, 0.7, 2.4),  # tierce: the minor third that makes it a bell
    (1.5, 0.4, 2.0),  # quint
    (2.0, 0.9, 1.8),  # nominal
    (2.5, 0.3, 1.2),
    (3.0, 0.3, 1.0),
    (4.2, 0.2, 0.6),
    (5.4, 0.1, 0.4),
)


@dataclass(frozen=True)
class Note:
    """A note of a score: when it starts (seconds), what it is ("E4", "F#3"), where it is heard (0 left, 1 right)."""

    start: float
    name: str
    pan: float = 0.5


Instrument = Callable[[float, float, int], np.ndarray]  # (hertz, seconds, rate) -> [T]


def hertz(name: str) -> float:
    """Frequency of a note in equal temperament, A4 = 440 Hz."""
    semitones = SEMITONES[name[0]] + name.count("#") + 12 * (int(name[-1]) - 4)
    return float(440 * 2 ** (semitones / 12))


def times(seconds: float, rate: int) -> np.ndarray:
    """The sampling instants: [T]."""
    return np.arange(round(seconds * rate)) / rate


def onset(attack: float, seconds: float, rate: int) -> np.ndarray:
    """A gain that rises smoothly from 0 to 1 within `attack` seconds: [T]."""
    return 0.5 - 0.5 * np.cos(np.pi * np.clip(times(seconds, rate) / attack, 0, 1))


# --- plucked strings -----------------------------------------------------------------------------------------


def pluck(hz: float, seconds: float, rate: int, ring: float = 5.0) -> np.ndarray:
    """A plucked string after Karplus and Strong (1983): a burst goes round in a delay line that damps it each time.

    A period is rarely a whole number of samples, so part of the delay is a cubic interpolation (Jaffe and Smith, 1983):
    without it the string would be out of tune, audibly so at low rates.

    Args:
        hz: pitch, at most a quarter of the rate.
        ring: seconds until the fundamental has died away by 60 dB; harmonics at 4 kHz take a tenth of it.

    Shape: -> [T].
    """
    period = rate / hz
    whole = int(period) - 2
    fraction = period - whole - 1  # 1 <= fraction < 2, the middle of the four points, where the cubic is at its best
    loop = 10 ** (-3 / (hz * ring)) * np.convolve(cubic_delay(fraction), damping(hz, rate, ring / 10))
    reach = whole + len(loop) - 1  # samples back that the loop reads
    y = np.zeros(reach + round(seconds * rate))
    burst = excitation(hz, rate)[: len(y) - reach]
    y[reach : reach + len(burst)] = burst
    for start in range(reach, len(y), whole):  # nothing in a block of `whole` samples depends on the rest of the block
        earlier = y[start - reach : min(start, len(y) - whole)]
        y[start : start + whole] += np.convolve(earlier, loop, "valid")
    return y[reach:]


def cubic_delay(delay: float) -> np.ndarray:
    """Lagrange interpolation between four samples as a filter that delays by 1 to 2 samples: [4]."""
    points = np.arange(4)
    return np.array([np.prod([(delay - j) / (k - j) for j in points if j != k]) for k in points])


def damping(hz: float, rate: int, seconds: float, at: float = 4000.0) -> np.ndarray:
    """The loop's lowpass, a delay of one sample: lets a frequency of `at` die away by 60 dB in so many seconds: [3]."""
    loss = 6.9 / (seconds * hz)  # 6.9 = ln 1000; what a round may take
    b = min(0.5, loss / (1 - np.cos(2 * np.pi * at / rate)))
    return np.array([b / 2, 1 - b, b / 2])


def excitation(hz: float, rate: int, position: float = 0.22) -> np.ndarray:
    """One period of noise with the spectrum of a string plucked at this part of its length: [period]."""
    n = int(rate / hz)
    k = np.arange(n // 2 + 1)
    amplitude = np.abs(np.sin(np.pi * k * position)) / (1 + (k * hz / 1500) ** 2)
    phase = np.random.default_rng(round(hz * 1000)).uniform(0, 2 * np.pi, len(k))
    return np.fft.irfft(amplitude * np.exp(1j * phase), n)


# --- voice ---------------------------------------------------------------------------------------------------


def sing(vowels: str, hz: float, seconds: float, rate: int) -> np.ndarray:
    """Vowels sung one after the other on one note, without a break: [T]."""
    source = glottal_pulses(vibrato(hz, seconds, rate), rate)
    weights = crossfades(len(vowels), len(source), round(0.12 * rate))
    voices = (loudness_one(resonate(source, VOWELS[v], rate)) for v in vowels)
    y = sum((w * x for w, x in zip(weights, voices, strict=True)), np.zeros(len(source)))
    return y * onset(0.05, seconds, rate)


def vibrato(hz: float, seconds: float, rate: int, cents: float = 35.0, per_second: float = 5.5) -> np.ndarray:
    """The pitch of a singer, who sets in the vibrato after the note has begun: hertz, [T]."""
    t = times(seconds, rate)
    depth = cents * np.clip((t - 0.2) / 0.5, 0, 1)
    return hz * 2 ** (depth / 1200 * np.sin(2 * np.pi * per_second * t))


def glottal_pulses(pitch: np.ndarray, rate: int) -> np.ndarray:
    """A pulse each period, falling 6 dB an octave, made of its harmonics: those beyond half the rate do not exist.

    Shape: pitch [T] -> [T].
    """
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    harmonics = int(min(rate / 2, 8000) / pitch.max())
    return sum((np.cos(k * phase) / k for k in range(1, harmonics + 1)), np.zeros(len(pitch)))


def resonate(x: np.ndarray, formants: Iterable[float], rate: int) -> np.ndarray:
    """Two-pole resonators one after the other, computed as a product of spectra: numpy has no recursive filter.

    Shape: x [T] -> [T].
    """
    n = len(x) + rate // 4  # room for the resonators to ring out, or the end would be heard at the beginning
    z = np.exp(-2j * np.pi * np.fft.rfftfreq(n))
    response = np.ones(len(z), dtype=complex)
    for centre, width in zip(formants, BANDWIDTHS, strict=True):
        if centre > 0.4 * rate:  # its mirror image beyond half the rate would lift the highest frequencies
            continue
        radius = np.exp(-np.pi * width / rate)
        c, d = -2 * radius * np.cos(2 * np.pi * centre / rate), radius**2
        response *= (1 + c + d) / (1 + c * z + d * z**2)  # gain 1 at 0 Hz, so that formants add up as in a throat
    return np.fft.irfft(np.fft.rfft(x, n) * response, n)[: len(x)]


def crossfades(n: int, length: int, overlap: int) -> np.ndarray:
    """Weights of n sounds that follow each other, which sum to one: [n, length]."""
    at = np.arange(length)[None]
    edges = (np.arange(1, n) * length / n)[:, None]
    up = np.clip((at - edges) / overlap + 0.5, 0, 1)  # [n - 1, length]
    begun = np.concatenate([np.ones((1, length)), up, np.zeros((1, length))])
    return begun[:-1] - begun[1:]


def loudness_one(x: np.ndarray) -> np.ndarray:
    """Scaled to an RMS of one."""
    return x / np.sqrt(np.mean(x**2))


# --- bells and glides ----------------------------------------------------------------------------------------


def bell(hz: float, seconds: float, rate: int) -> np.ndarray:
    """A church bell in small: partials that are no harmonics and die away at different speeds: [T]."""
    t = times(seconds, rate)
    y = np.zeros(len(t))
    for ratio, amplitude, ring in BELL:
        if ratio * hz < 0.45 * rate:
            y += amplitude * 10 ** (-3 * t / ring) * np.sin(2 * np.pi * ratio * hz * t)
    return y * onset(0.002, seconds, rate)  # the clapper needs a moment too


def chirp(low: float, high: float, seconds: float, rate: int) -> np.ndarray:
    """A sine that rises by the same interval each second: [T]."""
    growth = np.log(high / low) / seconds
    phase = 2 * np.pi * low * np.expm1(growth * times(seconds, rate)) / growth
    return np.sin(phase) * onset(0.02, seconds, rate)


def glide(names: Iterable[str], seconds: float, rate: int) -> np.ndarray:
    """A tone with harmonics that slides smoothly from note to note, as on a theremin: [T]."""
    octave = np.log2([hertz(name) for name in names])
    t = times(seconds, rate)
    step = t / seconds * (len(octave) - 1)
    part = step % 1
    at = np.floor(step) + part**2 * (3 - 2 * part)  # rest on each note, then move on
    pitch = 2 ** np.interp(at, np.arange(len(octave)), octave)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    harmonics = [k for k in range(1, 7) if k * pitch.max() < rate / 2]
    return sum((np.sin(k * phase) / k**1.5 for k in harmonics), np.zeros(len(t))) * onset(0.05, seconds, rate)


# --- notes to clips ------------------------------------------------------------------------------------------


def play(score: Iterable[Note], instrument: Instrument, seconds: float, rate: int) -> np.ndarray:
    """All notes of a score, each ringing until the end: stereo [T, 2]."""
    y = np.zeros((round(seconds * rate), 2))
    for note in score:
        start = round(note.start * rate)
        sound = instrument(hertz(note.name), seconds - note.start, rate)[: len(y) - start]
        angle = np.pi / 2 * note.pan  # equal power wherever it is
        y[start : start + len(sound)] += sound[:, None] * [np.cos(angle), np.sin(angle)]
    return y


def melody(names: str, beat: float, wide: float = 0.0) -> list[Note]:
    """Notes a beat apart, "-" being a rest, spread over the stereo field from left to right."""
    steps = names.split()
    left, width = 0.5 - wide / 2, wide / max(1, len(steps) - 1)
    return [Note(i * beat, name, left + i * width) for i, name in enumerate(steps) if name != "-"]


def mono(stereo: np.ndarray) -> np.ndarray:
    """Shape: [T, 2] -> [T]."""
    return stereo.mean(axis=1)


def duet(rate: int) -> np.ndarray:
    """Two voices a major third apart, one on either side: [T, 2]."""
    low, high = sing("ao", hertz("A3"), 2.5, rate), sing("ao", hertz("C#4"), 2.5, rate)
    return np.stack([low + 0.4 * high, high + 0.4 * low], axis=1)


def finished(x: np.ndarray, rate: int) -> np.ndarray:
    """At a sensible level, the beginning and the end faded so that nothing clicks. Shape: [T] or [T, 2] -> same."""
    seconds = len(x) / rate
    gain = onset(0.003, seconds, rate) * onset(0.15, seconds, rate)[::-1]
    y = (x.T * gain).T
    return y * min(PEAK / np.abs(y).max(), RMS / np.sqrt(np.mean(y**2)))


# name -> sample rate, coding (None: the format's usual one), samples at that rate
CLIPS: dict[str, tuple[int, str | None, Callable[[int], np.ndarray]]] = {
    "strings/guitar-arpeggio.wav": (
        44100,
        None,
        lambda rate: play(melody("A2 E3 A3 C4 E4 C4 A3 E3", 0.3, wide=0.6), pluck, 4.0, rate),
    ),
    "strings/open-strings.flac": (
        48000,
        "PCM_24",
        lambda rate: mono(play(melody("E2 A2 D3 G3 B3 E4", 0.5), pluck, 4.5, rate)),
    ),
    "strings/harp.ogg": (
        32000,
        None,
        lambda rate: play(melody("A4 - E5 - A5 - C5 B4 A4", 0.4, wide=0.8), pluck, 4.8, rate),
    ),
    "voice/vowels.wav": (16000, None, lambda rate: sing("aeiou", hertz("A3"), 4.0, rate)),
    "voice/duet.mp3": (44100, None, duet),
    "voice/telephone.wav": (8000, "ULAW", lambda rate: sing("oui", hertz("D3"), 2.0, rate)),
    "bells/strike.flac": (48000, None, lambda rate: play([Note(0, "E4", 0.4)], bell, 3.0, rate)),
    "bells/melody.mp3": (
        32000,
        None,
        lambda rate: mono(play(melody("E5 C5 D5 G4 - G4 D5 E5 C5", 0.4), bell, 4.8, rate)),
    ),
    "glides/chirp.aiff": (22050, None, lambda rate: chirp(80, 8000, 3.0, rate)),
    "glides/theremin.ogg": (22050, None, lambda rate: glide(["A3", "E4", "C4", "A4", "A3"], 4.0, rate)),
    "glides/whistle.flac": (11025, None, lambda rate: glide(["C6", "G6", "E6"], 1.5, rate)),
    "broken/cut-short.flac": (44100, None, lambda rate: mono(play(melody("G3 B3 D4 G4", 0.3), pluck, 2.0, rate))),
}


def write(path: Path, rate: int, coding: str | None, samples: np.ndarray) -> None:
    """A sound file; its extension decides on the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, finished(samples, rate), rate, subtype=coding)


def cut_in_half(path: Path) -> None:
    """What an interrupted download leaves behind."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def main() -> None:
    folder = Path(sys.argv[1])
    for name, (rate, coding, make) in CLIPS.items():
        write(folder / name, rate, coding, make(rate))
        if name.startswith("broken/"):
            cut_in_half(folder / name)


if __name__ == "__main__":
    main()
