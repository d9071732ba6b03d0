"""Lines of an index and of failures.jsonl: what is written, and what is read of other versions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlfeat.errors import OutputError
from hlfeat.files import json_lines
from hlfeat.storage.failure_record import FailureRecord, read_failures
from hlfeat.storage.index_entry import IndexEntry, index_bytes, read_index, read_index_offsets

LINE = (
    '{"id": "a.tar/b.wav", "path": "a.tar", "shard": "shard-00000.npy", "row": 3, "frames": 4, "duration": 0.5, '
    '"sample_rate": 16000, "channels": 2, "size": 99, "modified": 12, "member": "b.wav", "start": 0.0, "end": 0.5, '
    '"channel": 0, "crc32": 7}\n'
)
FAILURE = '{"id": "a", "path": "p", "code": "empty", "message": "no samples", "shard": "shard-00001"'


def test_an_index_line_is_read_and_written_as_it_is(tmp_path):
    path = tmp_path / "index"
    path.write_text(LINE)
    (entry,) = read_index(path)
    assert json_lines([entry.as_dict()]) == LINE.encode()
    assert entry.segment == {"member": "b.wav", "start": 0.0, "end": 0.5, "channel": 0}


def test_keys_without_a_value_are_not_written():
    entry = IndexEntry("a", "a", "shard-00000.npy", 0, 1, 1.0, crc32=0)
    assert list(entry.as_dict()) == ["id", "path", "shard", "row", "frames", "duration", "crc32"]
    assert entry.segment == {}


TEXT = st.text(st.characters(exclude_categories=()), max_size=8)  # lone surrogates too: a file name of any bytes
NUMBERS = st.one_of(
    st.sampled_from([0.0, -0.0, 0.1, 1e-7, 1e16, 1e300, 5e-324, float("inf"), float("nan"), np.float64(0.1)]),
    st.floats(),
    st.integers(),
)
ENTRIES = st.builds(
    IndexEntry,
    id=TEXT,
    path=TEXT,
    shard=TEXT,
    row=st.integers(),
    frames=st.integers(),
    duration=NUMBERS,
    **{
        key: st.none() | st.one_of(TEXT, NUMBERS, st.booleans(), st.just({"a": [1, "ä"]}))
        for key in IndexEntry._fields[6:]
    },
)


@given(st.lists(ENTRIES, max_size=4))
def test_index_lines_are_what_json_makes_of_them(entries):
    """In UTF-8, each on one line for any program: others than JSON's know more ends of lines."""
    data = index_bytes(entries)
    assert data == json_lines(entry.as_dict() for entry in entries)
    lines = data.decode().splitlines()
    assert [repr(json.loads(line)) for line in lines] == [
        repr(json.loads(json.dumps(entry.as_dict()))) for entry in entries
    ]


def test_letters_are_as_they_are_and_bytes_of_names_survive(tmp_path):
    """Escapes are read too: earlier versions wrote them for every letter beyond ASCII."""
    path = tmp_path / "index"
    entry = IndexEntry("Müritz/тест", "caf\udce9.wav", "s.npy", 0, 1, 1.0, decoder="\x85\u2028")
    path.write_bytes(index_bytes([entry]) + json.dumps(entry.as_dict()).encode() + b"\n" + index_bytes([entry]))
    assert "Müritz/тест".encode() in path.read_bytes()
    assert rb'"caf\udce9.wav"' in path.read_bytes()
    assert rb'"\u0085\u2028"' in path.read_bytes()
    assert list(read_index(path)) == [entry] * 3
    offsets = [offset for offset, _ in read_index_offsets(path)]
    assert [path.read_bytes()[offset:][:6] for offset in offsets] == [b'{"id":'] * 3
    path.write_bytes(b'{"id": "caf\xe9"}\n')
    with pytest.raises(OutputError, match=r"damaged: line 1: .*can't decode byte 0xe9"):
        list(read_index(path))


def test_an_index_line_of_what_json_does_not_know():
    with pytest.raises(TypeError, match="int64 is not JSON serializable"):
        index_bytes([IndexEntry("a", "a", size=np.int64(1))])  # type: ignore[arg-type]


@given(ENTRIES, TEXT, st.integers(), st.integers(), st.integers())
def test_a_clip_gets_its_place(entry, shard, row, frames, crc32):
    placed = entry.placed(shard, row, frames, crc32)
    assert isinstance(placed, IndexEntry)
    expected = entry._replace(shard=shard, row=row, frames=frames, crc32=crc32)
    assert repr(placed) == repr(expected)  # nan is not equal to itself


def test_an_index_line_of_another_version(tmp_path):
    path = tmp_path / "index"
    path.write_text(LINE.replace('"crc32"', '"sha256"') * 2)
    assert [(entry.frames, entry.crc32) for entry in read_index(path)] == [(4, None)] * 2
    values = ("a.tar/b.wav", "a.tar", "shard-00000.npy", 3, 4, 0.5)
    assert list(read_index_offsets(path)) == [(0, values), (len(LINE) + 1, values)]


@pytest.mark.parametrize(
    "more", ["", ', "member": "b.wav"', ', "attempts": [1, 2]', ', "member": "b.wav", "later": null']
)
def test_failures_are_written_back_as_they_are_whatever_version_wrote_them(tmp_path, more):
    path = tmp_path / "failures.jsonl"
    path.write_text(f"{FAILURE}{more}}}\n")
    (failure,) = read_failures(path)
    assert json_lines([failure.as_dict()]) == path.read_bytes()
    assert failure.member == ("b.wav" if "member" in more else None)


def test_a_failure_without_a_message_is_damaged(tmp_path):
    path = tmp_path / "failures.jsonl"
    whole = json.dumps(FailureRecord("a", "p", "empty", "", "s").as_dict())
    path.write_text(f"{whole}\n{FAILURE.replace('message', 'text')}}}\n")
    with pytest.raises(OutputError, match=r"failures\.jsonl: damaged: line 2: expected id, path, code, message, shard"):
        list(read_failures(path))
