"""The package's shape: imports run one way, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import hlfeat

PACKAGE = Path(hlfeat.__file__).parent

# From the bottom up: a module may import those above its own line only.
LAYERS = [
    "errors signals",
    "parts untraced moments",
    "tracers",
    "config configfile masking axes clip batching progress",
    "manifests archives ranges configschema configshow",
    "sources",
    "folding spacing spool decode resample shards harmonic_plan harmonic_kernels",
    "energies harmonic_pieces harmonic_fused",
    "harmonic_conv",
    "gabor harmonic",
    "compression stack outdir loader report busy statistics_file sidecar",
    "frontends index weights featuredir",
    "leaf store inspection verification merging",
    "overview",
    "extractor",
    "streaming bench checkpoint view describe export finishing",
    "preparing computer earlier",
    "cpu_computer device_computer",
    "compute",
    "pipeline hear",
    "devices",
    "gathering",
    "bench_harmonic bench_frontend plot",
    "bench_pipeline",
    "options",
    "cli_bench cli_config cli_export cli_plot cli_inspect cli_stats",
    "cli",
    "__main__",
]


def imported(path: Path) -> set[str]:
    """Modules of this package that a module imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "hlfeat":
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hlfeat."):
            names.add(node.module.split(".")[1])
    return names & {p.stem for p in PACKAGE.glob("*.py")}


def test_imports_run_one_way():
    level = {name: i for i, names in enumerate(LAYERS) for name in names.split()}
    assert set(level) == {p.stem for p in PACKAGE.glob("*.py")} - {"__init__"}
    same_level = {("configfile", "config"), ("config", "configfile")} - {("config", "configfile")}
    for path in PACKAGE.glob("*.py"):
        if path.stem != "__init__":
            for other in imported(path):
                assert level[other] < level[path.stem] or (path.stem, other) in same_level, (path.stem, other)


def modules_after(code: str) -> set[str]:
    out = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(out.stdout.split())


def test_torch_is_not_imported_before_it_is_needed():
    heavy = {"torch", "torchaudio", "soundfile", "numpy", "pydantic", "yaml", "matplotlib"}
    assert not heavy & modules_after("import hlfeat")
    assert not {"torch", "torchaudio", "soundfile", "numpy"} & modules_after("import hlfeat.cli")
    assert "torch" not in modules_after("from hlfeat import load_config; load_config('log-mel')")


def test_the_compiler_of_torch_is_not_imported_before_it_is_needed():
    extracting = "import torch, hlfeat, hlfeat.pipeline; hlfeat.build('eleaf-harmonic')(torch.zeros(1, 800))"
    assert "torch._dynamo" not in modules_after(extracting)


def test_public_names_are_there():
    for name in hlfeat.__all__:
        assert getattr(hlfeat, name) is not None
    assert set(hlfeat.__all__) == set(hlfeat._WHERE)
