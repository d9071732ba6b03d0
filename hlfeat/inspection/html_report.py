"""What is in a feature directory as one HTML file that opens anywhere: no other file, no network.

All text is escaped, and the page's content security policy allows its own script and style only.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import islice
from pathlib import Path

import numpy as np
import yaml

from hlfeat.audio.clip import Clip
from hlfeat.audio.excerpt import excerpt
from hlfeat.errors import ClipError, OutputError
from hlfeat.inspection.clip_choice import IndexedClip, chosen_clips
from hlfeat.inspection.png import features_png
from hlfeat.inspection.summary import Inspection, histogram
from hlfeat.inspection.text import summary_lines
from hlfeat.plotting.columns import Columns
from hlfeat.storage.feature_dir import FeatureDir
from hlfeat.storage.records import FailureRecord
from hlfeat.text import count, duration, escape_unprintable

MOST_LISTED = 2000  # clips, and failures, that are listed
PICTURE_COLUMNS = 480
EXCERPT_SECONDS = 10.0
EMBEDDED_BYTES = 20_000_000  # of pictures and audio in the page, at most
ONE_VECTOR = ("mean", "mean+std", "max")  # ways of pooling that leave no time
HERE = Path(__file__).parent


def html_report(inspection: Inspection, clips: int) -> bytes:
    """The page.

    Args:
        clips: how many are shown with a picture and a player.
    """
    folder = inspection.folder
    damaged = {damage.name for damage in inspection.damaged}
    total = len(inspection.durations)
    room = _Room(EMBEDDED_BYTES)
    cards: list[str] = []
    rows: list[str] = []
    for clip in chosen_clips(folder, damaged, total, clips, MOST_LISTED):
        if clip.drawn:
            cards.append(_card(folder, clip, room))
        if len(rows) < MOST_LISTED:
            rows.append(_row(clip))
    failures = list(_failures(folder))
    style, script = (HERE / f"page.{suffix}" for suffix in ("css", "js"))
    css, js = style.read_text(encoding="utf-8"), script.read_text(encoding="utf-8")
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; media-src data:; "
        f"style-src {_hash(css)}; script-src {_hash(js)}"
    )
    name = _text(str(folder.folder))
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>hlfeat: {name}</title>",
        f"<style>{css}</style></head><body>",
        f"<header><h1><bdi>{name}</bdi></h1>",
        f'<p class="soft">{count(total, "clip")}, {duration(float(inspection.durations.sum()))} of audio; '
        f"{count(inspection.failures.total(), 'failure')}</p></header><main>",
        '<div class="search" role="search" hidden><label for="filter">Filter</label>'
        '<input id="filter" type="search" autocomplete="off" placeholder="id, path, metadata or reason">'
        '<output id="count" for="filter" aria-live="polite"></output></div>',
        *_summary(inspection),
        *_durations(inspection.durations),
        *_failure_section(inspection, failures),
        *_cards_section(cards, total, room, folder.description.features.pool),
        *_table_section(rows, total),
        "<section><h2>Configuration</h2>",
        f"<pre>{escape(yaml.safe_dump(dict(folder.description.config), sort_keys=False, allow_unicode=True))}</pre>",
        f"</section></main><script>{js}</script></body></html>",
    ]
    return ("\n".join(parts) + "\n").encode("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode()}'"


def _text(value: object) -> str:
    """Text for the page, on one line, with everything escaped that could be more than text."""
    return escape(escape_unprintable(str(value)))


@dataclass
class _Room:
    """What the page may still embed, in bytes; whether something did not fit."""

    left: int
    full: bool = False

    def data_uri(self, kind: str, data: bytes) -> str | None:
        """The data as an address, or None where there is no room."""
        size = 4 * len(data) // 3
        if size > self.left:
            self.full = True
            return None
        self.left -= size
        return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


# --- sections --------------------------------------------------------------------------------------------------------


def _summary(inspection: Inspection) -> Iterator[str]:
    """The lines that `hlfeat inspect` prints about the folder, as a list."""
    yield '<section><h2>Summary</h2><dl class="facts">'
    for line in islice(summary_lines(inspection), 1, None):
        if not line.strip():
            break
        name, text = line[2:12].strip(), line[12:].strip()
        if name == "failures":
            continue
        bad = name in ("damaged", "") or (name == "complete" and text != "yes")
        yield f"<dt>{_text(name)}</dt><dd{' class=bad' if bad else ''}>{_text(text)}</dd>"
    yield "</dl></section>"


def _durations(durations: np.ndarray) -> Iterator[str]:
    """A histogram. Shape: [clips]."""
    bins = histogram(durations)
    if not bins:
        return
    most = max(n for _, _, n in bins)
    said = "; ".join(f"{a:g} to {b:g} s: {count(n, 'clip')}" for a, b, n in bins)
    yield "<section><h2>Durations</h2>"
    yield f'<svg class="chart" viewBox="0 0 480 {20 * len(bins)}" role="img" aria-label="{_text(said)}">'
    for i, (a, b, n) in enumerate(bins):
        y, width = 20 * i, max(1.0 if n else 0.0, 300 * n / most)
        yield f'<text x="105" y="{y + 14}" text-anchor="end">{a:g} to {b:g} s</text>'
        yield f'<rect x="112" y="{y + 3}" width="{width:.1f}" height="14" rx="2"></rect>'
        yield f'<text x="{118 + width:.1f}" y="{y + 14}">{n}</text>'
    yield "</svg></section>"


def _failures(folder: FeatureDir) -> Iterator[FailureRecord]:
    """The failures that can be read."""
    try:
        yield from islice(folder.failures(), MOST_LISTED)
    except OutputError:
        return


def _failure_section(inspection: Inspection, failures: Sequence[FailureRecord]) -> Iterator[str]:
    total = inspection.failures.total()
    yield f"<section><h2>Failures: {total}</h2>"
    if not failures:
        yield '<p class="soft">No clip failed.</p></section>'
        return
    chips = (f'<a href="#q={_text(code)}">{_text(code)} {n}</a>' for code, n in inspection.failures.most_common())
    yield f'<p class="chips">Filter by code: {" ".join(chips)}</p>'
    if len(failures) < total:
        yield f'<p class="soft">The first {len(failures)} are listed; all are in failures.jsonl.</p>'
    yield '<div class="scroll"><table><thead><tr><th scope="col">clip</th><th scope="col">code</th>'
    yield '<th scope="col">reason</th><th scope="col">path</th></tr></thead><tbody>'
    for f in failures:
        place = f.path if f.member is None else f"{f.path}: {f.member}"
        words = (f.id, f.code, f.message, place)
        yield (
            f'<tr data-text="{_text(" ".join(words))}"><td><bdi>{_text(f.id)}</bdi></td><td class="n">{_text(f.code)}'
            f"</td><td>{_text(f.message)}</td><td><bdi>{_text(place)}</bdi></td></tr>"
        )
    yield "</tbody></table></div></section>"


def _cards_section(cards: Sequence[str], total: int, room: _Room, pool: str | None) -> Iterator[str]:
    if not cards:
        return
    which = "all clips" if len(cards) == total else f"{len(cards)} of {count(total, 'clip')}, evenly chosen"
    yield f"<section><h2>Pictures: {which}</h2>"
    shown = "Each picture has colours of its own, from its 1st to its 99.5th percentile."
    if pool in ONE_VECTOR:
        shown = f"Each curve has the first channel ({pool} over time) over its bands, on a scale of its own."
    players = f"Players have the first {EXCERPT_SECONDS:g} s of the clips whose audio was there."
    yield f'<p class="soft">{shown} {players}</p>'
    if room.full:
        yield f'<p class="bad">The page holds {EMBEDDED_BYTES / 1e6:g} MB; the rest was left out.</p>'
    yield '<ul class="cards">'
    yield from cards
    yield "</ul></section>"


def _table_section(rows: Sequence[str], total: int) -> Iterator[str]:
    if not rows:
        return
    yield "<section><h2>Clips</h2>"
    if len(rows) < total:
        yield f'<p class="soft">The first {len(rows)} of {count(total, "clip")} are listed; all are in the index.</p>'
    yield '<div class="scroll"><table><thead><tr><th scope="col">clip</th><th scope="col">duration</th>'
    yield '<th scope="col">rows</th><th scope="col">metadata</th><th scope="col">path</th></tr></thead><tbody>'
    yield from rows
    yield "</tbody></table></div></section>"


# --- clips -----------------------------------------------------------------------------------------------------------


def _place(clip: IndexedClip) -> str:
    """Where a clip is from."""
    entry = clip.entry
    place = entry.path if entry.member is None else f"{entry.path}: {entry.member}"
    if entry.start is not None or entry.end is not None:
        end = "its end" if entry.end is None else f"{entry.end:g} s"
        place += f", {entry.start or 0:g} s to {end}"
    return place + ("" if entry.channel is None else f", channel {entry.channel}")


def _words(clip: IndexedClip) -> str:
    """What the filter looks at."""
    return _text(" ".join([clip.entry.id, _place(clip), *(f"{k} {v}" for k, v in clip.meta.items())]))


def _row(clip: IndexedClip) -> str:
    meta = ", ".join(f"{key}: {value}" for key, value in clip.meta.items())
    cells = [
        f"<td><bdi>{_text(clip.entry.id)}</bdi></td>",
        f'<td class="n">{duration(clip.entry.duration)}</td><td class="n">{count(clip.entry.frames, "row")}</td>',
        f"<td><bdi>{_text(meta)}</bdi></td>" if meta else "<td></td>",
        f"<td><bdi>{_text(_place(clip))}</bdi></td>",
    ]
    return f'<tr data-text="{_words(clip)}">{"".join(cells)}</tr>'


def _card(folder: FeatureDir, clip: IndexedClip, room: _Room) -> str:
    """A clip with its picture, player and metadata."""
    entry = clip.entry
    name = _text(entry.id)
    meta = _definitions(clip.meta)
    return (
        f'<li data-text="{_words(clip)}"><h3><bdi>{name}</bdi></h3>{_picture(folder, clip, room)}'
        f'{_player(folder, clip, room)}<p class="soft">{duration(entry.duration)}; <bdi>{_text(_place(clip))}</bdi></p>'
        f"{meta}</li>"
    )


def _definitions(meta: Mapping[str, object]) -> str:
    if not meta:
        return ""
    items = (f"<dt><bdi>{_text(key)}</bdi></dt><dd><bdi>{_text(value)}</bdi></dd>" for key, value in meta.items())
    return f'<dl class="meta">{"".join(items)}</dl>'


def _picture(folder: FeatureDir, clip: IndexedClip, room: _Room) -> str:
    """An image of the first channel over time, or a curve of a vector; says so where it cannot be read."""
    shape, entry = folder.description.features, clip.entry
    try:
        reader = folder.open_shard(clip.shard, entry.shard)
        try:
            pieces = (piece.reshape(len(piece), -1) for piece in reader.read(entry))
            if shape.pool in ONE_VECTOR:
                return _curve(next(pieces)[0].astype(np.float64), shape.channels, shape.bands, entry.id)
            columns = Columns(shape.bands, entry.frames, PICTURE_COLUMNS)
            for piece in pieces:
                columns.add(np.nan_to_num(piece[:, : shape.bands].T.astype(np.float32)))
        finally:
            reader.close()
    except OutputError as e:
        return f'<p class="bad">{_text(e)}</p>'
    source = room.data_uri("image/png", features_png(columns.values))
    if source is None:
        return '<p class="soft">no room for its picture</p>'
    hertz = f", {min(shape.freqs):.4g} to {max(shape.freqs):.4g} Hz from bottom to top" if shape.freqs else ""
    said = f"Features of {entry.id} over {duration(entry.duration)}: {shape.bands} bands{hertz}"
    return f'<img src="{source}" alt="{_text(said)}">'


def _curve(vector: np.ndarray, channels: int, bands: int, id_: str) -> str:
    """The first channel of a pooled vector, with standard deviations where it has them. Shape: [dims]."""
    size = channels * bands
    values = vector[:bands]
    spread = vector[size : size + bands] if len(vector) == 2 * size else np.zeros(bands)
    low, high = float((values - spread).min()), float((values + spread).max())
    scale: Callable[[np.ndarray], np.ndarray] = lambda y: 98 - 96 * (y - low) / ((high - low) or 1.0)  # noqa: E731
    x = np.linspace(0, 300, bands) if bands > 1 else np.array([150.0])
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, scale(values), strict=True))
    around = [*zip(x, scale(values + spread), strict=True), *zip(x[::-1], scale(values - spread)[::-1], strict=True)]
    area = " ".join(f"{a:.1f},{b:.1f}" for a, b in around)
    said = f"Values of {id_} over {count(bands, 'band')}: {low:.3g} to {high:.3g}"
    return (
        f'<svg viewBox="0 0 300 100" preserveAspectRatio="none" role="img" aria-label="{_text(said)}">'
        f'<polygon class="spread" points="{area}"></polygon><polyline class="curve" points="{points}"></polyline></svg>'
    )


def _player(folder: FeatureDir, clip: IndexedClip, room: _Room) -> str:
    """A player for the beginning of a clip; nothing where its audio cannot be read any more, or is in an archive."""
    entry = clip.entry
    if entry.member is not None:
        return ""
    channels = folder.description.config.get("audio", {}).get("channels", "mix")
    source = Clip(entry.id, entry.path, entry.start, entry.end, entry.channel)
    try:
        address = room.data_uri(*excerpt(source, channels, EXCERPT_SECONDS))
    except (ClipError, OSError, RuntimeError):
        return ""
    if address is None:
        return ""
    return f'<audio controls preload="none" src="{address}" aria-label="{_text(f"Listen to {entry.id}")}"></audio>'
