"""Scenarios that write feature directories, and what a finished directory holds.

Two versions of hlfeat can be compared byte by byte, on one machine:

    python -m tests.contract.directories FOLDER          # with the one version
    HLFEAT_CONTRACT_REFERENCE=FOLDER pytest tests/contract/test_directories.py     # with the other

FOLDER then has a directory for each scenario. `python -m tests.contract.directories --pin` writes directories.json and
directories.npz: what does not depend on the machine, and the features' values, which are compared within a tolerance.

Only public names and the command line are used, so that these tests outlive the layout of the package.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, as tests/conftest.py does

import numpy as np
import soundfile
import torch
from safetensors.torch import save_file

import hlfeat

PINNED, VALUES = Path(__file__).with_name("directories.json"), Path(__file__).with_name("directories.npz")
TIME = 1_600_000_000  # modification time of every clip, seconds
CHEAP = ["frontend.n_filters=8", "frontend.num_groups=4"]
ARRAYS = ("mean", "variance", "m2", "min", "max")  # keys of statistics whose values depend on the machine

Scenario = Callable[[str], None]
SCENARIOS: dict[str, Scenario] = {}  # name -> writes ./NAME, given its name; the working directory has ./clips


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


# --- clips -------------------------------------------------------------------------------------------------------

# path, sample rate, seconds, channels, subtype: folders are read in the order of their names
CLIPS: list[tuple[str, int, float, int, str]] = [
    ("a/00.wav", 16000, 1.0, 1, "PCM_16"),
    ("a/01 stereo.wav", 44100, 0.5, 2, "PCM_16"),
    ("a/02.flac", 8000, 0.7, 1, "PCM_16"),
    ("a/b/03.flac", 22050, 1.2, 2, "PCM_16"),
    ("a/b/04 ünï.wav", 48000, 0.3, 1, "FLOAT"),
    ("c/05.wav", 11025, 2.0, 1, "PCM_24"),
    ("c/06 silent.wav", 16000, 0.4, 1, "PCM_16"),
    ("c/07 short.wav", 16000, 0.1, 1, "PCM_16"),
    ("c/08 one side.wav", 16000, 0.6, 2, "FLOAT"),
    ("c/09 sample.wav", 16000, 1 / 16000, 1, "PCM_16"),
]


def samples(seconds: float, rate: int, channels: int, seed: int) -> np.ndarray:
    """A tone with harmonics, which decays, and noise: float32 [T, channels]."""
    t = np.arange(round(seconds * rate))[:, None] / rate
    noise = np.random.default_rng(seed).normal(size=(len(t), channels)) * 0.01
    tone = sum(np.sin(2 * np.pi * (150 + 45 * seed) * k * t) / k for k in (1, 2, 3))
    return (0.2 * tone * np.exp(-2 * t) + noise).astype(np.float32)


def write_audio(path: Path, x: np.ndarray, rate: int, subtype: str = "PCM_16") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, x, rate, subtype=subtype)
    os.utime(path, (TIME, TIME))


def write_clips(folder: Path) -> None:
    for seed, (name, rate, seconds, channels, subtype) in enumerate(CLIPS):
        x = samples(seconds, rate, channels, seed)
        if "silent" in name:
            x[:] = 0
        if "one side" in name:
            x[:, 1] = 0
        write_audio(folder / name, x, rate, subtype)
    (folder / "notes.txt").write_text("not audio\n")


def write_broken_clips(folder: Path) -> None:
    """Good clips with files between them that cannot be used."""
    x = samples(0.5, 16000, 1, 3)
    for name in ("a good.wav", "m good.wav", "z good.wav"):
        write_audio(folder / name, x, 16000)
    wav = (folder / "a good.wav").read_bytes()
    contents = {
        "b zero bytes.wav": b"",
        "c text.wav": b"this is text\n" * 40,
        "d header only.wav": wav[:44],
        "e cut.wav": wav[: len(wav) // 2],
        "g rate of one.wav": wav[:24] + b"\1\0\0\0" + wav[28:],
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
        os.utime(folder / name, (TIME, TIME))
    x[1000] = np.nan
    write_audio(folder / "h nan.wav", x, 16000, "FLOAT")
    (folder / "i dangling.wav").symlink_to("nowhere.wav")


# --- runs --------------------------------------------------------------------------------------------------------


def extract(
    out: str,
    *overrides: str,
    config: str = "eleaf-8g-opt",
    inputs: tuple[str, ...] | hlfeat.Inputs = ("clips",),
    **options: Any,
) -> None:
    """In this process, on the CPU."""
    options = {"device": "cpu", "quiet": True, **options}
    collected = inputs if isinstance(inputs, hlfeat.Inputs) else list(inputs)
    hlfeat.extract(hlfeat.load_config(config, overrides), collected, out, hlfeat.Options(**options))


def run(*args: str, code: int = 0, stdin: bytes = b"") -> str:
    """The command, as a process that uses the same hlfeat as this one; its standard output."""
    script = shutil.which("hlfeat", path=str(Path(sys.executable).parent))
    assert script, "hlfeat is not installed in this environment: pip install -e '.[test]'"
    done = subprocess.run([script, *args], input=stdin, capture_output=True, timeout=300, env=environment())
    assert done.returncode == code, f"{args}: exit code {done.returncode}, expected {code}: {done.stderr.decode()}"
    return done.stdout.decode()


def environment() -> dict[str, str]:
    """That of processes: the same hlfeat, and no job that a run could be a part of."""
    job = ("SLURM_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "JOB_COMPLETION_INDEX")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(job)}
    return {**kept, "PYTHONPATH": str(Path(hlfeat.__file__).parents[1]), "CUDA_VISIBLE_DEVICES": ""}


@scenario
def npy(out: str) -> None:
    extract(out)


@scenario
def pt(out: str) -> None:
    extract(out, "output.format=pt", "output.shard_size=4")


@scenario
def float16(out: str) -> None:
    extract(out, "output.dtype=float16")


@scenario
def small_shards(out: str) -> None:
    extract(out, "output.shard_size=3")


@scenario
def shards_of_bytes(out: str) -> None:
    extract(out, "output.shard_size=100kB")


@scenario
def parts(out: str) -> None:
    """Three parts by three processes, in another order; the options of the command rather than overrides."""
    for part, shards in ((2, 2), (3, 2), (1, 2)):
        args = ["--part", f"{part}/3", "--shard-size", "2", "--dtype", "float16", "--device", "cpu", "-q"]
        paths = run("extract", "clips", "-o", out, *args).splitlines()
        assert paths == [f"{out}/shard-p{part}of3-{i:05d}.npy" for i in range(shards)]


@scenario
def pool_mean_std(out: str) -> None:
    extract(out, "output.pool=mean+std", "output.shard_size=4")


@scenario
def pool_max(out: str) -> None:
    extract(out, "output.pool=max", "output.format=pt")


@scenario
def pool_windows(out: str) -> None:
    extract(out, 'output.pool="window:0.5,0.25"')


@scenario
def stats(out: str) -> None:
    """Statistics by the command: of clips, and of a directory of features; and features normalised by them."""
    Path(out).mkdir()
    extract(f"{out}/features", *CHEAP, "output.shard_size=4")
    assert run("stats", f"{out}/features", "-o", f"{out}/of-features.json", "-q") == f"{out}/of-features.json\n"
    sets = [word for setting in CHEAP for word in ("--set", setting)]
    run("stats", "clips", *sets, "-o", f"{out}/of-clips.json", "--device", "cpu", "-q")
    extract(f"{out}/normalised", *CHEAP, stats=Path(f"{out}/of-features.json"))


@scenario
def normalised(out: str) -> None:
    """By a statistics file of round numbers, whose digest is the same everywhere; pooled afterwards."""
    config = hlfeat.load_config("log-mel", ["frontend.n_filters=8"])
    mean = [[i / 4 - 3 for i in range(8)]]
    record: dict[str, Any] = {"hlfeat": "statistics", "fingerprint": config.frames_fingerprint(None)}
    record |= {"clips": 2, "frames": 100, "mean": mean, "variance": [[1 + i / 8 for i in range(8)]]}
    record |= {"min": [[m - 5 for m in mean[0]]], "max": [[m + 5 for m in mean[0]]]}
    Path("stats.json").write_text(json.dumps(record) + "\n")
    Path(out).mkdir()
    for name, overrides in (("frames", []), ("pooled", ["output.pool=mean"])):
        extract(
            f"{out}/{name}", "frontend.n_filters=8", *overrides, config="log-mel", stats=Path("stats.json"), workers=1
        )


@scenario
def weights(out: str) -> None:
    """Weights of a stack from a file of safetensors."""
    state = hlfeat.build("eleaf-harmonic").state_dict()
    half = {k: v.clone() if k.startswith("frontend") else torch.full_like(v, 0.125) for k, v in state.items()}
    save_file(half, "half.safetensors")
    inputs = ("clips/a/00.wav", "clips/a/02.flac")
    extract(out, config="eleaf-harmonic", inputs=inputs, weights=Path("half.safetensors"))


@scenario
def tar(out: str) -> None:
    """A tar of clips between other inputs; only WAV, whose size does not depend on an encoder."""
    with tarfile.open("clips.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for i in (5, 0, 1):
            archive.add(f"clips/{CLIPS[i][0]}", f"inside/{i}.wav")
        text = tarfile.TarInfo("inside/readme.txt")
        text.size = 4
        archive.addfile(text, io.BytesIO(b"text"))
    os.utime("clips.tar", (TIME, TIME))
    extract(out, inputs=("clips/c/07 short.wav", "clips.tar", "clips/a/02.flac"))


@scenario
def manifests(out: str) -> None:
    """A table, JSON lines and a Kaldi folder: segments, channels, ids, and rows that fail."""
    Path("table.csv").write_text(
        "path,id,start,end,channel,label\n"
        "clips/a/00.wav,first,0.25,0.75,,x\n"
        "clips/a/b/03.flac,,0.1,0.9,1,y\n"
        "clips/a/01 stereo.wav,right,,,1,z\n"
        "clips/a/00.wav,past the end,0.5,9,,x\n"
        "clips/a/00.wav,backwards,0.5,0.25,,x\n"
        "clips/a/00.wav,no such channel,,,3,x\n"
        "clips/none.wav,,,,,x\n"
    )
    lines = [
        {"audio_filepath": "clips/c/05.wav", "offset": 0.5, "duration": 1.0},
        {"path": "clips/c/05.wav", "id": "whole", "text": "words"},
    ]
    Path("lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Path("kaldi").mkdir()
    Path("kaldi/wav.scp").write_text("r1 clips/a/00.wav\nr2 clips/a/b/03.flac\n")
    Path("kaldi/segments").write_text("u1 r1 0.00 0.40\nu2 r2 0.30 -1\nu3 r1 0.40 0.90\n")
    extract(out, inputs=("table.csv", "lines.jsonl", "kaldi"))


@scenario
def each_channel(out: str) -> None:
    extract(out, "audio.channels=each", "output.shard_size=4")


@scenario
def second_channel(out: str) -> None:
    """Clips of one channel fail."""
    extract(out, "audio.channels=1", *CHEAP)


@scenario
def broken(out: str) -> None:
    """A list on standard input with a folder and missing files; the exit code says that clips failed."""
    write_broken_clips(Path("broken clips"))
    listed = b"clips/a/00.wav\0gone/one.wav\0broken clips\0"
    args = ["--shard-size", "2", "--device", "cpu", "-q"]
    assert run("extract", "-", "-0", "-o", out, *args, code=3, stdin=listed).splitlines() == [
        f"{out}/shard-{i:05d}.npy" for i in range(2)
    ]


@scenario
def killed(out: str) -> None:
    """Killed when the second shard is finished, in the middle of the loop, and run again: as if it had not been."""
    program = (
        "import os, signal, hlfeat\n"
        "done = []\n"
        "def finished(path):\n"
        "    done.append(path)\n"
        "    if len(done) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "config = hlfeat.load_config('eleaf-8g-opt', ['output.shard_size=3'])\n"
        "options = hlfeat.Options(device='cpu', quiet=True)\n"
        f"hlfeat.extract(config, ['clips'], {out!r}, options, finished_shard=finished)\n"
    )
    process = subprocess.run([sys.executable, "-c", program], env=environment(), timeout=300, check=False)
    assert process.returncode == -9
    assert Path(out, "shard-00001.jsonl").exists()
    assert not Path(out, "shard-00003.jsonl").exists()
    assert json.loads(Path(out, "report.json").read_bytes())["complete"] is False
    extract(out, "output.shard_size=3")


@scenario
def tried_again(out: str) -> None:
    """Runs over clips of which one is missing at first, then over one clip that has changed."""
    paths = ("clips/a/00.wav", "late.wav", "clips/a/02.flac", "clips/c/07 short.wav")
    inputs = hlfeat.Inputs([hlfeat.Clip.of_file(path) for path in paths])
    extract(out, "output.shard_size=2", *CHEAP, inputs=inputs)
    write_audio(Path("late.wav"), samples(0.3, 16000, 1, 5), 16000)
    extract(out, "output.shard_size=2", *CHEAP, inputs=inputs, retry_failed=True)
    write_audio(Path("clips/a/00.wav"), samples(0.8, 16000, 1, 7), 16000)
    extract(out, "output.shard_size=2", *CHEAP, inputs=inputs, update=True)


@scenario
def eleaf_harmonic(out: str) -> None:
    extract(out, "output.shard_size=4", config="eleaf-harmonic")


@scenario
def every_layer(out: str) -> None:
    extract(out, config=str(Path(__file__).with_name("every_layer.yaml")))


@scenario
def log_mel(out: str) -> None:
    extract(out, config="log-mel")


@scenario
def eleaf_pcen(out: str) -> None:
    extract(out, config="eleaf-pcen")


@scenario
def linear_harmonic(out: str) -> None:
    extract(out, config="linear-harmonic", inputs=("clips/a",))


@scenario
def log_harmonic(out: str) -> None:
    extract(out, config="log-harmonic", inputs=("clips/a",))


@scenario
def leaf(out: str) -> None:
    extract(out, config="leaf", inputs=("clips/a/b/04 ünï.wav",))


@scenario
def long(out: str) -> None:
    """A clip that is computed while it is read, between short ones: filterbank, median and a stack."""
    write_audio(Path("long.flac"), samples(70, 8000, 2, 4), 8000)
    stack = "stack=[{layer: harmonic, out_channels: 2, kernel: [3, 3]}, {layer: pool, frames: 4}]"
    extract(out, *CHEAP, stack, inputs=("clips/a/00.wav", "long.flac", "clips/a/02.flac"))


@contextmanager
def workplace(folder: Path) -> Iterator[None]:
    """A new working directory with ./clips, so that the paths in an index do not depend on where that is."""
    folder.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    os.chdir(folder)
    try:
        write_clips(Path("clips"))
        yield
    finally:
        os.chdir(before)


def write(name: str, folder: Path) -> Path:
    """Run a scenario in a folder; the directory that it wrote."""
    with workplace(folder):
        SCENARIOS[name](name)
    return folder / name


# --- what a directory holds --------------------------------------------------------------------------------------


# Of hlfeat.yaml: versions of libraries, and the keys of bands and times that the pinned directories do not have.
LATER = (
    rb"(?m)^versions:\n(  .*\n)*|^  freqs: \[[^]]*\]\n"
    rb"|^  (sample_rate|first_centre_samples|window_seconds|window_hop_seconds): .*\n"
)


def contents(folder: Path) -> dict[str, bytes]:
    """All files but reports, which have times in them; descriptions without the versions of libraries."""
    files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {
        name: re.sub(LATER, b"", data) if name.endswith("hlfeat.yaml") else data
        for name, data in files.items()
        if not re.fullmatch(r"report.*\.json", Path(name).name)
    }


def portable(folder: Path) -> dict[str, list[str]]:
    """Of each file what does not depend on the machine or on libraries' versions, as lines of text."""
    return {name: _portable(name, data, folder / name) for name, data in contents(folder).items()}


def _portable(name: str, data: bytes, path: Path) -> list[str]:
    if path.suffix == ".npy":
        return [data[:128].decode("latin-1").rstrip(), f"{len(data)} bytes"]
    if path.suffix == ".pt":
        return [f"{k}: {v.dtype} {list(v.shape)}" for k, v in torch.load(path, weights_only=True).items()]
    text = data.decode()
    if path.suffix == ".json":
        return [
            f"{k}: array {np.shape(v)}" if k in ARRAYS else f"{k}: {json.dumps(v)}" for k, v in json.loads(text).items()
        ]
    if path.suffix == ".jsonl":  # what an encoder makes of a clip is its library's
        text = re.sub(r', "crc32": \d+', ', "crc32": ...', text)
        text = re.sub(r'(\.flac".*"size": )\d+', r"\1...", text)
    elif "safetensors" in text or "of-features.json" in text:  # digests of features, or of libraries' headers
        text = re.sub(r"(?m)^((?:fingerprint|  sha256): )[0-9a-f]{64}$", r"\1...", text)
    if path.suffix == ".yaml" and path.parent.name != "log_mel":  # of one the text, of the others its digest
        return [f"SHA-256 {hashlib.sha256(text.encode()).hexdigest()}"]
    return text.splitlines()


def values(folder: Path) -> dict[str, np.ndarray]:
    """Features in short: of each clip and of each array of statistics a few numbers, and the means of all bands."""
    arrays = {}
    for description in sorted(folder.rglob("hlfeat.yaml")):
        features = [np.asarray(x, np.float64) for _, x in hlfeat.FeatureStore(description.parent)]
        name = str(description.parent.relative_to(folder.parent))
        arrays[f"{name} clips"] = np.array([_in_short(x) for x in features])
        arrays[f"{name} bands"] = np.mean([x.mean(0) for x in features], 0)
    for path in sorted(folder.rglob("*.json")):
        if not path.name.startswith("report"):
            statistics = [np.array(v) for k, v in json.loads(path.read_bytes()).items() if k in ARRAYS]
            arrays[str(path.relative_to(folder.parent))] = np.array([_in_short(x) for x in statistics])
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _in_short(x: np.ndarray) -> list[float]:
    return [x.mean(), x.std(), x.flat[0], x.flat[x.size // 2], x.flat[-1]]


def main(folder: str) -> None:
    pinned, arrays = {}, {}
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    for name in SCENARIOS:
        with tempfile.TemporaryDirectory() as work:
            out = write(name, Path(work))
            pinned[name] = portable(out)
            arrays |= values(out)
            if folder != "--pin":
                shutil.rmtree(Path(folder, name), ignore_errors=True)
                shutil.copytree(out, Path(folder, name))
    if folder == "--pin":
        PINNED.write_text(json.dumps(pinned, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
        np.savez_compressed(VALUES, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
