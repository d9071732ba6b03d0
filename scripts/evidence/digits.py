"""Is there a gain beyond pitch? Which digit was spoken, by a speaker whom the training has not heard.

    python -m scripts.evidence --only digits --digits FOLDER -o results.jsonl

FOLDER holds the recordings of the Free Spoken Digit Dataset, DIGIT_SPEAKER_NUMBER.wav (six speakers, 3,000 clips). Each
speaker is tested once, after training with the five others. Two convolutions of 7 x 3 on 40 mel-spaced rows, of equal
cost: harmonic (k / 2 of a row's frequency, k = 1 ... 7), plain, or dilated over rows; mean and maximum over time; a
linear classifier. The dilation is chosen, for each tested speaker, by one of the five others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor, nn

from hlfeat import HarmonicConv2d, LogMel
from hlfeat.audio.resample import Resampler
from hlfeat.errors import UsageError
from hlfeat.nn.axes import Axis
from scripts.evidence.records import Record, divide
from scripts.evidence.workers import run_jobs

Job = dict[str, Any]

RATE, ROWS, FRAMES = 8000, 40, 40  # 0.8 s at 20 ms; longer clips are cut
KERNEL, CHANNELS, ANCHOR = (7, 3), 8, 2
STACKS = ("harmonic", "plain", "dilated")
SEEDS, DILATIONS = 3, (2, 3, 4)
STEPS, BATCH, LEARNING_RATE = 300, 32, 0.005
EXPERIMENT, TUNING = "digits", "digits, dilation"


@dataclass
class Digits:
    """Clips: levels [N, 1, ROWS, FRAMES], the frames that are in the clip [N, FRAMES], digits [N]; speakers, names."""

    levels: Tensor
    inside: Tensor
    digit: Tensor
    speakers: list[str]
    names: list[str]

    def of(self, speakers: Iterable[str]) -> Tensor:
        """Positions of these speakers' clips: int64 [n]."""
        wanted = set(speakers)
        return torch.tensor([i for i, s in enumerate(self.speakers) if s in wanted])


def frontend() -> LogMel:
    """The fixed rows."""
    return LogMel(ROWS, 60.0, 3900.0, RATE, window_len=32.0, window_stride=20.0)


def read_digits(folder: str) -> Digits:
    """All clips of a folder. Raises UsageError where there are none of at least three speakers."""
    resample, rows = Resampler(RATE), frontend()
    paths = sorted(Path(folder).rglob("[0-9]_*_*.wav"))
    speakers = [p.stem.split("_")[1] for p in paths]
    if len(set(speakers)) < 3:
        raise UsageError(f"{folder}: expected DIGIT_SPEAKER_NUMBER.wav of three speakers or more")
    levels, inside = torch.zeros(len(paths), 1, ROWS, FRAMES), torch.zeros(len(paths), FRAMES)
    for i, path in enumerate(paths):
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        y = rows(resample(torch.from_numpy(samples.T[:1].copy()), rate))[0, :, :FRAMES]
        levels[i, 0, :, : y.shape[1]] = 1 + (y - y.max()).clamp(min=-14) / 7  # ln: 60 dB below the maximum are -1
        inside[i, : y.shape[1]] = 1
    return Digits(levels, inside, torch.tensor([int(p.stem[0]) for p in paths]), speakers, [p.stem for p in paths])


class Classifier(nn.Module):
    """Two convolutions, mean and maximum over time, ten logits. Shape: [B, 1, F, N], inside [B, N] -> [B, 10]."""

    def __init__(self, kind: str, axis: Axis, dilation: int = 1) -> None:
        super().__init__()
        self.first = convolution(kind, axis, 1, dilation)
        self.second = convolution(kind, axis, CHANNELS, dilation)
        self.linear = nn.Linear(2 * CHANNELS * ROWS, 10)

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        here = inside[:, None, None]
        y = self.second(self.first(x).relu() * here).relu() * here  # [B, C, F, N], from 0 up
        mean = y.sum(dim=-1) / here.sum(dim=-1).clamp(min=1)
        return self.linear(torch.cat([mean, y.amax(dim=-1)], dim=1).flatten(1))  # type: ignore[no-any-return]


def convolution(kind: str, axis: Axis, before: int, dilation: int) -> nn.Module:
    """One layer that keeps rows and frames. Raises ValueError for another kind."""
    if kind == "harmonic":
        return HarmonicConv2d(before, CHANNELS, KERNEL, padding=(0, 1), anchor=ANCHOR, axis=axis)
    if kind not in STACKS:
        raise ValueError(f"expected a stack of {', '.join(STACKS)}, got {kind!r}")
    d = dilation if kind == "dilated" else 1
    return nn.Conv2d(before, CHANNELS, KERNEL, padding=(d * (KERNEL[0] // 2), 1), dilation=(d, 1))


def run(
    folder: Path,
    seeds: int = SEEDS,
    finished: Sequence[Record] = (),
    write: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """Tune, train and test for every speaker. Raises UsageError for a folder without such clips."""
    digits = read_digits(str(folder))
    speakers = sorted(set(digits.speakers))
    with tempfile.TemporaryDirectory(prefix="evidence-") as place:
        prepared = str(Path(place) / "digits.pt")
        torch.save(digits, prepared)
        tuned, missing = divide(tuning_jobs(speakers), finished)
        tuned += run_jobs(work, missing, prepared, write=write)
        results, missing = divide(final_jobs(speakers, best_dilations(tuned), seeds), finished)
        return tuned + results + run_jobs(work, missing, prepared, write=write)


@lru_cache(maxsize=1)
def load_digits(prepared: str) -> Digits:
    """What `run` has read, in this process."""
    return torch.load(prepared, weights_only=False)  # type: ignore[no-any-return]  # its own file


def tuning_jobs(speakers: list[str]) -> list[Job]:
    """For each speaker to be tested: the dilated stack without that speaker, judged by the next."""
    return [
        {"experiment": TUNING, "stack": "dilated", "tested": tested, "judged": speakers[(i + 1) % len(speakers)],
         "dilation": dilation, "seed": 0}
        for i, tested in enumerate(speakers) for dilation in DILATIONS
    ]  # fmt: skip


def best_dilations(tuned: Iterable[Record]) -> dict[str, int]:
    """Tested speaker -> the dilation that did best without that speaker."""
    best: dict[str, Record] = {}
    for r in tuned:
        if r["tested"] not in best or r["accuracy"] > best[r["tested"]]["accuracy"]:
            best[r["tested"]] = r
    return {speaker: r["dilation"] for speaker, r in best.items()}


def final_jobs(speakers: list[str], dilations: Mapping[str, int], seeds: int) -> list[Job]:
    """Every stack for every speaker, whole seeds one after the other."""
    return [
        {"experiment": EXPERIMENT, "stack": stack, "tested": tested, "judged": tested,
         "dilation": dilations[tested] if stack == "dilated" else 1, "seed": seed}
        for seed in range(seeds) for tested in speakers for stack in STACKS
    ]  # fmt: skip


def work(job: Mapping[str, Any], prepared: str) -> Record:
    """Train without the tested and the judged speaker, and score by the judged one's clips."""
    digits = load_digits(prepared)
    kept = [s for s in set(digits.speakers) if s not in (job["tested"], job["judged"])]
    return learn_and_score(job, digits, digits.of(kept), digits.of([job["judged"]]))


def learn_and_score(job: Mapping[str, Any], digits: Digits, fit: Tensor, judged: Tensor) -> Record:
    """Returns the share of clips that were right, and for each clip whether it was."""
    generator = torch.Generator().manual_seed(job["seed"])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(job["seed"])
        net = Classifier(job["stack"], frontend().axis(), job["dilation"])
    optimiser = torch.optim.Adam(net.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        chosen = fit[torch.randint(len(fit), (BATCH,), generator=generator)]
        optimiser.zero_grad()
        logits = net(digits.levels[chosen], digits.inside[chosen])
        nn.functional.cross_entropy(logits, digits.digit[chosen]).backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        best = torch.cat([net(digits.levels[p], digits.inside[p]).argmax(1) for p in judged.split(100)])
    right = best == digits.digit[judged]
    return {
        "accuracy": float(right.float().mean()),
        "clips": {digits.names[i]: int(r) for i, r in zip(judged.tolist(), right.tolist(), strict=True)},
        "parameters": sum(p.numel() for p in net.parameters()),
        "multiply_adds": ROWS * (net.first.weight.numel() + net.second.weight.numel()),  # type: ignore[operator]
    }
