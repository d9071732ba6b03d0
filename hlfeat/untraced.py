"""What torch.compile is not to look into.

A module of its own, to be imported once the compiler is: the decorator imports it, which takes as long as torch itself.
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
