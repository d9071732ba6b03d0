"""A run multiplies in float32, or in TF32 if asked to, whatever its caller has set; then all is as it was.

The engine for devices runs on a CPU here, where the settings are as they would be on a GPU.
"""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hlfeat
from hlfeat.errors import UsageError
from hlfeat.extraction.batch_engine import BatchEngine
from hlfeat.extraction.cpu_engine import CpuEngine
from hlfeat.extraction.options import Options
from hlfeat.extraction.report import Report, merge_reports
from hlfeat.extraction.statistics_run import statistics_of_clips
from hlfeat.inputs.collect import collect_inputs
from tests.extraction.runs import run

CUDA = {"convolutions": torch.backends.cudnn.conv, "products": torch.backends.cuda.matmul}
CPU = {"convolutions": torch.backends.mkldnn.conv, "products": torch.backends.mkldnn.matmul}
STACK = "stack=[{layer: conv, out_channels: 2, kernel: [3, 3]}]"
OF_OPERATION = {"conv1d": "convolutions", "conv2d": "convolutions", "matmul": "products"}  # as inference mode has them


def settings(places=CUDA):
    return {name: place.fp32_precision for name, place in places.items()}


@pytest.fixture(params=["torch's own", "all in TF32"])
def before(request):
    """What the caller has set: nothing, or TF32 and bfloat16 wherever there is any."""
    default, of_cpu = settings(), settings(CPU)
    if request.param == "all in TF32":
        torch.set_float32_matmul_precision("medium")
    yield {**settings(), "CPU": settings(CPU)}
    torch.set_float32_matmul_precision("highest")
    for values, places in ((default, CUDA), (of_cpu, CPU)):
        for name, place in places.items():
            place.fp32_precision = values[name]


def now():
    return {**settings(), "CPU": settings(CPU)}


class Watch(TorchDispatchMode):
    """Notes the settings at each convolution and matrix product."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kind = OF_OPERATION.get(func.overloadpacket.__name__)
        if kind:
            self.seen.add((kind, settings()[kind]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("tf32", [False, True])
def test_every_product_of_a_run_is_in_the_precision_of_the_options(clips, tmp_path, monkeypatch, before, tf32):
    monkeypatch.setattr("hlfeat.extraction.one_device.make_engine", BatchEngine)
    options, wanted = Options(quiet=True, tf32=tf32, workers=1), "tf32" if tf32 else "ieee"
    with Watch() as watch:
        report = run(clips, tmp_path / "out", STACK, config="log-mel", options=options)
    assert watch.seen == {("convolutions", wanted), ("products", wanted)}
    assert now() == before
    assert (report.clips, report.tf32) == (12, tf32)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["tf32"] is tf32
    with Watch() as watch:
        statistics_of_clips(
            hlfeat.load_config("log-mel", [STACK]), collect_inputs([str(clips)]), tmp_path / "stats.json", options
        )
    assert watch.seen == {("convolutions", wanted), ("products", wanted)}
    assert now() == before


def test_settings_come_back_after_an_error(clips, tmp_path, monkeypatch, before):
    class Failing(BatchEngine):
        def compute(self, *_):
            assert settings()["convolutions"] == "ieee"
            raise KeyError
            yield

    monkeypatch.setattr("hlfeat.extraction.one_device.make_engine", Failing)
    with pytest.raises(KeyError):
        run(clips, tmp_path / "out", config="log-mel")
    assert now() == before


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_of_a_cpu_multiply_in_float32(clips, tmp_path, monkeypatch, before, workers):
    """torch.set_float32_matmul_precision is meant for GPUs, and rounds the products of some CPUs too."""
    in_worker, seen = CpuEngine.in_worker, tmp_path / "seen"

    def watched(self, *arguments):
        with open(seen, "a") as f:  # of several processes
            print(*settings(CPU).values(), file=f)
        return in_worker(self, *arguments)

    monkeypatch.setattr(CpuEngine, "in_worker", watched)
    run(clips, tmp_path / "out", config="log-mel", options=Options(quiet=True, workers=workers))
    assert set(seen.read_text().splitlines()) == {"ieee ieee"}
    assert now() == before


def test_a_run_in_parts_says_whether_one_of_them_used_tf32():
    reports = [Report(tf32=False), Report(tf32=True)]
    assert Report.of_parts(reports).tf32
    assert not Report.of_parts(reports[:1] * 2).tf32
    assert merge_reports([r.as_dict() for r in reports])["tf32"] is True
    old = {key: value for key, value in reports[0].as_dict().items() if key != "tf32"}  # of a version that had no TF32
    assert merge_reports([old, reports[0].as_dict()])["tf32"] is False


def test_it_is_a_choice_between_two():
    with pytest.raises(UsageError, match="tf32: expected True or False, got 'yes'"):
        Options(tf32="yes")


@pytest.mark.parametrize("given", [[], ["--tf32"]], ids=["", "--tf32"])
def test_the_commands_hand_the_option_on(invoke, clips, tmp_path, monkeypatch, given):
    asked = []

    def watched(options):
        asked.append(options.tf32)
        return check(options)

    check = Options.__post_init__
    monkeypatch.setattr(Options, "__post_init__", watched)
    for call in (["extract", clips, "-o", tmp_path / "out"], ["stats", clips, "-o", tmp_path / "stats.json"]):
        result = invoke(*call, "-c", "log-mel", *given)
        assert result.returncode == 0, result.stderr
        assert set(asked) == {bool(given)}
        asked.clear()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["tf32"] is bool(given)
