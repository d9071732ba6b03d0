"""Weights of a pitch salience: the formula, what it needs, and what a layer of a configuration makes of it."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import soundfile
import torch
import yaml

import hlfeat
from hlfeat.config.loading import config_from_dict
from hlfeat.nn.harmonic.salience import salience_weights


def by_formula(kernel: int, anchor: int, p: float, v: float) -> list[float]:
    """Row by row, at multiples of f counted in halves."""

    def harmonic(h: float) -> float:
        return h**-p if h >= 1 and h * anchor <= kernel else 0.0

    weights = []
    for k in range(1, kernel + 1):
        halves = 2 * k / anchor  # of f
        if halves != int(halves):
            weights.append(0.0)
        elif halves % 2 == 0:
            weights.append(harmonic(halves / 2))
        else:
            weights.append(-v * (harmonic((halves - 1) / 2) + harmonic((halves + 1) / 2)) / 2)
    return weights


@pytest.mark.parametrize(("kernel", "anchor"), [(21, 2), (20, 2), (4, 2), (5, 2), (8, 4), (21, 4), (12, 6), (17, 6)])
@pytest.mark.parametrize(("p", "v"), [(0.6, 1.0), (1.0, 0.5), (0.0, 0.0)])
def test_weights_are_those_of_the_formula(kernel, anchor, p, v):
    weights = salience_weights(kernel, anchor, decay=p, valley=v)
    assert weights.dtype == torch.float64
    np.testing.assert_allclose(weights, by_formula(kernel, anchor, p, v), atol=1e-12)


def test_weights_that_end_half_way_add_up_to_zero():
    assert abs(salience_weights(21).sum().item()) < 1e-12
    assert salience_weights(20).sum() > 0.1


@pytest.mark.parametrize(
    ("kernel", "anchor", "message"),
    [(21, 1, "even anchor"), (21, 3, "even anchor"), (3, 2, "at least 4"), (7, 4, "at least 8")],
)
def test_impossible_shapes_are_refused(kernel, anchor, message):
    with pytest.raises(ValueError, match=message):
        salience_weights(kernel, anchor)
    with pytest.raises(ValueError, match=message):
        hlfeat.init_salience_(hlfeat.HarmonicConv2d(1, 1, (kernel, 1), anchor=anchor))


@pytest.mark.parametrize("constants", [{"decay": -0.1}, {"valley": -1.0}, {"decay": np.nan}, {"valley": np.nan}])
def test_negative_constants_are_refused(constants):
    with pytest.raises(ValueError, match="from 0"):
        salience_weights(21, **constants)


def test_channels_and_frames_are_averaged():
    conv = hlfeat.init_salience_(hlfeat.LogHarmonicConv2d(6, 1, (9, 5), anchor=2, bins_per_octave=12))
    expected = salience_weights(9) / (6 * 5)
    assert (conv.weight.double() - expected[:, None]).abs().max() < 1e-7
    assert not conv.bias.any()
    assert conv.weight.requires_grad


def test_several_output_channels_differ_by_a_little_noise():
    conv = hlfeat.init_salience_(hlfeat.LogHarmonicConv2d(6, 300, (9, 5), anchor=2, groups=3, bins_per_octave=12))
    expected = salience_weights(9) / (2 * 5)
    noise = conv.weight.detach().double() - expected[:, None]
    rms = expected.square().mean().sqrt()
    assert (noise.std() / rms).item() == pytest.approx(0.1, rel=0.05)
    assert noise.mean().abs() < 0.01 * rms
    assert torch.equal(*(hlfeat.build("eleaf-harmonic").stack.layers[0].conv.weight for _ in range(2)))


def build(
    layer: str, frontend: str = "n_filters: 97, num_groups: 8, scale: log, first_freq: 27.5, bins_per_octave: 12"
):
    return hlfeat.build({"frontend": yaml.safe_load(f"{{{frontend}}}"), "stack": [yaml.safe_load(f"{{{layer}}}")]})


def test_a_layer_starts_from_the_formula_with_its_own_constants():
    layer = "layer: harmonic, out_channels: 1, kernel: [7, 3], init: salience, decay: 1, valley: 0.5"
    (harmonic,) = build(layer).stack.layers
    assert harmonic.conv.anchor == 2  # the default with salience
    expected = torch.tensor(by_formula(7, 2, 1.0, 0.5)) / (2 * 3)  # logtbn has two channels
    assert (harmonic.conv.weight[0] - expected[:, None]).abs().max() < 1e-7


def test_the_shipped_layer_has_21_weights_and_is_not_random():
    for name in ("pitch-salience", "pitch-salience-fine"):
        extractor = hlfeat.build(name)
        assert [list(p.shape) for p in extractor.stack.parameters()] == [[1, 1, 21, 1]]
        assert not extractor.stack.is_random()
        assert extractor.stack.receptive_field == 0
        assert extractor.frontend.compression_summary() == ("relative-log", "")
    assert hlfeat.build("eleaf-harmonic").stack.is_random()
    assert build("layer: harmonic, out_channels: 1, kernel: [7, 3]").stack.is_random()


@pytest.mark.parametrize(
    ("others", "random"),
    [
        ([], False),
        ([{"layer": "norm"}, {"layer": "norm", "kind": "layer"}, {"layer": "norm", "kind": "instance"}], False),
        ([{"layer": "activation"}, {"layer": "pool", "bands": 2}], False),
        ([{"layer": "conv", "out_channels": 1}], True),
        ([{"layer": "projection", "features": 3}], True),
        ([{"layer": "residual", "layers": [{"layer": "norm"}]}], False),
        ([{"layer": "residual", "layers": [{"layer": "conv", "out_channels": 1}]}], True),
    ],
)
def test_other_layers_make_a_stack_random_if_their_parameters_are_drawn(others, random):
    layer = {"layer": "harmonic", "out_channels": 1, "kernel": [7, 1], "init": "salience"}
    assert hlfeat.build({"stack": [layer, *others]}).stack.is_random() is random


def test_several_output_channels_and_mixed_anchors_are_drawn():
    assert build("layer: harmonic, out_channels: 2, kernel: [7, 1], init: salience").stack.is_random()
    assert build("layer: harmonic, out_channels: 1, kernel: [9, 1], anchors: [2, 4], init: salience").stack.is_random()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("kernel: [21, 1], anchor: 1, init: salience", "anchor: expected an even number with init: salience"),
        ("kernel: [21, 1], anchors: [2, 3], init: salience", "anchors: expected an even number with init: salience"),
        ("kernel: [3, 1], anchor: 2, init: salience", "kernel: expected at least 4 harmonics with init: salience"),
        (
            "kernel: [7, 1], anchors: [2, 4], init: salience",
            "kernel: expected at least 8 harmonics with init: salience",
        ),
        ("kernel: [7, 1], decay: 0.6", "decay: expected only with init: salience"),
        ("kernel: [7, 1], valley: 1", "valley: expected only with init: salience"),
        ("kernel: [7, 1], anchor: 2, init: saliense", "init: expected random or salience"),
        ("kernel: [7, 1], anchor: 2, init: salience, decay: -1", "decay: expected"),
    ],
)
def test_what_cannot_be_is_one_line_with_file_line_and_key(tmp_path, invoke, layer, message):
    path = tmp_path / "c.yaml"
    path.write_text(f"stack:\n  - {{layer: harmonic, out_channels: 1, {layer}}}\n")
    done = invoke("config", "check", path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"{path}:2: stack.0." in line
    assert message in line, line


def test_fingerprints_have_what_is_computed():
    """Of a random layer none of the new keys, as in earlier versions; of a salience its constants, not null."""
    layer = hlfeat.load_config("eleaf-harmonic").stack[0]
    assert {"init", "decay", "valley"}.isdisjoint(layer.model_dump())
    implied = salience_config()
    data = implied.stack[0].model_dump()
    assert (data["init"], data["anchor"], data["decay"], data["valley"]) == ("salience", 2, 0.6, 1.0)
    said = salience_config(anchor=2, decay=0.6, valley=1.0)
    assert said.fingerprint(None, None) == implied.fingerprint(None, None)
    assert salience_config(decay=0.7).fingerprint(None, None) != implied.fingerprint(None, None)
    mixed = salience_config(anchors=[2, 4]).stack[0].model_dump()
    assert (mixed["anchor"], list(mixed["anchors"])) == (None, [2, 4])


def salience_config(**more):
    layer = {"layer": "harmonic", "out_channels": 1, "kernel": [21, 1], "init": "salience", **more}
    return config_from_dict({"stack": [layer]})


def test_a_run_says_nothing_about_weights(tmp_path, caplog):
    soundfile.write(tmp_path / "a.wav", np.zeros(4000, np.float32), 16000)
    for name in ("pitch-salience", "eleaf-harmonic"):
        assert not caplog.records
        with caplog.at_level(logging.WARNING, "hlfeat"):
            options = hlfeat.Options(workers=1, quiet=True)
            hlfeat.extract(hlfeat.load_config(name), [tmp_path / "a.wav"], tmp_path / name, options)
    assert "drawn at random" in caplog.text


def test_it_is_trained_on_from_there():
    extractor = hlfeat.build("pitch-salience")
    before = extractor.stack.layers[0].conv.weight.detach().clone()
    optimiser = torch.optim.SGD(extractor.stack.parameters(), 0.1)
    extractor(torch.randn(1, 4000)).square().mean().backward()
    optimiser.step()
    assert (extractor.stack.layers[0].conv.weight - before).abs().max() > 0
