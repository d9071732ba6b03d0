"""Trained weights: read without unpickling code, and checked key by key against the modules that load them."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hlfeat.errors import ConfigError
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.state_dicts import Found, find_states, is_dense, state_dicts

log = logging.getLogger("hlfeat")

FRONTEND = "frontend."  # what begins the keys of an extractor's frontend
# The seed is put in. Said once, whatever the number of processes.
UNTRAINED = (
    "no weights were given: the stack's are drawn at random from seed %d, untrained; the option weights loads trained "
    "ones, and stacks with init: salience (pitch-salience) need no training"
)


def load_weights(extractor: Extractor, path: Path) -> str:
    """Load the weights of a whole extractor, or of its frontend where there is no stack.

    They may be part of a bigger model, wrapped, or one value of a training checkpoint: where they were is logged.

    Args:
        extractor: the modules.
        path: `.pt` or `.safetensors`; the keys of a bare frontend may lack `frontend.`.

    Returns:
        The SHA-256 of the file.

    Raises:
        ConfigError: names the keys that do not fit, or the places where there are weights.
    """
    content, digest = _read(path)
    if not any(True for _ in state_dicts(content)):
        raise _no_state_dict(content, path)
    expected = list(extractor.state_dict())
    places = find_states(content, expected, ("frontend", "stack"))
    names = [key.removeprefix(FRONTEND) for key in expected]
    bare = find_states(content, names, {name.split(".")[0] for name in names})
    if bare and (not places or bare[0].matches > places[0].matches):
        places = [f._replace(state={FRONTEND + k: v for k, v in f.state.items()}) for f in bare]
    found = _the_only(places, content, path)
    if found.place:
        others = f"; its {found.left_out} other tensors are left out" if found.left_out else ""
        log.info("%s: weights of %s%s", path, found.place, others)
    fit(extractor, found.state, path)
    return digest


def _the_only(places: Sequence[Found], content: object, path: Path) -> Found:
    if len(places) == 1:
        return places[0]
    if places:
        raise ConfigError(
            f"{path}: expected one set of weights, found {len(places)}: "
            + ", ".join(f.place or "one without a prefix" for f in places)
        )
    keys = [f"{name}: {key}" if name else key for name, state in state_dicts(content) for key in state]
    begins = list(dict.fromkeys(".".join(key.split(".")[:2]) for key in keys))
    more = f" and {len(begins) - 8} more" if len(begins) > 8 else ""
    there = f"those that are begin with {', '.join(begins[:8])}{more}" if begins else "it has no keys"
    raise ConfigError(f"{path}: weights do not fit the configuration: none of its keys is there; {there}")


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


def _finite(value: Tensor, dtype: torch.dtype) -> bool:
    return bool(torch.isfinite(value.to(dtype)).all())


def _no_state_dict(content: object, path: Path) -> ConfigError:
    keys = f" with {', '.join(map(str, list(content)[:4]))}" if isinstance(content, Mapping) else ""
    return ConfigError(f"{path}: expected a state_dict of dense, real tensors, got {type(content).__name__}{keys}")


def read_checkpoint(path: Path, nests: Sequence[str]) -> dict[str, Tensor]:
    """The dense tensors of a training checkpoint, whose state_dict may lie under one of the keys `nests`."""
    state = _read(path).content
    for key in nests:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
            break
    if not isinstance(state, Mapping):
        raise ConfigError(f"{path}: expected a checkpoint or a state_dict, got {type(state).__name__}")
    return {k: v for k, v in state.items() if isinstance(k, str) and is_dense(v)}


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
