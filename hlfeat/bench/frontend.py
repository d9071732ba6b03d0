"""`hlfeat bench frontend`: EfficientLEAF and LEAF against torchaudio's log-mel and against plain torch versions.

The log-mel is torchaudio.transforms.MelSpectrogram(16000, n_fft=512, win_length=400, hop_length=160, n_mels=80) and a
logarithm; it always has 80 bands, whatever it is compared with. It has no parameters, so its training step is its
forward pass. Training steps compute gradients of the parameters, not of the waveform. Where TF32 is off, the plain
version has a second row with it on a GPU: torch's convolutions use it by default.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
import torchaudio.transforms as AT
from torch import Tensor, nn

from hlfeat.bench.filterbanks import others
from hlfeat.bench.results import Done, precisions
from hlfeat.bench.tables import Row, bars
from hlfeat.bench.timing import Runs, free_bytes, peak_bytes, synchronize, time_interleaved, without_gradient
from hlfeat.nn.frontends.leaf import EfficientLeaf, Leaf, LearnableFrontend
from hlfeat.nn.frontends.taps import Group, gabor_kernels, pooling_kernels
from hlfeat.precision import float32_precision

if TYPE_CHECKING:
    from matplotlib.figure import Figure


RATE = 16000

COLUMNS = {
    "setting": "setting",
    "input": "input",
    "candidate": "candidate",
    "forward_ms": "forward, ms|.1f",
    "forward_real_time": "times real time|.0f",
    "forward_to_logmel": "/ log-mel|.2f",
    "forward_to_plain": "/ plain|.2f",
    "forward_compression": "compression / filterbank|.2f",
    "forward_mib": "memory, MiB|.0f",
    "training_ms": "+ backward, ms|.1f",
    "training_to_logmel": "/ log-mel|.2f",
    "training_to_plain": "/ plain|.2f",
    "training_compression": "compression / filterbank|.2f",
    "training_mib": "memory, MiB|.0f",
    "error": "error|.0e",
    "forward_runs": "runs|d",
    "training_runs": "with backward|d",
    "left_out": "left out",
}


@dataclass(frozen=True)
class Setting:
    """A frontend to measure: `build(compression=...)` makes it. The plain version has the first of the compressions."""

    name: str
    build: Callable[..., LearnableFrontend]
    compressions: tuple[str, ...] = ("logtbn", "pcen")


@dataclass(frozen=True)
class Input:
    """A batch of clips of equal length."""

    clips: int
    seconds: float

    @property
    def name(self) -> str:
        return f"{self.clips} x {self.seconds:g} s"

    def waveforms(self) -> Tensor:  # [B, T], the same every time
        return 0.1 * torch.randn(self.clips, int(self.seconds * RATE), generator=torch.Generator().manual_seed(0))


_OPT = partial(EfficientLeaf, num_groups=8, conv_win_factor=6.0, stride_factor=16.0)

SETTINGS = [
    Setting("8G-opt-80", partial(_OPT, n_filters=80)),
    Setting("8G-opt-40", _OPT),
    Setting("eleaf-default-40", EfficientLeaf),
    Setting("eleaf-default-80", partial(EfficientLeaf, n_filters=80)),
    Setting("leaf-40", Leaf, ("pcen",)),
]

PAPER_INPUT = Input(16, 16)
INPUTS = [Input(256, 1), Input(32, 8), PAPER_INPUT, Input(1, 600)]

QUICK_SETTINGS = ["eleaf-default-40", "8G-opt-80", "leaf-40"]
QUICK_INPUTS = [Input(16, 1), Input(1, 16)]

# Each candidate first computes 1 / TRIAL_PARTS of the input. It is left out if the whole input would then take more
# than MEMORY_SHARE of the free memory, or more than MOST_SECONDS.
TRIAL_PARTS, MEMORY_SHARE, MOST_SECONDS = 8, 0.8, 20.0
# On the CPU, torch takes minutes for a convolution of more samples than this at stride 1 (163 s were measured).
CPU_SAMPLES = 1 << 22


class LogMel(nn.Module):
    """torchaudio's log-mel: [B, T] -> [B, 80, T // 160 + 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.mel = AT.MelSpectrogram(RATE, n_fft=512, win_length=400, hop_length=160, n_mels=80)

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(self.mel(x) + 1e-6)


class PlainLeaf(nn.Module):
    """The straightforward version of a frontend: per group a convolution and a depthwise one, on the whole batch.

    It shares the parameters and the compression of the frontend that it is made from. Filters are computed once for
    inference, and at every training step.

    Shape: x [B, T] -> as the frontend.
    """

    def __init__(self, frontend: LearnableFrontend) -> None:
        super().__init__()
        self.bank, self.compression = frontend.filterbank, frontend.compression
        self._cached: list[tuple[Group, Tensor, Tensor]] | None = None  # filters for inference

    def filters(self) -> list[tuple[Group, Tensor, Tensor]]:
        """For each group: real, then imaginary parts of its kernels [2n, 1, K], and its pooling windows [n, 1, W]."""
        filters = []
        for g in self.bank.groups():
            centers, sigmas, widths = (p[g.start : g.stop] for p in self.bank.clamped())
            gabor = gabor_kernels(centers, sigmas, g.kernel).flatten(0, 1)
            pool = pooling_kernels(widths, g.window, g.stride, self.bank.pool_size)
            filters.append((g, gabor[:, None], pool[:, None]))
        return filters

    def energies(self, x: Tensor) -> Tensor:  # [B, T] -> [B, F, N]
        if self.training:
            filters = self.filters()
        else:
            filters = self._cached = self._cached or self.filters()
        bands = []
        for g, gabor, pool in filters:
            y = F.conv1d(x[:, None], gabor, stride=g.stride, padding=g.kernel // 2)  # [B, 2n, outputs]
            real, imaginary = y.chunk(2, dim=1)
            energy = real**2 + imaginary**2
            bands.append(F.conv1d(energy, pool, stride=g.pool_stride, padding=g.window // 2, groups=len(pool)))
        return torch.cat(bands, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.compression(self.energies(x))  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> PlainLeaf:
        self._cached = None
        return super().train(mode)


@dataclass(frozen=True)
class Candidate:
    """A module to measure.

    Attributes:
        result: "log-mel", "filterbank", or the compression of its features.
        tf32: compute in TF32, whatever the others do.
    """

    module: nn.Module
    result: str
    tf32: bool = False

    def precision(self) -> AbstractContextManager[None]:
        return float32_precision(tf32=True) if self.tf32 else nullcontext()

    def forward(self, x: Tensor) -> Tensor:
        with self.precision():
            return self.module(x)  # type: ignore[no-any-return]

    def step(self, x: Tensor) -> None:
        """Forward and backward pass, with gradients of the parameters."""
        with self.precision():
            y = self.module(x)
            parameters = list(self.module.parameters())
            if parameters:
                torch.autograd.grad(y, parameters, y.detach())


def candidates(setting: Setting, device: torch.device) -> dict[str, Candidate]:
    """The candidates of a setting, by name."""
    built = {c: setting.build(compression=c).to(device) for c in setting.compressions}
    first = setting.compressions[0]
    plain = PlainLeaf(built[first])
    modules = {"log-mel": Candidate(LogMel().to(device), "log-mel"), "plain": Candidate(plain, first)}
    if device.type == "cuda" and "tf32" not in precisions(device).values():
        modules["plain, TF32"] = Candidate(plain, first, tf32=True)
    modules["ours, filterbank"] = Candidate(built[first].filterbank, "filterbank")
    if device.type == "cuda":
        modules |= {name: Candidate(way, "filterbank") for name, way in others(built[first].filterbank).items()}
    return modules | {f"ours, {c}": Candidate(frontend, c) for c, frontend in built.items()}


def errors(setting: Setting, modules: Mapping[str, Candidate], device: torch.device) -> dict[str, float]:
    """Relative L2 error of each candidate's result for a clip of 4 s, against the plain version in float64."""
    x = Input(1, 4).waveforms()
    with torch.no_grad():
        expected: dict[str, Tensor] = {}
        for c in setting.compressions:
            reference = PlainLeaf(setting.build(compression=c).double()).eval()
            expected |= {c: reference(x.double()), "filterbank": reference.energies(x.double())}
        relative = {}
        for name, candidate in modules.items():
            if candidate.result in expected:
                candidate.module.eval()
                y, exact = candidate.forward(x.to(device)).cpu().double(), expected[candidate.result]
                relative[name] = float((y - exact).norm() / exact.norm())
    return relative


def slow_on_cpu(candidate: Candidate) -> bool:
    """Whether a plain version has a convolution at stride 1."""
    return isinstance(candidate.module, PlainLeaf) and any(g.stride == 1 for g in candidate.module.bank.groups())


def timed(
    modules: Mapping[str, Candidate], x: Tensor, seconds: float, training: bool
) -> tuple[dict[str, Runs], dict[str, str]]:
    """Runs of each candidate, and for each that is left out the reason."""
    part = x[: len(x) // TRIAL_PARTS] if len(x) >= TRIAL_PARTS else x[:, : x.shape[1] // TRIAL_PARTS]
    calls: dict[str, Callable[[], object]] = {}
    left_out = {}
    for candidate in modules.values():
        candidate.module.train(training)

    def call(candidate: Candidate, x: Tensor) -> Callable[[], object]:
        return partial(candidate.step, x) if training else without_gradient(partial(candidate.forward, x))

    for name, candidate in modules.items():
        if x.device.type == "cpu" and x.shape[1] > CPU_SAMPLES and name == "plain" and slow_on_cpu(candidate):
            left_out[name] = "one convolution of so many samples at stride 1 takes minutes"
            continue
        free, start = free_bytes(x.device), time.perf_counter()
        needed = (peak_bytes(call(candidate, part), x.device) or 0) * TRIAL_PARTS
        synchronize(x.device)
        spent = (time.perf_counter() - start) * TRIAL_PARTS
        if free is not None and needed > MEMORY_SHARE * free:
            left_out[name] = f"about {needed / 2**30:.1f} GiB needed, {free / 2**30:.1f} GiB free"
        elif spent > MOST_SECONDS:
            left_out[name] = f"about {spent:.0f} s a run"
        else:
            calls[name] = call(candidate, x)
    return time_interleaved(calls, x.device, seconds, patience=4 * seconds), left_out


def figures(kind: str, modules: Mapping[str, Candidate], runs: Mapping[str, Runs], audio: float) -> dict[str, Row]:
    """The columns of one kind of run, "forward" or "training", for each candidate; `audio` is in seconds."""
    times = {n: r.typical for n, r in runs.items()}
    plain = times.get("plain")
    bank = times.get("ours, filterbank")
    rows = {}
    for name, spent in times.items():
        peak, result = runs[name].peak, modules[name].result
        compressed = name.startswith("ours") and name != "ours, filterbank"
        row = {
            "ms": spent * 1e3,
            "real_time": audio / spent,
            "to_logmel": spent / times["log-mel"] if "log-mel" in times else None,
            "to_plain": spent / plain if plain is not None and result == modules["plain"].result else None,
            "compression": spent / bank - 1 if compressed and bank is not None else None,
            "mib": None if peak is None else peak / 2**20,
            "runs": len(runs[name].seconds),
        }
        rows[name] = {f"{kind}_{key}": value for key, value in row.items()}
    return rows


def measure(
    modules: Mapping[str, Candidate], batch: Input, device: torch.device, seconds: float, training: bool
) -> list[Row]:
    """Measure the forward pass and, with `training`, a training step: a row for each candidate."""
    x = batch.waveforms().to(device)
    rows: dict[str, Row] = {n: {"candidate": n, "left_out": None} for n in modules}
    for kind in ["forward", "training"] if training else ["forward"]:
        runs, left_out = timed(modules, x, seconds, kind == "training")
        for name, row in figures(kind, modules, runs, batch.clips * batch.seconds).items():
            rows[name] |= row
        for name, reason in left_out.items():
            rows[name]["left_out"] = "; ".join(filter(None, [rows[name]["left_out"], f"{kind}: {reason}"]))
    return list(rows.values())


def run(
    device: torch.device,
    settings: Sequence[Setting],
    quick: bool,
    all: bool,
    done: Done,
    seconds: float | None = None,
) -> list[Row]:
    """Measure each setting with each input.

    Args:
        settings: what to measure.
        quick: measure some of the settings only, briefly, with short inputs.
        all: measure training with every input on a CPU too. Otherwise it takes the paper's input only, as the ratios
            hardly depend on the input.
        done: called with the rows of each setting and input.
        seconds: of a measurement; default: 1 on a CPU, 0.5 on a GPU, 0.25 with `quick`.
    """
    brief = [s for s in settings if s.name in QUICK_SETTINGS] or settings
    if seconds is None:
        seconds = 0.25 if quick else 1.0 if device.type == "cpu" else 0.5
    rows: list[Row] = []
    for setting in brief if quick else settings:
        modules = candidates(setting, device)
        error = errors(setting, modules, device)
        for batch in QUICK_INPUTS if quick else INPUTS:
            training = all or quick or device.type != "cpu" or batch == PAPER_INPUT
            try:
                new = measure(modules, batch, device, seconds, training)
            except torch.OutOfMemoryError:
                new = [{"candidate": "all", "left_out": "out of memory"}]
            key = {"setting": setting.name, "input": batch.name}
            new = [key | row | {"error": error.get(row["candidate"])} for row in new]
            done(new)
            rows += new
    return rows


def picture(rows: list[Row]) -> Figure:
    """A bar chart: forward time of each candidate for each setting and input, relative to log-mel."""
    ratios: dict[str, dict[str, float]] = {}
    for r in rows:
        if r.get("forward_to_logmel") is not None and r["candidate"] != "log-mel":
            ratios.setdefault(r["candidate"], {})[f"{r['setting']}, {r['input']}"] = r["forward_to_logmel"]
    return bars(ratios, "forward time / log-mel")
