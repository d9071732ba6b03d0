"""Tables of labels: what is read, and what is refused with its line."""

from __future__ import annotations

import csv

import pytest

import hlfeat
from hlfeat import ClipLabel, UsageError

TABLE = "path,label,speaker,part\nno/1.wav,no,ann,Train\n./yes/2.wav,yes,bob,dev\n\nyes/3.wav,yes,,TEST\n"


def write(folder, text, name="clips.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def test_speakers_and_splits(tmp_path):
    path = write(tmp_path, TABLE)
    assert hlfeat.read_labels(path, split="part") == {
        "no/1.wav": ClipLabel("no", "ann", "train"),
        "yes/2.wav": ClipLabel("yes", "bob", "valid"),
        "yes/3.wav": ClipLabel("yes", "yes/3.wav", "test"),  # nobody knows who speaks: a group of its own
    }
    assert [c.split for c in hlfeat.read_labels(path).values()] == [None] * 3


def test_columns_have_any_names(tmp_path):
    path = write(tmp_path, '"file; of it";take;species;site\n"a;b.wav";1;owl;north\n', encoding="utf-8-sig")
    labels = hlfeat.read_labels(path, path="file; of it", label="species", group="site")
    assert labels == {"a;b.wav": ClipLabel("owl", "north")}


@pytest.mark.parametrize("separator", ";\t|")
def test_other_separators(tmp_path, separator):
    path = write(tmp_path, TABLE.replace(",", separator), "clips.tsv")
    assert hlfeat.read_labels(path) == hlfeat.read_labels(write(tmp_path, TABLE))


def test_rows_are_found_by_the_ids_of_clips(tmp_path, clips):
    ids = [clip.id for clip in hlfeat.collect_inputs([str(clips)]).clips]
    with open(tmp_path / "clips.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *((id_, "x") for id_ in ids)])
    assert list(hlfeat.read_labels(tmp_path / "clips.csv")) == ids


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (TABLE, {"label": "lable"}, "clips.csv: no column lable; there are path, label, .*did you mean label"),
        (TABLE, {"group": "site"}, "clips.csv: no column site"),
        (TABLE + "a.wav,,ann,test\n", {}, "clips.csv:6: expected a value in the column label, got none"),
        (TABLE + ",no,ann,test\n", {}, "clips.csv:6: expected a value in the column path"),
        (TABLE + "a.wav,no,ann,\n", {"split": "part"}, "clips.csv:6: expected a value in the column part"),
        (TABLE + "a.wav,no,ann,7\n", {"split": "part"}, "clips.csv:6: part: expected train, valid or test, got 7"),
        (TABLE + "yes//2.wav,no,ann,test\n", {}, "clips.csv:6: a second row for yes/2.wav"),
        (TABLE + "a.wav,no\n", {}, "clips.csv:6: expected 4 values, got 2"),
        (TABLE + "a.wav,no,ann,test,5\n", {}, "clips.csv:6: expected 4 values, got 5"),
        ("path,label\n", {}, "clips.csv: expected a row for each clip, got none"),
        ("", {}, "clips.csv: no column path$"),
    ],
)
def test_what_is_refused(tmp_path, text, arguments, message):
    path = write(tmp_path, text)
    with pytest.raises(UsageError, match=message) as caught:
        hlfeat.read_labels(path, **arguments)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"none\.csv: cannot be read: No such file"):
        hlfeat.read_labels(tmp_path / "none.csv")
    with pytest.raises(UsageError, match=r"clips\.csv: cannot be read: .*decode"):
        hlfeat.read_labels(write(tmp_path, "path,label\nä.wav,no\n", encoding="latin-1"))
