"""What is asked of Ray, and of machines without it; `pytest -m cluster` has the rest."""

from __future__ import annotations

import sys

import pytest

from hlfeat.errors import UsageError
from hlfeat.extraction.ray_workers import _tasks_on, gpus_of
from tests import helpers


@pytest.mark.parametrize(
    ("devices", "cluster_has", "expected"),
    [
        (["auto"], True, 1), (["auto"], False, 0), (["cpu"], True, 0), (["cpu", "cpu"], True, 0), (["cuda"], False, 1),
        (["cuda:0"], True, 1), (["cuda:0", "cuda:1"], True, 2), (["cuda:0", "cuda:0"], True, 1),
    ],
)  # fmt: skip
def test_how_many_gpus_a_part_takes(devices, cluster_has, expected):
    assert gpus_of(devices, cluster_has) == expected


@pytest.mark.parametrize("devices", [["cuda:1"], ["cuda:0", "cuda:2"]])
def test_gpus_that_no_part_has(devices):
    with pytest.raises(UsageError, match=r"^device cuda:[12]: expected cuda"):
        gpus_of(devices, True)


def test_how_many_parts_a_node_does_at_once():
    assert _tasks_on({"CPU": 64.0, "GPU": 4.0}, 8, 1) == 4
    assert _tasks_on({"CPU": 64.0, "GPU": 4.0}, 8, 0) == 8
    assert _tasks_on({"CPU": 7.0}, 8, 0) == 0
    assert _tasks_on({}, 1, 1) == 0


def test_without_ray(clips, tmp_path, invoke, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    done = invoke("extract", clips, "-o", tmp_path / "out", "--on", "ray")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--on ray: needs Ray: pip install 'hlfeat[ray]'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_address_that_is_not_a_nodes(clips, tmp_path, invoke, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    done = invoke("extract", clips, "-o", tmp_path / "out", "--on", "ray")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "RAY_ADDRESS: expected HOST:PORT of a cluster that this machine is a node of" in done.stderr


def test_ray_is_named_in_one_module():
    modules = [p for p in (helpers.ROOT / "hlfeat").rglob("*.py") if "import ray" in p.read_text()]
    assert [p.name for p in modules] == ["ray_workers.py"]
