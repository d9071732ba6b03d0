"""Summaries and warnings against what modules do: shapes, receptive fields, multiplications, harmonics."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import hlfeat
from hlfeat.config.config import Config
from hlfeat.config.loading import config_from_dict, config_names, load_config
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.summary import short, summarise, table, warnings_of

LOCAL = [
    {"layer": "conv", "out_channels": 3, "kernel": [3, 5], "dilation": [1, 2]},
    {"layer": "pool", "bands": 2, "frames": 3},
    {"layer": "residual", "layers": [{"layer": "conv", "out_channels": 6, "kernel": 3, "stride": [2, 2]}]},
    {"layer": "harmonic", "out_channels": 2, "kernel": [2, 3], "anchors": [1, 2]},
    {"layer": "norm", "kind": "layer"},
]


def built(**parts: object) -> tuple[Config, Extractor]:
    config = config_from_dict(parts)
    return config, hlfeat.build(config).eval()


@pytest.mark.parametrize("name", config_names())
def test_the_last_row_is_what_comes_out_and_the_rows_add_up(name):
    config, extractor = load_config(name), hlfeat.build(name)
    rows = summarise(config, extractor)
    last = rows[-1].after
    assert (last.channels, last.bands) == (extractor.n_channels, extractor.n_bands)
    assert last.rate == extractor.sample_rate / extractor.hop
    assert sum(r.parameters for r in rows) == sum(p.numel() for p in extractor.parameters())
    assert warnings_of(extractor) == []


@pytest.mark.parametrize("kind", ["spectrogram", "log-mel", "leaf", "eleaf"])
def test_the_receptive_field_is_what_a_feature_depends_on(kind):
    logs = {"compression": {"kind": "logtbn", "median_filter": False}} if kind in ("leaf", "eleaf") else {}
    more = {} if kind == "spectrogram" else {"n_filters": 12}
    stack = [{**part, "bands": 1} if part["layer"] == "pool" else part for part in LOCAL]
    config, extractor = built(frontend={"kind": kind, **logs, **more}, stack=stack)
    torch.manual_seed(0)
    x = torch.rand(1, 16000, requires_grad=True)
    y = extractor(x)
    y[..., y.shape[-1] // 2].square().sum().backward()
    assert x.grad is not None
    used = x.grad[0].nonzero()
    samples = int(used.max() - used.min()) + 1
    claimed = summarise(config, extractor)[-1].after
    assert claimed.beyond == ""
    # the ends of a window of torchaudio, or of a Gaussian in float32, are zero or as good as zero
    assert 0 <= claimed.receptive_field * 16000 - samples <= (2 if kind in ("spectrogram", "log-mel") else 200)


def test_what_sees_more_than_a_window_is_said():
    assert summarise(*built(frontend={"compression": "logtbn"}))[0].after.depends_on() == "whole clip"
    assert summarise(*built(frontend={"compression": "pcen"}))[0].after.depends_on() == "0.050 s and all before"
    rows = summarise(*built(frontend={"kind": "log-mel"}, stack=[{"layer": "norm", "kind": "instance"}]))
    assert [r.after.depends_on() for r in rows] == ["0.025 s", "whole clip"]


def test_the_multiplications_are_those_that_torch_counts():
    stack = [part for part in LOCAL if part["layer"] != "harmonic"] + [{"layer": "projection", "features": 5}]
    config, extractor = built(frontend={"kind": "log-mel"}, stack=stack)
    y = torch.randn(1, 1, 80, 1200)  # 12 s
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        extractor.stack(y)
    rows = summarise(config, extractor)[1:]
    pointwise = sum(r.after.numbers() for r in rows if r.what in ("layer norm", "residual, its shortcut"))
    pointwise += rows[0].after.numbers()  # what the pool reads
    assert sum(r.cost for r in rows) - pointwise == pytest.approx(counter.get_total_flops() / 2 / 12, rel=1e-2)


def test_harmonics_beyond_the_axis_cost_nothing():
    layer = {"layer": "harmonic", "out_channels": 3, "kernel": [7, 5]}
    row = summarise(*built(frontend={"kind": "spectrogram"}, stack=[layer]))[1]
    rows = sum(256 // k + 1 for k in range(1, 8))  # rows f with f k <= 256
    assert row.cost == rows * 3 * 5 * 100
    assert row.what == f"harmonic 7 x 5, anchor 1, {rows / 257 / 7:.0%} on the axis"


def test_gabor_filters_cost_their_taps():
    config, extractor = built(frontend={"kind": "leaf", "n_filters": 7})
    taps = 7 * (2 * 401 * 16000 + 2 * 16000 + 401 * 100)  # convolution, squares, smoothing
    assert summarise(config, extractor)[0].cost == taps + 7 * 100


def test_the_table_is_aligned_and_adds_up():
    config, extractor = built(frontend={"compression": "pcen"}, stack=[*LOCAL, {"layer": "norm", "kind": "instance"}])
    lines = table(summarise(config, extractor)).splitlines()
    (column,) = {lines[0].index("depends"), lines[1].index("0.050 s and all"), lines[-2].index("whole clip")}
    assert {line[column - 2 : column] for line in lines[:-1]} == {"  "}
    assert lines[1].split()[:5] == ["frontend", "eleaf,", "pcen", "1", "40"]
    assert int(lines[-1].split()[1]) == sum(p.numel() for p in extractor.parameters())
    assert [short(n) for n in (0, 999.4, 999.6, 12345, 3.2e9, 5e13)] == ["0", "999", "1 k", "12.3 k", "3.2 G", "50 T"]


HARMONIC = {"layer": "harmonic", "out_channels": 2, "kernel": [5, 3]}
SPECTRUM = {"kind": "spectrogram"}


@pytest.mark.parametrize(
    ("frontend", "layer", "warning"),
    [
        ({}, {**HARMONIC, "axis": "linear"}, "stack.0: its axis (linear) is not that of its bands"),
        ({}, {**HARMONIC, "axis": "log", "bins_per_octave": 12}, "its axis (log, 12 rows an octave) is not that of"),
        (SPECTRUM, {**HARMONIC, "axis": "log", "bins_per_octave": 12}, "is not that of its bands"),
        (SPECTRUM, {**HARMONIC, "kernel": [20, 3]}, "stack.0: 82% of its kernel rows (anchor 1) read nothing"),
        ({}, {**HARMONIC, "kernel": [150, 1], "anchor": 75}, "in every band"),
        (
            {},
            {"layer": "residual", "layers": [{**HARMONIC, "axis": "linear"}]},
            "stack.0.layers.0: its axis (linear)",
        ),
    ],
)
def test_what_looks_wrong_is_said(frontend, layer, warning):
    assert any(warning in line for line in warnings_of(built(frontend=frontend, stack=[layer])[1]))


def test_a_chosen_axis_that_is_right_gives_no_warning():
    octaves = {"n_filters": 59, "scale": "log", "min_freq": 100, "filters_per_octave": 12}
    strided = {**HARMONIC, "stride": [2, 1], "axis": "log"}
    follows = {**HARMONIC, "kernel": [3, 3]}
    assert warnings_of(built(frontend=octaves, stack=[strided, follows])[1]) == []
    assert (
        warnings_of(built(frontend=SPECTRUM, stack=[{**HARMONIC, "axis": "linear", "stride": [2, 1]}, follows])[1])
        == []
    )


def test_filters_out_of_order_are_said():
    _, extractor = built()
    with torch.no_grad():
        extractor.frontend.filterbank.center_freqs[3:5] = extractor.frontend.filterbank.center_freqs[3:5].flip(0)
    (warning,) = warnings_of(extractor)
    assert "bands are not in the order of their frequency: 4 not above the one before" in warning
