"""Docstrings of public names say what is needed to use them: every argument, shapes of tensors, errors, the source."""

from __future__ import annotations

import inspect
import re

import pytest
from torch import nn

import hlfeat

PUBLIC = {name: getattr(hlfeat, name) for name in hlfeat.__all__}
ERRORS = {name for name, thing in PUBLIC.items() if isinstance(thing, type) and issubclass(thing, Exception)}
NAMES = sorted(set(PUBLIC) - ERRORS)
MODULES = [name for name in NAMES if isinstance(PUBLIC[name], type) and issubclass(PUBLIC[name], nn.Module)]
TENSORS = [*MODULES, "collate", "FeatureStore", "frame_mask", "harmonic_conv2d", "load_audio", "pad", "Statistics"]
OURS = {"Extractor": "hlfeat's own", "LogMel": "torchaudio", "Spectrogram": "torchaudio"}  # of no paper


def doc(name: str) -> str:
    return inspect.getdoc(PUBLIC[name]) or ""


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_is_explained(name):
    """In Args or Attributes; `a, ..., b:` stands for those between, in their order."""
    parameters = list(inspect.signature(PUBLIC[name]).parameters)
    explained: set[str] = set()
    sections = re.findall(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)+)", doc(name), re.MULTILINE)
    for names in re.findall(r"^    ((?:\w+|\.\.\.)(?:,\s+(?:\w+|\.\.\.))*):", "\n".join(sections), re.MULTILINE):
        entries = re.split(r",\s+", names)
        explained.update(entries)
        if "..." in entries:
            first, last = (entries[entries.index("...") + i] for i in (-1, 1))
            explained.update(parameters[parameters.index(first) : parameters.index(last)])
    assert [p for p in parameters if p not in explained] == []


@pytest.mark.parametrize("name", TENSORS)
def test_shapes_are_told(name):
    assert re.search(r"^Shape:", doc(name), re.MULTILINE)


@pytest.mark.parametrize("name", MODULES)
def test_sources_are_told(name):
    assert name in OURS or re.search(r"Sources?:\s|arXiv", doc(name))


@pytest.mark.parametrize("name", NAMES)
def test_errors_are_told(name):
    """Where the function itself, or what makes an object, raises an error of its own."""
    thing = PUBLIC[name]
    makers = [thing] if not isinstance(thing, type) else [vars(thing).get(m) for m in ("__init__", "__post_init__")]
    written = [maker for maker in makers if inspect.isfunction(maker) and inspect.getsourcefile(maker) != "<string>"]
    source = "".join(map(inspect.getsource, written))  # a dataclass's __init__ is written by nobody
    code = re.sub(r'""".*?"""', "", source, flags=re.DOTALL)
    assert not re.search(r"^ +raise \w", code, re.MULTILINE) or "Raises:" in doc(name)


@pytest.mark.parametrize("name", [name for name in NAMES if isinstance(PUBLIC[name], type)])
def test_public_methods_have_a_docstring(name):
    """Of its own or of a base class; torch's docstring of `forward` says nothing, and the class has the shapes."""
    thing = PUBLIC[name]
    methods = [m for m in vars(thing) if not m.startswith("_") and m != "forward" and callable(getattr(thing, m))]
    ours = [m for m in methods if inspect.isroutine(getattr(thing, m))]
    assert [m for m in ours if not inspect.getdoc(getattr(thing, m))] == []
