"""Functions excluded from torch.compile's tracing.

A module of its own, imported once the compiler is: its decorators import the compiler, which takes as long as importing
torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from hlfeat.nn._private_torch import forward_mode_active, transforms_active

T = TypeVar("T")


@torch.compiler.disable  # type: ignore[untyped-decorator]
def untraced(make: Callable[[], T]) -> T:
    """`make()`, run as ordinary Python within a compiled program."""
    return make()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def exported() -> bool:
    """Whether torch.export is tracing; evaluated outside the traced program, where the answer is right."""
    return torch.compiler.is_exporting()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def transforms() -> bool:
    """Whether torch.func or forward mode is active, while torch.compile is tracing.

    It traces anew for torch.func. Forward mode of a program that was compiled without it is an error of torch.
    """
    return transforms_active() or forward_mode_active()
