"""The precision in which float32 is multiplied: TF32 keeps 10 bits of the mantissa's 23.

cuDNN's convolutions use TF32 unless torch is told otherwise, and so do matrix products after
`torch.set_float32_matmul_precision("high")`; on some CPUs, oneDNN's products are then rounded as well. torch's settings
are of the process: those of one thread change what all others compute. They form a tree, in which "none" stands for
what the node above says. Only torch's newer settings (`fp32_precision`) are used here. They can be read and set
whatever has been set before, whereas the older ones (`allow_tf32`) raise an error where the two do not agree, which may
be so while a precision is set here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

_backends: Any = torch.backends
_CUDA = (_backends.cuda.matmul, _backends.cudnn.conv, _backends.cudnn.rnn)
_CPU = (_backends.mkldnn.matmul, _backends.mkldnn.conv)


@dataclass(frozen=True, eq=False)
class _Request:
    """A context that is open."""

    thread: int
    tf32: bool


_lock = threading.Lock()
_requests: list[_Request] = []  # in the order in which they were opened
_before: list[tuple[Any, str]] = []  # settings as they were before the first of them


@contextmanager
def float32_precision(tf32: bool) -> Iterator[None]:
    """Multiply float32 in TF32 or in full precision on CUDA, in full precision on a CPU; afterwards as before.

    For convolutions, recurrent layers and matrix products. Contexts may be nested: the innermost decides. Of several
    threads with contexts of their own, one that wants full precision decides.
    """
    request = _Request(threading.get_ident(), tf32)
    with _lock:
        if not _requests:
            _before[:] = _settings()
        _requests.append(request)
        _apply()
    try:
        yield
    finally:
        with _lock:
            _requests.remove(request)
            if _requests:
                _apply()
            else:
                for place, value in _before:
                    place.fp32_precision = value


def tf32_convolutions() -> bool:
    """Whether convolutions on CUDA multiply float32 in TF32 at this moment."""
    return bool(_backends.cudnn.conv.fp32_precision == "tf32")


def _apply() -> None:
    innermost = {request.thread: request.tf32 for request in _requests}
    for place in _CUDA:
        place.fp32_precision = "tf32" if all(innermost.values()) else "ieee"
    for place in _CPU:
        place.fp32_precision = "ieee"


def _settings() -> list[tuple[Any, str]]:
    """What is set at each place, "none" where nothing is.

    A place without a setting answers with that of the place above, so those above are unset while the others are read.
    """
    above = []
    for place in (_backends, _backends.cudnn):
        above.append((place, place.fp32_precision))
        place.fp32_precision = "none"
    settings = [(place, place.fp32_precision) for place in (*_CUDA, *_CPU)]
    for place, value in above:
        place.fp32_precision = value
    return settings
