"""State dicts of all public modules: names, order, shapes, dtypes and initial values, on which saved weights rely.

The values are compared within a tolerance, as a vectorised function may round differently on another CPU.
`python -m tests.contract.test_state_dict_keys` writes state_dict_keys.json for the installed hlfeat.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hlfeat

FILE = Path(__file__).with_name("state_dict_keys.json")
PINNED = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
SHIPPED = sorted(path.stem for path in (Path(__file__).parents[2] / "configs").glob("*.yaml"))

MODULES: dict[str, Callable[[], nn.Module]] = {
    "EfficientLeaf logtbn": lambda: hlfeat.EfficientLeaf(compression="logtbn"),
    "EfficientLeaf pcen": lambda: hlfeat.EfficientLeaf(n_filters=80, num_groups=8, compression="pcen"),
    "EfficientLeaf module": lambda: hlfeat.EfficientLeaf(compression=hlfeat.LogTBN(40)),
    "Leaf": lambda: hlfeat.Leaf(),
    "LogMel": lambda: hlfeat.LogMel(),
    "Spectrogram": lambda: hlfeat.Spectrogram(),
    "LogTBN": lambda: hlfeat.LogTBN(40),
    "LogTBN trainable": lambda: hlfeat.LogTBN(
        40, a=5, trainable=True, per_band=True, median_filter=True, append_filtered=True
    ),
    "LogTBN not affine": lambda: hlfeat.LogTBN(40, affine=False),
    "PCEN": lambda: hlfeat.PCEN(40),
    "PCEN without logarithms": lambda: hlfeat.PCEN(40, s=0.04, alpha=0.96, delta=2.0, r=0.5, learn_logs=False),
    "HarmonicConv2d": lambda: hlfeat.HarmonicConv2d(2, 4, (5, 3)),
    "HarmonicConv2d centre_freqs": lambda: hlfeat.HarmonicConv2d(
        2, 4, 3, bias=False, groups=2, centre_freqs=torch.tensor([100.0, 200.0, 450.0])
    ),
    "LogHarmonicConv2d": lambda: hlfeat.LogHarmonicConv2d(2, 4, (5, 3), anchor=2),
}
BUILT: dict[str, Callable[[], nn.Module]] = {
    **{f"build {name}": lambda name=name: hlfeat.build(name) for name in SHIPPED},  # type: ignore[misc]
    "build every_layer.yaml": lambda: hlfeat.build(Path(__file__).with_name("every_layer.yaml")),
}


def made(name: str) -> nn.Module:
    """A module with reproducible weights: build() takes the configuration's seed, whatever torch's own seed is."""
    torch.manual_seed(0 if name in MODULES else 99)
    return (MODULES | BUILT)[name]()


def state(module: nn.Module) -> dict[str, list[Any]]:
    """Name -> [parameter or buffer, dtype, shape, [first, last and mean value]], in order."""
    parameters = dict(module.named_parameters())
    return {
        key: [
            "parameter" if key in parameters else "buffer",
            str(value.dtype).removeprefix("torch."),
            list(value.shape),
            [float(f"{x:.9g}") for x in (value.flatten()[0], value.flatten()[-1], value.double().mean())],
        ]
        for key, value in module.state_dict().items()
    }


def test_pinned_modules_are_all():
    assert list(PINNED) == [*MODULES, *BUILT]


@pytest.mark.parametrize("name", [*MODULES, *BUILT])
def test_state_dict_stays(name):
    actual, pinned = state(made(name)), PINNED[name]
    assert list(actual) == list(pinned)
    for key in pinned:
        assert actual[key][:3] == pinned[key][:3], key
        np.testing.assert_allclose(actual[key][3], pinned[key][3], rtol=1e-5, atol=1e-7, err_msg=key)


if __name__ == "__main__":
    lines = []
    for name in [*MODULES, *BUILT]:
        tensors = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in state(made(name)).items())
        lines.append(f" {json.dumps(name)}: {{\n{tensors}\n }}" if tensors else f" {json.dumps(name)}: {{}}")
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
