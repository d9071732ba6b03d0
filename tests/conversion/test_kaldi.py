"""Kaldi archives, read by kaldiio."""

from __future__ import annotations

import json
import os
import subprocess
from urllib.parse import unquote

import kaldiio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlfeat import FeatureStore
from hlfeat.conversion.kaldi import kaldi_key, utterance_keys
from tests.conversion.folders import add_meta, index_of, rename


@pytest.mark.parametrize("name", ["features", "windows"])
def test_kaldiio_reads_the_same(name, request, tmp_path, invoke, monkeypatch):
    folder = request.getfixturevalue(name)
    monkeypatch.chdir(tmp_path)
    result = invoke("convert", folder, "-o", "new", "--format", "kaldi", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [*(f"new/feats-0000{i}.ark" for i in range(3)), "new/feats.scp"]
    monkeypatch.chdir("/")  # the .scp has absolute paths
    matrices = kaldiio.load_scp(str(tmp_path / "new/feats.scp"))
    store = FeatureStore(folder)
    assert sorted(map(unquote, matrices)) == sorted(id_ for id_, _ in store)
    for id_, y in store:
        assert matrices[kaldi_key(id_)].dtype == np.float32
        assert (matrices[kaldi_key(id_)] == y.reshape(len(y), -1)).all()
    in_order = [key for i in range(3) for key, _ in kaldiio.load_ark(str(tmp_path / f"new/feats-0000{i}.ark"))]
    assert [unquote(key) for key in in_order] == [id_ for id_, _ in store]
    assert (tmp_path / "new/frame_shift").exists() == (name == "features")


def test_tables_of_a_data_folder(segments, tmp_path, invoke):
    assert invoke("convert", segments, "-o", tmp_path / "new", "--format", "kaldi").returncode == 0
    tables = {}
    for name in ("utt2spk", "spk2utt", "utt2dur", "utt2num_frames", "text", "feats.scp"):
        lines = (tmp_path / "new" / name).read_bytes().splitlines()
        assert lines == sorted(lines)
        tables[name] = [line.decode().split(" ", 1) for line in lines]
    keys = [f"sp=20{i % 2}-part%20{i}" for i in (0, 2, 1, 3)]
    assert all([key for key, _ in tables[name]] == keys for name in tables if name != "spk2utt")
    assert tables["utt2spk"] == [[key, key.split("-")[0]] for key in keys]
    assert tables["spk2utt"] == [["sp=200", f"{keys[0]} {keys[1]}"], ["sp=201", f"{keys[2]} {keys[3]}"]]
    lines = [index_of(segments)[i] for i in (0, 2, 1, 3)]
    assert tables["utt2dur"] == [[key, "0.4"] for key in keys]
    assert tables["utt2num_frames"] == [[key, str(line["frames"])] for key, line in zip(keys, lines, strict=True)]
    assert tables["text"] == [[key, f"words, number {i} and more"] for key, i in zip(keys, (0, 2, 1, 3), strict=True)]
    assert (tmp_path / "new/frame_shift").read_text() == "0.01\n"
    clips = [json.loads(line) for line in (tmp_path / "new/clips.jsonl").read_text().splitlines()]
    assert [{"key": f"sp=20{i % 2}-part%20{i}", **line} for i, line in enumerate(index_of(segments))] == clips
    assert kaldiio.load_scp(str(tmp_path / "new/feats.scp")).keys() == set(keys)


def test_without_speakers_each_clip_has_its_own(features, tmp_path, invoke):
    assert invoke("convert", features, "-o", tmp_path / "new", "--format", "kaldi").returncode == 0
    pairs = [line.split() for line in (tmp_path / "new/utt2spk").read_text().splitlines()]
    assert len(pairs) == 9
    assert all(key == speaker for key, speaker in pairs)
    assert not (tmp_path / "new/text").exists()
    assert len((tmp_path / "new/_failures.jsonl").read_text().splitlines()) == 3


def test_float16_becomes_float32_exactly(features, tmp_path, invoke):
    assert invoke("convert", features, "-o", tmp_path / "half", "--format", "pt", "--dtype", "float16").returncode == 0
    assert invoke("convert", tmp_path / "half", "-o", tmp_path / "new", "--format", "kaldi").returncode == 0
    matrices = kaldiio.load_scp(str(tmp_path / "new/feats.scp"))
    for id_, y in FeatureStore(features):
        assert (matrices[kaldi_key(id_)] == y.reshape(len(y), -1).astype(np.float16)).all()


@given(st.text(min_size=1))
def test_keys_are_legal_and_can_be_undone(text):
    key = kaldi_key(text)
    assert len(key.split()) == 1
    assert key == key.strip()
    key.encode()
    assert unquote(key, errors="surrogatepass") == text


def test_tables_are_sorted_by_bytes(segments, tmp_path, invoke):
    rename(segments, {"part 0": "b", "part 1": "É", "part 2": "Z", "part 3": "a c"})
    assert invoke("convert", segments, "-o", tmp_path / "new", "--format", "kaldi").returncode == 0
    for name in ("feats.scp", "utt2spk", "text", "utt2dur"):
        lines = (tmp_path / "new" / name).read_text(encoding="utf-8").splitlines()
        assert [line.split(" ")[0] for line in lines] == ["sp=200-Z", "sp=200-b", "sp=201-a%20c", "sp=201-É"]
    spk2utt = (tmp_path / "new/spk2utt").read_text(encoding="utf-8")
    assert spk2utt == "sp=200 sp=200-Z sp=200-b\nsp=201 sp=201-a%20c sp=201-É\n"


def test_one_order_is_that_of_keys_and_of_speakers(features, tmp_path, invoke):
    """What validate_data_dir.sh checks, with speakers that begin alike, and clips that have none."""
    speakers = ["b", "a", "a b", "a-b", "a%", None, "aé", "", "a.b"]
    add_meta(features, lambda i, id_: {"speaker": speakers[i]})
    ids = ["i", "ah", "a-c", "g", "f", "a!e", "d", "a", "c"]
    rename(features, dict(zip([line["id"] for line in index_of(features)], ids, strict=True)))
    assert invoke("convert", features, "-o", tmp_path / "new", "--format", "kaldi").returncode == 0
    table = tmp_path / "new/utt2spk"
    for key in ("-k1", "-k2"):
        environment = {**os.environ, "LC_ALL": "C"}
        by_key = subprocess.run(["sort", key, table], capture_output=True, check=True, env=environment).stdout
        assert by_key == table.read_bytes()


@given(st.lists(st.tuples(st.text(min_size=1), st.none() | st.text("a -%=é!.", min_size=1)), unique=True))
def test_keys_with_speakers_sort_and_can_be_undone(clips):
    pairs = [tuple(k.encode() for k in utterance_keys(id_, {"speaker": speaker}, True)) for id_, speaker in clips]
    assert sorted(pairs) == sorted(pairs, key=lambda pair: (pair[1], pair[0]))
    for (key, speaker), (id_, name) in zip(pairs, clips, strict=True):
        first, hyphen, rest = key.decode().partition("-")
        assert first == speaker.decode()
        assert bool(hyphen) == (name is not None)
        assert unquote(first.replace("%", "%25").replace("=", "%"), errors="surrogatepass") == (name or id_)
        assert name is None or unquote(rest, errors="surrogatepass") == id_


def test_seconds_have_all_digits(features, tmp_path, invoke):
    path = features / "shard-00000.jsonl"
    first, *others = path.read_text().splitlines()
    line = {**json.loads(first), "duration": 86399.987}
    path.write_text("\n".join([json.dumps(line), *others]) + "\n")
    assert invoke("convert", features, "-o", tmp_path / "new", "--format", "kaldi").returncode == 0
    assert f"{kaldi_key(line['id'])} 86399.987" in (tmp_path / "new/utt2dur").read_text().splitlines()
