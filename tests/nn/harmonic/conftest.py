"""The Triton kernels in tests: on a GPU, or else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from tests.interpreter import read_scalars


@pytest.fixture
def kernels(monkeypatch):
    """float32 as it is, and kernels that can be interpreted."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    if not torch.cuda.is_available():
        from hlfeat.nn.harmonic import triton_backend

        read_scalars(monkeypatch)
        monkeypatch.setattr(triton_backend, "PROGRAMS", 4)  # the interpreter runs one after the other
