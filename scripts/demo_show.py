"""Shows a feature directory in a terminal: what was written, the index, the failures, and pictures of some clips.

    python scripts/demo_show.py FOLDER [ID ...]

Without ids, the first few clips are drawn: in colour on a terminal, in characters elsewhere or where NO_COLOR is set.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hlfeat import FeatureStore, HlfeatError, build

PICTURES = 3  # drawn, where nobody asked for particular clips
INDEX_LINES = 12
LINES = 14  # of a picture, without title and time axis
GUTTER = 9  # columns left of a picture, for frequencies
LABEL_EVERY = 3  # lines
TOP = 4000  # hertz: so few lines can tell harmonics apart only if they need not show everything above too
WIDEST = 120  # columns

WHAT_IT_IS = {
    "hlfeat.yaml": "the configuration, complete",
    "failures.jsonl": "clips that could not be used, and why",
    "report.json": "times, speed, memory, versions",
    ".jsonl": "index: where each clip's features are",
    ".npy": "features [frames, channels, bands]",
    ".pt": "features by id",
}

RAMP = " .:-=+*#%@"

# Viridis: equal steps of the value look like equal steps, for readers who are colour-blind too.
ANCHORS = np.array(
    [
        (0x44, 0x01, 0x54),
        (0x47, 0x2D, 0x7B),
        (0x3B, 0x52, 0x8B),
        (0x2C, 0x72, 0x8E),
        (0x21, 0x91, 0x8C),
        (0x28, 0xAE, 0x80),
        (0x5E, 0xC9, 0x62),
        (0xAD, 0xDC, 0x30),
        (0xFD, 0xE7, 0x25),
    ],
    dtype=float,
)


def printable(text: str) -> str:
    """The text on one line, whatever bytes a file name holds."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


# --- tables --------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[object]], width: int) -> None:
    """Columns as wide as their widest cell; numbers to the right; no line longer than `width`."""
    cells = [list(head), *([printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    numeric = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(head))]
    for line in cells:
        parts = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True))
        print(shortened("  ".join(parts).rstrip(), width))


def shortened(text: str, width: int) -> str:
    """The text, or its beginning where there is no room for more."""
    return text if len(text) <= width else text[: width - 3] + "..."


def show_files(folder: Path, width: int) -> None:
    files = [p for p in sorted(folder.iterdir()) if p.is_file()]
    print(f"== {printable(str(folder))}")
    table(
        ("file", "bytes", "what it is"),
        [(p.name, p.stat().st_size, WHAT_IT_IS.get(p.name) or WHAT_IT_IS.get(p.suffix, "")) for p in files],
        width,
    )


def show_index(store: FeatureStore, width: int) -> None:
    rows = [
        (r["id"], round(r["duration"], 2), r["sample_rate"], r["frames"], r["shard"], r["row"])
        for r in map(store.record, store.ids[:INDEX_LINES])
    ]
    print(f"\n== the index: {len(store)} clips" + (f", the first {len(rows)}" if len(rows) < len(store) else ""))
    table(("id", "seconds", "rate", "frames", "in", "from row"), rows, width)


def show_failures(folder: Path, width: int) -> None:
    with open(folder / "failures.jsonl", encoding="ascii") as f:
        failures = [json.loads(line) for line in f]
    print(f"\n== the failures: {len(failures)}")
    if failures:
        table(("id", "code", "message"), [(r["id"], r["code"], r["message"]) for r in failures[:INDEX_LINES]], width)


# --- pictures ------------------------------------------------------------------------------------------------


def show_clip(
    store: FeatureStore, id_: str, freqs: np.ndarray, width: int, colour: Callable[[np.ndarray], str]
) -> None:
    """The spectrogram of one clip, low frequencies at the bottom."""
    freqs = freqs[freqs <= TOP]
    bands = np.asarray(store[id_][:, 0, : len(freqs)], dtype=np.float32).T  # [bands, frames]
    columns = width - GUTTER
    rows = LINES if colour is in_characters else 2 * LINES
    picture = scaled(resized(resized(bands, rows).T, columns).T)[::-1]  # [rows, columns], high frequencies on top
    seconds = store.record(id_)["duration"]
    about = f"{seconds:.2f} s, {freqs[0]:.0f} to {freqs[-1]:.0f} Hz"
    print(f"\n{shortened(printable(id_), width - len(about) - 2)}  {about}")
    of_line = resized(freqs[:, None], LINES, np.mean)[::-1, 0]
    for i, line in enumerate(np.split(picture, LINES)):
        label = f"{of_line[i]:5.0f} Hz" if (LINES - 1 - i) % LABEL_EVERY == 0 else ""
        print(f"{label:{GUTTER}}{colour(line)}")
    print(f"{'':{GUTTER}}0 s{f'{seconds:.2f} s':>{columns - 3}}")


def resized(x: np.ndarray, n: int, of_many: Callable[..., np.ndarray] = np.max) -> np.ndarray:
    """The first axis brought to n rows: one for many (by default their maximum: thin lines stay), or each repeated."""
    edges = np.arange(n + 1) * len(x) / n
    first = np.minimum(np.floor(edges[:-1]).astype(int), len(x) - 1)
    last = np.maximum(np.floor(edges[1:]).astype(int), first + 1)
    return np.stack([of_many(x[a:b], axis=0) for a, b in zip(first, last, strict=True)])


def scaled(x: np.ndarray) -> np.ndarray:
    """To 0 ... 1, leaving out the few lowest and highest values, which would take all the contrast."""
    low, high = np.percentile(x, [10, 99.7])
    return np.clip((x - low) / max(high - low, 1e-9), 0, 1)


def in_characters(line: np.ndarray) -> str:
    """One row: [1, columns]."""
    return "".join(RAMP[i] for i in np.rint(line[0] * (len(RAMP) - 1)).astype(int)).rstrip()


def in_colours(line: np.ndarray, code: Callable[[np.ndarray], str]) -> str:
    """Two rows of half-blocks, the upper one drawn, the lower one being the background: [2, columns]."""
    upper, lower = (colours(row) for row in line)
    cells = (f"\x1b[38;{code(a)};48;{code(b)}m\N{UPPER HALF BLOCK}" for a, b in zip(upper, lower, strict=True))
    return "".join(cells) + "\x1b[0m"


def colours(values: np.ndarray) -> np.ndarray:
    """Values 0 ... 1 to red, green and blue: [n] -> [n, 3]."""
    at = np.linspace(0, 1, len(ANCHORS))
    return np.rint(np.stack([np.interp(values, at, channel) for channel in ANCHORS.T], axis=-1)).astype(int)


def code_24_bit(rgb: np.ndarray) -> str:
    return "2;{};{};{}".format(*rgb)


def code_256(rgb: np.ndarray) -> str:
    """The nearest colour of the 6 x 6 x 6 cube, whose levels are 0, 95, 135, 175, 215 and 255."""
    r, g, b = np.abs(rgb[:, None] - np.array([0, 95, 135, 175, 215, 255])).argmin(axis=1)
    return f"5;{16 + 36 * r + 6 * g + b}"


def in_24_bit_colours(line: np.ndarray) -> str:
    return in_colours(line, code_24_bit)


def in_256_colours(line: np.ndarray) -> str:
    return in_colours(line, code_256)


def way_of_drawing() -> Callable[[np.ndarray], str]:
    """What standard output can show."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    if plain or not sys.stdout.isatty() or (sys.stdout.encoding or "").lower().replace("-", "") != "utf8":
        return in_characters
    return in_24_bit_colours if os.environ.get("COLORTERM") in ("truecolor", "24bit") else in_256_colours


# -------------------------------------------------------------------------------------------------------------


def show(folder: Path, ids: Sequence[str]) -> None:
    width = min(max(shutil.get_terminal_size((80, 24)).columns, 40), WIDEST)
    store = FeatureStore(folder)
    show_files(folder, width)
    show_index(store, width)
    show_failures(folder, width)
    if len(store):
        freqs = build(store.description["config"]).frontend.centre_freqs().numpy()
        for id_ in [i for i in ids if i in store] or store.ids[:PICTURES]:
            show_clip(store, id_, freqs, width, way_of_drawing())


def main() -> None:
    sys.stdout.reconfigure(errors="backslashreplace")  # ids may hold what the terminal cannot show
    try:
        show(Path(sys.argv[1]), sys.argv[2:])
        sys.stdout.flush()
    except BrokenPipeError:  # a reader that has seen enough, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except HlfeatError as e:
        sys.exit(f"error: {e}")


if __name__ == "__main__":
    main()
