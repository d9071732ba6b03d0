"""Manifests to clips: tables, JSON lines of NeMo, lhotse and hlfeat, and Kaldi data folders. Segments included.

| manifest | a clip is | named by |
|---|---|---|
| `.csv`, `.tsv` with a header | a row: path, and if wanted id, start, end (seconds), channel | id, or the path |
| `.jsonl`, `.jsonl.gz` | an object with the same keys | id, or the path |
| lhotse's recordings or cuts (`.jsonl`, `.jsonl.gz`) | a recording, a cut | id |
| Kaldi's data folder | a line of `segments` if there is one, else of `wav.scp` | its first word |

NeMo's names do too: audio_filepath for path, offset for start, and a duration from there in place of end. A duration
alone is the file's own, as NeMo writes it, and no segment. Other keys are not read.

A path is taken as written; if there is nothing, as one below the manifest's folder. Without an id, a segment's name is
its path with `#t=start,end` (W3C Media Fragments). Nothing in a manifest is ever run: Kaldi's pipes are refused.
"""

from __future__ import annotations

import csv
import gzip
import os
import zlib
from collections.abc import Iterator

from hlfeat.audio.clip import Clip
from hlfeat.errors import UsageError
from hlfeat.inputs.json_lines import LINES, json_clips
from hlfeat.inputs.kaldi import kaldi_clips
from hlfeat.inputs.rows import clip_of_row
from hlfeat.text import escape_unprintable

TABLES = (".csv", ".tsv")


def is_manifest(path: str) -> bool:
    """Whether a path is a manifest by its name, or a Kaldi data folder by what is in it."""
    if os.path.isdir(path):
        return os.path.isfile(os.path.join(path, "wav.scp"))
    return path.lower().endswith(TABLES + LINES)


def read_manifest(path: str) -> Iterator[Clip]:
    """The clips of a manifest, in its order.

    Raises:
        UsageError: with the line, what was expected and what is there.
    """
    name = path.lower()
    try:
        if os.path.isdir(path):
            yield from kaldi_clips(path)
        elif name.endswith(TABLES):
            with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as f:
                rows = csv.DictReader(f, delimiter="\t" if name.endswith(".tsv") else ",", strict=True)
                for row in rows:
                    yield clip_of_row(path, rows.line_num, {k: v for k, v in row.items() if k and v not in (None, "")})
        elif name.endswith(LINES):
            opener = gzip.open if name.endswith(".gz") else open
            with opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape") as f:
                for number, line in enumerate(f, 1):
                    if line.strip():
                        yield from json_clips(path, number, line)
        else:
            raise UsageError(
                f"{escape_unprintable(path)}: expected a manifest (.csv, .tsv, .jsonl or a Kaldi data folder)"
            )
    except csv.Error as e:
        raise UsageError(f"{escape_unprintable(path)}:{rows.line_num}: not a row of a table: {e}") from e
    except (OSError, EOFError, zlib.error) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise UsageError(f"{escape_unprintable(path)}: the manifest cannot be read: {reason}") from e
