"""WebDataset archives, read by its own library and by tar."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import time
from urllib.parse import unquote

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from hlfeat import FeatureStore
from hlfeat.conversion.web_dataset import web_key
from tests.conversion.folders import add_meta, index_of
from tests.extraction.runs import files_below


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", ["features", "pooled"])
def test_webdataset_reads_the_same(name, dtype, request, tmp_path, invoke):
    folder = request.getfixturevalue(name)
    add_meta(folder, lambda i, id_: {"label": f"ü, {i}"} if i else {})
    result = invoke("convert", folder, "-o", tmp_path / "new", "--format", "webdataset", "--dtype", dtype)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [str(tmp_path / f"new/shard-0000{i}.tar") for i in range(3)]
    samples = list(webdataset.WebDataset(str(tmp_path / "new/shard-{00000..00002}.tar"), shardshuffle=False).decode())
    index, store = index_of(folder), FeatureStore(folder)
    assert [unquote(sample["__key__"]) for sample in samples] == [id_ for id_, _ in store]
    for sample, (id_, y), line in zip(samples, store, index, strict=True):
        assert sample["npy"].dtype == dtype
        assert (sample["npy"] == y.astype(dtype)).all()
        assert sample["json"] == {key: value for key, value in line.items() if key not in ("shard", "row", "crc32")}
        assert sample["json"]["id"] == id_


def test_archives_are_the_same_at_any_time(features, tmp_path, invoke):
    for name in ("first", "second"):
        assert invoke("convert", features, "-o", tmp_path / name, "--format", "webdataset").returncode == 0
        time.sleep(1.1)
    assert files_below(tmp_path / "first") == files_below(tmp_path / "second")
    listing = subprocess.run(
        ["tar", "-tvf", tmp_path / "first/shard-00000.tar", "--utc", "--numeric-owner"], capture_output=True, text=True
    )
    assert listing.returncode == 0
    assert listing.stderr == ""
    lines = listing.stdout.splitlines()
    assert len(lines) == 8
    assert all(line.startswith("-rw-r--r-- 0/0 ") and " 1970-01-01 00:00 " in line for line in lines)


def test_a_file_of_an_archive_is_npy(features, tmp_path, invoke):
    assert invoke("convert", features, "-o", tmp_path / "new", "--format", "webdataset").returncode == 0
    with tarfile.open(tmp_path / "new/shard-00000.tar") as archive:
        members = archive.getmembers()
        y = np.load(io.BytesIO(archive.extractfile(members[0]).read()))
        line = json.loads(archive.extractfile(members[1]).read())
    assert (y == FeatureStore(features)[line["id"]]).all()


@given(st.text(min_size=1))
def test_keys_are_legal_and_can_be_undone(text):
    key = web_key(text)
    assert webdataset.tariterators.base_plus_ext(f"{key}.npy") == (key, "npy")
    assert not key.startswith(("/", "__"))
    assert ".." not in key
    assert unquote(key, errors="surrogatepass") == text
