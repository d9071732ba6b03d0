"""Triton's interpreter, which runs kernels where there is no GPU."""

from __future__ import annotations

import pytest


def read_scalars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scalars be bounds of loops: Triton 3.6's interpreter cannot read them with numpy 2.4."""
    from triton.runtime import interpreter

    theirs = interpreter._patch_lang_tensor

    def patched(tensor: object, scope: object) -> None:
        theirs(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patched)
