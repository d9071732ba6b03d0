"""Contact sheets of any folder: pooled or not, of quiet and loud clips, with names of any length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

import hlfeat
from hlfeat.plotting.sheets import profile_figure, sheet_figure
from hlfeat.plotting.store_view import profiles, stored
from tests import helpers
from tests.plotting.test_plot import assert_apart, images

SETTINGS = ["--set", "frontend.n_filters=16", "--set", "frontend.num_groups=4", "-q"]
LONG = "a folder with a long name/" * 3
TITLES = [
    (LONG + "1.wav", "1.2 s"),
    ("WWWWWWWWWW" * 9, "59.9 min"),
    ("ü" * 120, "1 ms"),
    ("\u4e2d\u6587" * 60, "2 s"),
    ("$x_{" * 30, "2 s"),
    ("short", "0 ms"),
    ("i" * 500, "1.33 h"),
]


@pytest.fixture
def extracted(invoke, tmp_path: Path):
    """Features of a few clips, as a folder."""

    def extract(*options: str, clips: Path | None = None) -> Path:
        clips = clips or helpers.good_clips(tmp_path / "clips", 6)
        for more in [["--part", "1/2"], ["--part", "2/2"]] if "--parts" in options else [[]]:
            chosen = [option for option in options if option != "--parts"]
            done = invoke("extract", clips, "-o", tmp_path / "out", *SETTINGS, *chosen, *more)
            assert done.returncode == 0, done.stderr
        return tmp_path / "out"

    return extract


def test_statistics_of_vectors_do_not_normalise_frames(invoke, extracted, tmp_path):
    folder = extracted("--pool", "mean")
    assert invoke("stats", folder, "-o", tmp_path / "s.json").stderr.endswith(
        "vectors of [32] -> " + f"{tmp_path}/s.json\n"
    )
    done = invoke("extract", tmp_path / "clips", "-o", tmp_path / "b", *SETTINGS, "--stats", tmp_path / "s.json")
    assert done.returncode == 2
    assert "expected statistics of frames, got those of pooled vectors (mean)" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        "--pool mean",
        "--pool mean+std --format pt",
        "--pool max --dtype float16",
        "--pool window:1,0.5",
        "--pool window:0.5 --parts",
        "--set audio.channels=each --pool mean --parts",
        "--set audio.channels=each --dtype float16 --format pt",
    ],
)
def test_inspect_stats_and_plot_work_on_every_folder(invoke, extracted, tmp_path, options):
    folder = extracted(*options.split())
    for arguments in (["inspect", folder], ["inspect", "--bands", folder], ["inspect", "--verify", "--json", folder]):
        done = invoke(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
    done = invoke("stats", folder, "-o", tmp_path / "s.json")
    assert done.returncode == 0, done.stderr
    rows = np.concatenate([y for _, y in hlfeat.FeatureStore(folder)]).astype(np.float64)
    statistics = hlfeat.Statistics.read(tmp_path / "s.json")
    np.testing.assert_allclose(statistics.mean, rows.mean(0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(statistics.variance, rows.var(0), rtol=1e-6, atol=1e-9)
    done = invoke("plot", folder, "-o", tmp_path / "a.png", "--channel", 1, "--dpi", 50)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_which_half_is_the_mean(invoke, extracted, tmp_path):
    folder = extracted("--pool", "mean+std")
    store = hlfeat.FeatureStore(folder)
    id_, vector = store[3]
    (profile,) = profiles(store, [id_], channel=1)
    np.testing.assert_array_equal(profile.values, vector[0, 16:32])
    np.testing.assert_array_equal(profile.deviation, vector[0, 48:64])
    assert profile.title.endswith("mean over time")
    lines = invoke("inspect", folder).stdout.splitlines()
    place = next(i for i, line in enumerate(lines) if line.split()[:3] == ["of", "channel", "mean"])
    assert [line.split()[:2] for line in lines[place + 1 : place + 5]] == [
        ["mean", "0"], ["mean", "1"], ["std", "0"], ["std", "1"],
    ]  # fmt: skip
    bands = invoke("inspect", "--bands", folder).stdout.splitlines()
    assert sum(line.split()[:1] == ["std"] for line in bands) == 32


def test_pooled_windows_lie_where_they_are(extracted, tmp_path):
    (tmp_path / "clips").mkdir()
    t = np.arange(4 * 16000) / 16000
    soundfile.write(tmp_path / "clips/a.wav", np.where((t >= 2) & (t < 2.5), np.sin(2 * np.pi * 1000 * t), 0), 16000)
    store = hlfeat.FeatureStore(extracted("--pool", "window:0.5", clips=tmp_path / "clips"))
    (image,) = stored(store, ["a.wav"])
    assert (image.grid.first, image.grid.step) == (0.25, 0.5)
    figure = sheet_figure([image], [("a.wav", "4 s")], "")
    axes = images(figure)[0]
    left, right, _, _ = axes.images[0].get_extent()
    values = axes.images[0].get_array()
    column = int(np.argmax(values.max(0)))
    width = (right - left) / values.shape[1]
    assert left + width * column == pytest.approx(2.0)
    assert left <= 0
    assert right >= 4


def test_no_titles_overlap_however_long(extracted):
    store = hlfeat.FeatureStore(extracted())
    image = stored(store, store.ids()[:1])[0]
    titles = TITLES
    figure = sheet_figure([image] * len(titles), titles, LONG * 3)
    assert_apart(figure)
    shown = [axes.get_title(loc="left") for axes in images(figure)]
    assert shown[5] == "short\n0 ms"
    for (id_, length), title in zip(titles, shown, strict=True):
        first, second = title.split("\n")
        start, _, end = first.partition("…")
        assert second == length
        assert id_.startswith(start)
        assert id_.endswith(end)
        assert len(first) > 8 or first == id_
    store = hlfeat.FeatureStore(extracted("--pool", "mean+std", "--overwrite"))
    curves = profiles(store, store.ids()[:1]) * len(titles)
    assert_apart(profile_figure(curves, titles, LONG * 3))


def test_quiet_clips_are_not_black_beside_a_loud_click(extracted, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for i in range(6):
        x = helpers.tone(1.5, 16000, 300 + 100 * i, i) * 1e-3  # 60 dB quieter
        if i == 2:
            x[8000:8020] = 0.9
        soundfile.write(folder / f"{i}.wav", x, 16000, subtype="FLOAT")
    soundfile.write(folder / "6 loud.wav", helpers.tone(1.5, 16000), 16000)
    soundfile.write(folder / "7 silent.wav", np.zeros(16000), 16000)
    store = hlfeat.FeatureStore(extracted(clips=folder))
    figure = sheet_figure(stored(store, store.ids()), [(i, "1 s") for i in store.ids()], "")
    assert_apart(figure)
    for axes in images(figure)[:7]:
        drawn = axes.images[0]
        shade = drawn.cmap(drawn.norm(drawn.get_array()))[..., :3].max(-1)
        assert np.percentile(shade, 99) > 0.9, "black"
        assert np.percentile(shade, 5) < 0.3, "white"
    assert "each clip by itself" in figure.axes[-1].get_ylabel()


def test_clips_of_a_kind_share_their_colours(extracted):
    store = hlfeat.FeatureStore(extracted())
    figure = sheet_figure(stored(store, store.ids()), [(i, "1 s") for i in store.ids()], "")
    assert len({id(axes.images[0].norm) for axes in images(figure)}) == 1
    assert "each clip" not in figure.axes[-1].get_ylabel()
