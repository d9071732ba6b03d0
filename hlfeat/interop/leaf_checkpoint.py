"""Trained weights from elsewhere: checkpoints of the published EfficientLEAF training script, and bare state_dicts.

The published script saves {"epoch", "network", "optimizer", ...}, the frontend's keys under `_frontend.`, its arguments
in `args.txt` beside it, one `name=value` a line. hlfeat/interop/checkpoint_config.py makes a configuration of them; the
caller gives the rest (rate, window, range). `parity` compares an import with the formulas. Code is never unpickled.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from hlfeat.config.config import Config
from hlfeat.config.loading import config_from_dict, dump_config
from hlfeat.errors import ConfigError, HlfeatError
from hlfeat.files import write_atomically
from hlfeat.interop.checkpoint_config import CENTER_FREQS, Arguments, describe_frontend
from hlfeat.nn.build import build
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.frontends import strided
from hlfeat.nn.frontends.compression import LogTBN
from hlfeat.nn.frontends.leaf import LearnableFrontend
from hlfeat.nn.frontends.pcen import PCEN
from hlfeat.nn.state_dicts import without_wrappers
from hlfeat.nn.weights import fit, read_checkpoint

NESTS = ("network", "state_dict", "model_state_dict", "model", "net")
PARITY = 1e-4  # relative difference of features that a correct import stays far below


@dataclass(frozen=True)
class Imported:
    """A frontend from elsewhere.

    Args:
        state: its weights, under the published keys.
        config: the configuration that they belong to.
        notes: what was assumed or left out, and what looks wrong; a line each.
    """

    state: dict[str, Tensor]
    config: Config
    notes: list[str]


def import_weights(checkpoint: Path, args: Path | None, settings: Sequence[str]) -> Imported:
    """Read a checkpoint, and make the configuration that goes with it.

    Args:
        checkpoint: `.pth`, `.pt` or `.safetensors`.
        args: the training script's arguments; None for the `args.txt` beside the checkpoint, if there is one.
        settings: KEY=VALUE of the configuration, which override what the checkpoint says.

    Raises:
        ConfigError: a checkpoint without a frontend, weights that fit none, impossible arguments or settings.
    """
    state, left_out = frontend_state(read_checkpoint(checkpoint, NESTS), checkpoint)
    if args is None and (beside := checkpoint.with_name("args.txt")).is_file():
        args = beside
    frontend = describe_frontend(state, Arguments.read(args, checkpoint))
    data = {"description": f"imported from {checkpoint.name}", "frontend": frontend.data}
    config = config_from_dict(data, settings, str(checkpoint))
    notes = [f"{left_out} other tensors of the checkpoint are not the frontend's and are left out"] if left_out else []
    imported = Imported(state, config, notes + frontend.notes)
    return replace(imported, notes=imported.notes + filter_warnings(build_with(imported, checkpoint)))


def frontend_state(everything: Mapping[str, Tensor], source: Path) -> tuple[dict[str, Tensor], int]:
    """The tensors of the frontend under the published keys, and the number of all others.

    Raises:
        ConfigError: no frontend, several, or one that is followed by a stack, whose configuration no weights tell.
    """
    everything = without_wrappers(everything)
    ends = [k for k in everything if k.endswith(CENTER_FREQS)]
    prefixes = sorted({k.removesuffix(CENTER_FREQS) for k in ends})
    if not prefixes:
        keys = ", ".join(list(everything)[:6]) or "none"
        raise ConfigError(f"{source}: expected the weights of a frontend ({CENTER_FREQS}), found the keys {keys}")
    if len(prefixes) > 1:
        raise ConfigError(f"{source}: expected one frontend, found several: {', '.join(prefixes)}")
    prefix = prefixes[0]
    stack = f"{prefix.removesuffix('frontend.')}stack."
    of_stack = [k for k in everything if k.startswith(stack)]
    if prefix.endswith("frontend.") and of_stack:
        raise ConfigError(
            f"{source}: expected the weights of a frontend alone, found those of a stack too ({of_stack[0]}, ...): "
            "such weights need no import, but the configuration that they were trained with"
        )
    state = {
        k.removeprefix(prefix): v
        for k, v in everything.items()
        if k.startswith((f"{prefix}filterbank.", f"{prefix}compression."))
    }
    return state, len(everything) - len(state)


def build_with(imported: Imported, source: Path) -> Extractor:
    """The modules of the configuration, with the weights, in eval mode."""
    extractor = build(imported.config)
    fit(extractor, {f"frontend.{k}": v for k, v in imported.state.items()}, source)
    return extractor.eval()


def filter_warnings(extractor: Extractor) -> list[str]:
    """Notes on what was trained: parameters outside their range, centre frequencies out of order."""
    frontend = extractor.frontend
    assert isinstance(frontend, LearnableFrontend)  # of an imported configuration
    bank = frontend.filterbank
    raw = [bank.center_freqs, bank.bandwidths, bank.pooling_widths]
    clamped, names = [*bank.clamped()], ["center_freqs", "bandwidths", "pooling_widths"]
    if isinstance(pcen := frontend.compression, PCEN) and not pcen.learn_logs:  # the others of PCEN: as published
        raw, clamped, names = [*raw, pcen.s], [*clamped, pcen.values()[0]], [*names, "smoothing coefficients"]
    notes = []
    for name, value, inside in zip(names, raw, clamped, strict=True):
        outside = int((value != inside).sum())
        if outside:
            notes.append(f"{outside} of {value.numel()} {name} lie outside their range and are used as clamped")
    crossed = int((bank.clamped()[0].diff() <= 0).sum())
    if crossed:
        notes.append(
            f"{crossed} filters are not above their lower neighbour: bands are not in the order of their frequency"
        )
    return notes


def parity(imported: Imported, source: Path) -> float:
    """Relative difference between the imported module's features and the formulas applied to the weights in float64.

    The signal is noise with a sweep through all filters, a second and a half.
    """
    frontend = build_with(imported, source).frontend
    assert isinstance(frontend, LearnableFrontend)
    rate = frontend.sample_rate
    t = torch.arange(3 * rate // 2, dtype=torch.float64) / rate
    x = torch.sin(2 * math.pi * (rate / 6) * t.square())
    x = (0.3 * x + 0.1 * torch.randn(len(t), generator=torch.Generator().manual_seed(0), dtype=torch.float64))[None]
    with torch.no_grad():
        features = frontend(x.float()).double()
        exact = frontend.double()
        energies = strided.energies(x, None, exact.filterbank.make_taps())
        expected = compression_by_formula(exact.compression, energies)
    return float((features - expected).norm() / expected.norm())


def compression_by_formula(compression: nn.Module, x: Tensor) -> Tensor:
    """LogTBN or PCEN written as its formula: x [1, F, N] -> [1, F, N] or [1, 2, F, N]."""
    if isinstance(compression, PCEN):
        s, alpha, delta, r = (v[:, None] for v in compression.values())
        x = x if compression.clamp is None else x.clamp(min=compression.clamp)
        smooth = [x[..., :1]]
        for i in range(1, x.shape[-1]):
            smooth.append((1 - s) * smooth[-1] + s * x[..., i : i + 1])
        return (x / (compression.eps + torch.cat(smooth, -1)) ** alpha + delta) ** r - delta**r
    assert isinstance(compression, LogTBN)
    a = compression.log1p.a
    x = torch.log1p(10 ** (a[:, None] if a.dim() else a) * x)
    if compression.median_filter:
        filtered = x - x.median(-1, keepdim=True).values
        x = torch.cat([x, filtered], 1) if compression.append_filtered else filtered
    bn = compression.TBN.bn
    assert bn.running_mean is not None
    assert bn.running_var is not None
    y = (x - bn.running_mean[:, None]) / (bn.running_var[:, None] + bn.eps).sqrt()
    if bn.affine:
        y = y * bn.weight[:, None] + bn.bias[:, None]
    return y.unflatten(1, (2, -1)) if compression.n_channels == 2 else y  # type: ignore[no-untyped-call]


def configuration_path(weights: Path, checkpoint: Path, overwrite: bool) -> Path:
    """Path of the configuration that goes with these weights; ConfigError where the two cannot be written."""
    if weights.suffix not in (".safetensors", ".pt", ".pth"):
        raise ConfigError(f"{weights}: expected a name that ends in .safetensors or .pt")
    configuration = weights.with_suffix(".yaml")
    for path in (weights, configuration):
        if path.exists() and checkpoint.exists() and path.samefile(checkpoint):
            raise ConfigError(f"{path}: expected another name than the checkpoint's, of which much is left out")
        if path.exists() and not overwrite:
            raise ConfigError(f"{path}: already exists; choose another name", remedy="replace")
    return configuration


def write(imported: Imported, source: Path, weights: Path, configuration: Path) -> None:
    """The weights, as safetensors or .pt by their name, and their configuration.

    Raises:
        HlfeatError: a file cannot be written.
    """
    state = {f"frontend.{k}": v.contiguous().clone() for k, v in imported.state.items()}
    if weights.suffix == ".safetensors":
        data = safetensors.torch.save(state)
    else:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
    names = [re.sub(r"[^\x20-\x7e]", "?", path.name) for path in (source, weights)]  # a comment is one line
    text = f"# Imported from {names[0]}; its weights are in {names[1]}\n{dump_config(imported.config)}"
    try:
        weights.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(weights, data)
        write_atomically(configuration, text.encode())
    except OSError as e:
        raise HlfeatError(f"{e.filename or weights}: cannot be written: {e.strerror}") from e
