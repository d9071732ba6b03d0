"""Triton where there is no GPU: its interpreter runs kernels, and its compiler makes machine code of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import helpers


def compiled(module: str, capability: int, cache: Path) -> list[dict[str, Any]]:
    """What a module of tests prints of the kernels that it compiles, in a process that does not interpret them."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-m", module, str(capability)],
        cwd=helpers.ROOT, env=environment, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def read_scalars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scalars be bounds of loops: Triton 3.6's interpreter cannot read them with numpy 2.4."""
    from triton.runtime import interpreter

    theirs = interpreter._patch_lang_tensor

    def patched(tensor: object, scope: object) -> None:
        theirs(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patched)
