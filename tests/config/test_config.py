"""Configuration files: what is wrong is said in one line, with place, key, expectation and the nearest name."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

import hlfeat
from hlfeat.config import yaml12
from hlfeat.config.base import models_in, names_in, tag_key
from hlfeat.config.commented_yaml import commented
from hlfeat.config.config import Config
from hlfeat.config.frontends import FrontendConfig
from hlfeat.config.json_schema import SCHEMA_FILE, schema, schema_text
from hlfeat.config.layers import LayerConfig
from hlfeat.config.loading import config_dir, config_from_dict, config_names, dump_config, load_config
from hlfeat.config.output import shard_bytes
from hlfeat.errors import ConfigError


def load(tmp_path: Path, text: str, *overrides: str) -> Config:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return load_config(path, overrides)


def test_named_configurations_are_there_and_can_be_built():
    names = config_names()
    assert {
        "eleaf-8g-opt",
        "eleaf-default",
        "eleaf-pcen",
        "log-mel",
        "eleaf-harmonic",
        "eleaf-harmonic-mixed",
        "linear-harmonic",
        "log-harmonic",
        "music-cq",
        "music-cq-harmonic",
        "bio-48k",
        "log-mel-48k",
        "pitch-salience",
        "pitch-salience-fine",
    } <= set(names)
    for name in names:
        assert load_config(name).description
        assert isinstance(hlfeat.build(name), hlfeat.Extractor)


def test_the_default_is_the_papers_8g_opt_with_80_filters():
    assert load_config() == load_config("eleaf-8g-opt")
    leaf = hlfeat.build().frontend
    assert (leaf.n_bands, leaf.filterbank.grouping.num_groups) == (80, 8)
    assert (leaf.filterbank.grouping.conv_win_factor, leaf.filterbank.grouping.stride_factor) == (6, 16)


@pytest.mark.parametrize("name", config_names())
def test_what_is_shown_can_be_read_again(tmp_path, name):
    config = load_config(name)
    assert load(tmp_path, dump_config(config)) == config
    assert load(tmp_path, commented(config)) == config


@st.composite
def configs(draw) -> Config:
    """Configurations of every kind of part, with words that look like something else."""
    number = st.floats(1e-6, 0.9) | st.integers(1, 9)
    size = st.integers(1, 9)
    pair = st.tuples(size, size.map(lambda n: 2 * n - 1))
    words = st.text(max_size=60) | st.sampled_from(["1e-3", "010", "1:30", "no", "null", "a # b", "a: b", "~", "- x"])
    layer = st.one_of(
        st.fixed_dictionaries(
            {"layer": st.just("harmonic"), "out_channels": size, "kernel": pair},
            optional={"anchors": st.lists(size, min_size=1, max_size=3), "stride": pair, "bias": st.booleans()},
        ),
        st.fixed_dictionaries({"layer": st.just("pool")}, optional={"bands": size, "kind": st.sampled_from(["max"])}),
        st.fixed_dictionaries({"layer": st.just("projection"), "features": size}),
        st.sampled_from([{"layer": "norm"}, {"layer": "activation"}]),
    )
    layer |= st.fixed_dictionaries({"layer": st.just("residual"), "layers": st.lists(layer, min_size=1, max_size=3)})
    pcen = st.fixed_dictionaries({"kind": st.just("pcen"), "s": number.filter(lambda v: v <= 1)})
    pcen = pcen.flatmap(lambda p: st.sampled_from([p, {**p, "clamp": None}]))
    frontend = st.one_of(
        st.fixed_dictionaries({"compression": st.sampled_from(["pcen", "logtbn"]) | pcen, "conv_win_factor": number}),
        st.just({"kind": "leaf", "n_filters": 3, "scale": [100, 200.5, 5e3]}),
        st.just({"n_filters": 9, "scale": "log", "first_freq": 32.7, "bins_per_octave": 12}),
        st.fixed_dictionaries({"kind": st.just("log-mel"), "floor": number}),
        st.just({"kind": "spectrogram", "n_bands": 12}),
    )
    return config_from_dict(
        {
            "description": draw(words),
            "audio": {"channels": draw(st.sampled_from(["mix", "first", "each", 0, 3]))},
            "frontend": draw(frontend),
            "stack": draw(st.lists(layer, max_size=4)),
            "output": {
                "shard_size": draw(st.sampled_from(["256MB", "1.5 kB", 12, "7B"])),
                "pool": draw(st.sampled_from([None, "mean", "mean+std", "max", "window:1.50", "window:2,0.5"])),
            },
            "seed": draw(st.integers(0, 2**63 - 1)),
        }
    )


@given(config=configs())
@example(config=Config(description="\x85"))  # one of Unicode's line breaks
@example(config=Config(description="a\u2028b"))
def test_what_is_shown_can_be_read_again_whatever_it_is(config):
    for text in (commented(config), dump_config(config)):
        assert config_from_dict(yaml.load(text, yaml12.Yaml12Loader)) == config, text


def test_what_is_shown_explains_every_line():
    for name in config_names():
        for line in commented(load_config(name)).splitlines():
            assert re.search(r"  # \S", line), line


def test_the_schema_is_shipped_and_explains_every_key():
    assert (config_dir() / SCHEMA_FILE).read_text(encoding="utf-8") == schema_text()
    for name in config_names():
        first = (config_dir() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
        assert first == f"# yaml-language-server: $schema=./{SCHEMA_FILE}"
    for part in (schema(), *schema()["$defs"].values()):
        assert part["additionalProperties"] is False
        for key, field in part["properties"].items():
            assert field.get("description"), key


def test_overrides(tmp_path):
    text = "stack:\n- {layer: harmonic, out_channels: 4}\n"
    config = load(
        tmp_path,
        text,
        "frontend.n_filters=64",
        "stack.0.kernel=[3, 7]",
        "frontend.compression=pcen",
        "frontend.compression.s=5e-2",
        "output.shard_size=12",
    )
    assert config.frontend.n_filters == 64
    assert config.stack[0].kernel == (3, 7)
    assert (config.frontend.compression.kind, config.frontend.compression.s) == ("pcen", 0.05)
    assert config.output.shard_size == 12


@pytest.mark.parametrize(
    ("size", "stored", "n"),
    [
        ("256MB", "256MB", 256 * 10**6),  # these spellings are in fingerprints, so they stay
        ("0.5GB", "0.5GB", 5 * 10**8),
        ("1.5 kB", "1.5 kB", 1500),
        ("7B", "7B", 7),
        ("2TB", "2TB", 2 * 10**12),
        ("8M", "8MB", 8 * 10**6),
        ("1G", "1GB", 10**9),
        ("1 g", "1GB", 10**9),
        ("8mb", "8MB", 8 * 10**6),
        ("64K", "64kB", 64_000),
        ("64KB", "64kB", 64_000),
        ("256MiB", "256MiB", 256 * 2**20),
        ("1.5gib", "1.5GiB", 3 * 2**29),
        ("2 KiB", "2KiB", 2048),
        ("9b", "9B", 9),
    ],
)
def test_sizes_of_shards(tmp_path, size, stored, n):
    config = load(tmp_path, f"output: {{shard_size: {size}}}")
    assert config.output.shard_size == stored
    assert shard_bytes(stored) == shard_bytes(size) == n
    assert load(tmp_path, dump_config(config)) == config
    pattern = schema()["$defs"]["OutputConfig"]["properties"]["shard_size"]["anyOf"][1]["pattern"]
    assert re.fullmatch(pattern, size)
    assert re.fullmatch(pattern, stored)


@pytest.mark.parametrize("size", ["8i", "8iB", "8Mi", "0", "0M", "M", "-8M", "1e3M", "8MBs", "8 M B", "8E", "0.9B"])
def test_what_is_no_size(tmp_path, size):
    with pytest.raises(ConfigError, match="expected a number of clips, or a size such as 256MB, 8M or 1GiB, got"):
        load(tmp_path, f"output: {{shard_size: '{size}'}}")


def test_filters_where_they_are_wanted(tmp_path):
    octaves = load(tmp_path, "frontend: {n_filters: 35, scale: log, min_freq: 110, filters_per_octave: 12}")
    assert load(tmp_path, dump_config(octaves)) == octaves
    centres = hlfeat.build(octaves).frontend.centre_freqs()
    assert centres[[0, 11, 23]].tolist() == pytest.approx([110 * 2 ** (1 / 12), 220, 440], rel=1e-5)
    stack = {"layer": "harmonic", "out_channels": 1, "kernel": [2, 1], "axis": "log"}
    layer = hlfeat.build({**octaves.model_dump(), "stack": [stack]}).stack.layers[0]
    assert layer.conv.positions(35)[1, 0].item() == pytest.approx(12)  # the octave is twelve rows away
    chosen = load(tmp_path, "frontend: {kind: leaf, n_filters: 3, scale: [100, 200, 5000]}")
    assert load(tmp_path, dump_config(chosen)) == chosen
    assert hlfeat.build(chosen).frontend.centre_freqs().tolist() == pytest.approx([100, 200, 5000], rel=1e-5)


def test_the_first_filter_of_a_constant_q(tmp_path):
    """As librosa.cqt(fmin, n_bins, bins_per_octave) has it."""
    text = "frontend: {n_filters: 25, scale: log, first_freq: 110, bins_per_octave: 12, window_len: 120}"
    config = load(tmp_path, text)
    assert load(tmp_path, dump_config(config)) == config
    built = hlfeat.build(config).frontend
    assert built.centre_freqs()[[0, 12, 24]].tolist() == pytest.approx([110, 220, 440], rel=3e-7)
    arguments = {"scale": "log", "first_freq": 110, "bins_per_octave": 12, "window_len": 120}
    torch.testing.assert_close(built.state_dict(), hlfeat.EfficientLeaf(25, **arguments).state_dict(), rtol=0, atol=0)
    stack = {"layer": "harmonic", "out_channels": 1, "kernel": [2, 1], "axis": "log"}
    layer = hlfeat.build({**config.model_dump(), "stack": [stack]}).stack.layers[0]
    assert layer.conv.positions(25)[1, 0].item() == 12
    few = load(tmp_path, "frontend: {n_filters: 5, scale: log, first_freq: 33.3, bins_per_octave: 12}").frontend
    assert few.spacing_per_octave() == 12  # log2 of the ends' ratio would round


def test_both_names_of_filters_in_an_octave_are_one_setting(tmp_path):
    text = "frontend: {{n_filters: 35, scale: log, min_freq: 110, {}: 12}}"
    a, b = (hlfeat.build(load(tmp_path, text.format(key))) for key in ("bins_per_octave", "filters_per_octave"))
    assert a.frontend.centre_freqs()[11].item() == pytest.approx(220, rel=1e-6)
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)


def test_keys_that_came_later_are_not_in_descriptions_that_do_not_use_them(tmp_path):
    """Directories of earlier versions keep their description, to the byte, and their fingerprint."""
    unused = load(tmp_path, "frontend: {scale: log, first_freq: null}")
    assert "first_freq" not in dump_config(unused)
    assert "bins_per_octave" not in dump_config(unused)
    assert "first_freq: null  " in commented(unused)  # but they are shown to people


def test_where_bands_lie(tmp_path):
    def hertz(text: str) -> tuple[float, float]:
        config = load(tmp_path, text)
        return config.frontend.frequency_range(config.audio.sample_rate)

    assert hertz("frontend: {min_freq: 80, max_freq: 4000}") == (80, 4000)
    assert hertz("frontend: {kind: log-mel, min_freq: 80}") == (80, 7800)
    assert hertz("frontend: {kind: spectrogram}") == (0, 8000)
    assert hertz("frontend: {kind: spectrogram, n_fft: 1000, n_bands: 11}") == (0, 160)
    octaves = "frontend: {n_filters: 23, scale: log, bins_per_octave: 12, KEY: 110}"
    assert hertz(octaves.replace("KEY", "min_freq")) == pytest.approx((110, 440))
    assert hertz(octaves.replace("KEY", "first_freq").replace("23", "25")) == pytest.approx((110, 440))


def test_filters_at_one_frequency_are_an_axis_too():
    """A mel matrix has several filters in one bin."""
    crowded = {"kind": "leaf", "n_filters": 80, "scale": "mel-matrix"}
    extractor = hlfeat.build({"frontend": crowded, "stack": [{"layer": "harmonic", "out_channels": 2}]}).eval()
    assert (extractor.frontend.centre_freqs().diff() == 0).any()
    with torch.no_grad():
        assert extractor(torch.randn(1, 1600)).isfinite().all()


def test_sizes():
    assert [shard_bytes(s) for s in ("7B", "3kB", "1.5 MB", "256MB", "2GB")] == [7, 3000, 1500000, 256000000, 2 * 10**9]


ERRORS = [
    ("frontend:\n  n_filter: 3", "c.yaml:2: frontend.n_filter: unknown key; did you mean n_filters?; expected"),
    ("frontend: {eleaf: 1}", "c.yaml:1: frontend.eleaf: unknown key"),
    ("stack:\n- {layer: conv, out_channels: 2, conv: 3}", "c.yaml:2: stack.0.conv: unknown key"),
    ("stack:\n- {layer: harmonic, out_channels: 2, anchors: [1, 0]}", "c.yaml:2: stack.0.anchors.1: expected a number"),
    ("fronted: 3", "c.yaml:1: fronted: unknown key; did you mean frontend?"),
    (
        "frontend:\n  kind: elaef",
        "c.yaml:2: frontend.kind: expected eleaf, leaf, log-mel, spectrogram, got 'elaef'; did",
    ),
    ("frontend:\n  n_filters: many", "c.yaml:2: frontend.n_filters: expected a whole number, got 'many'"),
    ("frontend:\n  n_filters: true", "c.yaml:2: frontend.n_filters: expected a whole number, got True"),
    ("frontend:\n  n_filters: 2.5", "c.yaml:2: frontend.n_filters: expected a whole number, got 2.5"),
    ("frontend:\n  n_filters: 0", "c.yaml:2: frontend.n_filters: expected a number >= 1, got 0"),
    ("frontend:\n  n_filters: 3\n  num_groups: 9", "c.yaml:3: frontend.num_groups: expected at most n_filters = 3"),
    (
        "frontend:\n  compression: pcne",
        "c.yaml:2: frontend.compression: expected logtbn, pcen or relative-log, got 'pcne'; did you",
    ),
    ("frontend:\n  compression: {kind: pcen, q: 1}", "c.yaml:2: frontend.compression.q: unknown key"),
    ("frontend:\n  window_stride: 0.01", "c.yaml:2: frontend.window_stride: expected at least one sample"),
    ("frontend:\n  min_freq: 900\n  max_freq: 500", "c.yaml:2: frontend.min_freq: expected less than max_freq"),
    ("frontend:\n  min_freq: .nan", "c.yaml:2: frontend.min_freq: expected a finite number, got nan"),
    ("frontend: {kind: log-mel, n_fft: 64}", "c.yaml:1: frontend.n_fft: expected at least the window's 400"),
    ("frontend: {kind: spectrogram, n_bands: 300}", "frontend.n_bands: expected at most the FFT's 257 rows, got 300"),
    ("frontend: {kind: eleaf, scale: log, min_freq: 0}", "frontend.min_freq: expected a frequency above 0"),
    ("frontend: {scale: mle}", "c.yaml:1: frontend.scale: expected mel, linear, log, bark, erb, mel-matrix, or a list"),
    ("frontend: {scale: [1, x]}", "c.yaml:1: frontend.scale: expected mel, linear, log, bark, erb, mel-matrix, or a"),
    ("frontend: {n_filters: 4, scale: [100, 200]}", "c.yaml:1: frontend.scale: expected n_filters = 4 centre freq"),
    (
        "frontend: {n_filters: 4, scale: [90, 80, 200, 300]}",
        "frontend.scale: expected frequencies that rise from min_fr",
    ),
    ("frontend: {filters_per_octave: 12}", "frontend.filters_per_octave: expected only with scale: log, got it with"),
    ("frontend: {scale: log, filters_per_octave: 3, max_freq: 99}", "filters_per_octave: expected instead of max_freq"),
    (
        "frontend: {scale: log, filters_per_octave: 3}",
        "frontend.filters_per_octave: expected at most half of audio.samp",
    ),
    (
        "frontend:\n  bins_per_octave: 12\n  first_freq: 33",
        "c.yaml:3: frontend.first_freq: expected only with scale: log, got it with 'mel'",
    ),
    (
        "frontend:\n  bins_per_octave: 12",
        "c.yaml:2: frontend.bins_per_octave: expected only with scale: log, got it wi",
    ),
    (
        "frontend:\n  scale: log\n  first_freq: 33",
        "c.yaml:3: frontend.first_freq: expected together with bins_per_octave, such as 12",
    ),
    (
        "frontend: {scale: log, first_freq: 33, filters_per_octave: 12}",
        "frontend.first_freq: expected together with bins_per_octave, such as 12",
    ),
    (
        "frontend:\n  scale: log\n  first_freq: 33\n  bins_per_octave: 12\n  min_freq: 20",
        "c.yaml:3: frontend.first_freq: expected instead of min_freq, got both",
    ),
    (
        "frontend: {scale: log, first_freq: 33, bins_per_octave: 12, max_freq: 7000}",
        "frontend.bins_per_octave: expected instead of max_freq, got both",
    ),
    (
        "frontend: {scale: log, bins_per_octave: 12, filters_per_octave: 12}",
        "frontend.filters_per_octave: is the older name of bins_per_octave; expected one, got both",
    ),
    ("frontend: {scale: log, first_freq: 0, bins_per_octave: 12}", "frontend.first_freq: expected a number >= 0.001"),
    ("frontend: {scale: log, first_freq: 9, bins_per_octave: 0}", "frontend.bins_per_octave: expected a number >= 0.1"),
    (
        "frontend:\n  scale: log\n  first_freq: 440\n  bins_per_octave: 12\n  n_filters: 52",
        "c.yaml:5: frontend.n_filters: expected the highest filter below half of the sample rate, 8000 Hz, got 8372.02 "
        "Hz; 51 filters fit",
    ),
    (
        "frontend: {scale: log, first_freq: 8000, bins_per_octave: 12}",
        "frontend.first_freq: expected below half of the sample rate, 8000 Hz, got 8000",
    ),
    ("frontend: {kind: leaf, num_groups: 4}", "c.yaml:1: frontend.num_groups: unknown key"),
    ("audio:\n  sample_rate: 8000", "frontend.max_freq: expected at most half of audio.sample_rate = 4000, got 7800"),
    ("audio:\n  channels: all", "c.yaml:2: audio.channels: expected mix, first, each or the number of a channel"),
    ("audio: 3", "c.yaml:1: audio: expected a mapping of keys to values, got 3"),
    ("audio:\n  channels: 0\naudio: {}", "c.yaml:3: audio: given twice"),
    ("stack: 3", "c.yaml:1: stack: expected a list, got 3"),
    ("stack:\n- {layer: harmonic}", "c.yaml:2: stack.0.out_channels: missing"),
    ("stack:\n- {layer: harmonc}", "c.yaml:2: stack.0.layer: expected harmonic, conv,"),
    ("stack:\n- {out_channels: 3}", "c.yaml:2: stack.0: expected a mapping with the key layer"),
    (
        "stack:\n- {layer: harmonic, out_channels: 3, kernel: [3, 4]}",
        "stack.0.kernel: expected an odd number of frames",
    ),
    (
        "stack:\n- {layer: harmonic, out_channels: 3, kernel: 0}",
        "stack.0.kernel: expected a whole number from 1 to 4096",
    ),
    ("stack:\n- {layer: harmonic, out_channels: 3, anchor: 0}", "stack.0.anchor: expected a number >= 1, got 0"),
    ("stack:\n- {layer: harmonic, out_channels: 3, anchor: 1, anchors: [1]}", "stack.0.anchors: expected either"),
    ("stack:\n- {layer: conv, out_channels: 3, kernel: [2, 3]}", "stack.0.kernel: expected an odd number of bands"),
    (
        "stack:\n- layer: residual\n  layers:\n  - {layer: conv, out_channels: 3, kernl: 3}",
        "c.yaml:4: stack.0.layers.0",
    ),
    ("output:\n  dtype: float61", "c.yaml:2: output.dtype: expected float32 or float16, got 'float61'; did you mean"),
    ("output:\n  shard_size: big", "c.yaml:2: output.shard_size: expected a number of clips, or a size such as 256MB"),
    ("output:\n  pool: median", "c.yaml:2: output.pool: expected mean, mean+std, max or window:SECONDS[,HOP], got 'm"),
    (
        "output: {pool: maen}",
        "c.yaml:1: output.pool: expected mean, mean+std, max or window:SECONDS[,HOP], got 'maen'; did",
    ),
    ("output: {pool: 3}", "c.yaml:1: output.pool: expected mean, mean+std, max or window:SECONDS[,HOP], got 3"),
    ("output: {pool: 'window:1,2'}", "output.pool: expected windows with a HOP above 0 and up to SECONDS, as no frame"),
    (
        "output: {pool: 'window:0'}",
        "output.pool: expected windows with a HOP above 0 and up to SECONDS, as no frame is",
    ),
    (
        "output: {pool: 'window:1e3'}",
        "output.pool: expected mean, mean+std, max or window:SECONDS[,HOP], got 'window:1e3'",
    ),
    ("seed: -1", "c.yaml:1: seed: expected a number >= 0, got -1"),
    ("[1, 2]", "c.yaml:1: expected keys such as audio, frontend, stack, output; got a list of 2"),
    ("a: [1", "c.yaml:1: not valid YAML"),
    ("a: b: c", "c.yaml:1: not valid YAML"),
    ("seed: 2026-13-45", "not valid YAML"),
    ("seed: !!python/object/apply:os.system [x]", "c.yaml:1: not valid YAML: could not determine a constructor"),
    ("a: &a [*a]", "refers to itself"),
    ("seed: 1:30", "c.yaml:1: seed: expected a whole number, got '1:30'"),
    ("seed: " + "9" * 4000, "c.yaml:1: seed: expected a number < 9.22337e+18, got a number of too many digits"),
    ("seed: " + "9" * 6000, "not valid YAML"),
    ("description: " + "[" * 50 + "x" * 300 + "]" * 50, "c.yaml:1: description: expected text"),
    ("output:\n  shard_size: " + "9" * 400 + "GB", "c.yaml:2: output.shard_size: expected a number of clips"),
    (
        "\n".join(["a: &a0 [1]", *(f"b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))]),
        "at most 10000",
    ),
    ("frontend:\n  n_filters: 100000000", "c.yaml:2: frontend.n_filters: expected a number <= 65536"),
    ("[" * 3000, "c.yaml"),
]


# What compares two numbers, or is no finite one, is beyond JSON Schema.
BEYOND_SCHEMA = [
    "num_groups: expected at most",
    "window_stride: expected at least one sample",
    "min_freq: expected less than max_freq",
    "min_freq: expected a finite number",
    "n_fft: expected at least the window's",
    "n_bands: expected at most the FFT's",
    "scale: expected n_filters",
    "scale: expected frequencies that rise",
    "expected at most half of audio.samp",
    "below half of the sample rate",
    "expected windows with a HOP",
]


@pytest.mark.parametrize(("text", "message"), ERRORS)
def test_the_schema_knows_the_same_mistakes(text, message):
    jsonschema = pytest.importorskip("jsonschema")
    try:
        data = yaml.load(text, yaml12.Yaml12Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return  # an editor says so without a schema
    if "given twice" in message or "refers to itself" in message or "at most 10000" in message:
        return
    valid = jsonschema.Draft202012Validator(schema()).is_valid(data)
    assert valid == any(words in message for words in BEYOND_SCHEMA)


@given(config=configs())
def test_the_schema_takes_what_is_right(config):
    validator = pytest.importorskip("jsonschema").Draft202012Validator(schema())
    validator.validate(yaml.load(commented(config), yaml12.Yaml12Loader))


@pytest.mark.parametrize("name", config_names())
def test_the_schema_takes_what_is_shipped(name):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema())
    text = (config_dir() / f"{name}.yaml").read_text(encoding="utf-8")
    jsonschema.validate(yaml.load(text, yaml12.Yaml12Loader), schema())


@pytest.mark.parametrize(("text", "message"), ERRORS)
def test_errors_say_where_what_and_what_was_meant(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "frontend.n_filter=3",
            "override frontend.n_filter=3: frontend.n_filter: unknown key; did you mean n_filters?",
        ),
        ("audio.sample_rate=x", "override audio.sample_rate=x: audio.sample_rate: expected a whole number, got 'x'"),
        ("seed", "expected key=value"),
        ("stack.3.kernel=3", "stack has no items, got 3"),
        ("seed.x=1", "override seed.x=1: seed: expected a whole number, got a mapping"),
        ("a=[", "not valid YAML"),
        ("seed=!!bool maybe", "not valid YAML"),
        ("seed=!!float ''", "not valid YAML"),
        ("seed=!!timestamp foo", "not valid YAML"),
        ("stack.²=1", "stack has no items, got ²"),
    ],
)
def test_errors_of_overrides(tmp_path, override, message):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "stack: []", override)
    assert message in str(caught.value)


def test_an_item_of_a_list_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"override stack\.0\.anchor=2: stack has no items, got 0"):
        load(tmp_path, "seed: 0", "stack.0.anchor=2")


def test_files_and_names_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match="no such configuration; did you mean log-mel"):
        load_config("logmel")
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config(tmp_path / "x.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "b.yaml")


def test_the_fingerprint_changes_with_what_matters():
    config = load_config()
    others = ["seed=1", "frontend.n_filters=81", "output.dtype=float16", "audio.channels=first"]
    prints = {load_config(overrides=[o]).fingerprint(None) for o in others} | {config.fingerprint("weights")}
    assert len(prints | {config.fingerprint(None)}) == 6
    assert load_config(overrides=["description=words"]).fingerprint(None) == config.fingerprint(None)
    before = config.model_dump(mode="json", exclude={"description": True, "output": {"pool"}})
    text = json.dumps({"config": before, "weights": None}, sort_keys=True)
    assert config.fingerprint(None) == hashlib.sha256(text.encode()).hexdigest()  # as it was before there was a pool


def test_windows_have_one_spelling():
    spelt = ["window:1.5", "window:1.50", "window:01.5,1.500"]
    assert {load_config(overrides=[f"output.pool={s}"]).output.pool for s in spelt} == {"window:1.5"}
    assert load_config(overrides=["output.pool=window:10.0,0.10"]).output.pool == "window:10,0.1"
    pooled = [load_config(overrides=[f"output.pool={p}"]) for p in ("mean", "max", "null")]
    assert len({c.fingerprint(None) for c in pooled} | {pooled[2].fingerprint(None, "stats")}) == 4
    assert pooled[0].without_pool().fingerprint(None) == pooled[2].fingerprint(None)


def test_plain_data_is_checked_too():
    with pytest.raises(ConfigError, match=r"configuration: frontend\.n_filters: expected a whole number"):
        config_from_dict({"frontend": {"n_filters": "x"}})


def test_the_words_beside_a_layer_and_a_frontend_are_those_of_the_types():
    for union in (LayerConfig, FrontendConfig):
        names = names_in(union)
        assert len(names) == len(set(names)) >= 4
        for model in models_in(union):
            described = model.model_fields[tag_key(model)].description
            assert described == f"{', '.join(names[:-1])} or {names[-1]}"
