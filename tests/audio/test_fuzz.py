"""Files damaged at random: nothing crashes or hangs, every clip is accounted for, and the good ones stay the same."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hlfeat import FeatureStore
from tests import helpers
from tests.audio.media import MEDIA, encode
from tests.conftest import command

AV = "AV"  # of formats that PyAV makes and FFmpeg reads
FORMATS = [
    ("wav", "WAV", "PCM_16"),
    ("wav", "WAV", "PCM_24"),
    ("wav", "WAV", "FLOAT"),
    ("wav", "WAV", "IMA_ADPCM"),
    ("flac", "FLAC", "PCM_16"),
    ("ogg", "OGG", "VORBIS"),
    ("opus", "OGG", "OPUS"),
    ("mp3", "MP3", "MPEG_LAYER_III"),
    ("aiff", "AIFF", "PCM_16"),
    ("au", "AU", "PCM_16"),
    ("caf", "CAF", "PCM_16"),
    ("caf", "CAF", "ALAC_16"),
    ("w64", "W64", "PCM_16"),
    ("rf64", "RF64", "PCM_16"),
    ("sds", "SDS", "PCM_16"),
    ("sph", "NIST", "PCM_16"),
    ("voc", "VOC", "PCM_16"),
    ("iff", "SVX", "PCM_16"),
    ("xi", "XI", "DPCM_16"),
    ("sf", "IRCAM", "PCM_16"),
    ("paf", "PAF", "PCM_16"),
    ("mat5", "MAT5", "PCM_16"),
    *((kind.extension, AV, name) for name, kind in MEDIA.items()),
]
EACH = 200 if os.environ.get("HLFEAT_TESTS") == "thorough" else 25  # damaged files of a format
SEED = int(os.environ.get("HLFEAT_SEED", "0"))
LIMIT = 60 + EACH  # seconds; a file that hangs takes all of them
LIES = [b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\0\0\0\x80", b"\x80\0\0\0", bytes(4)]


def damaged(data: bytes, dice: random.Random) -> bytes:
    """The bytes with one to four mistakes, half of them near the start, where headers are."""
    content = bytearray(data)
    for _ in range(dice.choice([1, 1, 1, 2, 4])):
        start = dice.randrange(dice.choice([len(content), min(200, len(content))]) or 1)
        n = 1 << dice.randrange(13)
        kind = dice.choice(["flip", "cut", "noise", "remove", "insert", "zero", "lie"])
        if kind == "flip":
            content[start : start + 1] = bytes(b ^ 1 << dice.randrange(8) for b in content[start : start + 1])
        elif kind == "cut":
            del content[start:]
        elif kind == "noise":
            content[start : start + n] = dice.randbytes(len(content[start : start + n]))
        elif kind == "remove":
            del content[start : start + n]
        elif kind == "insert":
            content[start:start] = dice.randbytes(n)
        elif kind == "zero":
            content[start : start + n] = bytes(len(content[start : start + n]))
        else:
            content[start : start + 4] = dice.choice(LIES)
    return bytes(content)


def encoded(form: str, subtype: str, channels: int) -> bytes:
    if form == AV:
        kind = MEDIA[subtype]
        with tempfile.TemporaryDirectory() as folder:
            samples = np.stack([helpers.tone(0.3, kind.rate)] * kind.channels, 1)
            return encode(Path(folder, "clip"), kind, samples).read_bytes()
    rate = 48000 if subtype == "OPUS" else 16000
    x = helpers.tone(0.3, rate)
    file = io.BytesIO()
    soundfile.write(file, np.stack([x] * channels, 1), rate, format=form, subtype=subtype)
    return file.getvalue()


def extract(folder: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: a crash of a decoder is an exit status here."""
    cheap = ["--set", "frontend.n_filters=8", "--set", "frontend.num_groups=4", "-q", "--shard-size", "20"]
    environment = {**os.environ, "PYTHONFAULTHANDLER": "1"}
    process = [command(), "extract", *map(str, (folder, "-o", out)), *cheap, *more]
    return subprocess.run(process, capture_output=True, text=True, errors="replace", timeout=LIMIT, env=environment)


def culprit(folder: Path) -> str:
    """The file that crashes a decoder."""
    read = "import sys; from hlfeat import load_audio; load_audio(sys.argv[1], 16000)"
    for path in sorted(folder.iterdir()):
        ended = subprocess.run([sys.executable, "-c", read, path], capture_output=True, timeout=LIMIT, check=False)
        if ended.returncode < 0:
            return f"{path}: {signal.Signals(-ended.returncode).name}"
    return "no file alone"


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[str, np.ndarray]:
    """Features of the good clips, by extension and subtype, among none but good ones."""
    folder, out = tmp_path_factory.mktemp("good"), tmp_path_factory.mktemp("features")
    for ext, form, subtype in FORMATS:
        (folder / f"{form} {subtype}.{ext}").write_bytes(encoded(form, subtype, 1))
    assert extract(folder, out).returncode == 0
    return dict(FeatureStore(out))


@pytest.mark.parametrize("on_truncated", ["fail", "keep"])
def test_damaged_files(tmp_path, good, on_truncated):
    folder, out = tmp_path / "clips", tmp_path / "out"
    folder.mkdir()
    segments = []
    for ext, form, subtype in FORMATS:
        mono_only = form in ("SDS", "SVX", "XI", AV)
        whole = [encoded(form, subtype, channels) for channels in ((1,) if mono_only else (1, 2))]
        for i in range(EACH):
            dice = random.Random(f"{SEED} {form} {subtype} {i}")
            path = folder / f"{i:04d} {form} {subtype}.{ext}"
            path.write_bytes(damaged(dice.choice(whole), dice))
            if i % 5 == 0:
                segments.append({"id": f"part of {path.name}", "path": str(path), "start": 0.1, "end": 0.2})
        # sorted among the others, so that they share chunks and shards
        (folder / f"{EACH // 2:04d} {form} {subtype} good.{ext}").write_bytes(whole[0])
    (tmp_path / "parts.jsonl").write_text("\n".join(map(json.dumps, segments)))
    more = "--manifest", str(tmp_path / "parts.jsonl"), "--on-truncated", on_truncated
    ended = extract(folder, out, *more)
    assert ended.returncode in (0, 3), f"seed {SEED}: {culprit(folder)}\n{ended.stderr[-3000:]}"
    assert "Traceback" not in ended.stderr
    failed = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    store = FeatureStore(out)
    ids = [*store.ids, *(f["id"] for f in failed)]
    assert sorted(ids) == sorted([*(p.name for p in folder.iterdir()), *(s["id"] for s in segments)])
    assert not [f for f in failed if "rror: " in f["message"]], "a code for what a decoder says"
    assert EACH < len(failed) < len(ids) - 2 * len(FORMATS), "damage that is noticed, and damage that is not"
    for ext, form, subtype in FORMATS:
        features = store[f"{EACH // 2:04d} {form} {subtype} good.{ext}"]
        assert np.array_equal(features, good[f"{form} {subtype}.{ext}"])
    report = json.loads((out / "report.json").read_text())
    assert report["peak_memory_bytes"] < 3 << 29  # torch alone is half of it
    assert ended.stdout.splitlines() == sorted(map(str, out.glob("*.npy")))
