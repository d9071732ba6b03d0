"""A layer that is added: a configuration class in the union, and a module in hlfeat/nn/layers that nothing lists."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import hlfeat

PACKAGE = Path(hlfeat.__file__).parent

CONFIG = '''class GainConfig(StrictModel):
    """Multiply all values by a trainable factor."""

    layer: Literal["gain"] = Field(default="gain", description=LAYERS)
    start: Positive = Field(default=1.0, description="the factor before training")


LayerConfig = Annotated[
    GainConfig |
'''
MODULE = """
import torch
from torch import Tensor, nn

from hlfeat.config.layers import GainConfig
from hlfeat.nn.layers.base import Layer, LayerInput
from hlfeat.nn.layers.registry import build_layer


class Gain(Layer):
    def __init__(self, start: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(start))

    def forward(self, x: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return x * self.factor, frames

    def describe(self, bands: int) -> str:
        return "gain"


@build_layer.register
def build_gain(config: GainConfig, before: LayerInput) -> Layer:
    return Gain(config.start)
"""
USE = """
import json, torch, hlfeat
from hlfeat.config.json_schema import schema
from hlfeat.config.loading import config_from_dict
from hlfeat.nn.summary import warnings_of
from hlfeat.nn.summary import summarise

plain, config = {"frontend": {"kind": "log-mel"}}, {"frontend": {"kind": "log-mel"}, "stack": [{"layer": "gain"}]}
config["stack"][0]["start"] = 2.0
extractor, x = hlfeat.build(config), torch.randn(1, 8000)
assert torch.allclose(extractor(x)[:, 0], 2 * hlfeat.build(plain)(x).squeeze(1))
row = summarise(config_from_dict(config), extractor)[1]
assert (row.key, row.what, row.parameters, row.cost) == ("stack.0", "gain", 1, 8000.0)
assert warnings_of(extractor) == []
assert schema()["$defs"]["GainConfig"]["required"] == ["layer"]
for layer, words in (({"layer": "gian"}, "did you mean gain?"), ({"layer": "gain", "strat": 1}, "did you mean start?")):
    try:
        hlfeat.build({"stack": [layer]})
    except hlfeat.HlfeatError as e:
        assert words in str(e), e
    else:
        raise AssertionError
print("done")
"""


def test_a_new_layer_touches_two_files(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "hlfeat", ignore=shutil.ignore_patterns("__pycache__"))
    union = tmp_path / "hlfeat/config/layers.py"
    text, line = union.read_text(), "LayerConfig = Annotated[\n"
    assert text.count(line) == 1
    union.write_text(text.replace(line, CONFIG))
    (tmp_path / "hlfeat/nn/layers/gain.py").write_text(f"from __future__ import annotations\n{MODULE}")
    out = subprocess.run(
        [sys.executable, "-c", USE], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True
    )
    assert (out.stdout, out.stderr) == (b"done\n", b"")
