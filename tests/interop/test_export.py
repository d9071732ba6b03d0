"""hlfeat export: what is written gives the same features, for any number of clips and samples."""

from __future__ import annotations

import io
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import hlfeat
from hlfeat.cli.app import app
from hlfeat.config.loading import config_from_dict, load_config
from hlfeat.errors import HlfeatError, UsageError
from hlfeat.interop import export as interop_export
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.frontends import compression
from hlfeat.nn.frontends.compression import median_over_time
from hlfeat.nn.frontends.pcen import PCEN, decaying_sum, doubling_sum

needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="needs hlfeat[onnx]"
)
EVERY = [
    {"layer": "harmonic", "out_channels": 4, "kernel": [3, 3], "anchors": [1, 2]},
    {"layer": "norm", "kind": "batch"},
    {"layer": "activation", "kind": "gelu"},
    {"layer": "residual", "layers": [{"layer": "conv", "out_channels": 2}, {"layer": "norm", "kind": "layer"}]},
    {"layer": "projection", "features": 3},
]
SMALL = {"n_filters": 6, "num_groups": 2}
MODELS = {
    "logtbn": {"frontend": SMALL, "stack": EVERY},
    "pcen": {"frontend": {**SMALL, "compression": "pcen"}},
    "log-mel": {"frontend": {"kind": "log-mel", "n_filters": 6}, "stack": [{"layer": "norm", "kind": "instance"}]},
    "spectrogram": {"frontend": {"kind": "spectrogram"}, "stack": [EVERY[0]]},
}


def trained(name: str) -> Extractor:
    """A model whose parameters and running statistics are not those it starts with."""
    torch.manual_seed(0)
    model = hlfeat.build(config_from_dict(MODELS[name]))
    for _ in range(3):
        model(torch.randn(2, 4000))
    return model.eval()


def same(run: interop_export.Run, model: Extractor) -> None:
    for shape in ((1, 1600), (4, 16001), (2, 100 * 1024)):
        x = torch.randn(*shape) * 0.1
        with torch.no_grad():
            torch.testing.assert_close(run(x), model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_pt2_is_the_model_for_any_number_of_clips_and_samples(name):
    model = trained(name)
    exported = interop_export.export(model, ".pt2", about="words")
    assert not exported.fixed
    assert exported.difference < 1e-5
    words = {"hlfeat.yaml": ""}
    run = torch.export.load(io.BytesIO(exported.data), extra_files=words).module()
    assert words["hlfeat.yaml"] in ("words", b"words")
    same(run, model)


@needs_onnx
@pytest.mark.parametrize("name", MODELS)
def test_onnx_is_the_model_for_any_number_of_clips_and_samples(name):
    model = trained(name)
    exported = interop_export.export(model, ".onnx", about="words")
    assert exported.difference < 1e-5
    same(interop_export.run_onnx(exported.data), model)


def test_a_fixed_length():
    stack = [{"layer": "pool", "frames": 3, "kind": "max"}]
    model = hlfeat.build({"frontend": {"kind": "log-mel", "n_filters": 6}, "stack": stack})
    exported = interop_export.export(model, ".pt2", seconds=0.5)
    assert (exported.fixed, exported.samples) == (True, 8000)
    assert interop_export.run_pt2(exported.data)(torch.zeros(5, 8000)).shape == (5, 1, 6, 17)
    with pytest.raises(UsageError, match=r"expected clips of at least 0\.15 s, got 0\.1 s"):
        interop_export.export(model, ".pt2", seconds=0.1)


def test_what_comes_out_different_is_not_written(monkeypatch):
    model = trained("log-mel")
    monkeypatch.setattr(interop_export, "run_pt2", lambda data: lambda x: model(x) * 1.001)
    with pytest.raises(HlfeatError, match="differ by 1"):
        interop_export.export(model, ".pt2")
    monkeypatch.setattr(interop_export, "run_pt2", lambda data: lambda x: model(x)[..., 1:])
    with pytest.raises(HlfeatError, match="expected features"):
        interop_export.export(model, ".pt2")


class Stubborn(torch.nn.Module):
    def forward(self, x):
        return x if x.sum().item() > 0 else -x


def test_what_cannot_be_exported_says_so(monkeypatch):
    hooks = OrderedDict()  # torch leaves one behind, which would break later compilers' graphs
    monkeypatch.setattr(torch.nn.modules.module, "_global_buffer_registration_hooks", hooks)
    model = trained("pcen")
    model.frontend.compression = Stubborn()
    with pytest.raises(HlfeatError, match="cannot export this for clips of any length: ") as caught:
        interop_export.export(model, ".pt2")
    assert caught.value.remedy == "seconds"
    with pytest.raises(HlfeatError, match="cannot export this: "):
        interop_export.export(model, ".pt2", seconds=1)


def test_the_command(invoke, tmp_path):
    config = ["log-mel", "--set", "frontend.n_filters=6", "--set", "stack=[{layer: conv, out_channels: 4}]"]
    done = invoke("export", *config, "--set", "output.pool=mean", "-o", tmp_path / "m.pt2")
    assert done.returncode == 0, done.stderr
    assert "output.pool (mean) is not part of the model" in done.stderr
    assert done.stdout == ""
    assert "untrained" in done.stderr
    assert "clips from 0.05 s -> features [clips, 4, 6, frames]" in done.stderr
    words = {"hlfeat.yaml": ""}
    run = torch.export.load(str(tmp_path / "m.pt2"), extra_files=words).module()
    (tmp_path / "c.yaml").write_text(words["hlfeat.yaml"])
    assert load_config(tmp_path / "c.yaml").frontend.n_filters == 6
    assert run(torch.zeros(3, 4000)).shape == (3, 4, 6, 25)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["c.yaml", "m.pt2"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "m.pt"], "expected a file named *.pt2 or *.onnx, got .pt"),
        (["-o", "there.pt2"], "already exists; --overwrite replaces it"),
        (["-o", "no/m.pt2"], "there is no folder no"),
        (["-o", "m.pt2", "--seconds", "-1"], "--seconds: expected a length"),
    ],
)
def test_what_the_command_refuses(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("there.pt2").touch()
    with pytest.raises(UsageError) as caught:
        app(["export", "log-mel", *arguments], standalone_mode=False)
    assert words in str(caught.value)


def test_onnx_says_what_to_install(monkeypatch):
    monkeypatch.setattr(interop_export, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"ONNX needs onnx, onnxscript, onnxruntime: pip install 'hlfeat\[onnx\]'"):
        interop_export.check_suffix(".onnx")


def test_the_recursion_for_tracers_is_the_recursion(rng):
    x, a = torch.from_numpy(10 ** rng.uniform(-8, 3, (2, 3, 1500))), torch.tensor([0.0, 0.96, 0.9999]).double()
    torch.testing.assert_close(doubling_sum(x, a), decaying_sum(x, a), rtol=1e-9, atol=0)
    y = np.zeros((2, 3))
    for t in range(1500):
        y = y * a.numpy() + x[..., t].numpy()
    np.testing.assert_allclose(doubling_sum(x, a)[..., -1], y, rtol=1e-9)


def test_the_median_for_tracers_is_the_median(monkeypatch):
    monkeypatch.setattr(compression, "exporting", lambda: True)
    for n in (1, 2, 5, 8):
        x = torch.randn(2, 3, n)
        assert torch.equal(median_over_time(x, None), x.median(-1, keepdim=True).values)
    assert PCEN(3)(torch.rand(1, 3, 7)).shape == (1, 3, 7)
