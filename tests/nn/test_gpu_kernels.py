"""Where Triton's kernels run they are taken; where they do not, torch operations compute, after one warning."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hlfeat.nn import gpu_kernels
from hlfeat.nn.gpu_kernels import kernels_run
from tests import helpers

GPU = torch.device("cuda:0")


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that a test describes: its compute capability, and what the probe does there."""

    class Gpu:
        capability, capturing, tried = 90, False, 0

        def probe(self, device):
            return True

    described = Gpu()

    def tried(device):
        described.tried += 1
        return described.probe(device)

    probe = pytest.importorskip("hlfeat.nn._triton_products")
    monkeypatch.setattr(gpu_kernels, "_run", {})
    monkeypatch.setattr(gpu_kernels, "capability", lambda device: described.capability)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: described.capturing)
    monkeypatch.setattr(probe, "right_values", tried)
    return described


def test_a_device_is_tried_once(gpu):
    assert kernels_run(GPU)
    assert kernels_run(GPU)
    assert gpu.tried == 1
    assert kernels_run(torch.device("cuda:1"))
    assert gpu.tried == 2


@pytest.mark.parametrize("device", ["cpu", "meta", "mps"])
def test_other_devices_have_none(gpu, device):
    assert not kernels_run(torch.device(device))
    assert not gpu.tried


def test_an_older_gpu_has_none(gpu, caplog):
    gpu.capability = 75
    assert not kernels_run(GPU)
    assert not gpu.tried
    assert not caplog.records


@pytest.mark.parametrize("fault", ["raises", "wrong values"])
def test_a_fault_is_a_warning_with_its_reason_once(gpu, caplog, fault):
    def probe(device):
        if fault == "raises":
            raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")
        return False

    gpu.probe = probe
    with caplog.at_level(logging.WARNING, "hlfeat"):
        assert not kernels_run(GPU)
        assert not kernels_run(GPU)
    reason = {
        "raises": "RuntimeError: Failed to find C compiler. Please specify via CC",
        "wrong values": "wrong values",
    }
    (record,) = caplog.records
    assert reason[fault] in record.getMessage()
    assert "cuda:0" in record.getMessage()


def test_nothing_is_tried_while_a_graph_is_recorded(gpu):
    gpu.capturing = True
    assert not kernels_run(GPU)
    gpu.capturing = False
    assert kernels_run(GPU)
    gpu.capturing = True
    assert kernels_run(GPU)


def test_watched_operations_stay_those_of_torch(gpu):
    assert kernels_run(GPU)
    with FakeTensorMode():
        assert not kernels_run(GPU)


def test_without_a_gpu_there_are_none(monkeypatch):
    monkeypatch.setattr(gpu_kernels, "_run", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not kernels_run(GPU)


def test_batches_of_other_sizes_need_no_other_machine_code():
    """A kernel is compiled for a second or so, in the middle of a run. Six: two uses, by what is whole sixteens."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.triton_variants"]
    done = subprocess.run(command, cwd=helpers.ROOT, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"squared_modulus": 1, "columns": 6, "convolve": 0, "correlate": 3}
