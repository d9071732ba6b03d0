"""The Triton kernels in tests: on a GPU, or else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def kernels(monkeypatch):
    """float32 as it is; and scalars as bounds of loops, which Triton 3.6's interpreter cannot read with numpy 2.4."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    if not torch.cuda.is_available():
        from triton.runtime import interpreter

        from hlfeat.nn.harmonic import triton_backend

        theirs = interpreter._patch_lang_tensor

        def patched(tensor, scope):
            theirs(tensor, scope)
            scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

        monkeypatch.setattr(interpreter, "_patch_lang_tensor", patched)
        monkeypatch.setattr(triton_backend, "PROGRAMS", 4)  # the interpreter runs one after the other
