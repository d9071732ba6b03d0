"""FeatureStore and inspect of feature directories in a bucket: the same as of the folder that was copied there."""

from __future__ import annotations

import errno
import gc
import json
import pickle
import re
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from hlfeat import FeatureStore, UsageError, collate
from hlfeat.errors import OutputError
from hlfeat.inspection.verify import verify
from hlfeat.remote.retries import Retries
from hlfeat.storage import formats, open_shards, place, remote_file
from hlfeat.storage.feature_dir import FeatureDir
from hlfeat.storage.place import open_place
from hlfeat.storage.remote_file import RemoteFile
from hlfeat.storage.shared_calls import shared
from tests import helpers
from tests.conftest import Command
from tests.extraction.runs import files_below, run
from tests.remote.object_server import ObjectServer
from tests.remote.web_server import serving

URL = "s3://speech/features"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Features of a dozen clips in three shards, by format; not to be changed."""
    tmp = tmp_path_factory.mktemp("made")
    clips = helpers.good_clips(tmp / "clips", 10, longest=0.6)
    soundfile.write(clips / "silent.wav", np.zeros(8000), 16000)
    (clips / "bad.wav").write_bytes(b"")
    for form in ("npy", "pt"):
        run(clips, tmp / form, "output.shard_size=4", f"output.format={form}")
    return {form: tmp / form for form in ("npy", "pt")}


@pytest.fixture(autouse=True)
def no_copies() -> None:
    formats._clips_of_copy.__wrapped__.cache_clear()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (place, remote_file):
        monkeypatch.setattr(module, "RETRIES", Retries(times=2, first=0.01))


def put(server: ObjectServer, folder: Path, top: str = "features") -> None:
    server.put("speech", {f"{top}/{name}": data for name, data in files_below(folder).items()})


def replace(server: ObjectServer, name: str, data: bytes) -> None:
    server.client().put_object(Bucket="speech", Key=f"features/{name}", Body=data)


def gets(server: ObjectServer, name: str = "") -> list[str]:
    """The requests for the contents of objects of this name since the bucket was filled."""
    return [r for r in server.requests() if r.startswith(f"GET /speech/features/{name}")]


@pytest.mark.parametrize("form", ["npy", "pt"])
def test_it_is_the_store_of_the_folder(server: ObjectServer, folders: dict[str, Path], form: str):
    put(server, folders[form])
    here, there = FeatureStore(folders[form]), FeatureStore(f"{URL}/")
    assert there.folders == (URL,)
    assert repr(there) == repr(here).replace(str(folders[form]), URL)
    assert (there.ids, there.shape, there.dtype) == (here.ids, here.shape, here.dtype)
    assert there.description == here.description
    assert there.frames.tolist() == here.frames.tolist()
    assert there.to_pandas().equals(here.to_pandas())
    for (id_, mine), (other, theirs) in zip(here, there, strict=True):
        assert id_ == other
        np.testing.assert_array_equal(mine, theirs)
        np.testing.assert_array_equal(here.read(id_, 1, 4), there.read(id_, 1, 4))
        np.testing.assert_array_equal(here.times(id_), there.times(id_))
        assert here.record(id_) == there.record(id_)
    theirs = there[2][1]
    theirs[:] = 0  # an array is a copy
    np.testing.assert_array_equal(there[2][1], here[2][1])
    for mine, theirs in zip(here.split(valid=0.3, seed=1), there.split(valid=0.3, seed=1), strict=True):
        assert mine.ids == theirs.ids
        np.testing.assert_array_equal(mine[0][1], theirs[0][1])


def test_one_request_reads_the_frames_that_are_asked_for(server: ObjectServer, folders: dict[str, Path]):
    put(server, folders["npy"])
    store = FeatureStore(URL)
    small = len([name for name in files_below(folders["npy"]) if not name.endswith(".npy")])
    assert len(gets(server)) == small  # each small file once
    store.read(5, 1, 4)
    store.read(5, 2)
    store.read(4)
    assert store.read(6, 3, 3).shape == (0, *store.shape)
    assert gets(server)[small:] == [f"GET /speech/features/shard-00001.npy {206}"] * 4  # the header, and three reads
    store.record(5), store.to_pandas(), store.times(5), store[2:4].ids
    assert len(gets(server)) == small + 4


def test_a_shard_of_the_other_format_is_copied_once(
    server: ObjectServer, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    put(server, folders["pt"])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = FeatureStore(URL)
    list(store), store[0], store[-1], store[:5][2]
    assert len(gets(server, r"shard-00000.pt")) <= 2  # a second time, after two others
    assert len(gets(server, r"shard-00001.pt")) == 1
    assert not list(tmp_path.iterdir())


def test_folders_here_and_there_are_one_store(server: ObjectServer, folders: dict[str, Path], tmp_path: Path):
    put(server, folders["npy"])
    other = tmp_path / "other"
    clips = helpers.good_clips(tmp_path / "more", 3, longest=0.3)
    for n, path in enumerate(sorted(p for p in clips.rglob("*") if p.is_file())):
        path.rename(path.with_name(f"more{n}{path.suffix}"))
    run(clips, other)
    store = FeatureStore(URL, other)
    assert store.ids == FeatureStore(folders["npy"], other).ids
    np.testing.assert_array_equal(store[-1][1], FeatureStore(other)[-1][1])
    np.testing.assert_array_equal(store[0][1], FeatureStore(folders["npy"])[0][1])
    with pytest.raises(
        OutputError, match=f"is there twice: in {URL}/shard-00000.jsonl and in {folders['npy']}/shard-0"
    ):
        FeatureStore(URL, folders["npy"])


def test_nothing_of_it_stays_on_this_machine(
    server: ObjectServer, folders: dict[str, Path], tmp_path: Path, monkeypatch
):
    put(server, folders["npy"])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = FeatureStore(URL)
    assert not list(tmp_path.iterdir())
    assert store.record(3)["id"] == store.ids[3]


def test_an_index_whose_last_line_has_no_end(server: ObjectServer, folders: dict[str, Path]):
    put(server, folders["npy"])
    replace(server, "shard-00000.jsonl", files_below(folders["npy"])["shard-00000.jsonl"][:-1])
    store, here = FeatureStore(URL), FeatureStore(folders["npy"])
    assert [store.record(i) for i in (3, 4, 3, 0, 9)] == [here.record(i) for i in (3, 4, 3, 0, 9)]
    assert store[::-1].to_pandas().equals(here[::-1].to_pandas())


def test_it_is_pickled_with_what_it_needs(server: ObjectServer, folders: dict[str, Path]):
    put(server, folders["npy"])
    store = FeatureStore(URL)
    expected, record = store[3], store.record(3)
    data = pickle.dumps(store[2:])
    before = len(gets(server))
    del store
    gc.collect()
    again = pickle.loads(data)
    assert (again[1][0], again.record(1)) == (expected[0], record)
    np.testing.assert_array_equal(again[1][1], expected[1])
    assert {r.split()[1] for r in gets(server)[before:]} == {"/speech/features/shard-00000.npy"}


@pytest.mark.parametrize("form", ["npy", "pt"])
def test_workers_that_were_forked_read_it(server: ObjectServer, folders: dict[str, Path], form: str):
    put(server, folders[form])
    store = FeatureStore(URL)
    store[7], store.record(7)  # the parent has connections, and the copy of a shard
    alone = list(DataLoader(FeatureStore(folders[form]), batch_size=3, collate_fn=collate))
    loader = DataLoader(store, batch_size=3, collate_fn=collate, num_workers=2, multiprocessing_context="fork")
    batches = list(loader)
    assert [b.ids for b in batches] == [b.ids for b in alone]
    for mine, theirs in zip(batches, alone, strict=True):
        torch.testing.assert_close(mine.features, theirs.features, rtol=0, atol=0)
    assert store.record(7)["id"] == store.ids[7]
    np.testing.assert_array_equal(store[7][1], FeatureStore(folders[form])[7][1])


def test_clips_of_a_batch_are_read_at_the_same_time(
    server: ObjectServer, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    put(server, folders["npy"])
    store = FeatureStore(URL)
    store[0], store[4]  # the headers of their shards
    everyone, read = threading.Barrier(8), RemoteFile.read

    def wait_and_read(file: RemoteFile, start: int, end: int) -> bytes:
        everyone.wait(20)
        return read(file, start, end)

    monkeypatch.setattr(RemoteFile, "read", wait_and_read)
    items = store.__getitems__(range(8))
    monkeypatch.undo()
    assert [id_ for id_, _ in items] == store.ids[:8]
    np.testing.assert_array_equal(items[5][1], store[5][1])


def test_a_batch_asks_for_nothing_twice(server: ObjectServer, folders: dict[str, Path]):
    """Neither for the header of a shard, nor for a shard that has to be copied."""
    for form, requests in (("npy", 3 + 12), ("pt", 3)):
        server.reset()
        put(server, folders[form])
        store, here = FeatureStore(URL), FeatureStore(folders[form])
        server.fail("slow", "shard-", times=9, seconds=0.1)  # so that all threads ask before the first has an answer
        clips = [7, 3, 10, 0, 4, 8, 1, 5, 9, 2, 6, 3]
        for (id_, features), clip in zip(store.__getitems__(clips), clips, strict=True):
            assert id_ == here.ids[clip]
            np.testing.assert_array_equal(features, here[clip][1])
        assert len([r for r in gets(server, "shard-") if "jsonl" not in r]) == requests, form


def test_headers_of_any_number_of_shards_are_read_once(
    server: ObjectServer, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(open_shards, "MAPPED", 1)
    put(server, folders["npy"])
    store = FeatureStore(URL)
    for i in (0, 4, 8, 0, 4, 8):
        store[i]
    assert len([r for r in gets(server, "shard-") if "jsonl" not in r]) == 3 + 6


def test_threads_that_share_a_call_share_its_error():
    calls: list[int] = []
    everyone = threading.Barrier(4)

    @shared
    def fails(n: int) -> int:
        calls.append(n)
        assert helpers.eventually(lambda: everyone.n_waiting == 0)
        time.sleep(0.2)
        raise OutputError("no")

    def work(_: int) -> str:
        everyone.wait(20)
        try:
            return str(fails(1))
        except OutputError as e:
            return str(e)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == ["no"] * 4
    assert calls == [1]
    with pytest.raises(OutputError):
        fails(1)
    assert calls == [1, 1]


def test_threads_share_it(server: ObjectServer, folders: dict[str, Path]):
    put(server, folders["npy"])
    store, here, wrong = FeatureStore(URL), FeatureStore(folders["npy"]), []

    def work(first: int) -> None:
        for i in [*range(first, len(store)), *range(first)]:
            if not np.array_equal(store[i][1], here[i][1]) or store.record(i) != here.record(i):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(0, 8, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_web_server_that_lists_its_folders(folders: dict[str, Path], invoke: Command):
    """Without a size or a version in the listing, and with a password in the URL, which nothing shows."""
    files = {f"/features/{name}": data for name, data in files_below(folders["npy"]).items()}
    links = "".join(f'<a href="{path.rpartition("/")[2]}">x</a>' for path in files)
    with serving({**files, "/features/": links.encode(), "/features": links.encode()}) as web:
        web.password = "opensesame"
        url = web.address.replace("://", "://ann:opensesame@") + "/features"
        store, here = FeatureStore(url), FeatureStore(folders["npy"])
        assert store.ids == here.ids
        np.testing.assert_array_equal(store.read(5, 1, 4), here.read(5, 1, 4))
        with pytest.raises(KeyError) as unknown:
            store["none"]
        done = invoke("inspect", url, "--verify")
        assert done.returncode == 0, done.stderr
        files["/features/shard-00000.npy"] = b""
    with serving({**files, "/features/": links.encode(), "/features": links.encode()}) as web:
        web.password = "opensesame"
        url = web.address.replace("://", "://ann:opensesame@") + "/features"
        with pytest.raises(OutputError) as damaged:
            FeatureStore(url)[0]
        again = invoke("inspect", url, "--verify")
    for text in (repr(store), str(unknown.value), str(damaged.value), done.stdout, again.stdout + again.stderr):
        assert "opensesame" not in text
        assert f"{web.address.partition('://')[2].partition(':')[0]}" in text


# --- what is wrong with it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["npy", "pt"])
@pytest.mark.usefixtures("fast")
def test_features_that_changed_or_are_gone_are_errors(server: ObjectServer, folders: dict[str, Path], form: str):
    put(server, folders[form])
    store, name = FeatureStore(URL), f"shard-00000.{form}"
    if form == "npy":
        store[0]  # its header is known
    data = files_below(folders[form])[name]
    replace(server, name, data[:300] + b"!" + data[301:])
    with pytest.raises(OutputError, match=rf"^{URL}/{name}: has changed since it was opened$"):
        store[0]
    server.client().delete_object(Bucket="speech", Key=f"features/{name}")
    with pytest.raises(OutputError, match=rf"^{URL}/{name}: cannot be read: no such object$"):
        store[0]
    assert store[5][0] == store.ids[5]
    with pytest.raises(OutputError, match=rf"^{URL}/{name}: cannot be read: no such object$"):
        FeatureStore(URL)[0]


@pytest.mark.parametrize(("what", "told"), [("refused", "access is denied: .*"), ("busy", ".*"), ("hung up", ".*")])
@pytest.mark.usefixtures("fast")
def test_features_that_cannot_be_read_are_errors(server: ObjectServer, folders: dict[str, Path], what: str, told: str):
    put(server, folders["npy"])
    store = FeatureStore(URL)
    server.fail(what, "npy", times=2)
    if what != "refused":
        assert store[0][0] == store.ids[0]  # at the third try
    server.fail(what, "npy", times=10)  # the library below tries again too where a connection ends
    with pytest.raises(OutputError, match=rf"^{URL}/shard-00000.npy: cannot be read: {told}$"):
        store[0]


@pytest.mark.parametrize("form", ["npy", "pt"])
@pytest.mark.parametrize("cut", [0, 50, 1000])
def test_features_that_are_damaged_are_errors(server: ObjectServer, folders: dict[str, Path], form: str, cut: int):
    put(server, folders[form])
    name = f"shard-00001.{form}"
    replace(server, name, files_below(folders[form])[name][:cut])
    with pytest.raises(OutputError, match=rf"^{URL}/{name}: (cannot be read|damaged): [^\n]+$"):
        FeatureStore(URL)[5]


@pytest.mark.usefixtures("fast")
def test_what_is_no_feature_directory(server: ObjectServer, folders: dict[str, Path]):
    put(server, folders["npy"])
    with pytest.raises(
        OutputError, match=r"^s3://speech/none: not a feature directory: there is no hlfeat.yaml in it$"
    ):
        FeatureStore("s3://speech/none")
    with pytest.raises(OutputError, match=r"^s3://none/features: cannot be read: no such"):
        FeatureStore("s3://none/features")
    with pytest.raises(
        UsageError, match=r"^s3:/speech/features: expected the URL as text, s3://speech/features: a path"
    ):
        FeatureStore(Path("s3://speech/features"))
    with pytest.raises(UsageError, match=r"^s3://: expected the URL of a folder$"):
        FeatureStore("s3://")
    with pytest.raises(UsageError, match=r"^ftp://host/features: expected a path or a URL of s3, .* got ftp://$"):
        FeatureStore("ftp://host/features")
    replace(server, "shard-00001.jsonl", b"{}\n")
    with pytest.raises(OutputError, match=rf"^{URL}/shard-00001.jsonl: damaged: line 1: expected id"):
        FeatureStore(URL)
    replace(server, "hlfeat.yaml", b"[]")
    with pytest.raises(OutputError, match=rf"^{URL}/hlfeat.yaml: damaged: not what a run writes$"):
        FeatureStore(URL)
    server.fail("refused", "list-type")
    with pytest.raises(OutputError, match=rf"^{URL}: cannot be read: access is denied"):
        FeatureStore(URL)


# --- inspect -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["npy", "pt"])
def test_inspect_tells_the_same(server: ObjectServer, folders: dict[str, Path], form: str, invoke: Command):
    put(server, folders[form])
    for options in ([], ["--verify", "--json"]) if form == "pt" else (["--verify"], ["--json"]):
        here, there = invoke("inspect", folders[form], *options), invoke("inspect", f"{URL}/", *options)
        assert (there.returncode, there.stderr) == (0, "")
        assert there.stdout == here.stdout.replace(str(folders[form]), URL)
    here, there = invoke("inspect", folders[form], "--bands"), invoke("inspect", URL, "--bands")
    assert there.stdout.replace(URL, str(folders[form])) == here.stdout


def test_inspect_makes_the_same_page(server: ObjectServer, folders: dict[str, Path], invoke: Command, tmp_path: Path):
    put(server, folders["npy"])
    for folder, name in ((folders["npy"], "here"), (URL, "there")):
        assert invoke("inspect", folder, "--html", tmp_path / name, "--clips", 3).returncode == 0
    here, there = ((tmp_path / name).read_text() for name in ("here", "there"))
    assert there == here.replace(str(folders["npy"]), URL)


def test_verify_reads_features_once(server: ObjectServer, folders: dict[str, Path]):
    put(server, folders["npy"])
    with open_place(URL) as there:
        before = len(gets(server))
        assert list(verify(FeatureDir(there))) == []
        assert sorted(gets(server)[before:]) == [f"GET /speech/features/shard-0000{n}.npy 206" for n in range(3)]


@pytest.mark.usefixtures("fast")
def test_verify_finds_what_is_wrong(server: ObjectServer, folders: dict[str, Path], invoke: Command):
    put(server, folders["npy"])
    files = files_below(folders["npy"])
    replace(server, "shard-00000.npy", files["shard-00000.npy"][:-4] + bytes(4))
    replace(server, "shard-00001.npy", files["shard-00001.npy"][:-4])
    replace(server, "stats-00002.json", b"{}")
    replace(server, "failures.jsonl", b"{}\n")
    done = invoke("inspect", URL, "--verify")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        line for line in done.stdout.splitlines() if re.match(rf"{URL}/(shard-0000[01].npy|stats|failures)", line)
    ]
    wrong = (r"shard-00000.npy: .* expected the sum crc32", "stats-00000.json", "shard-00001.npy: damaged: expected")
    for text in (*wrong, "stats-00002.json: damaged", "failures.jsonl: damaged: line 1"):
        assert re.search(f"^{URL}/{text}", done.stdout, re.M), text
    assert json.loads(invoke("inspect", URL, "--verify", "--json").stdout)["off"] == done.stdout.splitlines()
    done = invoke("inspect", URL)
    assert done.returncode == 1
    for text in ("shard-00001.npy: ", "stats-00002.json: damaged", "failures.jsonl: damaged"):
        assert f"{URL}/{text}" in done.stdout
    assert (
        "leave out (remove the index of its shard, or that object where it is of no shard, and run the same again):"
        in done.stdout
    )
    server.client().delete_object(Bucket="speech", Key="features/stats-00000.json")
    done = invoke("inspect", URL)
    assert f"hlfeat: {URL}/stats-00000.json is missing" in done.stderr
    assert tempfile.gettempdir() not in done.stdout + done.stderr


@pytest.mark.usefixtures("fast")
def test_no_room_for_the_small_files(
    server: ObjectServer, folders: dict[str, Path], invoke: Command, monkeypatch: pytest.MonkeyPatch
):
    put(server, folders["npy"])

    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    done = invoke("inspect", URL)
    assert done.returncode == 1
    assert done.stderr.startswith(f"hlfeat: error: {tempfile.gettempdir()}: no space left on the disk")


@pytest.mark.usefixtures("fast")
def test_inspect_of_what_is_no_feature_directory(server: ObjectServer, invoke: Command):
    server.put("speech", {"a.wav": b""})
    done = invoke("inspect", "s3://speech/none")
    assert (done.returncode, done.stderr) == (
        2,
        "hlfeat: error: s3://speech/none: not a feature directory: there is no hlfeat.yaml in it\n",
    )
    done = invoke("inspect", "s3://none/features", "--verify")
    assert (done.returncode, done.stderr) == (1, "hlfeat: error: s3://none/features: cannot be read: no such bucket\n")


@pytest.mark.parametrize("command", [["convert", URL, "-o", "new"], ["repair", URL], ["convert", "x", "-o", URL]])
def test_other_commands_say_that_they_need_a_folder(invoke: Command, command: list[str], tmp_path: Path):
    done = invoke(*command, cwd=tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(rf"hlfeat: error: (-o )?{URL}: expected a folder on this machine[^\n]*\n", done.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        "stats features -o",
        "plot features -o",
        "inspect features --html",
        "export log-mel -o",
        "extract features -o out --stats",
        "extract features -o out --weights",
    ],
)
def test_a_file_is_none_at_a_url(invoke: Command, command: str):
    """The message has the URL as it was given, and no secrets."""
    done = invoke(*command.split(), "s3://key:secret@speech/a.json")
    assert done.returncode == 2
    assert done.stderr == "hlfeat: error: s3://speech/a.json: expected a file on this machine\n"


def test_a_contact_sheet(server: ObjectServer, folders: dict[str, Path], invoke: Command, tmp_path: Path):
    put(server, folders["npy"])
    done = invoke("plot", URL, "-o", tmp_path / "sheet.png", "--id", FeatureStore(URL).ids[0])
    assert (done.returncode, (tmp_path / "sheet.png").exists()) == (0, True), done.stderr


def test_statistics(server: ObjectServer, folders: dict[str, Path], invoke: Command, tmp_path: Path):
    put(server, folders["npy"])
    for name, folder in (("here", folders["npy"]), ("there", URL)):
        done = invoke("stats", folder, "-o", tmp_path / name)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()


def test_usage_error_without_the_extra(monkeypatch: pytest.MonkeyPatch):
    import builtins

    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name == "fsspec":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr("hlfeat.remote.systems._file_systems", {})
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"s3:// needs pip install 'hlfeat\[s3\]'"):
        FeatureStore(URL)
