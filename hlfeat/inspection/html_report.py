"""What is in a feature directory as one HTML file that opens anywhere: no other file, no network.

All text is escaped, and the page's content security policy allows its own script and style only.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from html import escape
from itertools import islice, takewhile
from pathlib import Path

import numpy as np
import yaml

from hlfeat.errors import OutputError
from hlfeat.inspection.clip_choice import chosen_clips
from hlfeat.inspection.html_clips import EXCERPT_SECONDS, ONE_VECTOR, Room, card_of, row_of, text_of
from hlfeat.inspection.summary import Inspection, histogram
from hlfeat.inspection.text import summary_facts
from hlfeat.storage.failure_record import FailureRecord
from hlfeat.storage.feature_dir import FeatureDir
from hlfeat.text import count, duration

MOST_LISTED = 2000  # clips, and failures, that are listed
MOST_BYTES = 20_000_000  # of clips and failures in the page, with pictures and audio
HERE = Path(__file__).parent


def html_report(inspection: Inspection, clips: int) -> bytes:
    """The page.

    Args:
        clips: how many are shown with a picture and a player.
    """
    folder = inspection.folder
    damaged = {damage.name for damage in inspection.damaged}
    total = len(inspection.durations)
    room = Room(MOST_BYTES)
    failures = list(takewhile(room.takes, map(_failure_row, _failures(folder))))
    cards: list[str] = []
    rows: list[str] = []
    listed = True  # whether the list goes on
    for clip in chosen_clips(folder, damaged, total, clips, MOST_LISTED):
        if clip.drawn and not room.full:  # one that does not fit would be decoded for nothing
            card = card_of(folder, clip)
            cards += [card] if room.takes(card) else []
        if listed and len(rows) < MOST_LISTED:
            row = row_of(clip)
            listed = room.takes(row)
            rows += [row] if listed else []
    style, script = (HERE / f"page.{suffix}" for suffix in ("css", "js"))
    css, js = style.read_text(encoding="utf-8"), script.read_text(encoding="utf-8")
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; media-src data:; "
        f"style-src {_hash(css)}; script-src {_hash(js)}"
    )
    name = text_of(str(folder.place))
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
        f'<p class="bad">The page holds {MOST_BYTES / 1e6:g} MB; the rest was left out.</p>' if room.full else "",
        '<div class="search" role="search" hidden><label for="filter">Filter</label>'
        '<input id="filter" type="search" autocomplete="off" placeholder="id, path, metadata or reason">'
        '<output id="count" for="filter" aria-live="polite"></output></div>',
        *_summary(inspection),
        *_durations(inspection.durations),
        *_failure_section(inspection, failures),
        *_cards_section(cards, total, clips, folder.description.features.pool),
        *_table_section(rows, total),
        "<section><h2>Configuration</h2>",
        f"<pre>{escape(yaml.safe_dump(dict(folder.description.config), sort_keys=False, allow_unicode=True))}</pre>",
        f"</section></main><script>{js}</script></body></html>",
    ]
    return ("\n".join(parts) + "\n").encode("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode()}'"


# --- sections --------------------------------------------------------------------------------------------------------


def _summary(inspection: Inspection) -> Iterator[str]:
    """The facts that `hlfeat inspect` prints about the folder, as a list."""
    yield '<section><h2>Summary</h2><dl class="facts">'
    for name, text in summary_facts(inspection):
        if name == "failures":
            continue
        bad = name in ("damaged", "") or (name == "complete" and text != "yes")
        yield f"<dt>{text_of(name)}</dt><dd{' class=bad' if bad else ''}>{text_of(text)}</dd>"
    yield "</dl></section>"


def _durations(durations: np.ndarray) -> Iterator[str]:
    """A histogram. Shape: [clips]."""
    bins = histogram(durations)
    if not bins:
        return
    most = max(n for _, _, n in bins)
    said = "; ".join(f"{a:g} to {b:g} s: {count(n, 'clip')}" for a, b, n in bins)
    yield "<section><h2>Durations</h2>"
    yield f'<svg class="chart" viewBox="0 0 480 {20 * len(bins)}" role="img" aria-label="{text_of(said)}">'
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


def _failure_section(inspection: Inspection, failures: Sequence[str]) -> Iterator[str]:
    total = inspection.failures.total()
    yield f"<section><h2>Failures: {total}</h2>"
    if not total:
        yield '<p class="soft">No clip failed.</p></section>'
        return
    chips = (f'<a href="#q={text_of(code)}">{text_of(code)} {n}</a>' for code, n in inspection.failures.most_common())
    yield f'<p class="chips">Filter by code: {" ".join(chips)}</p>'
    if len(failures) < total:
        yield f'<p class="soft">The first {len(failures)} are listed; all are in failures.jsonl.</p>'
    yield '<div class="scroll"><table><thead><tr><th scope="col">clip</th><th scope="col">code</th>'
    yield '<th scope="col">reason</th><th scope="col">path</th></tr></thead><tbody>'
    yield from failures
    yield "</tbody></table></div></section>"


def _failure_row(failure: FailureRecord) -> str:
    place = f"{failure.path}: {failure.within}" if failure.within else failure.path
    return (
        f'<tr class="item"><td><bdi>{text_of(failure.id)}</bdi></td><td class="n">{text_of(failure.code)}</td>'
        f"<td>{text_of(failure.message)}</td><td><bdi>{text_of(place)}</bdi></td></tr>"
    )


def _cards_section(cards: Sequence[str], total: int, wanted: int, pool: str | None) -> Iterator[str]:
    if not cards:
        return
    evenly = ", evenly chosen" if len(cards) == wanted else ""
    which = "all clips" if len(cards) == total else f"{len(cards)} of {count(total, 'clip')}{evenly}"
    yield f"<section><h2>Pictures: {which}</h2>"
    shown = "Each picture has colours of its own, from its 1st to its 99.5th percentile."
    if pool in ONE_VECTOR:
        shown = f"Each curve has the first channel ({pool} over time) over its bands, on a scale of its own."
    players = f"Players have the first {EXCERPT_SECONDS:g} s of the clips whose audio was there."
    yield f'<p class="soft">{shown} {players}</p>'
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
