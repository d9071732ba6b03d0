"""hlfeat inspect --html: one file that needs nothing else, shows what is there, and takes no id for markup."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
import shutil
import subprocess
import urllib.parse
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib import colormaps
from matplotlib.image import imread

import hlfeat
from hlfeat.inspection import html_report, png
from hlfeat.inspection.html_clips import card_of
from tests import helpers, in_process
from tests.extraction.runs import contents

SETTINGS = ["--set", "frontend.n_filters=16", "--set", "frontend.num_groups=4", "-q"]
EVIL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "</script><script>alert(3)</script>",
    "'><svg onload=alert(4)>",
    "a & b &lt; c",
    "\u05d0\u05d1\u05d2 \u202egpj.wav",
    "new\nline",
    "nul\u0000byte \ud800 surrogate",
]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


in_a_browser = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("HLFEAT_CHROMIUM") != "required", reason="Chromium is not installed"
)


class Page(HTMLParser):
    """All tags with their attributes, and the text outside of script and style."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._skipped = ""
        self.feed(data.decode("utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._skipped = tag if tag in ("script", "style") else self._skipped

    def handle_endtag(self, tag):
        self._skipped = "" if tag == self._skipped else self._skipped

    def handle_data(self, data):
        self.text += "" if self._skipped else data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of features of good and broken clips; not to be changed."""
    tmp = tmp_path_factory.mktemp("made")
    helpers.good_clips(tmp / "clips", 12)
    helpers.broken_clips(tmp / "clips" / "broken")
    in_process.invoke("extract", "clips", "-o", "out", *SETTINGS, "--shard-size", 5, cwd=tmp)
    return tmp


def page_of(folder: Path, *options: object) -> tuple[Page, subprocess.CompletedProcess[str]]:
    done = in_process.invoke("inspect", folder.name, "--html", "report.html", *options, cwd=folder.parent)
    return Page((folder.parent / "report.html").read_bytes()), done


def test_the_page_has_everything_in_it(made: Path):
    page, done = page_of(made / "out")
    assert (done.returncode, done.stdout, done.stderr) == (0, "report.html\n", "")
    store = hlfeat.FeatureStore(made / "out")
    for id_ in store.ids():
        assert id_.replace("\n", "\\n") in page.text
    failures = [json.loads(line) for line in (made / "out/failures.jsonl").read_text().splitlines()]
    assert len(failures) > 15
    for failure in failures:
        assert failure["message"] in page.text
        assert failure["code"] in page.text
    assert "complete" in page.text
    assert len(page.of("img")) == len(page.of("audio")) == 12
    assert all(image["alt"].startswith("Features of ") for image in page.of("img"))
    assert all(player["aria-label"] and player["preload"] == "none" for player in page.of("audio"))
    (chart,) = [svg for svg in page.of("svg") if svg.get("class") == "chart"]
    assert sum(int(n) for n in re.findall(r": (\d+) clips?", chart["aria-label"])) == 12
    assert page.of("html")[0]["lang"] == "en"
    assert page.of("label")[0]["for"] == page.of("input")[0]["id"] == "filter"
    assert page.of("meta")[2]["content"] == "width=device-width, initial-scale=1"


def test_it_needs_nothing_else(made: Path):
    page, _ = page_of(made / "out")
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            value = attributes.get(name) or "#"
            assert value.startswith(("data:image/png;base64,", "data:audio/", "#")), (tag, value)
        assert not [name for name in attributes if name.startswith("on")]
    assert {"link", "iframe", "object", "base", "form"}.isdisjoint(tag for tag, _ in page.tags)
    assert re.search(rb"url\(|@import|https?:", (made / "report.html").read_bytes()) is None


def test_pictures_are_those_of_the_features(made: Path):
    page, _ = page_of(made / "out")
    store = hlfeat.FeatureStore(made / "out")
    for (_, features), image in zip(store, page.of("img"), strict=True):
        data = base64.b64decode(image["src"].partition(",")[2])
        drawn = (imread(io.BytesIO(data)) * 255).round()[..., :3]
        values = features[:, 0].T[::-1]
        low, high = np.percentile(values, [1, 99.5])
        scaled = np.clip((values - low) / (high - low), 0, 1)
        expected = 255 * colormaps["magma"](scaled)[..., :3]
        assert drawn.shape == expected.shape
        assert np.abs(drawn - expected).max() < 14  # nine of its colours, and others between them


def test_players_have_the_beginning_of_the_clips(made: Path, tmp_path: Path):
    (tmp_path / "clips").mkdir()
    for rate in (4000, 16000, 44100, 96000):
        x = helpers.tone(12, rate, 440)
        soundfile.write(tmp_path / f"clips/{rate}.wav", np.stack([x, -0.5 * x], 1), rate)
    (tmp_path / "s.csv").write_text("path,start,end,channel\nclips/16000.wav,3,4.5,1\n")
    in_process.invoke("extract", "clips", "--manifest", "s.csv", "-o", "out", *SETTINGS, cwd=tmp_path)
    page, _ = page_of(tmp_path / "out")
    lengths = {}
    for player in page.of("audio"):
        kind, _, data = player["src"].partition(";base64,")
        assert kind in ("data:audio/mpeg", "data:audio/flac")
        y, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
        lengths[player["aria-label"]] = len(y) / rate
        spectrum = np.abs(np.fft.rfft(y[:rate]))
        assert y.ndim == 1
        assert abs(int(np.argmax(spectrum)) - 440) < 3
    assert [round(seconds, 1) for name, seconds in lengths.items() if ".wav " not in name] == pytest.approx(
        [10, 10, 10, 10, 1.5], abs=0.2
    )
    shutil.rmtree(tmp_path / "clips")
    page, done = page_of(tmp_path / "out")
    assert (done.returncode, page.of("audio"), len(page.of("img"))) == (0, [], 5)


def test_what_looks_like_markup_is_text(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", helpers.tone(0.3, 16000), 16000)
    rows = [{"id": evil, "audio_filepath": "a.wav"} for evil in EVIL]
    rows += [{"id": f"bad {evil}", "audio_filepath": f"{evil.replace(chr(0), '')}.wav"} for evil in EVIL[:6]]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = in_process.invoke("extract", "--manifest", "m.jsonl", "-o", "out", *SETTINGS, cwd=tmp_path)
    assert done.returncode in (0, 3), done.stderr
    with_meta = [json.loads(line) for line in (tmp_path / "out/shard-00000.jsonl").read_text().splitlines()]
    for line, evil in zip(with_meta, EVIL, strict=False):
        line["meta"] = {f"key {evil}": evil, "label": ["x", EVIL[0]], "n": 1, "none": None}
    (tmp_path / "out/shard-00000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in with_meta))
    page, done = page_of(tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    plain = "html head meta title style body header h1 bdi p main div label input output section h2 dl dt dd svg text"
    plain += " rect a table thead tbody tr th td ul li h3 img audio pre script"
    assert {tag for tag, _ in page.tags} <= set(plain.split())
    assert len(page.of("script")) == 1
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    for evil in EVIL[:5]:
        assert page.text.count(evil) >= 4  # card, table, metadata
    assert "\u202e" not in page.text
    assert "\\u202egpj.wav" in page.text
    assert "new\\nline" in page.text


def test_many_clips_are_limited_and_say_so(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page, _ = page_of(made / "out", "--clips", 5)
    assert len(page.of("img")) == 5
    assert "Pictures: 5 of 12 clips, evenly chosen" in page.text
    store = hlfeat.FeatureStore(made / "out")
    shown = [image["alt"].partition(" over ")[0].removeprefix("Features of ") for image in page.of("img")]
    assert shown == [store.ids()[i].replace("\n", "\\n") for i in (0, 3, 6, 8, 11)]
    page, _ = page_of(made / "out", "--clips", 0)
    assert not page.of("img")
    monkeypatch.setattr(html_report, "MOST_LISTED", 4)
    page, _ = page_of(made / "out", "--clips", 3)
    assert "The first 4 of 12 clips are listed; all are in the index." in page.text
    assert "The first 4 are listed; all are in failures.jsonl." in page.text
    assert len([tr for tr in page.of("tr") if tr.get("class") == "item"]) == 8
    monkeypatch.setattr(html_report, "MOST_LISTED", 2000)
    monkeypatch.setattr(html_report, "MOST_BYTES", 0)
    empty, _ = page_of(made / "out", "--clips", 0)
    assert not [tr for tr in empty.of("tr") if tr.get("class") == "item"]
    around = len((made / "report.html").read_bytes())
    monkeypatch.setattr(html_report, "MOST_BYTES", 120_000)
    drawn = []
    monkeypatch.setattr(html_report, "card_of", lambda *a: (drawn.append(1), card_of(*a))[1])
    page, _ = page_of(made / "out")
    assert len((made / "report.html").read_bytes()) < 120_000 + around + 2000  # headings
    assert "The page holds 0.12 MB; the rest was left out." in page.text
    shown_cards = len(page.of("img"))
    assert 0 < shown_cards < 12
    assert len(drawn) == shown_cards + 1  # what comes after the first that does not fit is not decoded
    assert f"Pictures: {shown_cards} of 12 clips" in page.text
    assert "evenly chosen" not in page.text


@pytest.mark.parametrize("pool", ["mean", None])
def test_long_metadata_is_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: str | None):
    """Transcripts of 10 kB each: the page has the beginning of each, twice, and no more bytes than it says."""
    helpers.good_clips(tmp_path / "clips", 12, longest=0.5)
    options = [] if pool is None else ["--pool", pool]
    in_process.invoke("extract", "clips", "-o", "out", *SETTINGS, *options, cwd=tmp_path)
    index = tmp_path / "out/shard-00000.jsonl"
    lines = [json.loads(line) for line in index.read_text().splitlines()]
    for i, line in enumerate(lines):
        line["meta"] = {"transcript": f"clip {i}: " + "é<" * 5000}
    index.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page, done = page_of(tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert page.text.count("clip 3: é<") == 2
    assert page.text.count("…") == 24
    text = re.sub(rb'"data:[^"]*"', b"", (tmp_path / "report.html").read_bytes())
    assert len(text) < 200_000


@pytest.mark.parametrize(
    "options",
    [
        "--pool mean",
        "--pool mean+std --format pt",
        "--pool max",
        "--pool window:0.5,0.25",
        "--dtype float16",
        "--set audio.channels=each",
        "--part 1/2",
    ],
)
def test_folders_of_all_kinds(made: Path, tmp_path: Path, options: str):
    in_process.invoke("extract", made / "clips", "-o", tmp_path / "out", *SETTINGS, *options.split())
    page, done = page_of(tmp_path / "out")
    assert done.returncode == 0, done.stderr
    pictures = page.of("img") + [svg for svg in page.of("svg") if svg.get("class") != "chart"]
    assert len(pictures) == len(hlfeat.FeatureStore(tmp_path / "out"))
    assert all(picture.get("alt") or picture.get("aria-label") for picture in pictures)


def test_a_damaged_folder(made: Path, tmp_path: Path):
    shutil.copytree(made, tmp_path / "made", symlinks=True)
    (tmp_path / "made/out/shard-00001.npy").unlink()
    (tmp_path / "made/out/failures.jsonl").write_text("{}\n")
    page, done = page_of(tmp_path / "made/out")
    assert (done.returncode, done.stdout) == (1, "report.html\n")
    assert "shard-00001.npy: damaged" in page.text
    assert len(page.of("img")) == 7


def test_what_is_wrong_with_the_call(made: Path, tmp_path: Path):
    in_process.invoke("pitch", made / "clips/d0", "-o", tmp_path / "pitch", "-q")
    for arguments, words in [
        ([made / "out", made / "out", "--html", tmp_path / "a.html"], "--html: expected one folder"),
        ([made / "out", "--json", "--html", tmp_path / "a.html"], "--html: expected one folder"),
        ([made / "out", "--clips", 3], "--clips: expected with --html only"),
        ([made / "out", "--html", tmp_path], "--html"),
        ([made / "out", "--html", tmp_path / "no/a.html"], "--html"),
        ([tmp_path / "pitch", "--html", tmp_path / "a.html"], "holds pitch tracks"),
        ([made / "clips", "--html", tmp_path / "a.html"], "not a feature directory"),
    ]:
        done = in_process.invoke("inspect", *arguments)
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    assert not list(tmp_path.glob("*.html*"))


def test_a_file_of_the_folder_is_not_replaced(made: Path, tmp_path: Path):
    shutil.copytree(made / "out", tmp_path / "out")
    (tmp_path / "link").symlink_to("out/shard-00000.jsonl")
    before = contents(tmp_path / "out")
    for command in (["inspect", "out", "--html"], ["stats", "out", "-o"]):
        for name in ("out/hlfeat.yaml", "out/shard-00000.npy", "out/stats-00009.json", "out/a.wav.f0.csv", "link"):
            done = in_process.invoke(*command, name, cwd=tmp_path)
            assert (done.returncode, "expected another name" in done.stderr) == (2, True), done.stderr
        assert contents(tmp_path / "out") == before
        assert in_process.invoke(*command, "out/a.json", cwd=tmp_path).returncode == 0
        (tmp_path / "out/a.json").unlink()
        assert in_process.invoke(*command, "report.json", cwd=tmp_path).returncode == 0  # in no folder of features


def test_a_png_reads_back(rng: np.random.Generator):
    pixels = rng.integers(0, 256, (7, 13), np.uint8)
    colours = png.palette()
    read = (imread(io.BytesIO(png.encode_png(pixels, colours))) * 255).round().astype(int)[..., :3]
    np.testing.assert_array_equal(read, colours[pixels])
    data = png.features_png(np.zeros((3, 4)))
    assert zlib.crc32(data[12:29]) == int.from_bytes(data[29:33], "big")


# --- in a browser --------------------------------------------------------------------------------------------------


def chromium(page: Path, query: str = "", phone: bool = False) -> tuple[str, str]:
    """The page's document after its script has run, and what the browser logs."""
    assert CHROMIUM is not None, "HLFEAT_CHROMIUM=required, but Chromium is not installed"
    size = "390,844" if phone else "1280,1024"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--window-size={size}"]
    options += [f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=3000", "--dump-dom"]
    address = page.as_uri() + (f"#q={urllib.parse.quote(query)}" if query else "")
    done = subprocess.run([CHROMIUM, *options, address], capture_output=True, text=True, timeout=100, check=False)
    assert "</html>" in done.stdout, done.stderr
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def shown(document: str) -> list[str]:
    """The texts that the filter looks at, of the rows that it does not hide."""
    return [" ".join(cells) for cells in Rows(document).shown]


class Rows(HTMLParser):
    """The cells of each row that is an item and not hidden."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.shown: list[list[str]] = []
        self._within = self._cell = False
        self.feed(document)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self._within = dict(attrs).get("class") == "item" and "hidden" not in dict(attrs)
            self.shown += [[]] if self._within else []
        elif tag == "td" and self._within:
            self._cell = True
            self.shown[-1].append("")

    def handle_endtag(self, tag):
        self._cell = self._cell and tag != "td"
        self._within = self._within and tag != "tr"

    def handle_data(self, data):
        if self._cell:
            self.shown[-1][-1] += data


@in_a_browser
def test_the_filter_works_in_a_browser(made: Path, tmp_path: Path):
    shutil.copytree(made / "out", tmp_path / "out")
    index = tmp_path / "out/shard-00000.jsonl"
    lines = [json.loads(line) for line in index.read_text().splitlines()]
    for i, line in enumerate(lines):
        line["meta"] = {"speaker": f"Müller {i}", "evil": EVIL[i % 4]}
    index.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page_of(tmp_path / "out")
    everything, log = chromium(tmp_path / "report.html")
    assert log == ""
    assert len(shown(everything)) == 12 + len((made / "out/failures.jsonl").read_text().splitlines())
    for query, matches in [
        ("truncated", lambda text: "truncated" in text),
        ("MÜLLER 3", lambda text: "Müller 3" in text or ("müller" in text.lower() and "3" in text)),
        ("onerror", lambda text: "onerror" in text),
        ("plain .wav", lambda text: "plain" in text and ".wav" in text.lower()),
        ("nothing has this", lambda text: False),
    ]:
        document, log = chromium(tmp_path / "report.html", query, phone=query == "truncated")
        assert log == "", log
        expected = [text for text in shown(everything) if matches(text)]
        assert shown(document) == expected
        count = re.search(r'<output id="count"[^>]*>([^<]*)</output>', document)
        assert count is not None
        assert html.unescape(count[1]) == f"{len(expected)} of {len(shown(everything))} match"
        assert re.search(r'<input id="filter"[^>]*>', document)


@in_a_browser
def test_the_browser_refuses_what_the_page_does_not_bring(made: Path, tmp_path: Path):
    """If an id were taken for markup after all, its script would not run."""
    page_of(made / "out")
    data = (made / "report.html").read_text(encoding="utf-8")
    evil = "<script>document.title = 'changed'</script><img src=x onerror=\"document.title = 'changed'\">"
    (tmp_path / "evil.html").write_text(data.replace("</main>", f"{evil}</main>"), encoding="utf-8")
    document, log = chromium(tmp_path / "evil.html")
    assert "<title>hlfeat: out</title>" in document
    assert "Content Security Policy" in log
