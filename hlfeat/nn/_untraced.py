"""What torch.compile is not to look into, and what it is not to be told.

A module of its own, to be imported once the compiler is: the decorators import it, which takes as long as torch itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


@torch.compiler.disable  # type: ignore[untyped-decorator]
def untraced(make: Callable[[], T]) -> T:
    """`make()`, as it is outside of torch.compile."""
    return make()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def exported() -> bool:
    """Whether torch.export is looking. To a program under torch.compile `is_exporting` itself says so always."""
    return torch.compiler.is_exporting()
