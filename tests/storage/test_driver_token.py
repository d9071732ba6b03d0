"""The file by which workers know the folder of their driver: one driver at a time, and nothing is left."""

from __future__ import annotations

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


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(OutputError, match="cannot be used as output: expected a folder, found a file"):
            DriverToken(out)
