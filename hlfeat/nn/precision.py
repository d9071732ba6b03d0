"""The precision of float32 products on a GPU.

TF32 keeps 10 of float32's 23 bits of mantissa. torch turns it on for cuDNN's convolutions unless it is told otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def float32_precision(tf32: bool) -> Iterator[None]:
    """Multiply in TF32 or in full float32: convolutions, recurrent layers and matrix products on CUDA.

    What was set before is set again afterwards. Inside, torch's older switches (`allow_tf32`) may refuse to be read.
    """
    backends: Any = torch.backends
    places = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "tf32" if tf32 else "ieee"
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value
