"""The file by which workers know the folder of their driver: one driver at a time, and nothing is left."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest

from hlfeat.errors import OutputError
from hlfeat.extraction.options import Options
from hlfeat.partition import WHOLE
from hlfeat.storage.driver_token import DriverToken, remove_abandoned_token, sees_token
from hlfeat.storage.layout import Layout
from hlfeat.storage.lock import AnotherRunError
from tests.extraction.runs import run


def test_one_driver_at_a_time(tmp_path, clips):
    with DriverToken(tmp_path / "out") as token:
        assert sees_token(tmp_path / "out", token.token, patience=0)
        assert not sees_token(tmp_path / "out", "another", patience=0)
        assert not sees_token(tmp_path, token.token, patience=0)
        with pytest.raises(AnotherRunError, match="another run has workers here already"):
            DriverToken(tmp_path / "out")
        remove_abandoned_token(tmp_path / "out")
        run(clips, tmp_path / "out")  # neither is in the way of the other
        assert sees_token(tmp_path / "out", token.token, patience=0)
    assert not Layout(tmp_path / "out").driver.exists()


def test_what_a_killed_driver_leaves_is_removed(tmp_path, clips):
    driver = Layout(tmp_path / "out").driver
    driver.parent.mkdir()
    driver.write_text("dead")
    with DriverToken(tmp_path / "out") as token:
        assert sees_token(tmp_path / "out", token.token, patience=0)
    assert not driver.exists()
    driver.write_text("dead")
    for part in WHOLE.split(2):
        run(clips, tmp_path / "out", options=Options(quiet=True, part=part))
        assert driver.exists() == (part.index == 1)


def test_a_link_is_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("data")
    driver = Layout(tmp_path / "out").driver
    driver.parent.mkdir()
    driver.symlink_to(precious)
    with pytest.raises(OutputError, match=r"hlfeat\.driver: expected a regular file, found a link: remove it"):
        DriverToken(tmp_path / "out")
    remove_abandoned_token(tmp_path / "out")
    assert precious.read_text() == "data"
    assert driver.is_symlink()


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OutputError, match=r"hlfeat\.driver: cannot be written: No space left on device"):
            DriverToken(tmp_path)
    assert not list(tmp_path.iterdir())
    with DriverToken(tmp_path):
        pass


def test_the_file_of_a_driver_that_has_just_begun_stays(tmp_path, monkeypatch):
    """Between the opening of a file and its lock, one driver ends and the next one begins."""
    driver = Layout(tmp_path).driver
    driver.write_text("dead")
    begun = []

    def late(file: int, how: int) -> None:
        if not begun:
            begun.append(None)
            driver.unlink()
            begun[0] = DriverToken(tmp_path)
        flock(file, how)

    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", late)
    remove_abandoned_token(tmp_path)
    with begun[0] as token:
        assert sees_token(tmp_path, token.token, patience=0)


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(OutputError, match="cannot be used as output: expected a folder, found a file"):
            DriverToken(out)
