"""Pictures: features lie where the axes say, no texts overlap, files have the formats of their names."""

from __future__ import annotations

import io
import itertools
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import librosa
import matplotlib
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

import hlfeat
from hlfeat.audio.clip import Clip
from hlfeat.cli.app import app
from hlfeat.cli.errors import message_of
from hlfeat.config.loading import load_config
from hlfeat.errors import ConfigError, HlfeatError, OutputError, UsageError
from hlfeat.extraction.extract import extract
from hlfeat.extraction.options import Options
from hlfeat.inputs.collect import collect_inputs
from hlfeat.inspection.clip_choice import evenly_spaced
from hlfeat.nn.frontends.scales import spaced_frequencies
from hlfeat.plotting import figures
from hlfeat.plotting.clip_view import stack_grid, view
from hlfeat.plotting.columns import Columns, Ranges
from hlfeat.plotting.images import Grid
from hlfeat.plotting.sheets import sheet_figure
from hlfeat.plotting.store_view import stored
from tests import helpers

FEW = ["frontend.n_filters=16", "frontend.num_groups=4"]
POOLED = "stack=[{layer: pool, bands: 2, frames: 4}, {layer: conv, out_channels: 1, kernel: [1, 1], stride: [1, 2]}]"


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Two seconds with a pitch."""
    soundfile.write(tmp_path / "speech.wav", helpers.tone(2, 16000), 16000)
    return tmp_path / "speech.wav"


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plot")
    inputs = collect_inputs([str(helpers.good_clips(folder / "clips", 14))], io.BytesIO())
    extract(load_config("eleaf-8g-opt", FEW), inputs, folder / "out", Options(quiet=True))
    return folder / "out"


def view_of(path: Path, name: str, *overrides: str, **clip: float):
    return view(Clip(path.name, str(path), **clip), load_config(name, overrides), name)


def images(figure: Figure):
    """The axes with features in them."""
    return [axes for axes in figure.axes if axes.images]


# --- filters ------------------------------------------------------------------------------------------------


def test_gabor_responses_are_those_of_the_formula():
    """The kernel ends at 4 sigma, where the envelope is 3e-4 of its top: that bounds the difference."""
    leaf = hlfeat.EfficientLeaf(12, 3, conv_win_factor=8).double()
    with torch.no_grad():
        leaf.filterbank.center_freqs[3] *= 1.05
        leaf.filterbank.bandwidths[5] = 1e4  # clamped when used
    responses = leaf.responses()
    centres, sigmas, _ = (p.detach().numpy()[:, None] for p in leaf.filterbank.clamped())
    w = 2 * np.pi * responses.hertz / 16000
    inside = slice(1, 11)  # the outer two filters reach beyond the axis
    np.testing.assert_allclose(responses.gain[inside], np.exp(-((sigmas * (w - centres)) ** 2))[inside], atol=1e-3)
    np.testing.assert_allclose(responses.centres, leaf.centre_freqs().numpy())
    for gain, width in zip(responses.gain[inside], responses.bandwidths[inside], strict=True):
        above = responses.hertz[gain >= 0.5]
        assert abs(above[-1] - above[0] - width) < 3  # hertz: points are 1 Hz apart


def test_mel_responses_are_librosas_filters():
    responses = hlfeat.LogMel(20, 60, 7800, n_fft=4096).responses()
    mel = librosa.filters.mel(sr=16000, n_fft=4096, n_mels=20, fmin=60, fmax=7800, htk=True, norm=None)
    np.testing.assert_allclose(responses.gain, mel, atol=1e-3)  # torchaudio's mel constants have four digits
    np.testing.assert_allclose(responses.hertz, librosa.fft_frequencies(sr=16000, n_fft=4096), rtol=1e-9)
    for gain, width in zip(responses.gain, responses.bandwidths, strict=True):
        above = responses.hertz[gain >= 0.5]
        assert abs(above[-1] - above[0] - width) < 8  # two bins


def test_a_spectrogram_has_no_filters():
    assert hlfeat.Spectrogram().responses() is None


# --- where things lie ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("eleaf-8g-opt", []),
        ("eleaf-8g-opt", ["frontend.scale=linear"]),
        ("log-mel", []),
        ("linear-harmonic", ["stack=[]"]),
        ("log-harmonic", ["stack=[]"]),
        ("log-mel", [POOLED]),
    ],
)
def test_a_short_tone_lies_at_its_time_and_frequency(tmp_path, name, overrides):
    t = np.arange(32000) / 16000
    x = np.where(abs(t - 1.4) < 0.05, np.sin(2 * np.pi * 1000 * t), 0).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", x, 16000)
    v = view_of(tmp_path / "x.wav", name, *overrides, start=0.5)
    figure = figures.clip_figure([v], "")
    shown = (v.stack or v.frontend)[0]
    axes = images(figure)[len(v.frontend) if v.stack else 0]
    values = axes.images[0].get_array() * (sign_of_the_last_layer(name, overrides) if v.stack else 1)
    left, right, bottom, top = axes.images[0].get_extent()
    row, _ = np.unravel_index(np.argmax(values), values.shape)
    y = bottom + (row + 0.5) * (top - bottom) / values.shape[0]
    frames = np.flatnonzero(values[row] > values[row].mean())
    time = left + (np.mean(frames) + 0.5) * (right - left) / values.shape[1]
    assert abs(y - figures.rows_at(shown.grid.freqs, np.array([1000.0]))[0]) < 1
    assert abs(time - 1.4) < max(0.011, shown.grid.step / 2)
    assert axes.get_xlim() == (0.5, 2.0)
    assert axes.get_ylabel() == "frequency, Hz"
    for label in axes.get_yticklabels():
        row = figures.rows_at(shown.grid.freqs, np.array([float(label.get_text())]))[0]
        assert label.get_position()[1] == pytest.approx(row)


def sign_of_the_last_layer(name: str, overrides: list[str]) -> float:
    """The sign of the weight in POOLED: if it is negative, the tone has the lowest value."""
    return hlfeat.build(load_config(name, overrides)).stack.layers[-1].conv.weight.sign().item()


def test_strides_and_pools_move_rows_and_frames():
    """Four frames pooled are centred 1.5 frames later than the first; a stride of 2 keeps the first of these."""
    extractor = hlfeat.build(load_config("log-mel", [POOLED]))
    grid = stack_grid(extractor, (3.0, 4.0))
    mel = spaced_frequencies(82, 60, 7800)[1:-1]
    np.testing.assert_allclose(grid.freqs, (mel[::2] + mel[1::2]) / 2)
    assert (grid.first, grid.step) == (pytest.approx(3.015), pytest.approx(0.08))
    inner = POOLED.removeprefix("stack=").strip("[]").split(", {layer: conv")[1]
    residual = f"stack=[{{layer: residual, layers: [{{layer: conv{inner}]}}]"
    strided = stack_grid(hlfeat.build(load_config("log-mel", [residual.replace("[1, 2]", "[3, 2]")])), (0.0, 1.0))
    np.testing.assert_allclose(strided.freqs, mel[::3])
    assert strided.step == pytest.approx(0.02)


def test_a_picture_shows_the_features_that_extract_writes(speech):
    config = load_config("eleaf-harmonic", FEW)
    extractor = hlfeat.build(config).eval()
    x = torch.from_numpy(soundfile.read(speech, dtype="float32")[0])[None]
    with torch.no_grad():
        expected = extractor(x)[0].numpy()
    v = view(Clip("x", str(speech)), config, "", most=3)
    assert len(v.stack) == 3
    for image, channel in zip(v.stack, expected, strict=False):
        np.testing.assert_array_equal(image.values, channel)
    assert "untrained, channel 0 of 4" in v.stack[0].title


def test_round_frequencies():
    mel = spaced_frequencies(82, 60, 7800)[1:-1]
    assert figures.hertz_ticks(mel).tolist() == [100, 500, 1000, 2000, 5000]
    assert figures.hertz_ticks(np.arange(257) * 31.25).tolist() == [0, 2000, 4000, 6000, 8000]
    octaves = 55 * 2 ** (np.arange(84) / 12)
    assert figures.hertz_ticks(octaves).tolist() == [100, 200, 500, 1000, 2000, 5000]
    assert figures.rows_at(octaves, np.array([55.0, 110, 880])) == pytest.approx([0, 12, 48])
    narrow = figures.hertz_ticks(np.geomspace(1000, 1900, 20))
    assert 3 <= len(narrow) <= 8


@given(steps=st.lists(st.floats(0.5, 500), min_size=1, max_size=60), first=st.floats(0, 5000))
def test_ticks_lie_on_the_axis_and_apart(steps, first):
    freqs = first + np.cumsum([0, *steps])
    ticks = figures.hertz_ticks(freqs)
    rows = figures.rows_at(freqs, ticks)
    assert 1 <= len(ticks) <= 13
    assert (rows >= -0.51).all()
    assert (rows <= len(freqs) - 0.49).all()
    assert (np.diff(rows) > 0).all()
    np.testing.assert_allclose(np.interp(ticks, freqs, np.arange(len(freqs))), np.clip(rows, 0, len(freqs) - 1))


def test_long_clips_are_drawn_as_means(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 7001)).astype(np.float32)
    columns = Columns(3, 7001)
    for start in range(0, 7001, 999):
        columns.add(values[:, start : start + 999])
    small = columns.values
    assert (columns.block, small.shape) == (4, (3, 1751))
    np.testing.assert_allclose(small[:, 5], values[:, 20:24].mean(1), rtol=1e-5)
    np.testing.assert_allclose(small[:, -1], values[:, -1])
    grid = columns.grid(Grid(None, 10.0, 0.01, (10.0, 80.0)))
    assert (grid.first, grid.step) == (pytest.approx(10.015), pytest.approx(0.04))
    ranges = Ranges(9001)
    for start in range(0, 9001, 1000):
        ranges.add(values[0, start % 5000 : start % 5000 + min(1000, 9001 - start)])
    assert (ranges.block, len(ranges.low)) == (3, 3001)
    np.testing.assert_array_equal(ranges.high[:333], values[0, :999].reshape(-1, 3).max(1))
    np.testing.assert_array_equal(ranges.low[:333], values[0, :999].reshape(-1, 3).min(1))


# --- figures ------------------------------------------------------------------------------------------------

COUNTS = {"log-mel": 5, "eleaf-8g-opt": 7, "eleaf-pcen": 5, "linear-harmonic": 7, "eleaf-harmonic": 15}


@pytest.mark.parametrize("name", COUNTS)
def test_every_part_has_its_axes_and_no_text_overlaps(speech, name):
    figure = figures.clip_figure([view_of(speech, name)], "a clip")
    assert len(figure.axes) == COUNTS[name]  # waveform, two an image (colour bar), responses, bandwidths
    assert_apart(figure)


def test_comparison_shares_colours_of_the_same_quantity_only(speech):
    views = [view_of(speech, "eleaf-8g-opt", *FEW), view_of(speech, "eleaf-8g-opt"), view_of(speech, "log-mel")]
    figure = figures.clip_figure(views[:2], "")
    first, second = [a.images[0].norm for a in images(figure)][:2]
    assert [axes.images[0].norm for axes in images(figure)] == [first, second, first, second]
    assert first.vmax == pytest.approx(
        np.percentile(np.concatenate([v.frontend[0].values.ravel() for v in views[:2]]), 99.5)
    )
    assert_apart(figure)
    figure = figures.clip_figure(views[1:], "")
    assert len({(a.images[0].norm.vmin, a.images[0].norm.vmax) for a in images(figure)}) == 3
    assert_apart(figure)


def test_silence_one_band_and_projections_are_drawn(tmp_path):
    soundfile.write(tmp_path / "s.wav", np.zeros(800), 16000)
    for name, overrides in [
        ("eleaf-8g-opt", []),
        ("log-mel", ["frontend.n_filters=1"]),
        ("log-mel", ["stack=[{layer: projection, features: 5}]"]),
    ]:
        figure = figures.clip_figure([view_of(tmp_path / "s.wav", name, *overrides)], "a $\\frac{$")
        assert_apart(figure)
    assert images(figure)[1].get_ylabel() == "row"


def test_crossed_filters_have_rows_instead_of_hertz(speech, tmp_path):
    model = hlfeat.build("eleaf-default")
    with torch.no_grad():
        model.frontend.filterbank.center_freqs[3:5] = model.frontend.filterbank.center_freqs[3:5].flip(0)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    v = view(Clip("x", str(speech)), load_config("eleaf-default"), "", tmp_path / "w.pt")
    figure = figures.clip_figure([v], "")
    assert images(figure)[0].get_ylabel() == "row"
    assert_apart(figure)


def test_contact_sheets(features):
    store = hlfeat.FeatureStore(features)
    for n in (1, 2, 4, 11, 12):
        chosen = [store.ids[i] for i in evenly_spaced(len(store), n)]
        assert len(set(chosen)) == n
        assert chosen[0] == store.ids[0]
        figure = sheet_figure(stored(store, chosen), [(f"clip {i}", "1 s") for i in range(n)], "sheet")
        assert len(figure.axes) == n + 1
        assert_apart(figure)
    assert (evenly_spaced(2, 12), evenly_spaced(0, 12), evenly_spaced(3, 1)) == ([0, 1], [], [0])
    second = stored(store, [chosen[1]], channel=1)[0]
    np.testing.assert_array_equal(second.values, store[chosen[1]][:, 1].T)
    assert second.grid.span[1] == pytest.approx(store.record(chosen[1])["duration"])


def test_bands_are_numbered_only_where_nothing_but_lost_weights_has_their_frequencies(tmp_path, clips, caplog):
    config = load_config("eleaf-8g-opt", FEW)
    model = hlfeat.build(config)
    with torch.no_grad():
        model.frontend.filterbank.center_freqs *= 0.9
    torch.save(model.state_dict(), tmp_path / "w.pt")
    inputs = collect_inputs([str(clips)], io.BytesIO())
    extract(config, inputs, tmp_path / "out", Options(quiet=True, weights=tmp_path / "w.pt"))
    store = hlfeat.FeatureStore(tmp_path / "out")
    (image,) = stored(store, store.ids[:1])
    np.testing.assert_allclose(image.grid.freqs, model.frontend.centre_freqs(), rtol=1e-5)
    assert (image.grid.freqs == store.freqs).all()
    (tmp_path / "w.pt").unlink()
    (image,) = stored(store, store.ids[:1])
    assert (image.grid.freqs == store.freqs).all()
    assert "bands are numbered" not in caplog.text
    description = tmp_path / "out/hlfeat.yaml"
    description.write_text(re.sub(r"(?m)^  freqs: \[[^]]*\]\n", "", description.read_text()))  # an earlier version's
    store = hlfeat.FeatureStore(tmp_path / "out")
    assert store.freqs is None
    (image,) = stored(store, store.ids[:1])
    assert image.grid.freqs is None
    assert "bands are numbered" in caplog.text


def assert_apart(figure: Figure) -> None:
    """No two texts of a figure touch each other, and none is cut off."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    undrawn = {text for axes in figure.axes for axis in axes._axis_map.values() for text in beyond(axis)}
    texts = figure.findobj(lambda a: isinstance(a, Text) and a.get_visible() and bool(a.get_text().strip()))
    boxes = {text: text.get_window_extent(renderer) for text in texts if text not in undrawn}
    assert boxes
    page = figure.bbox.padded(1)
    for text, box in boxes.items():
        assert page.containsx(box.x0), text
        assert page.containsx(box.x1), text
        assert page.containsy(box.y0), text
        assert page.containsy(box.y1), text
    for (a, box), (b, other) in itertools.combinations(boxes.items(), 2):
        assert not box.padded(-1).overlaps(other.padded(-1)), (a, b)


def beyond(axis: Axis) -> Iterator[Text]:
    """Labels of ticks that lie beyond the limits: matplotlib keeps them, undrawn."""
    low, high = sorted(axis.get_view_interval())
    for tick in axis.get_major_ticks():
        if not low <= tick.get_loc() <= high:
            yield from (tick.label1, tick.label2)


# --- files --------------------------------------------------------------------------------------------------


def test_files_have_the_formats_of_their_names(speech, tmp_path):
    before = dict(matplotlib.rcParams)
    figure = figures.clip_figure([view_of(speech, "log-mel")], "a clip")
    for name in ("a.png", "a.PDF", "a.svg"):
        figures.save(figure, tmp_path / name, dpi=60)
    assert imread(tmp_path / "a.png").shape[1] == 7 * 60
    pdf = (tmp_path / "a.PDF").read_bytes()
    assert pdf.startswith(b"%PDF-")
    assert pdf.rstrip().endswith(b"%%EOF")
    assert b"/FontFile2" in pdf  # embedded TrueType
    assert b"/Type3" not in pdf
    assert ET.parse(tmp_path / "a.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert dict(matplotlib.rcParams) == before


# --- the command --------------------------------------------------------------------------------------------


def test_a_clip_by_the_command(invoke, speech, tmp_path):
    run = ("plot", speech, "-c", "eleaf-8g-opt", *(f"--set={s}" for s in FEW))
    out = tmp_path / "a b.png"
    result = invoke(*run, "--compare", "log-mel", "--start", 0.5, "--end", 1, "-o", out, "--dpi", 50)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{out}\n", "")
    assert imread(out).shape[1] == 520


def test_a_folder_without_pyplot(features, tmp_path):
    code = "app(sys.argv[1:], standalone_mode=False); assert 'matplotlib.pyplot' not in sys.modules"
    run = [sys.executable, "-c", f"import sys; from hlfeat.cli.app import app; {code}", "plot", features, "-o"]
    result = subprocess.run([*run, tmp_path / "a.svg"], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{tmp_path}/a.svg\n", "")
    ET.parse(tmp_path / "a.svg")


def failure(*arguments: object) -> tuple[type[HlfeatError], str]:
    """The error that ends the command, and its message. Exit codes are the business of tests/cli."""
    with pytest.raises(HlfeatError) as caught:
        app(["plot", *map(str, arguments)], standalone_mode=False)
    return type(caught.value), message_of(caught.value)


def test_what_is_wrong_with_the_call(speech, features, tmp_path):
    out = ("-o", tmp_path / "a.png")
    for kind, words, arguments in [
        (UsageError, "expected an extension of png, pdf, svg, ", (speech, "-o", tmp_path / "a.bmp")),
        (UsageError, "got none", (speech, "-o", tmp_path / "a")),
        (UsageError, "--id: expected with a folder of features only", (speech, *out, "--id", "x")),
        (UsageError, "--config: expected with an audio file only", (features, *out, "-c", "log-mel")),
        (UsageError, "--start: expected with an audio file only", (features, *out, "--start", 0)),
        (UsageError, "no clip 'd0/plain' in", (features, *out, "--id", "d0/plain")),
        (UsageError, "near it are d0/plain 0.wav", (features, *out, "--id", "d0/plain")),
        (UsageError, "--channel: expected 0 to 1, got 2", (features, *out, "--channel", 2)),
        (UsageError, "--start: expected seconds from 0, got nan", (speech, *out, "--start", "nan")),
        (UsageError, "--end: expected more than --start 1, got 1", (speech, *out, "--start", 1, "--end", 1)),
        (UsageError, "--compare-weights: expected with --compare", (speech, *out, "--compare-weights", "x")),
        (ConfigError, "did you mean log-mel?", (speech, *out, "--compare", "log-mell")),
        (ConfigError, "did you mean n_filters?", (speech, *out, "--set", "frontend.n_filter=3")),
        (ConfigError, "weights cannot be read", (speech, *out, "--weights", tmp_path / "none.pt")),
        (OutputError, "not a feature directory", (tmp_path, *out)),
        (OutputError, "cannot be written: No such file", (features, "-o", tmp_path / "no/a.png")),
        (OutputError, "cannot be written: ", (features, "-o", "/proc/a.png")),
        (HlfeatError, "missing: No such file", (tmp_path / "none.wav", *out)),
        (HlfeatError, "bad-segment: expected a segment within the file's 2 s", (speech, *out, "--start", 3)),
    ]:
        error, message = failure(*arguments)
        assert error is kind, message
        assert words in message
    assert not list(tmp_path.glob("a*"))


def test_clips_that_cannot_be_used_say_why(tmp_path):
    codes = helpers.broken_clips(tmp_path / "broken")
    for name in ("zero_bytes.wav", "text.wav", "nan.wav", "cut_PCM_16.flac", "film.m4a", "dangling.wav", "loud.wav"):
        assert f"{name}: {codes[name]}: " in failure(tmp_path / "broken" / name, "-o", tmp_path / "a.png")[1]
    soundfile.write(tmp_path / "two.wav", np.zeros((100, 2)), 16000)
    _, message = failure(tmp_path / "two.wav", "-o", tmp_path / "a.png", "--set", "audio.channels=each")
    assert "choose one: audio.channels=0" in message


def test_without_matplotlib(speech, tmp_path):
    code = "import sys; sys.modules['matplotlib'] = None; from hlfeat.cli.app import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "plot", speech, "-o", tmp_path / "a.png"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stderr == "hlfeat: error: pictures need matplotlib: pip install 'hlfeat[plot]'\n"
