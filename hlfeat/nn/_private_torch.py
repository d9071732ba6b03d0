"""Everything of torch that is private, or undocumented, and that hlfeat uses: no other module may.

Each function says why torch's public interface does not do. tests/contract/test_private_torch.py has a test for each
name, which says what breaks when torch moves it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def version(parameter: Tensor) -> int:
    """How often a tensor has been written to. There is no other way to see a change without reading the values."""
    return parameter._version


def compiler_imported() -> bool:
    """Whether torch.compile or torch.export may be tracing: torch alone does not import its compiler.

    Asking the compiler itself would import it, which takes as long as importing torch.
    """
    return "torch._dynamo" in sys.modules


def exporting() -> bool:
    """Whether torch.export is tracing. Within torch.compile, torch.compiler.is_exporting() always says so."""
    if not compiler_imported():
        return False
    from hlfeat.nn._untraced import exported

    return bool(exported())


def transforms_active() -> bool:
    """Whether a torch.func transform is active. Their stack has no public name."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def forward_mode_active() -> bool:
    """Whether tensors may have tangents. The level of forward mode has no public name."""
    return forward_ad._current_level >= 0


def transformed() -> bool:
    """Whether torch.func or forward mode differentiates the program that torch.compile is tracing."""
    from hlfeat.nn._untraced import transforms

    return bool(transforms())


def differentiated_elsewhere(*tensors: Tensor | None) -> bool:
    """Whether torch.func or forward-mode differentiation has to see each operation on these tensors.

    torch.func transforms are on a stack that only torch._C shows. Tangents of forward mode are not seen by an
    autograd.Function without a `jvp`, which would drop them.
    """
    if transforms_active():
        return True
    given = (t for t in tensors if t is not None)
    return any(forward_ad.unpack_dual(t).tangent is not None for t in given)  # type: ignore[no-untyped-call]


def operations_watched() -> bool:
    """Whether a TorchDispatchMode or torch.jit.trace sees each operation of this thread.

    Operations of other threads would escape it, and what numpy computes would be taken for a constant. There is no
    public way to ask for modes, which are stacked.
    """
    return torch._C._len_torch_dispatch_stack() > 0 or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def without_functorch() -> AbstractContextManager[None]:
    """Compute with plain tensors within torch.func transforms: for tables that do not depend on the input's values."""
    context: AbstractContextManager[None] = torch._C._DisableFuncTorch()
    return context


class WatchedModule(nn.Module):
    """A module that is told when its parameters get other memory: `.to()`, `.cuda()`, `.half()` and the like.

    nn.Module has no public hook for that; all of them go through `_apply`.
    """

    def parameters_moved(self) -> None:
        """Called before the parameters are replaced."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WatchedModule:
        self.parameters_moved()
        return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]
