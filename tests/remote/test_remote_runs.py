"""Runs over audio at URLs: as those over the same files here, whatever the servers do in between."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hlfeat import FeatureStore, Options, collect_inputs, extract, load_config
from hlfeat.audio import copies
from hlfeat.audio.clip import Clip
from hlfeat.inputs import archive_headers
from hlfeat.inputs.tar_members import list_members
from hlfeat.remote import systems, transfer
from hlfeat.remote.fetch import ObjectFetcher
from hlfeat.remote.retries import Retries
from tests.conftest import Command, command
from tests.helpers import eventually, good_clips, tone
from tests.remote.object_server import ObjectServer
from tests.remote.web_server import MODIFIED, serving

BASE = ["-c", "log-mel", "--workers", "2", "--progress", "none"]
SECRETS = ["hidden-pass", "hidden-sign", "hidden-word", "secret-of-the-tests", "key-of-the-tests"]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Retries, "_wait", lambda *_: time.sleep(0.01))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips, two folders deep."""
    return good_clips(tmp_path_factory.mktemp("corpus") / "clips", 8, longest=1.0)


def objects_of(folder: Path) -> dict[str, bytes]:
    return {f"clips/{p.relative_to(folder)}": p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def contents(folder: Path, apart: str = "report.json") -> dict[str, Any]:
    """Bytes of the files; of the index, the lines without what tells where the audio was."""
    found: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[path.name] = [{k: v for k, v in line.items() if k not in ("path", "modified")} for line in lines]
        elif path.name != apart:
            found[path.name] = path.read_bytes()
    return found


def failures(folder: Path) -> dict[str, tuple[str, str]]:
    lines = map(json.loads, (folder / "failures.jsonl").read_text().splitlines())
    return {line["id"]: (line["code"], line["message"]) for line in lines}


def test_a_server_that_fails_now_and_then_changes_no_byte(
    server: ObjectServer, invoke: Command, corpus: Path, tmp_path: Path
):
    assert invoke("extract", corpus, "-o", tmp_path / "here", *BASE, "--shard-size", 3).returncode == 0
    server.put("speech", objects_of(corpus))
    server.fail("busy", "/clips/d0/plain", times=2)
    server.fail("cut", "/clips/d1/with", times=1)
    server.fail("cut", "/clips/d0/-dash", times=1)
    server.fail("hung up", "/clips/d1/quote", times=1)
    run = invoke("extract", "s3://speech/clips", "-o", tmp_path / "there", *BASE, "--shard-size", 3)
    assert run.returncode == 0, run.stderr
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    answers = [request.rpartition(" ")[2] for request in server.requests()]
    assert (answers.count("503"), answers.count("up")) == (2, 1)
    assert len([r for r in server.requests() if r.startswith("GET /speech/clips/d")]) == 8 + 5
    entry = json.loads((tmp_path / "there/shard-00000.jsonl").read_text().splitlines()[0])
    assert entry["path"].startswith("s3://speech/clips/d0/")
    assert entry["modified"] % 10**9 == 0

    again = invoke("extract", "s3://speech/clips", "-o", tmp_path / "there", *BASE, "--shard-size", 3, "-v")
    assert "8 of 8 clips are done already" in again.stderr
    server.client().put_object(Bucket="speech", Key="clips/d0/plain 0.wav", Body=b"changed")
    before = len(server.requests())
    changed = invoke("extract", "s3://speech/clips", "-o", tmp_path / "there", *BASE, "--shard-size", 3)
    assert "1 finished clip changed since" in changed.stderr
    assert not [r for r in server.requests()[before:] if "clips/d" in r]  # the listing says it


def test_a_run_that_was_killed_goes_on(server: ObjectServer, invoke: Command, corpus: Path, tmp_path: Path):
    assert invoke("extract", corpus, "-o", tmp_path / "here", *BASE, "--shard-size", 2).returncode == 0
    server.put("speech", objects_of(corpus))
    server.fail("slow", "/clips/d1", times=4, seconds=1.0)
    arguments = ["extract", "s3://speech/clips", "-o", tmp_path / "there", *BASE, "--shard-size", 2]
    program = [command(), *map(str, arguments)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert eventually(lambda: (tmp_path / "there/shard-00000.jsonl").exists())
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "there/shard-00003.jsonl").exists()
    assert invoke(*arguments).returncode == 0
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_ctrl_c_does_not_wait_for_a_silent_server(server: ObjectServer, corpus: Path, tmp_path: Path):
    server.put("speech", objects_of(corpus))
    server.fail("slow", "/clips/d1", times=9, seconds=30.0)
    arguments = ["extract", "s3://speech/clips", "-o", tmp_path / "there", *BASE, "--shard-size", 2]
    with subprocess.Popen([command(), *map(str, arguments)], stderr=subprocess.PIPE, text=True) as process:
        assert eventually(lambda: (tmp_path / "there/shard-00000.jsonl").exists())
        process.send_signal(signal.SIGINT)
        assert "the same command goes on from there" in process.communicate(timeout=10)[1]
    assert process.returncode == 130


def test_failures_at_urls(server: ObjectServer, invoke: Command, corpus: Path, tmp_path: Path):
    clips = objects_of(corpus)
    server.put("speech", clips)
    urls = [f"s3://speech/{key}" for key in clips]
    (tmp_path / "list.txt").write_text("\n".join([*urls, "s3://speech/gone.wav", "s3://none/x.wav", "foo://x/y.wav"]))
    server.fail("refused", "/clips/d0/plain", times=1)
    server.fail("busy", "/clips/d1/with", times=3)
    arguments = ["extract", tmp_path / "list.txt", "-o", tmp_path / "out", *BASE, "--retries", 2]
    run = invoke(*arguments)
    assert run.returncode == 3
    found = failures(tmp_path / "out")
    assert {id_: code for id_, (code, _) in found.items()} == {
        "speech/clips/d0/plain 0.wav": "unreadable",
        "speech/clips/d1/with space 1.flac": "unreachable",
        "speech/gone.wav": "missing",
        "none/x.wav": "missing",
        "x/y.wav": "unsupported",
    }
    assert found["speech/gone.wav"][1] == "no such object"
    assert found["none/x.wav"][1] == "no such bucket"
    assert not [line for line in run.stderr.splitlines() if not line.startswith("hlfeat: ")]

    server.client().put_object(Bucket="speech", Key="gone.wav", Body=next(iter(clips.values())))
    before = len(server.requests())
    run = invoke(*arguments)  # missing ones and those out of reach are tried by every run
    assert run.returncode == 3
    assert {code for code, _ in failures(tmp_path / "out").values()} == {"unreadable", "missing", "unsupported"}
    assert len([r for r in server.requests()[before:] if r.startswith("GET")]) == 3
    assert set(FeatureStore(tmp_path / "out").ids) >= {"speech/gone.wav", "speech/clips/d1/with space 1.flac"}


def test_twenty_clips_in_a_row_out_of_reach_end_the_run(
    server: ObjectServer, invoke: Command, corpus: Path, tmp_path: Path
):
    data = (corpus / "d0/plain 0.wav").read_bytes()
    server.put("speech", {f"clips/{i:02d}.wav": data for i in range(45)})
    server.fail("busy", r"/clips/(0[3-9]|1\d|2[0-6])", times=1000)
    arguments = ["extract", "s3://speech/clips", "-o", tmp_path / "out", *BASE, "--shard-size", 2, "--retries", 0]
    run = invoke(*arguments)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == (
        "hlfeat: error: s3://speech/clips/22.wav: SlowDown; 20 clips in a row cannot be reached; what is finished is "
        "kept: run the same again"
    )
    assert len(FeatureStore(tmp_path / "out")) == 2  # of the shard that is finished
    assert json.loads((tmp_path / "out/report.json").read_text())["interrupted"].startswith("s3://speech/clips/22.wav")
    server._ask("/_reset", b"")
    assert invoke(*arguments).returncode == 0
    assert len(FeatureStore(tmp_path / "out")) == 45
    server.fail("busy", r"/clips/(0[0-8]|1\d|2\d)", times=1000)  # 09 arrives, so that there are not twenty in a row
    other = [*arguments[:3], tmp_path / "other", *arguments[4:]]
    assert invoke(*other, "--max-failures", 22).returncode == 1
    assert "--max-failures: more than 22 clips failed" in invoke(*other, "--max-failures", 22).stderr


def test_archives_at_urls(server: ObjectServer, invoke: Command, corpus: Path, tmp_path: Path):
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        for path in sorted(corpus.rglob("*.*")):
            archive.add(path, arcname=str(path.relative_to(corpus)))
    data = (tmp_path / "all.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: len(data) * 6 // 10])
    server.put("speech", {f"tars/{name}": (tmp_path / name).read_bytes() for name in ("all.tar", "cut.tar")})
    for name, status in (("all.tar", 0), ("cut.tar", 3)):
        assert invoke("extract", tmp_path / name, "-o", tmp_path / f"here {name}", *BASE).returncode == status
        server.fail("busy", name, times=1)
        server.fail("cut", name, times=1)
        there = invoke("extract", f"s3://speech/tars/{name}", "-o", tmp_path / f"there {name}", *BASE)
        assert there.returncode == status, there.stderr
        assert contents(tmp_path / f"there {name}") == contents(tmp_path / f"here {name}")
    assert {code for code, _ in failures(tmp_path / "there cut.tar").values()} == {"truncated"}
    assert not [r for r in server.requests() if r.startswith("GET /speech/tars") and r.endswith(" 200")]  # all ranged
    ids = [clip.id for clip in collect_inputs(["s3://speech/tars"]).clips]
    assert ids[0] == "all.tar/d0/#hash&amp 6.w64"

    server.client().put_object(Bucket="speech", Key="tars/all.tar", Body=data[512:])
    (tmp_path / "list.jsonl").write_text("")
    inputs = collect_inputs(["s3://speech/tars/cut.tar"])
    server.client().put_object(Bucket="speech", Key="tars/cut.tar", Body=data)
    report = extract(load_config("log-mel"), inputs, tmp_path / "changed", Options(device="cpu", workers=1, quiet=True))
    assert {f["message"] for f in report.failures if f["code"] == "unreadable"} == {
        "the archive was changed after its members were listed"
    }


@pytest.mark.parametrize(("members", "size", "requests", "most"), [(40, 400_000, 45, 1.5e6), (3000, 500, 10, 3.2e6)])
def test_the_headers_of_an_archive_are_read_by_parts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, members: int, size: int, requests: int, most: float
):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for i in range(members):
            member = tarfile.TarInfo(f"{i:04d}.wav")
            member.size = size
            archive.addfile(member, io.BytesIO(bytes(size)))
    data = (tmp_path / "a.tar").read_bytes()
    spans: list[tuple[int, int]] = []

    def read(url: str, start: int, end: int, retries: Retries) -> bytes:
        spans.append((start, end))
        return data[start:end]

    monkeypatch.setattr(archive_headers, "read", read)
    file = archive_headers.RemoteHeaders("s3://speech/a.tar", len(data), Retries(0))
    listed = [(m.name, m.offset_data, m.size) for m in list_members(file, len(data))]
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert listed == [(m.name, m.offset_data, m.size) for m in archive.getmembers()]
    assert len(spans) <= requests
    assert sum(end - start for start, end in spans) <= most


def test_segments_of_an_object_share_its_bytes(server: ObjectServer, invoke: Command, corpus: Path, tmp_path: Path):
    data = next(data for key, data in objects_of(corpus).items() if key.endswith(".mp3"))
    server.put("speech", {"a.mp3": data, "b.mp3": data})
    rows = [f"{name}.mp3,{i / 10},{i / 10 + 0.1},{name}{i}" for name in "ab" for i in range(4)]
    table = "\n".join(["path,start,end,id", *rows])
    (tmp_path / "rows.csv").write_text(table)
    server.client().put_object(Bucket="speech", Key="rows.csv", Body=table.encode())
    for name in "ab":
        (tmp_path / f"{name}.mp3").write_bytes(data)
    assert invoke("extract", tmp_path / "rows.csv", "-o", tmp_path / "here", *BASE).returncode == 0
    assert invoke("extract", "s3://speech/rows.csv", "-o", tmp_path / "there", *BASE).returncode == 0
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert len([r for r in server.requests() if ".mp3" in r and r.startswith("GET")]) == 2
    fetcher = ObjectFetcher(Retries(0))
    first, second = (fetcher.fetch(Clip(str(i), "s3://speech/a.mp3", start=i, end=i + 1.0)) for i in range(2))
    assert first is second


def test_urls_that_differ_in_secrets_alone_are_different_files(invoke: Command, tmp_path: Path):
    files: dict[str, bytes] = {}
    for key, hertz in ((1, 200.0), (2, 2000.0)):
        file = io.BytesIO()
        soundfile.write(file, tone(1.0, 16000, hertz, 0), 16000, format="MP3")
        data = file.getvalue().ljust(20_000, b"\0")  # of one size
        files[f"/get.mp3?key={key}"] = data
        (tmp_path / f"{key}.mp3").write_bytes(data)
    with serving(files) as web:
        for there in (True, False):
            names = [f"{web.address}/get.mp3?key={key}" if there else f"{key}.mp3" for key in (1, 2)]
            rows = [f"{name},{i / 4},{i / 4 + 0.25},{key}-{i}" for i in range(4) for key, name in enumerate(names)]
            (tmp_path / "rows.csv").write_text("\n".join(["path,start,end,id", *rows]))
            arguments = (tmp_path / "rows.csv", "--root", tmp_path, "-o", tmp_path / str(there), *BASE)
            assert invoke("extract", *arguments).returncode == 0
        (tmp_path / "list.txt").write_text("\n".join(f"{web.address}{target}" for target in files))
        refused = invoke("extract", tmp_path / "list.txt", "-o", tmp_path / "no")
    assert refused.returncode == 2
    assert "get.mp3 twice, with different secrets, which ids leave out; a manifest can give" in refused.stderr
    there, here = (FeatureStore(tmp_path / str(name)) for name in (True, False))
    for id_ in here.ids:
        np.testing.assert_array_equal(there[id_], here[id_], err_msg=id_)


def test_what_is_too_large_for_memory_comes_in_pieces(
    server: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(copies, "MAX_MEMORY", 100_000)
    monkeypatch.setattr(transfer, "_PIECE", 1000)
    data = os.urandom(400_001)
    server.put("speech", {"a": data})
    server.fail("cut", "/a", times=7)  # more often than it is tried again, but much arrives each time
    writer = copies.CopyWriter()
    found = transfer.transfer("s3://speech/a", writer, None, None, Retries(1))
    copy = writer.copy((found.size or 0, found.modified))
    assert Path(copy.path).read_bytes() == data
    assert "memfd" not in os.readlink(copy.path)
    assert copy.size == len(data)

    server.fail("cut", "/a", times=1)
    monkeypatch.setattr(transfer, "_PIECE", 10**6)
    monkeypatch.setattr(
        Retries, "_wait", lambda *_: server.client().put_object(Bucket="speech", Key="a", Body=data[:-1])
    )
    with pytest.raises(transfer.RemoteError, match="the object was changed while it was read"):
        transfer.transfer("s3://speech/a", copies.CopyWriter(), 1, None, Retries(1))


def test_a_full_disk_is_that_of_the_temporary_files(
    invoke: Command, corpus: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def full(in_memory: bool, folder: str | None) -> tuple[int, str, None]:
        return os.open("/dev/full", os.O_RDWR), "/dev/full", None

    monkeypatch.setattr(copies, "_create", full)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with serving({"/a.wav": (corpus / "d0/plain 0.wav").read_bytes()}) as web:
        url = f"{web.address}/a.wav"
        run = invoke("extract", url, "-o", tmp_path / "out", *BASE)
        drawn = invoke("plot", url, "-o", tmp_path / "a.png", "-c", "log-mel")
    for ended in (run, drawn):
        last = ended.stderr.splitlines()[-1]
        assert last.startswith(f"hlfeat: error: {tmp_path}: no space left on the disk for clips from elsewhere")
        assert ended.returncode == 1


def test_the_web_and_no_secret_is_written(
    server: ObjectServer, hlfeat: Command, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = (corpus / "d0/plain 0.wav").read_bytes()
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        member = tarfile.TarInfo("in.wav")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    files = {f"/{name}": data for name in ("a.wav", "b.wav", "busy.wav", "no.wav", "sub/c.wav")}
    files["/t.tar"] = tar.getvalue()
    with serving(files) as web:
        host = web.address.removeprefix("http://")
        login = f"http://ann:hidden-pass@{host}"
        web.password = "hidden-pass"
        web.status = [("busy.wav", 503)] * 2 + [("no.wav", 403)]
        signed = "X-Amz-Credential=hidden-word%2F1&X-Amz-Signature=hidden-sign"
        rows = [f"{login}/a.wav,", f"{login}/b.wav?{signed},two", "sub/c.wav,", f"{login}/busy.wav?sig=hidden-sign,"]
        rows += [f"{login}/no.wav?token=hidden-word,", f"{login}/none.wav,", "http://x:hidden-pass@127.0.0.1:1/d.wav,"]
        rows += [f"{login}/a.wav,bad", f"{login}/a.wav,bad", "ftp://x:hidden-pass@h/d.wav,"]
        files["/list.csv"] = "\n".join(["path,id", *rows]).encode()
        arguments = ["extract", f"{login}/list.csv?token=hidden-word", f"{login}/t.tar", "-o", tmp_path / "out", *BASE]
        run = hlfeat(*arguments, "--retries", 1, "-v")
        assert run.returncode == 3, run.stderr
        codes = {id_: code for id_, (code, _) in failures(tmp_path / "out").items()}
        assert codes == {
            f"{host}/busy.wav": "unreachable",
            f"{host}/no.wav": "unreadable",
            f"{host}/none.wav": "missing",
            "127.0.0.1:1/d.wav": "unreachable",
            f"{host}/list.csv:10": "bad-row",
            "h/d.wav": "unsupported",
        }
        store = FeatureStore(tmp_path / "out")
        assert list(store.ids) == [f"{host}/a.wav", "two", "sub/c.wav", "bad", "in.wav"]
        assert store.record("two")["path"] == f"http://{host}/b.wav"
        assert store.record("two")["modified"] == 1_700_000_000 * 10**9, MODIFIED
        wrong = hlfeat(
            "extract", f"{login}/none.csv?sig=hidden-sign", "-o", tmp_path / "no", "-v", env=dict(os.environ)
        )
        assert wrong.returncode == 2
        web.ranges = False
        parts = hlfeat("extract", f"{login}/t.tar", "-o", tmp_path / "no")
        assert "its server sends whole files only" in parts.stderr
    server.put("speech", {})
    aws = hlfeat("extract", "s3://speech/a.wav", "-o", tmp_path / "no", "-v")
    written = [path.read_bytes().decode("latin-1") for path in (tmp_path / "out").iterdir()]
    for text in (*written, *(stream for r in (run, wrong, parts, aws) for stream in (r.stdout, r.stderr))):
        assert not [secret for secret in SECRETS if secret in text], text


def test_a_plan_looks_into_some_objects(server: ObjectServer, invoke: Command, corpus: Path, tmp_path: Path):
    server.put("speech", objects_of(corpus))
    here = invoke("extract", corpus, "-o", tmp_path / "out", "-c", "log-mel", "-n")
    there = invoke("extract", "s3://speech/clips", "-o", tmp_path / "out", "-c", "log-mel", "-n")
    assert there.stderr == here.stderr
    assert "about" in there.stderr
    (tmp_path / "list.txt").write_text("s3://none/a.wav\n")
    none = invoke("extract", tmp_path / "list.txt", "-o", tmp_path / "out", "-c", "log-mel", "-n")
    assert (none.returncode, "none of 1 clip can be opened" in none.stderr) == (0, True)


def test_statistics_and_pictures_of_objects(server: ObjectServer, invoke: Command, corpus: Path, tmp_path: Path):
    server.put("speech", objects_of(corpus))
    for name, source in (("here", corpus), ("there", "s3://speech/clips/**/*.*")):
        assert invoke("stats", source, "-o", tmp_path / name, "-c", "log-mel").returncode == 0
    assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes()
    drawn = invoke("plot", "s3://speech/clips/d0/plain 0.wav", "-o", tmp_path / "a.png", "-c", "log-mel")
    assert (drawn.returncode, (tmp_path / "a.png").stat().st_size > 1000) == (0, True)
    missing = invoke("plot", "s3://speech/none.wav", "-o", tmp_path / "a.png", "-c", "log-mel")
    assert missing.stderr == "hlfeat: error: s3://speech/none.wav: missing: no such object\n"
    assert missing.returncode == 1


def test_repair_asks_whether_objects_are_there(server: ObjectServer, invoke: Command, corpus: Path, tmp_path: Path):
    data = (corpus / "d0/plain 0.wav").read_bytes()
    server.put("speech", {"a.wav": data, "b.wav": data})
    out = tmp_path / "out"
    arguments = ["extract", "s3://speech", "-o", out, *BASE, "--shard-size", 1]
    assert invoke(*arguments).returncode == 0
    whole = contents(out)
    for name in ("shard-00000.npy", "shard-00001.npy"):
        (out / name).write_bytes(b"damaged")
    server.client().delete_object(Bucket="speech", Key="b.wav")
    repaired = invoke("repair", out)
    assert "kept, as the audio of 1 clip is not there (s3://speech/b.wav)" in repaired.stderr + repaired.stdout
    assert [(out / f"shard-0000{i}.npy").exists() for i in range(2)] == [False, True]
    server.put("speech", {"b.wav": data})
    server.client().put_object(Bucket="speech", Key="a.wav", Body=data)
    assert invoke("repair", out, "--force").returncode == 0
    assert invoke(*arguments).returncode == 0
    assert contents(out) == whole


class Store:
    """A file system that tells what an object is and what is in it by different requests, as those of gs and hf do."""

    def __init__(self, data: bytes) -> None:
        self.data, self.asked = data, []

    def info(self, url: str) -> dict[str, Any]:
        return {"size": len(self.data), "updated": "2026-01-02T03:04:05.678Z", "type": "file"}

    def cat_file(self, url: str, start: int, end: int) -> bytes:
        self.asked.append((start, end))
        return self.data[start : end - 100 if len(self.asked) == 2 else end]  # one of them is cut


def test_other_file_systems_are_read_by_pieces(monkeypatch: pytest.MonkeyPatch):
    store = Store(os.urandom(2500))
    monkeypatch.setitem(systems._file_systems, (os.getpid(), "gs"), store)
    monkeypatch.setattr(transfer, "_PIECE", 1000)
    copy = ObjectFetcher(Retries(1)).fetch(Clip("a", "gs://bucket/a.wav"))
    assert Path(copy.path).read_bytes() == store.data
    assert copy.stamp == (2500, 1767323045 * 10**9)
    assert store.asked == [(0, 1000), (1000, 2000), (1900, 2500)]
