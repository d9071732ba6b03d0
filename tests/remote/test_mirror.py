"""The small files of a feature directory in a bucket, copied to this machine."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hlfeat.errors import OutputError
from hlfeat.remote import objects
from hlfeat.remote.folders import list_folder
from hlfeat.remote.objects import RemoteObject
from hlfeat.remote.retries import RemoteError, Retries
from hlfeat.remote.s3_writes import S3Prefix
from hlfeat.storage.layout import Layout
from hlfeat.storage.mirror import mirror
from tests.remote.object_server import ObjectServer

FAST = Retries(times=2, first=0.01)
SMALL = ["failures.jsonl", "hlfeat.yaml", "report.json", "shard-00000.jsonl", "shard-p1of2-00000.jsonl"]
SMALL += ["stats-00000.json"]
DATA = ["shard-00000.npy", "shard-p1of2-00000.pt"]
OTHERS = ["hlfeat.lock", "notes.txt", "shard-00001.npy.tmp", "old/hlfeat.yaml", "old/shard-00000.jsonl"]


def put(server: ObjectServer, top: str = "features/") -> None:
    server.put("speech", {f"{top}{name}": name.encode() for name in (*SMALL, *DATA, *OTHERS)})


@pytest.mark.parametrize("url", ["s3://speech/features", "s3://speech/features/", "s3://speech"])
def test_small_files_are_copied_and_features_are_listed(server: ObjectServer, tmp_path: Path, url: str):
    put(server, "features/" if url.strip("/").endswith("features") else "")
    found = mirror(url, tmp_path, retries=FAST)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {name: name.encode() for name in SMALL}
    assert sorted(found.copied) == SMALL
    assert found.url == url.rstrip("/")
    assert {name: (data.url, data.size, bool(data.tag)) for name, data in found.data.items()} == {
        name: (f"{found.url}/{name}", len(name), True) for name in DATA
    }
    assert not [r for r in server.requests() if r.startswith("GET") and (".npy" in r or ".pt" in r)]


def test_some_kinds_alone_can_be_copied(server: ObjectServer, tmp_path: Path):
    put(server)
    found = mirror("s3://speech/features", tmp_path, {"description", "report"}, FAST)
    assert sorted(found.copied) == sorted(p.name for p in tmp_path.iterdir()) == ["hlfeat.yaml", "report.json"]
    assert sorted(found.data) == DATA


def test_an_index_that_is_gone_after_the_listing_was_never_there(server: ObjectServer, tmp_path: Path):
    put(server)
    server.fail("gone", "features/shard-00000.jsonl")
    found = mirror("s3://speech/features", tmp_path, retries=FAST)
    assert (
        sorted(p.name for p in tmp_path.iterdir()) == sorted(found.copied) == sorted({*SMALL} - {"shard-00000.jsonl"})
    )


def test_what_fails_for_a_while_is_copied(server: ObjectServer, tmp_path: Path):
    put(server)
    for what in ("busy", "cut", "hung up"):
        server.fail(what, r"features/\w", times=2)
    server.fail("busy", "list-type")
    assert len(mirror("s3://speech/features", tmp_path, retries=Retries(times=6, first=0.01)).copied) == len(SMALL)


@pytest.mark.parametrize(("what", "told"), [("refused", "access is denied"), ("busy", "SlowDown|503|Busy")])
@pytest.mark.parametrize("path", ["list-type", "shard-00000.jsonl"])
def test_what_cannot_be_read_is_one_line(server: ObjectServer, tmp_path: Path, what: str, told: str, path: str):
    put(server)
    server.fail(what, path, times=100)
    place = "s3://speech/features" + ("" if path == "list-type" else f"/{path}")
    with pytest.raises(OutputError, match=rf"^{place}: cannot be read: .*({told})[^\n]*$") as caught:
        mirror("s3://speech/features", tmp_path, retries=FAST)
    assert isinstance(caught.value.__cause__, RemoteError)


def test_a_folder_that_is_not_there_is_empty_and_a_bucket_is_an_error(server: ObjectServer, tmp_path: Path):
    server.put("speech", {"a.wav": b""})
    found = mirror("s3://speech/features", tmp_path, retries=FAST)
    assert (found.copied, found.data) == ({}, {})
    assert [r for r in server.requests() if r.startswith("GET")] == ["GET /speech 200"]
    with pytest.raises(OutputError, match=r"^s3://none/features: cannot be read: no such"):
        mirror("s3://none/features", tmp_path, retries=FAST)


def test_a_long_folder_is_listed_to_its_end(server: ObjectServer, monkeypatch: pytest.MonkeyPatch):
    put(server)
    server.client().put_object(Bucket="speech", Key="features/", Body=b"")  # as consoles make a folder
    names = sorted((*SMALL, *DATA, *(name for name in OTHERS if "/" not in name)))
    monkeypatch.setattr(objects, "call_s3", partial(objects.call_s3, MaxKeys=3))
    assert [found.url.removeprefix("s3://speech/features/") for found in list_folder("s3://speech/features")] == names
    wanted = list_folder("s3://speech/features", wanted=lambda name: name.startswith("hlfeat"))
    assert [found.url for found in wanted] == [f"s3://speech/features/hlfeat.{suffix}" for suffix in ("lock", "yaml")]


def test_nothing_is_kept_of_other_objects(server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """There may be millions of them right in the bucket."""
    put(server, "")
    ours = {name for name in (*SMALL, *DATA, *OTHERS) if "/" not in name and name != "notes.txt"}
    kept: list[RemoteObject] = []

    def listed(*args: Any) -> list[RemoteObject]:
        kept.extend(list_folder(*args))
        return kept

    monkeypatch.setattr(importlib.import_module("hlfeat.storage.mirror"), "list_folder", listed)
    mirror("s3://speech", tmp_path, (), FAST)
    assert {found.url.removeprefix("s3://speech/") for found in kept} == ours
    assert S3Prefix("speech", "", FAST).list(Layout.parse).keys() == ours
