"""Tables as tools write them: separators, quotes, encodings, and the names of their columns."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from hlfeat.audio.clip import Clip
from hlfeat.errors import UsageError
from hlfeat.inputs.collect import collect_inputs
from hlfeat.inputs.columns import understand_columns


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def clips(name: str, text: str | bytes) -> list[Clip]:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return collect_inputs([name]).clips


def one(name: str, text: str | bytes) -> Clip:
    (clip,) = clips(name, text)
    assert clip.fault is None, clip.fault
    return clip


# --- names of columns ------------------------------------------------------------------------------------------------

SEGMENTS = [  # from 0.5 to 2 s
    "path,start,end\na.wav,0.5,2",
    "path, start, end\na.wav, 0.5, 2",
    " Path ,Start,END\na.wav,0.5,2",
    "path,start_time,end_time\na.wav,0.5,2",
    "path,begin,end\na.wav,0.5,2",
    "path,begin_time,end_time\na.wav,0.5,2",
    "path,start,stop\na.wav,0.5,2",
    "path,startTime,stopTime\na.wav,0.5,2",
    "path,starttime,endtime\na.wav,0.5,2",
    "path,Start (s),End (s)\na.wav,0.5,2",
    "path,start_sec,end_sec\na.wav,0.5,2",
    "path,start_time_seconds,end_time_seconds\na.wav,0.5,2",
    "path,t_start,t_end\na.wav,0.5,2",
    "path,tmin,tmax\na.wav,0.5,2",
    "path,t0,t1\na.wav,0.5,2",
    "path,from,to\na.wav,0.5,2",
    "path,segment_start,segment_end\na.wav,0.5,2",
    "path,from,to,start,end\na.wav,Ann,Bob,0.5,2",
    "path,start_ms,end_ms\na.wav,500,2000",
    "path,start,end\na.wav,00:00:00.5,0:02.0",
    "path,start (hh:mm:ss),end (hh:mm:ss)\na.wav,00:00:00.5,00:00:02",
    "filename,onset,offset,event_label\na.wav,0.5,2,dog",
    "filename,onset,duration\na.wav,0.5,1.5",
    "filename,offset,duration\na.wav,0.5,1.5",
    "filename,start,length\na.wav,0.5,1.5",
    "filename,start,audio_duration,end\na.wav,0.5,9,2",
    "path,offset_ms,duration_ms\na.wav,500,1500",
    "Begin File,Begin Time (s),End Time (s)\na.wav,0.5,2",
    "Selection,View,Channel,Begin Time (s),End Time (s),Delta Time (s),Begin Path\n1,x,1,0.5,2,1.5,a.wav",
    "Begin Time (s),End Time (s),Begin File,File Offset (s)\n100.5,102,a.wav,0.5",
]


@pytest.mark.parametrize("text", SEGMENTS)
def test_segments_as_tools_write_them(text):
    clip = one("m.csv", text)
    assert (clip.path, clip.start, clip.end) == ("a.wav", 0.5, 2.0)
    tabs = one("m.tsv", text.replace(",", "\t"))
    assert (tabs.path, tabs.start, tabs.end) == ("a.wav", 0.5, 2.0)


WHOLE = [
    "path,duration\na.wav,3",
    "path,audio_duration,gender,weekend,length\na.wav,3,female,no,66000",
    "filename,date,recorded_time,start_date,time_signature,timezone\na.wav,1,2,3,4,5",
    "path,from\na.wav,the radio",
    "path,t0\na.wav,1",
    "client_id,path,sentence,up_votes,locale,segment\nx,a.wav,He said,2,en,",
]


@pytest.mark.parametrize("text", WHOLE)
def test_columns_that_are_no_segment(text):
    assert one("m.csv", text) == Clip("a.wav", "a.wav")


UNKNOWN = [
    *("time", "Start Frame", "start_sample", "startframe", "endframe", "Begin Sample", "event_time"),
    *("onset_frame", "timestamp", "times", "word_start", "speech_end", "frame_offset", "Start (min)"),
    *("duration (frames)", "stop_idx"),
]


@pytest.mark.parametrize(
    "name",
    UNKNOWN,
)
def test_a_column_that_looks_like_a_time_is_refused_by_name(name):
    with pytest.raises(UsageError) as caught:
        clips("m.csv", f"path,{name}\na.wav,1\n")
    assert str(caught.value).startswith(f"m.csv:1: the column {name} looks like a time, but it is not known which;")
    with pytest.raises(UsageError, match=r"m\.jsonl:2: the column "):
        clips("m.jsonl", f'{{"path": "a.wav"}}\n{{"path": "b.wav", "{name}": 1}}\n')


def test_a_length_of_the_file_that_may_be_that_of_the_segment_is_refused():
    with pytest.raises(UsageError, match="the column audio_duration looks like a time"):
        clips("m.csv", "path,start,audio_duration\na.wav,1,2\n")


def test_a_raven_table_without_its_end_is_refused():
    with pytest.raises(UsageError, match="the column Delta Time"):
        clips("m.tsv", "Selection\tBegin Time (s)\tDelta Time (s)\tBegin File\n1\t0.5\t1.5\ta.wav\n")


def test_two_columns_for_one_thing_are_refused():
    with pytest.raises(UsageError, match=r"m\.csv:1: expected one column for the start, got start and Begin"):
        clips("m.csv", "path,start,Begin\na.wav,1,2\n")


PATHS = [
    *("path", "Path", "file_name", "filename", "File Name", "file", "audio"),
    *("audio_file", "audio_filepath", "wav_path", "wavPath", "wav", "wav_filename", "mp3_path"),
    *("full_path", "audio_filename", "clip_path", "fname", "Begin File"),
]


@pytest.mark.parametrize(
    "name",
    PATHS,
)
def test_columns_of_paths(name):
    assert one("m.csv", f"text,{name}\nhello,a.wav\n") == Clip("a.wav", "a.wav")
    assert one("m.jsonl", f'{{"text": "hello", "{name}": "a.wav"}}') == Clip("a.wav", "a.wav")


def test_json_lines_have_the_same_names():
    text = '{"audio": {"path": "a.wav", "bytes": null}, "startTime": 0.5, "end_ms": 2000, "words": [], "time": null}'
    assert one("m.jsonl", text) == Clip("a.wav#t=0.5,2", "a.wav", 0.5, 2.0)
    assert one("m.jsonl", '{"path": "a.wav", "timestamps": [[0, 1], [1, 2]], "word_times": {}}').end is None
    with pytest.raises(UsageError, match="the column timestamp looks like a time"):
        clips("m.jsonl", '{"path": "a.wav", "timestamp": [0.5, 2]}')


def test_ravens_channels_count_from_1_and_the_path_is_used_where_the_file_is_not_here(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far/a.wav").touch()
    header = "Selection\tChannel\tBegin Time (s)\tEnd Time (s)\tBegin Path\tBegin File\n"
    clip = one("m.tsv", header + f"1\t2\t0.5\t2\t{tmp_path}/far/a.wav\ta.wav\n")
    assert clip == Clip("a.wav#t=0.5,2", f"{tmp_path}/far/a.wav", 0.5, 2.0, 1)
    assert one("m.csv", "path,Channel\na.wav,1\n").channel == 1
    assert one("m.csv", "Selection,Channel,Begin.Time..s.,End.Time..s.,Begin.File\n1,2,0.5,2,b.wav\n").channel == 1
    (bad,) = clips("m.tsv", header + "1\t0\t0.5\t2\t/x/a.wav\ta.wav\n")
    assert bad.fault == ("bad-row", "m.tsv:2: expected channel to be a number from 1, got '0'")


def test_a_selection_that_raven_writes_for_each_view_is_one_clip():
    header = "Selection\tView\tBegin Time (s)\tEnd Time (s)\tBegin File\tDelta Time (s)\n"
    text = header + "".join(
        f"{n}\t{view} 1\t{n}\t{n + 2}\ta.wav\t2\n" for n in (1, 2) for view in ("Waveform", "Spectrogram")
    )
    expected = [Clip("a.wav#t=1,3", "a.wav", 1.0, 3.0), Clip("a.wav#t=2,4", "a.wav", 2.0, 4.0)]
    assert clips("a.Table.1.selections.txt", text) == clips("m.tsv", text) == expected
    twice = clips("m.tsv", text + "2\tSpectrogram 1\t2\t4\tb.wav\t2\n3\tWaveform 1\t2\t4\ta.wav\t2\n")
    assert [clip.fault is None for clip in twice] == [True, True, True, False]


def test_a_time_that_may_be_of_the_day_is_a_bad_row():
    (bad,) = clips("m.csv", "path,start\na.wav,5:30\n")
    assert bad.fault == ("bad-row", "m.csv:2: expected start in seconds, from 0, got '5:30'")


def test_names_are_understood_once_for_all_rows():
    names = ("path", "start")
    assert understand_columns(names) is understand_columns(names)


# --- how tables are written ------------------------------------------------------------------------------------------


def test_a_quote_in_a_tsv_is_a_character_like_any_other():
    text = 'path\ttext\n1.wav\t"Stop, he said.\n2.wav\tx\n3.wav\tI mean it"\n4.wav\tHe said "no"\n"5.wav"\t"\n'
    assert [clip.path for clip in clips("m.tsv", text)] == ["1.wav", "2.wav", "3.wav", "4.wav", '"5.wav"']
    assert [clip.path for clip in clips("m.csv", text)] == ["1.wav", "2.wav", "3.wav", "4.wav", '"5.wav"']


def test_a_tsv_with_quotes_around_its_names_has_them_around_values():
    """R's write.table; Python's csv with QUOTE_ALL."""
    assert one("m.tsv", '"path"\t"text"\n"a.wav"\t"with\ttab and ""quotes"""\n').path == "a.wav"


def test_quotes_in_a_csv():
    text = 'path,text\n"a,b.wav","one\ntwo, three"\nc.wav,in "the" middle\n"d ""e"".wav",\n'
    assert [clip.path for clip in clips("m.csv", text)] == ["a,b.wav", "c.wav", 'd "e".wav']


def test_a_quote_in_a_csv_that_is_not_closed_takes_no_rows_with_it():
    text = 'path,text\n1.wav,"Stop\n2.wav,x\n3.wav,I mean it"\n4.wav,x\n5.wav,"open\n6.wav,x\n'
    rows = clips("m.csv", text)
    assert [clip.id for clip in rows] == ["m.csv:2", "2.wav", "3.wav", "4.wav", "m.csv:6", "6.wav"]
    assert [clip.fault for clip in rows if clip.fault] == [
        ("bad-row", "m.csv:2: a quote in it is not closed before line 4, and there are rows between"),
        ("bad-row", "m.csv:6: not a row of a table: unexpected end of data"),
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["m.csv", "m.tsv"])
def test_separators(name, separator):
    assert one(name, separator.join(("text", "path", "end")) + "\n" + separator.join(("x", "a.wav", "2"))).end == 2.0


def test_a_table_of_a_european_excel():
    clip = one("m.csv", "sep=;\r\npath;start;end\r\na.wav;0,5;2\r\n")
    assert (clip.start, clip.end) == (0.5, 2.0)
    (bad,) = clips("m.csv", 'path,end\na.wav,"1,5"\n')  # 1500, or 1.5?
    assert bad.fault == ("bad-row", "m.csv:2: expected end in seconds, from 0, got '1,5'")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_encodings_and_ends_of_lines(encoding, newline):
    text = newline.join(("path,end", "straße.wav,2", "", " , ", "тест.wav,3", ""))
    expected = [Clip(f"{name}.wav#t=0,{end}", f"{name}.wav", None, end) for name, end in (("straße", 2), ("тест", 3))]
    assert clips("m.csv", text.encode(encoding)) == expected
    if newline != "\r":
        lines = '{"path": "straße.wav", "end": 2}\n{"path": "тест.wav", "end": 3}\n'.replace("\n", newline)
        assert clips("m.jsonl", lines.encode(encoding)) == expected


def test_lists_in_utf_16(tmp_path):
    assert [clip.id for clip in clips("m.txt", "straße.wav\r\nb.wav\r\n".encode("utf-16"))] == ["straße.wav", "b.wav"]


def test_bytes_that_are_no_utf_8_are_kept():
    assert one("m.csv", b"path,text\ncaf\xe9.wav,caf\xe9\n").path == "caf\udce9.wav"


def test_fields_of_any_length_and_no_side_effect():
    limit = csv.field_size_limit()
    long = "x" * 300_000
    assert one("m.tsv", f"text\tpath\n{long}\ta.wav\n").path == "a.wav"
    assert one("m.csv", f'text,path\n"{long},",a.wav\n').path == "a.wav"
    assert csv.field_size_limit() == limit


def test_rows_with_fewer_or_more_values():
    text = "path,end,text\na.wav,2\nb.wav,3,x,,\n,,\nc.wav\n,,,x\n"
    assert [(clip.id, clip.end) for clip in clips("m.csv", text) if clip.fault is None] == [
        ("a.wav#t=0,2", 2.0),
        ("b.wav#t=0,3", 3.0),
    ]
    assert [clip.fault[1] for clip in clips("m.csv", text) if clip.fault] == [
        "m.csv:5: expected 3 values, got 1",
        "m.csv:6: expected 3 values, got 4",
    ]
