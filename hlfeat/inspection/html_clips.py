"""Clips on the page about a feature directory: a card with picture, player and metadata, and a line of the list."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape

import numpy as np

from hlfeat.audio.clip import Clip
from hlfeat.audio.excerpt import excerpt
from hlfeat.errors import ClipError, OutputError
from hlfeat.inspection.clip_choice import IndexedClip
from hlfeat.inspection.png import features_png
from hlfeat.plotting.columns import Columns
from hlfeat.storage.feature_dir import FeatureDir
from hlfeat.text import count, duration, escape_unprintable

PICTURE_COLUMNS = 480
SHOWN_TEXT = 300  # characters of metadata that are shown in one place: transcripts may be as long as a book
EXCERPT_SECONDS = 10.0
ONE_VECTOR = ("mean", "mean+std", "max")  # ways of pooling that leave no time


def text_of(value: object) -> str:
    """Text for the page, on one line, with everything escaped that could be more than text."""
    return escape(escape_unprintable(str(value)))


def shortened(value: object) -> str:
    """Text of metadata, at most SHOWN_TEXT characters of it."""
    text = str(value)
    return text if len(text) <= SHOWN_TEXT else f"{text[: SHOWN_TEXT - 1]}…"


@dataclass
class Room:
    """What the page may still hold, in bytes; whether something did not fit."""

    left: int
    full: bool = False

    def takes(self, item: str) -> bool:
        """Take the room that an item of the page needs. False where there is not so much."""
        size = len(item.encode("utf-8"))
        if size > self.left:
            self.full = True
            return False
        self.left -= size
        return True


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _place(clip: IndexedClip) -> str:
    """Where a clip is from."""
    entry = clip.entry
    place = f"{entry.path}: {entry.within}" if entry.within else entry.path
    if entry.start is not None or entry.end is not None:
        end = "its end" if entry.end is None else f"{entry.end:g} s"
        place += f", {entry.start or 0:g} s to {end}"
    return place + ("" if entry.channel is None else f", channel {entry.channel}")


def row_of(clip: IndexedClip) -> str:
    meta = shortened(", ".join(f"{key}: {value}" for key, value in clip.meta.items()))
    cells = [
        f"<td><bdi>{text_of(clip.entry.id)}</bdi></td>",
        f'<td class="n">{duration(clip.entry.duration)}</td><td class="n">{count(clip.entry.frames, "row")}</td>',
        f"<td><bdi>{text_of(meta)}</bdi></td>" if meta else "<td></td>",
        f"<td><bdi>{text_of(_place(clip))}</bdi></td>",
    ]
    return f'<tr class="item">{"".join(cells)}</tr>'


def card_of(folder: FeatureDir, clip: IndexedClip) -> str:
    """A clip with its picture, player and metadata."""
    entry = clip.entry
    parts = [
        f'<li class="item"><h3><bdi>{text_of(entry.id)}</bdi></h3>',
        _picture(folder, clip),
        _player(folder, clip),
        f'<p class="soft">{duration(entry.duration)}; <bdi>{text_of(_place(clip))}</bdi></p>',
        _definitions(clip.meta),
        "</li>",
    ]
    return "".join(parts)


def _definitions(meta: Mapping[str, object]) -> str:
    if not meta:
        return ""
    names_and_values = ((text_of(key), text_of(shortened(value))) for key, value in meta.items())
    items = (f"<dt><bdi>{name}</bdi></dt><dd><bdi>{value}</bdi></dd>" for name, value in names_and_values)
    return f'<dl class="meta">{"".join(items)}</dl>'


def _picture(folder: FeatureDir, clip: IndexedClip) -> str:
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
        return f'<p class="bad">{text_of(e)}</p>'
    source = _data_uri("image/png", features_png(columns.values))
    hertz = f", {min(shape.freqs):.4g} to {max(shape.freqs):.4g} Hz from bottom to top" if shape.freqs else ""
    said = f"Features of {entry.id} over {duration(entry.duration)}: {shape.bands} bands{hertz}"
    return f'<img src="{source}" alt="{text_of(said)}">'


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
        f'<svg viewBox="0 0 300 100" preserveAspectRatio="none" role="img" aria-label="{text_of(said)}">'
        f'<polygon class="spread" points="{area}"></polygon><polyline class="curve" points="{points}"></polyline></svg>'
    )


def _player(folder: FeatureDir, clip: IndexedClip) -> str:
    """A player for the beginning of a clip; nothing where its audio cannot be read any more, or is in a larger file."""
    entry = clip.entry
    if entry.within:
        return ""
    channels = folder.description.config.get("audio", {}).get("channels", "mix")
    source = Clip(entry.id, entry.path, entry.start, entry.end, entry.channel)
    try:
        address = _data_uri(*excerpt(source, channels, EXCERPT_SECONDS))
    except (ClipError, OSError, RuntimeError):
        return ""
    return f'<audio controls preload="none" src="{address}" aria-label="{text_of(f"Listen to {entry.id}")}"></audio>'
