"""Trained weights from elsewhere: checkpoints of the published EfficientLEAF training script, and bare state_dicts.

The published script saves {"epoch", "network", "optimizer", ...}, the frontend's keys under `_frontend.`, its arguments
in `args.txt` beside it, one `name=value` a line. What shapes and arguments tell goes into a configuration; what they do
not (rate, window, range) is asked for, with the published constants as defaults. Code is never unpickled.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from hlfeat.config import frontends as config_frontends
from hlfeat.config.config import Config
from hlfeat.config.frontends import EleafConfig
from hlfeat.config.loading import config_from_dict, dump_config
from hlfeat.errors import ConfigError, HlfeatError
from hlfeat.files import write_atomically
from hlfeat.nn.build import build
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.frontends.compression import LogTBN
from hlfeat.nn.frontends.gemm import plain_energies
from hlfeat.nn.frontends.leaf import LearnableFrontend
from hlfeat.nn.frontends.pcen import PCEN
from hlfeat.nn.weights import fit, read_checkpoint

FILTERBANK = ("filterbank.center_freqs", "filterbank.bandwidths", "filterbank.pooling_widths")
NESTS = ("network", "state_dict", "model_state_dict", "model", "net")
PARITY = 1e-4  # relative difference of features that a correct import stays far below


@dataclass
class Imported:
    """What was found: the frontend's weights, the configuration they mean, and what a user should know of them."""

    state: dict[str, Tensor]
    config: Config
    notes: list[str] = field(default_factory=list)


def import_weights(checkpoint: Path, args: Path | None, settings: Sequence[str]) -> Imported:
    """Read a checkpoint and find out the configuration that goes with it.

    Args:
        checkpoint: `.pth`, `.pt` or `.safetensors`.
        args: the training script's arguments; None for the `args.txt` beside the checkpoint, if there is one.
        settings: KEY=VALUE of the configuration, which go before what was found out.

    Raises:
        ConfigError: no frontend in there, weights that make none, arguments or settings that cannot be.
    """
    everything = read_checkpoint(checkpoint, NESTS)
    state, left_out = frontend_state(everything, checkpoint)
    if args is None and (configuration_path := checkpoint.with_name("args.txt")).is_file():
        args = configuration_path
    arguments = read_arguments(args) if args else {}
    found = Imported(state, Config())
    if left_out:
        found.notes.append(f"{left_out} other tensors of the checkpoint are not the frontend's and are left out")
    data = describe(state, arguments, checkpoint, found.notes)
    found.config = config_from_dict(data, settings, str(checkpoint))
    found.notes += filter_warnings(build_with(found, checkpoint))
    return found


def frontend_state(everything: Mapping[str, Tensor], source: Path) -> tuple[dict[str, Tensor], int]:
    """The tensors of the frontend under the published keys, and the number of all others."""
    ends = [k for k in everything if k.endswith(FILTERBANK[0])]
    prefixes = sorted({k.removesuffix(FILTERBANK[0]) for k in ends})
    if not prefixes:
        keys = ", ".join(list(everything)[:6]) or "none"
        raise ConfigError(f"{source}: expected the weights of a frontend ({FILTERBANK[0]}), found the keys {keys}")
    if len(prefixes) > 1:
        raise ConfigError(f"{source}: expected one frontend, found several: {', '.join(prefixes)}")
    prefix = prefixes[0]
    state = {
        k.removeprefix(prefix): v
        for k, v in everything.items()
        if k.startswith((f"{prefix}filterbank.", f"{prefix}compression."))
    }
    return state, len(everything) - len(state)


def read_arguments(path: Path) -> dict[str, str]:
    """`name=value` lines."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as e:
        raise ConfigError(f"{path}: the arguments cannot be read: {e}") from e
    found = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            name, equals, value = line.partition("=")
            if not equals:
                raise ConfigError(f"{path}:{number}: expected name=value, got {line[:60]!r}")
            found[name.strip()] = value.strip()
    return found


def describe(
    state: Mapping[str, Tensor], arguments: Mapping[str, str], source: Path, notes: list[str]
) -> dict[str, Any]:
    """The configuration, as plain data, that shapes and arguments tell."""
    centers = state[FILTERBANK[0]]
    if centers.dim() != 1 or not centers.numel():
        raise ConfigError(f"{source}: expected {FILTERBANK[0]} to be a list, got the shape {list(centers.shape)}")
    number = _Arguments(arguments, source)
    frontend: dict[str, Any] = {"kind": "eleaf", "n_filters": centers.numel()}
    if arguments.get("frontend", "EfficientLeaf").lower() == "leaf":
        frontend["kind"] = "leaf"
    else:
        if "frontend" not in arguments:
            notes.append("the weights do not tell EfficientLEAF from LEAF: EfficientLEAF is assumed "
                         "(frontend.kind=leaf says otherwise)")  # fmt: skip
        keys = {"num_groups": int, "conv_win_factor": float, "stride_factor": float}
        frontend.update({k: number(k, kind) for k, kind in keys.items() if k in arguments})
        absent = [f"{k} = {EleafConfig.model_fields[k].default}" for k in keys if k not in arguments]
        if absent:
            notes.append(
                f"not told by the weights, so the published defaults: {', '.join(absent)} (settings change them)"
            )
    frontend["compression"] = describe_compression(state, number, source, notes)
    return {"description": f"imported from {source.name}", "frontend": frontend}


def describe_compression(
    state: Mapping[str, Tensor], number: _Arguments, source: Path, notes: list[str]
) -> dict[str, Any]:
    """The compression that shapes and arguments tell."""
    n = state[FILTERBANK[0]].numel()
    if "compression.TBN.bn.running_mean" in state:
        same_compression("TBN", number)
        a = state.get("compression.log1p.a")
        channels, rest = divmod(state["compression.TBN.bn.running_mean"].numel(), n)
        if rest or channels not in (1, 2):
            raise ConfigError(
                f"{source}: expected temporal batch norm of {n} or {2 * n} bands, got {channels * n + rest}"
            )
        found: dict[str, Any] = {"kind": "logtbn", "affine": "compression.TBN.bn.weight" in state}
        found["trainable"] = a is not None
        found["per_band"] = a is not None and a.dim() > 0
        found["a"] = number("log1p_initial_a", float, 5.0 if a is not None else None)
        if found["a"] is None:
            notes.append(
                "the weights do not tell the logarithm's a: 5 is assumed (frontend.compression.a=0 says otherwise)"
            )
            found["a"] = 5.0
        found["append_filtered"] = channels == 2
        found["median_filter"] = channels == 2 or number("tbn_median_filter", bool, False)
        if channels == 1 and "tbn_median_filter" not in number.arguments:
            notes.append("the weights do not tell whether the median is subtracted: no is assumed "
                         "(frontend.compression.median_filter=true says otherwise)")  # fmt: skip
        return found
    parameters = [state.get(f"compression.{k}") for k in ("s", "alpha", "delta", "r")]
    if all(p is not None for p in parameters):
        same_compression("PCEN", number)
        # s lies between 0 and 1: a logarithm of it is below 0, and the value is not
        logs = number("pcen_learn_logs", bool)
        if logs is None:
            logs = bool((state["compression.s"] < 0).any())
            kind, other = ("logarithms", "false") if logs else ("the values themselves", "true")
            notes.append(f"PCEN's parameters look like {kind}, which is assumed "
                         f"(frontend.compression.learn_logs={other} says otherwise)")  # fmt: skip
        found = config_frontends.PCENConfig(learn_logs=logs).model_dump(include={"kind", "learn_logs", "eps", "clamp"})
        notes.append(
            f"not told by the weights, so the published constants: PCEN's eps = {found['eps']:g}, "
            f"clamp = {found['clamp']:g} (settings change them)"
        )
        return found
    keys = ", ".join(k for k in state if k.startswith("compression.")) or "none"
    raise ConfigError(f"{source}: expected the weights of LogTBN or PCEN, found the keys {keys}")


def same_compression(found: str, number: _Arguments) -> None:
    """ConfigError where the arguments name another compression than the weights': they are of another training."""
    said = number.arguments.get("compression", found)
    if said.upper() != found:
        raise ConfigError(
            f"{number.source}: the weights are those of compression={found}, but the arguments say {said}; "
            "expected those of the same training",
            remedy="args",
        )


class _Arguments:
    """Arguments as numbers, with a word on those that are none."""

    def __init__(self, arguments: Mapping[str, str], source: Path) -> None:
        self.arguments, self.source = arguments, source

    def __call__(self, name: str, kind: type, default: Any = None) -> Any:
        text = self.arguments.get(name)
        if text is None or text == "None":
            return default
        if kind is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        try:
            if kind is bool:
                raise ValueError
            return kind(float(text)) if kind is int and float(text).is_integer() else kind(text)
        except (ValueError, OverflowError):
            raise ConfigError(f"args of {self.source}: {name}: expected {kind.__name__}, got {text!r}") from None


def build_with(found: Imported, source: Path) -> Extractor:
    """The modules of the configuration, with the weights, in eval mode."""
    extractor = build(found.config)
    fit(extractor, {f"frontend.{k}": v for k, v in found.state.items()}, source)
    return extractor.eval()


def filter_warnings(extractor: Extractor) -> list[str]:
    """What a user should know of trained filters."""
    frontend = extractor.frontend
    assert isinstance(frontend, LearnableFrontend)  # of an imported configuration
    bank = frontend.filterbank
    raw = (bank.center_freqs, bank.bandwidths, bank.pooling_widths)
    names = ("center_freqs", "bandwidths", "pooling_widths")
    notes = []
    for name, value, inside in zip(names, raw, bank.clamped(), strict=True):
        outside = int((value != inside).sum())
        if outside:
            notes.append(f"{outside} of {value.numel()} {name} lie outside their range and are used as clamped")
    crossed = int((bank.clamped()[0].diff() <= 0).sum())
    if crossed:
        notes.append(
            f"{crossed} filters are not above their lower neighbour: harmonic layers can take no axis from them"
        )
    return notes


def parity(found: Imported, source: Path) -> float:
    """Relative difference between the imported module's features and the formulas applied to the weights in float64.

    The signal is noise with a sweep through all filters, a second and a half.
    """
    frontend = build_with(found, source).frontend
    assert isinstance(frontend, LearnableFrontend)
    rate = frontend.sample_rate
    t = torch.arange(3 * rate // 2, dtype=torch.float64) / rate
    x = torch.sin(2 * math.pi * (rate / 6) * t.square())
    x = (0.3 * x + 0.1 * torch.randn(len(t), generator=torch.Generator().manual_seed(0), dtype=torch.float64))[None]
    with torch.no_grad():
        got = frontend(x.float()).double()
        exact = frontend.double()
        energies = plain_energies(x, None, exact.filterbank.make_filters())
        want = straight_compression(exact.compression, energies)
    return float((got - want).norm() / want.norm())


def straight_compression(compression: nn.Module, x: Tensor) -> Tensor:
    """LogTBN or PCEN in the words of the formulas: x [1, F, N] -> [1, F, N] or [1, 2, F, N]."""
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
            raise ConfigError(f"{path}: is there already; choose another name", remedy="replace")
    return configuration


def write(found: Imported, source: Path, weights: Path, configuration: Path) -> None:
    """The weights, as safetensors or .pt by their name, and their configuration.

    Raises:
        HlfeatError: a file cannot be written.
    """
    state = {f"frontend.{k}": v.contiguous().clone() for k, v in found.state.items()}
    if weights.suffix == ".safetensors":
        data = safetensors.torch.save(state)
    else:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
    names = [re.sub(r"[^\x20-\x7e]", "?", path.name) for path in (source, weights)]  # a comment is one line
    text = f"# Imported from {names[0]}; its weights are in {names[1]}\n{dump_config(found.config)}"
    try:
        weights.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(weights, data)
        write_atomically(configuration, text.encode())
    except OSError as e:
        raise HlfeatError(f"{e.filename or weights}: cannot be written: {e.strerror}") from e
