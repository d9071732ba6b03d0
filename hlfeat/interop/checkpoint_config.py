"""The configuration of a published checkpoint: from the shapes of its weights and the training script's arguments.

What neither gives has the published constants, and a note says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from hlfeat.config.frontends import EleafConfig, PCENConfig
from hlfeat.errors import ConfigError

CENTER_FREQS = "filterbank.center_freqs"
RUNNING_MEAN = "compression.TBN.bn.running_mean"
PCEN_KEYS = tuple(f"compression.{name}" for name in ("s", "alpha", "delta", "r"))


@dataclass(frozen=True)
class Arguments:
    """The training script's arguments, as text.

    Args:
        values: by name.
        source: the checkpoint, for messages.
    """

    values: Mapping[str, str]
    source: Path

    @classmethod
    def read(cls, path: Path | None, source: Path) -> Arguments:
        """From a file of `name=value` lines; none without a file."""
        if path is None:
            return cls({}, source)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as e:
            raise ConfigError(f"{path}: the arguments cannot be read: {e}") from e
        values = {}
        for number, line in enumerate(lines, 1):
            if line.strip():
                name, equals, value = line.partition("=")
                if not equals:
                    raise ConfigError(f"{path}:{number}: expected name=value, got {line[:60]!r}")
                values[name.strip()] = value.strip()
        return cls(values, source)

    def get(self, name: str, kind: type, default: Any = None) -> Any:
        """An argument as a number or a truth value; ConfigError where its text is none."""
        text = self.values.get(name)
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

    def check_compression(self, name: str) -> None:
        """ConfigError where the arguments name another compression: they are of another training."""
        given = self.values.get("compression", name)
        if given.upper() != name:
            raise ConfigError(
                f"{self.source}: the weights are those of compression={name}, but the arguments say {given}; "
                "expected those of the same training"
            )


@dataclass(frozen=True)
class Description:
    """A part of a configuration as plain data, and notes on what was assumed."""

    data: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def describe_frontend(state: Mapping[str, Tensor], arguments: Arguments) -> Description:
    """The frontend of these weights.

    Args:
        state: the frontend's tensors under the published keys.
        arguments: of the training script.

    Raises:
        ConfigError: weights of no frontend, or arguments that are not theirs.
    """
    centers = state[CENTER_FREQS]
    if centers.dim() != 1 or not centers.numel():
        raise ConfigError(f"{arguments.source}: expected {CENTER_FREQS} to be a list, got {list(centers.shape)}")
    data: dict[str, Any] = {"kind": "eleaf", "n_filters": centers.numel()}
    notes = []
    if arguments.values.get("frontend", "EfficientLeaf").lower() == "leaf":
        data["kind"] = "leaf"
    else:
        if "frontend" not in arguments.values:
            notes.append("the weights of EfficientLEAF and LEAF look alike: EfficientLEAF is assumed "
                         "(frontend.kind=leaf for the other)")  # fmt: skip
        kinds = {"num_groups": int, "conv_win_factor": float, "stride_factor": float}
        data.update({k: arguments.get(k, kind) for k, kind in kinds.items() if k in arguments.values})
        absent = [f"{k} = {EleafConfig.model_fields[k].default}" for k in kinds if k not in arguments.values]
        if absent:
            notes.append(f"not in the weights, so the published defaults: {', '.join(absent)}")
    compression = describe_compression(state, arguments)
    return Description({**data, "compression": compression.data}, notes + compression.notes)


def describe_compression(state: Mapping[str, Tensor], arguments: Arguments) -> Description:
    """LogTBN or PCEN, by the keys of the weights."""
    if RUNNING_MEAN in state:
        arguments.check_compression("TBN")
        return _describe_logtbn(state, arguments)
    if all(key in state for key in PCEN_KEYS):
        arguments.check_compression("PCEN")
        return _describe_pcen(state, arguments)
    keys = ", ".join(k for k in state if k.startswith("compression.")) or "none"
    raise ConfigError(f"{arguments.source}: expected the weights of LogTBN or PCEN, found the keys {keys}")


def _describe_logtbn(state: Mapping[str, Tensor], arguments: Arguments) -> Description:
    bands, a, notes = state[CENTER_FREQS].numel(), state.get("compression.log1p.a"), []
    channels, rest = divmod(state[RUNNING_MEAN].numel(), bands)
    if rest or channels not in (1, 2):
        raise ConfigError(
            f"{arguments.source}: expected temporal batch norm of {bands} or {2 * bands} bands, "
            f"got {channels * bands + rest}"
        )
    data: dict[str, Any] = {"kind": "logtbn", "affine": "compression.TBN.bn.weight" in state}
    data["trainable"] = a is not None
    data["per_band"] = a is not None and a.dim() > 0
    data["a"] = arguments.get("log1p_initial_a", float, 5.0 if a is not None else None)
    if data["a"] is None:
        notes.append("the logarithm's a is not in the weights: 5 is assumed (frontend.compression.a=0 for another)")
        data["a"] = 5.0
    data["append_filtered"] = channels == 2
    data["median_filter"] = channels == 2 or arguments.get("tbn_median_filter", bool, False)
    if channels == 1 and "tbn_median_filter" not in arguments.values:
        notes.append("the weights do not show whether the median is subtracted: no is assumed "
                     "(frontend.compression.median_filter=true for yes)")  # fmt: skip
    return Description(data, notes)


def _describe_pcen(state: Mapping[str, Tensor], arguments: Arguments) -> Description:
    notes = []
    logs = arguments.get("pcen_learn_logs", bool)
    if logs is None:  # s lies between 0 and 1: its logarithm is below 0; the value itself only where training left it
        logs = bool(state["compression.s"].median() < 0)
        stored, other = ("logarithms", "false") if logs else ("the values themselves", "true")
        notes.append(f"PCEN's parameters look like {stored}, which is assumed "
                     f"(frontend.compression.learn_logs={other} for the other)")  # fmt: skip
    data = PCENConfig(learn_logs=logs).model_dump(include={"kind", "learn_logs", "eps", "clamp"})
    constants = f"eps = {data['eps']:g}, clamp = {data['clamp']:g}"
    notes.append(f"not in the weights, so the published constants of PCEN: {constants}")
    return Description(data, notes)
