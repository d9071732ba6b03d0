"""Trained weights: read without unpickling code, and checked key by key against the modules that load them."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hlfeat.errors import ConfigError


def load_weights(extractor: nn.Module, path: Path) -> str:
    """Load the weights of a whole extractor, or of its frontend where there is no stack.

    Args:
        extractor: the modules.
        path: `.pt` or `.safetensors`; the keys of a bare frontend may lack `frontend.`.

    Returns:
        The SHA-256 of the file.

    Raises:
        ConfigError: names the keys that do not fit.
    """
    state, digest = read_state(path)
    if state and not any(k.startswith(("frontend.", "stack.")) for k in state):
        state = {f"frontend.{k}": v for k, v in state.items()}  # a frontend's own state_dict
    fit(extractor, state, path)
    return digest


def fit(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load a state_dict into a module.

    Raises:
        ConfigError: names the keys that are missing or unknown, have another shape, or hold values that are not finite.
    """
    expected = module.state_dict()
    problems = [f"missing {k}" for k in expected if k not in state]
    problems += [f"unknown {k}" for k in state if k not in expected]
    problems += [
        f"{k} has shape {list(state[k].shape)}, expected {list(v.shape)}"
        for k, v in expected.items()
        if k in state and state[k].shape != v.shape
    ]
    problems += [f"{k} is not finite" for k, v in expected.items() if not problems and not _finite(state[k], v.dtype)]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise ConfigError(f"{path}: weights do not fit the configuration: {shown}")
    module.load_state_dict(dict(state))


def _dense(value: object) -> bool:
    """Whether this is a tensor that a parameter can be copied from."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_complex())
    )


def _finite(value: Tensor, dtype: torch.dtype) -> bool:
    return bool(torch.isfinite(value.to(dtype)).all())


class Weights(NamedTuple):
    """A state_dict, and the SHA-256 of its file."""

    state: dict[str, Tensor]
    sha256: str


def read_state(path: Path) -> Weights:
    """Read a state_dict of dense, real tensors on the CPU, without unpickling code.

    Raises:
        ConfigError: a file that cannot be read, or holds anything else.
    """
    state, digest = _read(path)
    plain = isinstance(state, Mapping) and all(isinstance(k, str) and _dense(v) for k, v in state.items())
    if not plain:
        keys = f" with {', '.join(map(str, list(state)[:4]))}" if isinstance(state, Mapping) else ""
        raise ConfigError(
            f"{path}: expected a state_dict of dense, real tensors, got {type(state).__name__}{keys}; "
            "`hlfeat import-weights` reads published checkpoints"
        )
    return Weights(dict(state), digest)


def read_checkpoint(path: Path, nests: Sequence[str]) -> dict[str, Tensor]:
    """The dense tensors of a training checkpoint, whose state_dict may lie under one of the keys `nests`."""
    state = _read(path).content
    for key in nests:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
            break
    if not isinstance(state, Mapping):
        raise ConfigError(f"{path}: expected a checkpoint or a state_dict, got {type(state).__name__}")
    return {k: v for k, v in state.items() if isinstance(k, str) and _dense(v)}


class _File(NamedTuple):
    """What a file of weights holds, and its SHA-256."""

    content: Any
    sha256: str


def _read(path: Path) -> _File:
    """Read a file of weights by its suffix: `.safetensors`, or what torch.save writes."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise ConfigError(f"{path}: weights cannot be read: {e.strerror}") from e
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            content: Any = load(data)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it warns before it raises
                content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:  # torch's message advises to run the code in the file: no
        raise ConfigError(f"{path}: not weights in .pt format, or more than tensors, which is not loaded") from e
    except Exception as e:  # both readers raise many kinds for a file that is not theirs
        reason = str(e).strip().splitlines()
        raise ConfigError(
            f"{path}: not weights in {path.suffix or 'a known'} format: {reason[0] if reason else e!r}"
        ) from e
    return _File(content, hashlib.sha256(data).hexdigest())
