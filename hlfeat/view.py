"""What a picture shows: a clip as a configuration sees it, clips of a feature directory, what filters let through.

Arrays with their places in hertz and seconds; drawing them is hlfeat/plot.py's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hlfeat.clip import Clip, printable
from hlfeat.compression import PCEN, LogTBN
from hlfeat.config import Config
from hlfeat.configfile import config_from_dict
from hlfeat.decode import decode
from hlfeat.errors import ClipError, ConfigError, HlfeatError, OutputError, UsageError
from hlfeat.extractor import Extractor, build
from hlfeat.frontends import Frontend, LogMel
from hlfeat.gabor import GaborFilterbank, gabor_kernels
from hlfeat.leaf import LearnableFrontend
from hlfeat.loader import out_of_memory
from hlfeat.resample import Resampler
from hlfeat.spacing import spaced_frequencies
from hlfeat.stack import ConvLayer, Pool, Residual, Stack
from hlfeat.store import FeatureStore
from hlfeat.weights import fit, load_weights, read_state

log = logging.getLogger("hlfeat")

RESPONSE_FFT = 1 << 14  # at least: 1 Hz from point to point at 16 kHz


@dataclass(frozen=True)
class Grid:
    """Where rows and frames lie: `freqs` [F] in hertz (None: rows have no frequency), frame n at first + n * step.

    Times are seconds in the file; `span` is where the clip begins and ends.
    """

    freqs: np.ndarray | None
    first: float
    step: float
    span: tuple[float, float]


@dataclass(frozen=True)
class Image:
    """One channel of features [F, N]. Images of equal `scale` are the same quantity, to be seen in the same colours."""

    values: np.ndarray
    grid: Grid
    title: str
    unit: str
    scale: str


@dataclass(frozen=True)
class Responses:
    """Filters in frequency: power gain [F, K] at `hertz` [K]; centre frequencies and half-power bandwidths [F], Hz."""

    hertz: np.ndarray
    gain: np.ndarray
    centres: np.ndarray
    bandwidths: np.ndarray


@dataclass(frozen=True)
class View:
    """A clip and what a configuration makes of it. `span` is where in the file the samples [T] lie, seconds."""

    title: str
    samples: np.ndarray
    sample_rate: int
    span: tuple[float, float]
    frontend: list[Image]
    stack: list[Image]
    responses: Responses | None


def view(clip: Clip, config: Config, title: str, weights: Path | None = None, most: int = 4) -> View:
    """A clip through the modules of a configuration, on the CPU; of a stack's output the first `most` channels.

    A segment is a clip of its own, as in a manifest: a median over time is that of the segment.

    Raises:
        ConfigError: modules that cannot be built, weights that do not fit.
        HlfeatError: the clip cannot be used, with its code.
    """
    extractor = build(config)
    if weights is not None:
        load_weights(extractor, weights)
    elif any(True for _ in extractor.stack.parameters()):
        log.warning("no --weights: the stack's weights are drawn at random from seed %d", config.seed)
    try:
        extractor.follow_centre_freqs()
    except ValueError as e:
        raise ConfigError(f"{weights}: {e}") from e
    extractor.eval()
    samples = read(clip, config)
    try:
        with torch.inference_mode():
            features = extractor.frontend(samples[None])
            features = features if features.dim() == 4 else features[:, None]  # [1, C, F, N]
            out = extractor.stack(features)[0] if len(extractor.stack.layers) else None
    except (RuntimeError, MemoryError) as e:
        if not out_of_memory(e):
            raise
        raise HlfeatError(
            f"{printable(clip.path)}: out-of-memory: too long in one piece; choose a part with --start and --end"
        ) from e
    if not bool(torch.isfinite(features if out is None else out).all()):
        raise HlfeatError(f"{printable(clip.path)}: non-finite: its features are not finite numbers")
    start = clip.start or 0.0
    span = (start, start + len(samples) / extractor.sample_rate)
    grid = Grid(band_freqs(extractor.frontend), start, extractor.frontend.hop / extractor.sample_rate, span)
    frontend = [
        Image(y.numpy(), grid, name, unit, f"{name}, {unit}")
        for y, (name, unit) in zip(features[0], quantities(extractor.frontend), strict=True)
    ]
    stack = []
    if out is not None:
        state = "" if weights is not None or not any(True for _ in extractor.stack.parameters()) else ", untrained"
        n = out.shape[1]
        for i, y in enumerate(out[0, :most]):
            name = f"stack{state}, channel {i} of {n}" if n > 1 else f"stack{state}"
            stack.append(Image(y.numpy(), stack_grid(extractor, span), name, "", f"{name}, {config.stack}"))
    responses = filter_responses(extractor.frontend)
    return View(title, samples.numpy(), extractor.sample_rate, span, frontend, stack, responses)


def read(clip: Clip, config: Config) -> Tensor:
    """The samples of a clip at the configuration's rate: [T]. HlfeatError with path, code and message where not."""
    try:
        wave = decode(clip, config.audio.channels)
    except ClipError as e:
        raise HlfeatError(f"{printable(clip.path)}: {e.code}: {e}") from e
    if len(wave.samples) != 1:
        raise UsageError(
            f"audio.channels: each makes {len(wave.samples)} clips of {printable(clip.path)}; "
            "choose one with --set audio.channels=0"
        )
    return Resampler(config.audio.sample_rate)(torch.from_numpy(wave.samples), wave.sample_rate)[0]


def quantities(frontend: Frontend) -> list[tuple[str, str]]:
    """What each channel of a frontend is, and its unit."""
    if not isinstance(frontend, LearnableFrontend):
        return [("log-mel power" if isinstance(frontend, LogMel) else "log power", "ln(power)")]
    compression = frontend.compression
    if isinstance(compression, PCEN):
        return [("energy, PCEN", "")]
    assert isinstance(compression, LogTBN)  # a configuration has no other
    both = [("log energy", "ln(1 + 10ᵃE)"), ("log energy less its median over the clip", "difference")]
    names = both if compression.n_channels == 2 else both[compression.median_filter :][:1]
    bn = compression.TBN.bn
    untouched = {"running_mean": 0, "running_var": 1, "weight": 1, "bias": 0}
    state = bn.state_dict()
    if all(bool((state[k] == v).all()) for k, v in untouched.items() if k in state):
        return names
    return [(f"{name}, normalised", "") for name, _ in names]


def band_freqs(frontend: Frontend) -> np.ndarray | None:
    """Hertz of a frontend's bands [F]; None where trained filters have crossed."""
    freqs: np.ndarray = frontend.centre_freqs().double().numpy()
    return freqs if (np.diff(freqs) > 0).all() else None


def stack_grid(extractor: Extractor, span: tuple[float, float]) -> Grid:
    """Where the rows and frames of an extractor's output lie."""
    freqs, first, step = _through(extractor.stack, band_freqs(extractor.frontend), 0.0, 1)
    frame = extractor.frontend.hop / extractor.sample_rate
    return Grid(freqs, span[0] + first * frame, step * frame, span)


def _through(
    layer: nn.Module, freqs: np.ndarray | None, first: float, step: int
) -> tuple[np.ndarray | None, float, int]:
    """Hertz of the rows, and first frame and distance of frames in those of the frontend, after a layer."""
    if isinstance(layer, Stack):
        for inner in layer:
            freqs, first, step = _through(inner, freqs, first, step)
    elif isinstance(layer, Residual):
        return _through(layer.body, freqs, first, step)
    elif isinstance(layer, ConvLayer):
        freqs = None if freqs is None else freqs[:: layer.band_stride]
        step *= layer.stride
    elif isinstance(layer, Pool):
        if freqs is not None:
            whole = len(freqs) // layer.bands * layer.bands
            freqs = freqs[:whole].reshape(-1, layer.bands).mean(1)
        first += step * (layer.stride - 1) / 2
        step *= layer.stride
    elif getattr(layer, "linear", None) is not None:  # a projection
        freqs = None
    return freqs, first, step


def filter_responses(frontend: Frontend) -> Responses | None:
    """What a frontend's filters let through; None where there are no filters but an FFT's own."""
    if isinstance(frontend, LearnableFrontend):
        return gabor_responses(frontend.filterbank, frontend.sample_rate)
    return mel_responses(frontend) if isinstance(frontend, LogMel) else None


@torch.no_grad()
def gabor_responses(bank: GaborFilterbank, sample_rate: int) -> Responses:
    """Power gain of the kernels as they are convolved, cut off where the group's kernel ends.

    Of a Gabor filter without its cut the gain is exp(-sigma^2 (w - center)^2), half at sqrt(ln 2) / sigma on either
    side of its centre: the bandwidth is sample_rate sqrt(ln 2) / (pi sigma).
    """
    centres, sigmas, _ = bank.clamped()
    groups = bank.groups()
    size = max(RESPONSE_FFT, *(1 << g.kernel.bit_length() for g in groups))
    gain = []
    for g in groups:
        real, imag = gabor_kernels(centres[g.start : g.stop], sigmas[g.start : g.stop], g.kernel)
        gain.append(torch.fft.fft(torch.complex(real, imag), size)[:, : size // 2 + 1].abs().square())
    hertz = np.arange(size // 2 + 1) * (sample_rate / size)
    bandwidths = sample_rate * math.sqrt(math.log(2)) / (math.pi * sigmas.double())
    return Responses(
        hertz, torch.cat(gain).numpy(), centres.double().numpy() * sample_rate / (2 * math.pi), bandwidths.numpy()
    )


def mel_responses(frontend: LogMel) -> Responses:
    """Weights of the mel filters over the power of the FFT's bins; triangles are half as wide as their feet."""
    scale = frontend.mel.mel_scale
    gain: np.ndarray = scale.fb.numpy().T  # [F, bins]
    hertz = np.linspace(0, frontend.sample_rate / 2, gain.shape[1])
    edges = spaced_frequencies(frontend.n_bands + 2, scale.f_min, scale.f_max)
    return Responses(hertz, gain, edges[1:-1], (edges[2:] - edges[:-2]) / 2)


# --- feature directories --------------------------------------------------------------------------------------


def evenly(ids: Sequence[str], most: int = 12) -> list[str]:
    """At most so many of the ids, the first and the last among them, equally far apart."""
    at = np.linspace(0, len(ids) - 1, min(most, len(ids))).round().astype(int)
    return [ids[i] for i in at]


def stored(store: FeatureStore, ids: Sequence[str], channel: int = 0) -> list[Image]:
    """A channel of clips of a feature directory.

    Raises:
        UsageError: no such id (the nearest are named) or channel; vectors that were pooled over time.
        OutputError: hlfeat.yaml is damaged.
    """
    extractor, placed = _modules_of(store)
    pool = (store.description.get("features") or {}).get("pool")
    if pool is not None:
        raise UsageError(f"{store.folders[0]}: expected frames to draw, has vectors pooled over time ({pool})")
    if not 0 <= channel < extractor.n_channels:
        raise UsageError(f"--channel: expected 0 to {extractor.n_channels - 1}, got {channel}")
    if len(extractor.stack.layers):
        title, unit = f"stack, channel {channel} of {extractor.n_channels}", ""
    else:
        title, unit = quantities(extractor.frontend)[channel]
    if store.description.get("stats"):
        title, unit = f"{title}, normalised", "standard deviations"
    images = []
    for id_ in ids:
        try:
            features = store[id_]
        except KeyError as e:
            raise UsageError(e.args[0]) from e
        start = float(store.record(id_).get("start") or 0)
        grid = stack_grid(extractor, (start, start + store.record(id_)["duration"]))
        grid = grid if placed else replace(grid, freqs=None)
        images.append(Image(np.array(features[:, channel].T, np.float32), grid, title, unit, title))
    return images


def _modules_of(store: FeatureStore) -> tuple[Extractor, bool]:
    """The modules that a directory's features come from, and whether their bands are where they were in the run."""
    path = store.folders[0] / "hlfeat.yaml"
    data = store.description.get("config")
    if not isinstance(data, dict):
        raise OutputError(f"{path}: damaged: there is no configuration in it")
    try:
        extractor = build(config_from_dict(data, source=str(path)))
    except ConfigError as e:
        raise OutputError(f"{path}: damaged, or another version's: {e}") from e
    weights = store.description.get("weights")
    if not weights or not isinstance(extractor.frontend, LearnableFrontend):
        return extractor, True
    file = Path(str(weights.get("path")))
    try:
        state, digest = read_state(file)
        if digest != weights.get("sha256"):
            raise ConfigError(f"{file}: the weights have changed since")
        own = extractor if any(k.startswith(("frontend.", "stack.")) for k in state) else extractor.frontend
        fit(own, state, file)
    except ConfigError as e:
        log.warning("bands are numbered, because their frequencies are in the weights: %s", e)
        return extractor, False
    return extractor, True
