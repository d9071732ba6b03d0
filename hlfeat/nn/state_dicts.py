"""Finding a module's state_dict in the forms that people save.

Training loops save more than the weights of one module: a dictionary with the epoch and the optimizer, a bigger model
of which the module is a part (`ext.frontend...`), names that a wrapper adds (`module.` of DistributedDataParallel,
`_orig_mod.` of torch.compile). What is meant is found by the module's own keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

COMPILED = "_orig_mod."  # what torch.compile adds, anywhere in a key


class Found(NamedTuple):
    """Tensors with a module's keys in what was saved.

    Attributes:
        state: under the module's own keys.
        place: where it was, in words; "" for a state_dict of the module alone.
        matches: how many of the expected keys it has.
        left_out: other tensors of the same state_dict.
    """

    state: dict[str, Tensor]
    place: str
    matches: int
    left_out: int


def is_dense(value: object) -> bool:
    """Whether this is a tensor that a parameter can be copied from."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_complex())
    )


def is_state_dict(content: object) -> bool:
    return isinstance(content, Mapping) and all(isinstance(k, str) and is_dense(v) for k, v in content.items())


def state_dicts(content: object) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """The state_dicts in the content of a file: all of it, or the values of one dictionary, with their keys."""
    if is_state_dict(content):
        yield "", content  # type: ignore[misc]
    elif isinstance(content, Mapping):
        yield from ((str(key), value) for key, value in content.items() if is_state_dict(value) and len(value))


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state under the keys of the modules that torch.compile has wrapped."""
    return {key.replace(COMPILED, ""): value for key, value in state.items()}


def prefixes(keys: Iterable[str], expected: Iterable[str]) -> Counter[str]:
    """What stands before the expected keys, and before how many of them."""
    wanted, counts = set(expected), Counter[str]()
    for key in keys:
        start = 0
        while True:
            if key[start:] in wanted:
                counts[key[:start]] += 1
            start = key.find(".", start) + 1
            if not start:
                break
    return counts


def find_states(content: Any, expected: Iterable[str], parts: Iterable[str]) -> list[Found]:
    """Where the keys of a module are in the content of a file; the places that have most of them, which may be few.

    Args:
        expected: keys of the module.
        parts: the first names of its keys. Other keys beside these belong to a bigger model, and are left out.

    >>> import torch
    >>> saved = {"epoch": 3, "state_dict": {"module.conv.weight": torch.ones(1), "module.head.weight": torch.ones(2)}}
    >>> find_states(saved, ["conv.weight"], ["conv"])
    [Found(state={'conv.weight': tensor([1.])}, place='state_dict: module', matches=1, left_out=1)]
    """
    expected, parts = list(expected), list(parts)
    found = []
    for name, state in state_dicts(content):
        state = without_wrappers(state)
        for prefix, count in prefixes(state, expected).items():
            own = {
                key.removeprefix(prefix): value
                for key, value in state.items()
                if key.startswith(tuple(f"{prefix}{part}." for part in parts))
            }
            place = ": ".join(word for word in (name, prefix.rstrip(".")) if word)
            found.append(Found(own, place, count, len(state) - len(own)))
    most = max((f.matches for f in found), default=0)
    return [f for f in found if f.matches == most]
