"""`hlfeat bench frontend`: EfficientLEAF and LEAF against torchaudio's log-mel and against plain torch versions.

The log-mel is torchaudio.transforms.MelSpectrogram(16000, n_fft=512, win_length=400, hop_length=160, n_mels=80) and a
logarithm, whatever the number of filters it is compared with. It has nothing to learn: its training step is its forward
pass. Training steps take gradients of the parameters; the waveform needs none. float32 means float32: TF32 is off, but
for the plain version's second row on a GPU, where torch's convolutions use it unless told otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
import torchaudio.transforms as AT
from torch import Tensor, nn

from hlfeat.bench.tables import Row, append_table, bars
from hlfeat.bench.timing import Runs, free_bytes, peak_bytes, synchronize, time_interleaved, without_gradient
from hlfeat.errors import UsageError
from hlfeat.nn.frontends.gabor import gabor_kernels, pooling_kernels
from hlfeat.nn.frontends.gemm_plan import Group
from hlfeat.nn.frontends.leaf import EfficientLeaf, Leaf, LearnableFrontend

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
    """A frontend by name: `build(compression=...)` makes it, the plain version has the first of the compressions."""

    name: str
    build: Callable[..., LearnableFrontend]
    compressions: tuple[str, ...] = ("logtbn", "pcen")


@dataclass(frozen=True)
class Input:
    """So many clips of so many seconds."""

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

PAPERS = Input(16, 16)
INPUTS = [Input(256, 1), Input(32, 8), PAPERS, Input(1, 600)]

QUICK_SETTINGS = ["eleaf-default-40", "8G-opt-80", "leaf-40"]
QUICK_INPUTS = [Input(16, 1), Input(1, 16)]

# A candidate is left out if an eighth of its input shows that all of it would take more than this of the free memory,
# or more seconds than this.
PARTS, SHARE, LONGEST = 8, 0.8, 20.0
# On the CPU, torch takes minutes for one convolution of more samples than this at stride 1 (163 s were measured).
CPU_SAMPLES = 1 << 22


class LogMel(nn.Module):
    """The log-mel as torchaudio's users write it: [B, T] -> [B, 80, T // 160 + 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.mel = AT.MelSpectrogram(RATE, n_fft=512, win_length=400, hop_length=160, n_mels=80)

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(self.mel(x) + 1e-6)


class PlainLeaf(nn.Module):
    """A frontend as one would write it first: one convolution a group, then a depthwise one, the whole batch at once.

    It has the parameters and the compression of the frontend that it is made from. Filters are made once for inference
    and anew at each training step.

    Shape: x [B, T] -> as the frontend.
    """

    def __init__(self, frontend: LearnableFrontend) -> None:
        super().__init__()
        self.bank, self.compression = frontend.filterbank, frontend.compression
        self._made: list[tuple[Group, Tensor, Tensor]] | None = None

    def filters(self) -> list[tuple[Group, Tensor, Tensor]]:
        """Of each group the real and then the imaginary parts [2n, 1, K], and the pooling windows [n, 1, W]."""
        found = []
        for g in self.bank.groups():
            centers, sigmas, widths = (p[g.start : g.stop] for p in self.bank.clamped())
            gabor = gabor_kernels(centers, sigmas, g.kernel).flatten(0, 1)
            pool = pooling_kernels(widths, g.window, g.stride, self.bank.pool_size)
            found.append((g, gabor[:, None], pool[:, None]))
        return found

    def energies(self, x: Tensor) -> Tensor:  # [B, T] -> [B, F, N]
        if self.training:
            filters = self.filters()
        else:
            filters = self._made = self._made or self.filters()
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
        self._made = None
        return super().train(mode)


@dataclass(frozen=True)
class Candidate:
    """What is compared, and what it computes: "log-mel", "filterbank", or features by their compression's name."""

    module: nn.Module
    result: str
    tf32: bool = False

    def forward(self, x: Tensor) -> Tensor:
        with tf32(self.tf32):
            return self.module(x)  # type: ignore[no-any-return]

    def step(self, x: Tensor) -> None:
        """Forward and backward, to the parameters."""
        with tf32(self.tf32):
            y = self.module(x)
            parameters = list(self.module.parameters())
            if parameters:
                torch.autograd.grad(y, parameters, y.detach())


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether a GPU's convolutions and matrix products may keep 10 bits of mantissa only."""
    backends: tuple[Any, ...] = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [b.allow_tf32 for b in backends]
    for b in backends:
        b.allow_tf32 = allowed
    try:
        yield
    finally:
        for b, value in zip(backends, before, strict=True):
            b.allow_tf32 = value


def candidates(setting: Setting, device: torch.device) -> dict[str, Candidate]:
    """Everything that is compared, by name."""
    built = {c: setting.build(compression=c).to(device) for c in setting.compressions}
    first = setting.compressions[0]
    plain = PlainLeaf(built[first])
    found = {"log-mel": Candidate(LogMel().to(device), "log-mel"), "plain": Candidate(plain, first)}
    if device.type == "cuda":
        found["plain, TF32"] = Candidate(plain, first, tf32=True)
    found["ours, filterbank"] = Candidate(built[first].filterbank, "filterbank")
    return found | {f"ours, {c}": Candidate(frontend, c) for c, frontend in built.items()}


def errors(setting: Setting, found: Mapping[str, Candidate], device: torch.device) -> dict[str, float]:
    """Relative L2 error of each candidate's result, one clip of 4 s, against the plain version in float64."""
    x = Input(1, 4).waveforms()
    with torch.no_grad():
        want: dict[str, Tensor] = {}
        for c in setting.compressions:
            exact = PlainLeaf(setting.build(compression=c).double()).eval()
            want |= {c: exact(x.double()), "filterbank": exact.energies(x.double())}
        relative = {}
        for name, candidate in found.items():
            if candidate.result in want:
                candidate.module.eval()
                y, exactly = candidate.forward(x.to(device)).cpu().double(), want[candidate.result]
                relative[name] = float((y - exactly).norm() / exactly.norm())
    return relative


def slow_on_cpu(candidate: Candidate) -> bool:
    """Whether a plain version has a convolution at stride 1."""
    return isinstance(candidate.module, PlainLeaf) and any(g.stride == 1 for g in candidate.module.bank.groups())


def timed(
    found: Mapping[str, Candidate], x: Tensor, seconds: float, training: bool
) -> tuple[dict[str, Runs], dict[str, str]]:
    """Runs of each candidate, and those that are left out with the reason."""
    part = x[: len(x) // PARTS] if len(x) >= PARTS else x[:, : x.shape[1] // PARTS]
    calls: dict[str, Callable[[], object]] = {}
    left_out = {}
    for candidate in found.values():
        candidate.module.train(training)

    def call(candidate: Candidate, x: Tensor) -> Callable[[], object]:
        return partial(candidate.step, x) if training else without_gradient(partial(candidate.forward, x))

    for name, candidate in found.items():
        if x.device.type == "cpu" and x.shape[1] > CPU_SAMPLES and name == "plain" and slow_on_cpu(candidate):
            left_out[name] = "minutes for one convolution of so many samples at stride 1"
            continue
        there, start = free_bytes(x.device), time.perf_counter()
        needed = (peak_bytes(call(candidate, part), x.device) or 0) * PARTS
        synchronize(x.device)
        spent = (time.perf_counter() - start) * PARTS
        if there is not None and needed > SHARE * there:
            left_out[name] = f"about {needed / 2**30:.1f} GiB needed, {there / 2**30:.1f} GiB there"
        elif spent > LONGEST:
            left_out[name] = f"about {spent:.0f} s a run"
        else:
            calls[name] = call(candidate, x)
    return time_interleaved(calls, x.device, seconds, patience=4 * seconds), left_out


def figures(kind: str, found: Mapping[str, Candidate], runs: Mapping[str, Runs], audio: float) -> dict[str, Row]:
    """What a row says of one kind of run, "forward" or "training", by candidate."""
    times = {n: r.typical for n, r in runs.items()}
    plain = times.get("plain")
    bank = times.get("ours, filterbank")
    rows = {}
    for name, spent in times.items():
        peak, result = runs[name].peak, found[name].result
        compressed = name.startswith("ours") and name != "ours, filterbank"
        row = {
            "ms": spent * 1e3,
            "real_time": audio / spent,
            "to_logmel": spent / times["log-mel"] if "log-mel" in times else None,
            "to_plain": spent / plain if plain is not None and result == found["plain"].result else None,
            "compression": spent / bank - 1 if compressed and bank is not None else None,
            "mib": None if peak is None else peak / 2**20,
            "runs": len(runs[name].seconds),
        }
        rows[name] = {f"{kind}_{key}": value for key, value in row.items()}
    return rows


def measure(
    found: Mapping[str, Candidate], given: Input, device: torch.device, seconds: float, training: bool
) -> list[Row]:
    """A row a candidate; with `training`, forward and backward too."""
    x = given.waveforms().to(device)
    rows: dict[str, Row] = {n: {"candidate": n, "left_out": None} for n in found}
    for kind in ["forward", "training"] if training else ["forward"]:
        runs, left_out = timed(found, x, seconds, kind == "training")
        for name, row in figures(kind, found, runs, given.clips * given.seconds).items():
            rows[name] |= row
        for name, reason in left_out.items():
            rows[name]["left_out"] = "; ".join(filter(None, [rows[name]["left_out"], f"{kind}: {reason}"]))
    return list(rows.values())


def chosen(only: Sequence[str]) -> list[Setting]:
    """The settings whose name has one of these in it; all, if there are none."""
    for word in only:
        if not any(word.lower() in s.name.lower() for s in SETTINGS):
            raise UsageError(f"only {word}: expected (a part of) {', '.join(s.name for s in SETTINGS)}")
    return [s for s in SETTINGS if not only or any(w.lower() in s.name.lower() for w in only)]


def run(
    device: torch.device, settings: Sequence[Setting], quick: bool, all: bool, say: Callable[[str], None]
) -> list[Row]:
    """Each setting at all inputs; `say` is told the table of each pair as it is done.

    On the CPU, training is measured for the paper's input only, unless `all`: its ratios hardly depend on the input.
    `quick`: short inputs, briefly, and only some of the settings.
    """
    brief = [s for s in settings if s.name in QUICK_SETTINGS] or settings
    seconds = 0.25 if quick else 1.0 if device.type == "cpu" else 0.5
    rows: list[Row] = []
    for setting in brief if quick else settings:
        found = candidates(setting, device)
        error = errors(setting, found, device)
        for given in QUICK_INPUTS if quick else INPUTS:
            training = all or quick or device.type != "cpu" or given == PAPERS
            try:
                new = measure(found, given, device, seconds, training)
            except torch.OutOfMemoryError:
                new = [{"candidate": "all", "left_out": "out of memory"}]
            same = {"setting": setting.name, "input": given.name}
            new = [same | row | {"error": error.get(row["candidate"])} for row in new]
            append_table(new, COLUMNS, say, first=not rows)
            rows += new
    return rows


def picture(rows: list[Row]) -> Figure:
    """Forward time of each candidate at each setting and input, relative to log-mel."""
    found: dict[str, dict[str, float]] = {}
    for r in rows:
        if r.get("forward_to_logmel") is not None and r["candidate"] != "log-mel":
            found.setdefault(r["candidate"], {})[f"{r['setting']}, {r['input']}"] = r["forward_to_logmel"]
    return bars(found, "forward time / log-mel")
