"""How the constants of `pitch-salience` and `pitch-salience-fine` were chosen: accuracy on the training half alone.

    python -m scripts.evidence.salience_choice FluidR3_GM.sf2 [--pyin]

It prints raw pitch accuracy in percent, averaged over notes, clean and with white noise 20, 10 and 0 dB below the note:
a table of the shipped constants, of each constant changed alone, and of the best constants of the whole grid
(scripts/evidence/salience_grid.py), by the sum of the four columns; and lines for the constants of YIN and, with
--pyin, which takes minutes, of pYIN (scripts/evidence/peer_choice.py).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

from hlfeat import HlfeatError
from scripts.evidence.clips import PitchClip, clips
from scripts.evidence.notes import notes
from scripts.evidence.peer_choice import pyin_lines, yin_lines
from scripts.evidence.salience_grid import (
    CONFIGURATIONS,
    DECAYS,
    EXPONENTS,
    VALLEYS,
    WINDOWS,
    Setting,
    accuracies,
    clip_frames,
    shipped,
)
from scripts.evidence.tables import markdown
from scripts.evidence.trackers import NOISES
from scripts.evidence.workers import one_thread

Shares = Mapping[Setting, Sequence[float]]  # a share for each of NOISES


def grid(recordings: Sequence[PitchClip], rows: int) -> dict[Setting, list[float]]:
    """All settings with so many rows an octave, in the order of the grid: their accuracy with each noise."""
    shares: dict[Setting, list[float]] = {}
    for window in WINDOWS[rows]:
        for noise in NOISES:
            frames = clip_frames(recordings, noise, rows, window)
            for compression, exponents in EXPONENTS.items():
                for a in exponents:
                    for pair, share in accuracies(frames, rows, compression, a).items():
                        shares.setdefault(Setting(rows, window, compression, a, *pair), []).append(share)
    return shares


def best(shares: Shares, **fields: object) -> Setting:
    """The setting with these values whose sum over noises is greatest; of equal ones, the first."""
    chosen = [s for s in shares if all(getattr(s, name) == value for name, value in fields.items())]
    return max(chosen, key=lambda s: sum(shares[s]))


def neighbours(rows: Iterable[int]) -> Iterator[tuple[str, list[Setting]]]:
    """What differs from the shipped constants, and the settings, one for each of `rows`."""
    ours = [shipped(n) for n in rows]
    yield f"as shipped: {constants(ours)}", ours
    for i in range(len(WINDOWS[ours[0].rows])):
        windows = [WINDOWS[s.rows][i] for s in ours]
        if windows != [s.window for s in ours]:
            name = "; ".join(f"{w:g}" for w in windows)
            yield f"windows of {name} ms", [s._replace(window=w) for s, w in zip(ours, windows, strict=True)]
    for a in EXPONENTS["relative-log"]:
        if a != ours[0].a:
            yield f"a = {a:g}", [s._replace(a=a) for s in ours]
    for a in EXPONENTS["logtbn"]:
        yield f"log(1 + 10^{a:g} x)", [s._replace(compression="logtbn", a=a) for s in ours]
    for decay in DECAYS:
        if decay != ours[0].decay:
            yield f"p = {decay:g}", [s._replace(decay=decay) for s in ours]
    for valley in VALLEYS:
        if valley != ours[0].valley:
            yield f"v = {valley:g}", [s._replace(valley=valley) for s in ours]


def winners(shares: Shares, rows: Sequence[int]) -> Iterator[tuple[str, list[Setting]]]:
    """What is best with each window, and with the plain logarithm; the settings, one for each of `rows`."""
    for windows in zip(*(WINDOWS[n] for n in rows), strict=True):
        found = [best(shares, rows=n, window=w, compression="relative-log") for n, w in zip(rows, windows, strict=True)]
        name = "; ".join(f"{w:g}" for w in windows)
        yield f"best, {name} ms: {constants(found)}", found
    plain = [best(shares, rows=n, compression="logtbn") for n in rows]
    name = "; ".join(f"{s.window:g}" for s in plain)
    yield f"best log(1 + 10^a x), {name} ms: {constants(plain)}", plain


def constants(settings: Iterable[Setting]) -> str:
    """One of each: the same once, others apart."""
    return "; ".join(dict.fromkeys(f"{s.a:g}, {s.decay:g}, {s.valley:g}" for s in settings))


def table(shares: Shares) -> str:
    """Markdown: the shipped constants, one constant moved, the best. Four columns for each number of rows."""
    rows = list(CONFIGURATIONS)
    titles = ["a, p, v", *(f"{n} rows, clean" if snr is None else f"{snr:g} dB" for n in rows for snr in NOISES)]
    lines = []
    for name, settings in (*neighbours(rows), *winners(shares, rows)):
        lines.append([name, *(f"{100 * share:.1f}" for s in settings for share in shares[s])])
    return markdown(titles, lines)


def main() -> int:
    """Exit status: 0 done, 2 the file cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("soundfont", help="a General MIDI SoundFont 2 file")
    parser.add_argument("--pyin", action="store_true", help="also pYIN's constants: minutes more")
    args = parser.parse_args()
    one_thread()
    try:
        recordings = list(clips(notes(args.soundfont, "train")))
    except HlfeatError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(f"{len(recordings)} notes of the training half\n", flush=True)
    shares: dict[Setting, list[float]] = {}
    for rows in CONFIGURATIONS:
        shares |= grid(recordings, rows)
    print(table(shares), flush=True)
    for line in yin_lines(recordings):
        print(line, flush=True)
    for line in pyin_lines(recordings) if args.pyin else ():
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
