"""Who follows a program: torch.compile, torch.export or nobody."""

from __future__ import annotations

import sys


def compiler_is_there() -> bool:
    """Whether somebody may be looking: torch's compiler has been imported, which torch alone does not do."""
    return "torch._dynamo" in sys.modules


def exporting() -> bool:
    """Whether torch.export is looking."""
    if not compiler_is_there():
        return False
    from hlfeat.nn._untraced import exported

    return bool(exported())
