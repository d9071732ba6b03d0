"""The package's shape: imports run one way, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import hlfeat

PACKAGE = Path(hlfeat.__file__).parent

# What each package, or module right below the package, may import of the others.
MAY_IMPORT = {
    "errors": "",
    "text": "",
    "partition": "",
    "versions": "",
    "precision": "",
    "files": "errors",
    "config": "errors text",
    "audio": "errors precision text",
    "remote": "audio errors text",
    "inputs": "audio errors remote text",
    "nn": "config errors precision text",
    "statistics": "errors files",
    "storage": "config errors files partition remote statistics text",
    "inspection": "audio errors files partition plotting remote statistics storage text",
    "conversion": "config errors files partition statistics storage text",
    "interop": "config errors files nn",
    "hear": "config errors nn",
    "plotting": "audio config errors extraction files nn storage text",
    "training": "audio errors text",
    "extraction": "audio config errors files inputs nn partition precision remote statistics storage text versions",
    "bench": "audio config errors extraction files inputs nn precision statistics storage text versions",
    "cli": None,  # everything
}
# Inside `nn`, from the bottom up: a group may import those above its own line only.
NN_LAYERS = [
    "_private_torch _untraced _triton_products gpu_kernels masking parameter_cache threads device axes state_dicts "
    "pitch",
    "frontends harmonic",
    "layers harmonise",
    "extractor",
    "weights build summary parameter_groups margins",
]


def package_of(path: Path, top: Path = PACKAGE) -> str:
    """The first part of a module's name below `top`."""
    return path.relative_to(top).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Full names of this package's modules that a module imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names if alias.name.startswith("hlfeat."))
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == "hlfeat":
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
    return names


def test_imports_follow_the_contract():
    for path in PACKAGE.rglob("*.py"):
        package = package_of(path)
        if package in ("__init__", "__main__", "cli"):
            continue
        allowed = {package, *(MAY_IMPORT[package] or "").split()}
        others = {name.split(".")[1] for name in imported(path)} & set(MAY_IMPORT)
        assert others <= allowed, f"{path.relative_to(PACKAGE)} imports {others - allowed}"


def test_every_package_is_in_the_contract():
    packages = {package_of(p) for p in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    assert packages == set(MAY_IMPORT)


def test_every_package_is_on_the_page_for_contributors():
    page = (PACKAGE.parent / "docs/contributing.md").read_text()
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages - set(re.findall(r"^\| `(\w+)/` \| ", page, re.MULTILINE)) == set()


def test_imports_inside_nn_run_one_way():
    nn = PACKAGE / "nn"
    level = {name: i for i, names in enumerate(NN_LAYERS) for name in names.split()}
    groups = {package_of(p, nn) for p in nn.rglob("*.py")} - {"__init__"}
    assert groups == set(level)
    for path in nn.rglob("*.py"):
        group = package_of(path, nn)
        for name in imported(path):
            other = name.split(".")[2] if name.startswith("hlfeat.nn.") else group
            if group != "__init__" and other != group:
                lower = level[other] < level[group] or (level[other] == level[group] and group in NN_LAYERS[0])
                lower = lower or (level[other] == level[group] == len(NN_LAYERS) - 1)
                assert lower, f"nn/{path.relative_to(nn)} imports {name}"


def test_an_init_of_a_package_imports_nothing():
    for path in PACKAGE.glob("*/**/__init__.py"):
        tree = ast.parse(path.read_text())
        assert len(tree.body) == 1, path
        assert ast.get_docstring(tree), path


def test_no_module_below_the_package_has_the_name_of_a_function():
    assert not {"extract", "build", "collate"} & {package_of(p) for p in PACKAGE.rglob("*.py")}


def modules_after(code: str) -> set[str]:
    out = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(out.stdout.split())


def modules_of_help(*command: str) -> set[str]:
    context = "from contextlib import *\nwith suppress(SystemExit), redirect_stdout(None):"
    return modules_after(f"from hlfeat.cli.app import app\n{context} app({[*command, '--help']})")


def test_torch_is_not_imported_before_it_is_needed():
    heavy = {"torch", "torchaudio", "soundfile", "numpy", "pydantic", "yaml", "matplotlib"}
    assert not heavy & modules_after("import hlfeat")
    assert not heavy & modules_of_help()
    for command in (["extract"], ["bench", "pipeline"]):
        assert not (heavy - {"pydantic"}) & modules_of_help(*command)  # typer itself may use pydantic for arguments
    assert "torch" not in modules_after("from hlfeat import load_config; load_config('log-mel')")


def test_the_compiler_of_torch_is_not_imported_before_it_is_needed():
    extracting = "import torch, hlfeat, hlfeat.extraction.extract; hlfeat.build('eleaf-harmonic')(torch.zeros(1, 800))"
    assert "torch._dynamo" not in modules_after(extracting)


def test_public_names_are_there():
    for name in hlfeat.__all__:
        assert getattr(hlfeat, name) is not None
    assert set(hlfeat.__all__) == set(hlfeat._WHERE)
