"""Private torch: one module uses it, and each name of it still does what hlfeat relies on.

A failure here says which function of hlfeat/nn/_private_torch.py a new torch has broken, and what users would see.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import hlfeat
from hlfeat.nn import _private_torch

PACKAGE = Path(hlfeat.__file__).parent
ALLOWED = "nn/_private_torch.py"
# Private members of tensors and modules, whose objects the source alone does not tell from hlfeat's own.
MEMBERS = {
    *(name for owner in (torch.Tensor, nn.Module) for name in dir(owner)),
    *vars(nn.Module()),
}
MEMBERS = {name for name in MEMBERS if name.startswith("_") and not name.startswith("__")}
UNDOCUMENTED = {"torch.autograd.forward_ad"}  # imported by name: torch's stubs do not have it


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute, or ""."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def private_uses(source: str, below_nn: bool = True) -> list[str]:
    """Names of private torch in a module's source."""
    uses = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [dotted(node)]
            uses += [node.attr] if node.attr in MEMBERS and dotted(node.value) != "self" else []
        elif isinstance(node, ast.ClassDef):  # every class below nn/ may be a module
            names = []
            uses += [m.name for m in node.body if isinstance(m, ast.FunctionDef) and m.name in MEMBERS and below_nn]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value] if node.value.replace(".", "").replace("_", "").isalnum() else []
        else:
            continue
        for name in names:
            parts = name.split(".")
            hidden = any(p.startswith("_") and not p.startswith("__") for p in parts[1:])
            if parts[0] in ("torch", "torchaudio", "functorch") and (hidden or name in UNDOCUMENTED):
                uses.append(name)
    return uses


def test_the_search_sees_every_way_of_using_private_torch():
    for source in (
        "import torch._dynamo",
        "from torch._C import _functorch",
        "from torch.autograd import forward_ad",
        "torch._C._DisableFuncTorch()",
        "p._version",
        "class M(nn.Module):\n    def _apply(self, fn): ...",
        "'torch._dynamo' in sys.modules",
    ):
        assert private_uses(source), source
    assert not private_uses("import torch\ntorch.compiler.is_compiling()\nself._plans\ndef _check(): ...\n__version__")


def test_one_module_uses_private_torch():
    paths = [p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py")]
    uses = {str(p): private_uses((PACKAGE / p).read_text(encoding="utf-8"), p.parts[0] == "nn") for p in paths}
    assert uses.pop(ALLOWED)
    assert not {path: names for path, names in uses.items() if names}


def test_version_counts_writes():
    """Without it, filters on a GPU would stay as they were when an optimiser moves them in eval mode."""
    p = nn.Parameter(torch.zeros(3))
    before = _private_torch.version(p)
    assert _private_torch.version(p) == before
    with torch.no_grad():
        p.add_(1)
    assert _private_torch.version(p) > before


def test_compiler_imported_says_whether_torch_compile_has_been_used():
    """If torch's compiler moves, compiled frontends would keep the filters that they were compiled with."""
    code = """
import torch
from hlfeat.nn import _private_torch
assert not _private_torch.compiler_imported(), "torch imports its compiler: compare the time of `import torch`"
torch.compiler.disable(print)
assert _private_torch.compiler_imported(), "the compiler is another module now"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_exporting_is_true_within_torch_export_alone():
    """Else exports would contain the making of filters, and compiled frontends constant ones."""

    class Asks(nn.Module):
        def forward(self, x):
            return x + 1 if _private_torch.exporting() else x - 1

    x = torch.zeros(2)
    assert not _private_torch.exporting()
    assert torch.export.export(Asks(), (x,), strict=True).module()(x)[0] == 1
    assert torch.export.export(Asks(), (x,), strict=False).module()(x)[0] == 1
    assert torch.compile(Asks(), backend="eager")(x)[0] == -1


def test_torch_func_is_seen():
    """Else vmap, grad and jacrev of a harmonic convolution would fail in its autograd.Function."""
    x, seen = torch.zeros(2), []

    def f(x):
        seen.append(_private_torch.differentiated_elsewhere(x, None))
        return x.sum()

    f(x)
    torch.func.grad(f)(x)
    torch.func.vmap(f)(x[:, None])
    assert seen == [False, True, True]


def test_tangents_of_forward_mode_are_seen():
    """Else forward-mode derivatives of a harmonic convolution would be missing."""
    x = torch.zeros(2)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones(2))
        assert _private_torch.differentiated_elsewhere(None, dual)
        assert not _private_torch.differentiated_elsewhere(x)


def test_forward_mode_and_torch_func_are_seen_without_a_tensor():
    """Else a compiled harmonic convolution would be an operation that has no derivative of these kinds."""
    x, seen = torch.zeros(2), []

    def f(x):
        seen.append(_private_torch.transforms_active())
        return x.sum()

    f(x)
    torch.func.grad(f)(x)
    assert seen == [False, True]
    assert not _private_torch.forward_mode_active()
    with forward_ad.dual_level():
        assert _private_torch.forward_mode_active()
    assert not _private_torch.forward_mode_active()


def test_compiled_programs_know_who_differentiates_them():
    class Asks(nn.Module):
        def forward(self, x):
            return 2 * x if _private_torch.transformed() else 3 * x

    x, asks = torch.ones(2), torch.compile(Asks(), backend="eager")
    assert asks(x)[0] == 3
    assert torch.func.jvp(asks, (x,), (x,))[1][0] == 2
    torch.compiler.reset()
    with forward_ad.dual_level():  # which does not make torch compile anew
        assert forward_ad.unpack_dual(asks(forward_ad.make_dual(x, x))).tangent[0] == 2


def test_modes_that_watch_operations_are_seen():
    """Else tracers and counters would miss what the filterbank's own threads compute."""
    seen = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    with Mode():
        seen.append(_private_torch.operations_watched())
    seen.append(_private_torch.operations_watched())
    assert seen == [True, False]


def test_without_functorch_tensors_are_plain():
    """Else making a plan within torch.func would fail: it reads values with numpy."""

    def f(x):
        with _private_torch.without_functorch():
            table = torch.arange(3.0).numpy()
        return x * float(table.sum())

    assert torch.func.grad(f)(torch.tensor(1.0)) == 3


@pytest.mark.parametrize("move", [lambda m: m.to(torch.float64), lambda m: m.half(), lambda m: m.to("meta")])
def test_a_watched_module_is_told_when_its_parameters_move(move):
    """Else filters kept in eval mode would be those of the old type or device."""
    calls = []

    class Part(_private_torch.WatchedModule):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.zeros(1))

        def parameters_moved(self):
            calls.append(self.p.dtype)

    move(nn.Sequential(Part()))
    assert calls == [torch.float32]
