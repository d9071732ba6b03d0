"""Parquet tables with audio in them, as `datasets` writes them, and files with the same audio."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from tests.helpers import KINDS, tone

AUDIO = pa.struct({"bytes": pa.binary(), "path": pa.string()})  # Hugging Face's storage of Audio, and of Image


def encoded(i: int) -> tuple[str, bytes]:
    """The i-th sound: its name and its bytes, in one format after the other."""
    extension, form, subtype = KINDS[i % len(KINDS)]
    rate = 48000 if subtype == "OPUS" else 16000
    file = io.BytesIO()
    soundfile.write(file, tone(0.1 + 0.03 * (i % 5), rate, 200 + 30 * i, i), rate, format=form, subtype=subtype)
    return f"s{i:03d}.{extension}", file.getvalue()


def sounds(n: int) -> dict[str, bytes]:
    return dict(map(encoded, range(n)))


def write_files(folder: Path, audio: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in audio.items():
        (folder / name).write_bytes(data)
    return folder


def features_of(**types: str) -> dict[str, Any]:
    """Hugging Face's description of a table, by the types of its columns."""
    return {"huggingface": json.dumps({"info": {"features": {name: {"_type": type} for name, type in types.items()}}})}


def write_table(
    path: Path,
    audio: Sequence[tuple[str | None, bytes | None] | None],
    columns: Mapping[str, Any] | None = None,
    described: bool = True,
    **options: Any,
) -> Path:
    """A table with a column `audio` of these paths and bytes, and others.

    Args:
        described: whether it has Hugging Face's description.
        options: of `pyarrow.parquet.write_table`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    values = [None if row is None else {"bytes": row[1], "path": row[0]} for row in audio]
    table = pa.table({"audio": pa.array(values, AUDIO), **(columns or {})})
    if described:
        table = table.replace_schema_metadata(features_of(audio="Audio", **dict.fromkeys(columns or {}, "Value")))
    pq.write_table(table, path, **options)
    return path


def damage(path: Path, group: int, leaf: str) -> None:
    """Change bytes in the middle of a column chunk."""
    facts = pq.read_metadata(path).row_group(group)
    chunk = next(facts.column(i) for i in range(facts.num_columns) if facts.column(i).path_in_schema == leaf)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data = bytearray(path.read_bytes())
    middle = start + chunk.total_compressed_size // 2
    data[middle : middle + 8] = bytes(255 - b for b in data[middle : middle + 8])
    path.write_bytes(data)
