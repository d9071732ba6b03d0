"""The public names, pinned: what is taken away or renamed here breaks other people's programs."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import hlfeat
from tests import helpers

PUBLIC = """
    AxisError CentreAxis Clip ClipError ClipLabel Config ConfigError EfficientLeaf ExportError Extractor
    FeatureBatch FeatureStore HarmonicConv2d HlfeatError Inputs InterruptedRunError LayerError Leaf LinearAxis
    LogAxis LogHarmonicConv2d LogMel LogTBN MixedHarmonicConv2d Options OutputError PCEN Part PitchTrack RelativeLog
    Report Spectrogram Statistics TooManyFailuresError UnreachableError
    UsageError build collate collect_inputs config_names dump_config
    extract frame_mask harmonic_conv2d harmonise init_salience_ load_audio load_config pad parameter_groups pitch
    plan_batches read_labels split_groups
"""


def test_public_names_are_pinned():
    assert sorted(hlfeat.__all__) == sorted(PUBLIC.split())
    assert set(hlfeat.__all__) == set(hlfeat._WHERE)
    for name in hlfeat.__all__:
        assert getattr(hlfeat, name) is not None


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(hlfeat.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == {name: f"hlfeat.{module}" for name, module in hlfeat._WHERE.items()}


# Scripts for work on hlfeat itself, with the reason why they need more than its users.
INTERNAL_SCRIPTS = {
    "gpu_targets.py": "reads what benches have measured",
    "tune_harmonic.py": "chooses the block sizes of a kernel",
}


def internal_imports(source: str) -> set[str]:
    """Modules inside the package that a script imports."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name for name in names if name.startswith("hlfeat.")}


def test_scripts_use_public_names_only():
    scripts = {path.name: internal_imports(path.read_text()) for path in (helpers.ROOT / "scripts").glob("*.py")}
    assert {"train.py", *INTERNAL_SCRIPTS} <= set(scripts)
    assert {name for name, modules in scripts.items() if modules} == set(INTERNAL_SCRIPTS)
    assert internal_imports("import hlfeat\nfrom hlfeat import Clip\ndef f():\n    from hlfeat.a import b") == {
        "hlfeat.a"
    }


def test_arguments_are_pinned():
    taken = {
        name: list(inspect.signature(getattr(hlfeat, name)).parameters)
        for name in (
            "extract", "build", "collate", "collect_inputs", "load_audio", "plan_batches", "pad", "frame_mask",
            "harmonise", "init_salience_", "parameter_groups", "pitch", "read_labels", "split_groups",
        )
    }  # fmt: skip
    assert taken == {
        "extract": ["config", "inputs", "out", "options", "stopped", "finished_shard", "progress"],
        "build": ["configuration", "weights"],
        "collate": ["items"],
        "collect_inputs": ["paths", "stdin", "null", "manifests", "root", "retries", "audio_column"],
        "load_audio": ["clip", "sample_rate", "channels"],
        "plan_batches": ["lengths", "max_samples"],
        "pad": ["waveforms"],
        "frame_mask": ["frames", "n"],
        "harmonise": ["module", "axis", "anchor", "where", "axes"],
        "init_salience_": ["conv", "decay", "valley"],
        "pitch": ["salience", "freqs", "viterbi"],
        "parameter_groups": ["model", "lr", "weight_decay"],
        "read_labels": ["table", "path", "label", "group", "split"],
        "split_groups": ["labels", "groups", "share", "seed"],
    }


def test_errors_are_one_family():
    errors = [v for n in hlfeat.__all__ if isinstance(v := getattr(hlfeat, n), type) and issubclass(v, Exception)]
    assert len(errors) == 11
    assert all(issubclass(error, hlfeat.HlfeatError) for error in errors)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("workers", 0), ("workers", 1.5), ("workers", True), ("batch_seconds", 0), ("batch_seconds", float("nan")),
        ("batch_seconds", "most"), ("on_error", "ignore"), ("max_failures", -1), ("device", "cpu,"), ("part", "1/2"),
    ],
)  # fmt: skip
def test_options_check_themselves(option, value):
    with pytest.raises(hlfeat.UsageError, match=f"^{option}: expected "):
        hlfeat.Options(**{option: value})


def test_the_library_reads_no_standard_input(tmp_path):
    with pytest.raises(hlfeat.UsageError, match="got - without a stream"):
        hlfeat.extract(hlfeat.load_config("log-mel"), ["-"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_packages_list_their_public_names():
    listed = {}
    for path in Path(hlfeat.__file__).parent.glob("*/__init__.py"):
        match = re.search(r"^Public names: ([\w\s,]+)\.$", path.read_text(), re.MULTILINE)
        names = re.findall(r"\w+", match[1]) if match else []
        listed.update(dict.fromkeys(names, path.parent.name))
    assert listed == {name: place.split(".")[0] for name, place in hlfeat._WHERE.items() if "." in place}
