"""Features in a bucket: the same bytes as in a folder, and the same words about them."""

from __future__ import annotations

import errno
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import hlfeat
from hlfeat.errors import InterruptedRunError, OutputError, UsageError
from hlfeat.extraction.on_workers import Result, extract_on_workers
from hlfeat.extraction.one_part import Work
from hlfeat.extraction.options import DEFAULT_LIMITS
from hlfeat.extraction.product import FEATURES
from hlfeat.extraction.run import Hooks
from hlfeat.inputs.collect import collect_inputs
from hlfeat.partition import WHOLE, Part
from hlfeat.storage import shard_writer, staging
from hlfeat.storage.named_place import place_of
from hlfeat.storage.staging import Staging
from tests import helpers
from tests.extraction import runs
from tests.extraction.test_on_workers import Here
from tests.remote import buckets
from tests.remote.buckets import ONE, URL, left, run
from tests.remote.object_server import CREDENTIALS, ObjectServer


@pytest.fixture(autouse=True)
def _temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for these, so that it shows what is left there."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def test_the_same_bytes_as_in_a_folder(server: ObjectServer, tmp_path: Path):
    folder = buckets.some_clips(tmp_path / "clips")
    want, told = buckets.local(folder, tmp_path / "local"), []
    server.put("speech", {})
    first = hlfeat.extract(
        hlfeat.load_config("log-mel", ["output.shard_size=2"]), [folder], f"{URL}/", ONE, finished_shard=told.append
    )
    assert left(server) == want
    assert told == [f"{URL}/shard-{n:05d}.npy" for n in range(3)]
    assert (first.clips, len(first.failures)) == (5, 1)
    report = json.loads(server.objects("speech")["features/report.json"])
    assert (report["clips"], report["failures"], report["complete"]) == (5, 1, True)
    before = len(server.requests())
    again = run(folder)
    assert (again.clips, again.clips_before) == (0, 5)
    assert not [r for r in server.requests()[before:] if r.startswith("PUT") and ".lock" not in r and "report" not in r]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_is_committed_takes_no_room_here(server: ObjectServer, tmp_path: Path):
    """And after a kill, its folder is removed by the next run."""
    folder = helpers.good_clips(tmp_path / "clips", 3, longest=0.2)
    server.put("speech", {})
    blocks: list[int] = []

    def look(path: object) -> None:
        (here,) = (tmp_path / "tmp").iterdir()
        blocks.append(sum(p.stat().st_blocks for p in here.glob("*.npy")))
        assert sum(p.stat().st_size for p in here.glob("*.npy")) > 1000 * len(blocks)

    config = hlfeat.load_config("log-mel", ["output.shard_size=1"])
    hlfeat.extract(config, [folder], URL, ONE, finished_shard=look)
    assert blocks == [0, 0, 0]
    (tmp_path / "tmp/hlfeat-bucket-old").mkdir()
    staging._NEW, new = -1.0, staging._NEW
    held = Staging()
    Staging().remove()
    staging._NEW = new
    assert list((tmp_path / "tmp").iterdir()) == [held.folder]
    held.remove()


def test_a_key_may_be_empty_and_others_objects_stay(server: ObjectServer, tmp_path: Path):
    folder = helpers.good_clips(tmp_path / "clips", 2, longest=0.2)
    want = buckets.local(folder, tmp_path / "local")
    others = {"notes.txt": b"mine", "features/deep/shard-00007.npy": b"mine", "features2/shard-00007.npy": b"mine"}
    server.put("speech", others)
    run(folder, "s3://speech", options=replace(ONE, overwrite=True))
    assert {key: data for key, data in server.objects("speech").items() if key != "report.json"} == want | others
    run(folder, "s3://speech", options=replace(ONE, overwrite=True))
    assert {key: data for key, data in server.objects("speech").items() if key != "report.json"} == want | others


@pytest.mark.parametrize("url", ["s3://speech//features", "s3://speech/a//b/"])
def test_a_key_with_empty_folders_is_read_as_it_is_written(server: ObjectServer, tmp_path: Path, url: str):
    folder = helpers.good_clips(tmp_path / "clips", 2, longest=0.2)
    server.put("speech", {})
    run(folder, url)
    top = url.removeprefix("s3://speech/").rstrip("/")
    assert all(key.startswith(f"{top}/") for key in server.keys("speech"))
    assert len(hlfeat.FeatureStore(url)) == 2


def test_failed_clips_are_tried_again(server: ObjectServer, tmp_path: Path):
    folder = buckets.some_clips(tmp_path / "clips", 3)
    server.put("speech", {})
    for out in (URL, tmp_path / "local"):
        run(folder, out)
    helpers.good_clips(tmp_path / "one", 1, longest=0.2)
    good = next(p for p in (tmp_path / "one").rglob("*.*") if p.is_file())
    (folder / "d0/a text.wav").write_bytes(good.read_bytes())
    for out in (URL, tmp_path / "local"):
        report = run(folder, out, options=replace(ONE, retry_failed=True))
        assert (report.clips, report.failures) == (1, [])
    assert left(server) == runs.contents(tmp_path / "local")


def test_parts_and_devices(server: ObjectServer, tmp_path: Path):
    """Parts in any order; and two processes, each of which is a part."""
    folder = buckets.some_clips(tmp_path / "clips", 3)
    server.put("speech", {})
    for part in WHOLE.split(2):
        run(folder, tmp_path / "local", replace(ONE, part=part))
    want = runs.contents(tmp_path / "local")
    for part in (Part(2, 2), Part(2, 1)):
        report = run(folder, URL, replace(ONE, part=part))
        assert report.complete == (part.index == 1)
    assert left(server) == want
    assert json.loads(server.objects("speech")["features/report.json"])["clips"] == 3
    with pytest.raises(UsageError, match=r"s3://speech/features: holds a run in 2 parts, not in one part"):
        run(folder)
    report = run(folder, "s3://speech/devices", replace(ONE, device="cpu,cpu"))
    assert (report.clips, report.complete) == (3, True)
    got = {key.removeprefix("devices/"): data for key, data in server.objects("speech", "devices/").items()}
    assert {name: data for name, data in got.items() if not name.startswith("report")} == want


def test_all_parts_of_a_run(server: ObjectServer, tmp_path: Path):
    """One after the other, or by workers elsewhere, of which one dies; they look for no folder that they share."""
    folder, told = helpers.good_clips(tmp_path / "clips", 3, longest=0.2), []
    server.put("speech", {})
    want = buckets.local(folder, tmp_path / "local", replace(ONE, parts=2), shard=1)
    assert run(folder, URL, replace(ONE, parts=2), shard=1).complete
    assert left(server) == want
    again = run(folder, URL, replace(ONE, parts="auto", overwrite=False), shard=1)
    assert (again.clips, again.clips_before) == (0, 3)

    class OneDies(Here):
        def do(self, part: Part) -> Result:
            if part.index == 1:  # before it has said what it has finished
                super().do(part)
                self.mailbox.post([message for message in self.mailbox.take() if message.kind == "attempt"])
            return super().do(part)

    config = hlfeat.load_config("log-mel", ["frontend.n_filters=8", "output.shard_size=1"])
    inputs = collect_inputs([str(folder)], io.BytesIO())
    work = Work(config, inputs, place_of("s3://speech/workers"), DEFAULT_LIMITS, FEATURES)
    options = replace(ONE, parts=2, on="ray")
    report = extract_on_workers(work, options, Hooks(finished_shard=told.append), lambda _: OneDies())
    assert report.complete
    shards = [key for key in server.keys("speech") if key.startswith("workers/") and key.endswith(".npy")]
    assert sorted(told) == [f"s3://speech/{key}" for key in sorted(shards)]
    assert len(hlfeat.FeatureStore("s3://speech/workers")) == 3


def test_an_interrupted_run_says_so(server: ObjectServer, tmp_path: Path):
    folder = helpers.good_clips(tmp_path / "clips", 3, longest=0.2)
    want, asked = buckets.local(folder, tmp_path / "local", shard=1), []
    server.put("speech", {})
    config = hlfeat.load_config("log-mel", ["output.shard_size=1"])
    with pytest.raises(InterruptedRunError):
        hlfeat.extract(config, [folder], URL, ONE, stopped=lambda: bool(asked), finished_shard=asked.append)
    there = server.objects("speech")
    assert json.loads(there["features/report.json"])["interrupted"] == "asked to stop"
    assert "features/hlfeat.lock" not in there
    assert "features/shard-00000.jsonl" in there
    run(folder, shard=1)
    assert left(server) == want


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["gs://bucket/f", "https://host/f", "hf://datasets/a/b", "s3://", "s3:///f", "x-y://f"])
def test_other_urls_are_refused(url: str):
    with pytest.raises(UsageError, match="expected a folder or s3://BUCKET/PREFIX") as caught:
        place_of(url)
    assert str(caught.value).startswith(f"{url}: ")


@pytest.mark.parametrize("url", ["https://host/f?X-Amz-Signature=secret", "s3://key:secret@bucket/f"])
def test_a_refused_url_is_shown_without_secrets(url: str):
    with pytest.raises(UsageError, match="expected a folder or s3://BUCKET/PREFIX") as caught:
        place_of(url)
    assert "secret" not in str(caught.value)


def test_a_url_as_a_path_is_refused(tmp_path: Path):
    folder = helpers.good_clips(tmp_path / "clips", 1, longest=0.2)
    with pytest.raises(UsageError, match="a URL as text: as a path it has lost a slash"):
        hlfeat.extract(hlfeat.load_config("log-mel"), [folder], Path("s3://speech/features"))
    with pytest.raises(UsageError, match=r"^s3:/speech/f: expected a folder or s3://BUCKET/PREFIX, with two slashes"):
        place_of("s3:/speech/f")


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def not_installed(*args: object, **options: object) -> None:
        raise ImportError("Install s3fs to access S3")

    folder = helpers.good_clips(tmp_path / "clips", 1, longest=0.2)
    monkeypatch.setattr("hlfeat.remote.systems._file_systems", {})
    monkeypatch.setattr("fsspec.filesystem", not_installed)
    with pytest.raises(UsageError, match=r"s3:// needs pip install 'hlfeat\[s3\]'"):
        run(folder)


@pytest.mark.parametrize(("rule", "words"), [("", "there is no such bucket"), ("refused", "access is denied")])
def test_a_bucket_that_cannot_be_used(server: ObjectServer, tmp_path: Path, rule: str, words: str):
    """It is said before a clip is read."""
    if rule:
        server.put("speech", {})
        server.fail(rule, "features", method="PUT", times=99)
    folder, read = helpers.good_clips(tmp_path / "clips", 1, longest=0.2), []
    config = hlfeat.load_config("log-mel")
    with pytest.raises(OutputError, match=f"^s3://speech/features: cannot be used as output: {words}"):
        hlfeat.extract(config, [folder], URL, ONE, stopped=lambda: bool(read.append(1)))
    assert all(credential not in str(server.requests()) for credential in CREDENTIALS.values())


def test_a_server_that_does_not_obey_conditions(server: ObjectServer, tmp_path: Path):
    server.put("speech", {})
    server.fail("deaf", method="PUT", times=99)
    folder = helpers.good_clips(tmp_path / "clips", 1, longest=0.2)
    with pytest.raises(OutputError, match="the server does not obey If-None-Match, so that two runs could write"):
        run(folder)
    assert server.objects("speech") == {}


def test_errors_name_the_url(server: ObjectServer, tmp_path: Path):
    folder = helpers.good_clips(tmp_path / "clips", 2, longest=0.2)
    server.put("speech", {})
    run(folder)
    with pytest.raises(UsageError, match=r"^s3://speech/features: holds features of another configuration") as caught:
        run(folder, shard=3)
    assert caught.value.remedy == "overwrite"
    client = server.client()
    client.put_object(Bucket="speech", Key="features/shard-00000.npy", Body=b"short")
    with pytest.raises(OutputError, match=r"^s3://speech/features/shard-00000.npy: damaged: shorter than its index"):
        run(folder)
    client.put_object(Bucket="speech", Key="features/shard-00000.jsonl", Body=b"{}")
    with pytest.raises(OutputError, match=r"^s3://speech/features/shard-00000.jsonl: damaged: line 1") as caught:
        run(folder)
    assert str(caught.value).endswith(
        "; remove the index of its shard, or that object where it is of no shard, and run the same again"
    )
    client.delete_object(Bucket="speech", Key="features/shard-00000.jsonl")
    run(folder)
    assert left(server) == buckets.local(folder, tmp_path / "local")


def test_no_room_for_the_staging_folder(server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = helpers.good_clips(tmp_path / "clips", 2, longest=0.2)
    server.put("speech", {})

    def full(f: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shard_writer, "sync", full)
    with pytest.raises(OutputError, match=f"^{tmp_path}/tmp/hlfeat-bucket-[^:]*: no space left on the disk"):
        run(folder)
    assert "lock" not in str(server.keys("speech"))


@pytest.mark.parametrize("command", [("extract",), ("extract", "-n"), ("extract", "--part", "1/1")])
def test_no_room_for_what_is_in_the_bucket(
    server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke, command: tuple[str, ...]
):
    folder = helpers.good_clips(tmp_path / "clips", 2, longest=0.2)
    server.put("speech", {})
    run(folder)

    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    done = invoke(*command, folder, "-o", URL, "-q")
    assert done.returncode == 1
    assert re.match(f"hlfeat: error: {tmp_path}/tmp/hlfeat-bucket-[^:]*: no space left on the disk", done.stderr)
    assert "lock" not in str(server.keys("speech"))


# --- the command -------------------------------------------------------------------------------------------------


def test_the_command(server: ObjectServer, tmp_path: Path, hlfeat):
    folder = buckets.some_clips(tmp_path / "clips", 3)
    server.put("speech", {})
    args = ["extract", folder, "-o", URL, "--workers", 1]
    ran = hlfeat(*args, "-c", "log-mel", "--shard-size", 2)
    assert ran.returncode == 3, ran.stderr
    assert ran.stdout.splitlines() == [f"{URL}/shard-00000.npy", f"{URL}/shard-00001.npy"]
    assert f"-> {URL}\n" in ran.stderr
    assert f"1 clip failed (not-audio 1): {URL}/failures.jsonl" in ran.stderr
    want = left(server)
    ran = hlfeat(*args, "-n")
    assert ran.returncode == 0, ran.stderr
    assert f"going on with the configuration of {URL}/hlfeat.yaml" in ran.stderr
    assert "of which are there" in ran.stderr
    assert "are free" not in ran.stderr
    clips = sorted(folder.rglob("*.*"))
    (tmp_path / "list.txt").write_text("".join(f"{clip}\n" for clip in clips))
    clips[-1].unlink()  # it is done, and may be gone
    ran = hlfeat("extract", tmp_path / "list.txt", "--root", folder, "-o", URL, "--workers", 1)
    assert ran.returncode == 3, ran.stderr
    assert left(server) == want
    for secret in CREDENTIALS.values():
        assert secret not in ran.stderr
        assert not [key for key, data in server.objects("speech").items() if secret.encode() in data]
    ran = hlfeat("pitch", folder, "-o", URL)
    assert (ran.returncode, "pitch tracks go into a folder, not into a bucket" in ran.stderr) == (2, True)
    ran = hlfeat("extract", folder, "-o", "gs://bucket/f")
    assert (ran.returncode, "gs://bucket/f: expected a folder or s3://BUCKET/PREFIX" in ran.stderr) == (2, True)
