"""Folders of audio to learnable time-frequency features: EfficientLEAF, harmonic convolution, one command.

Names are imported when they are first used, so that `import hlfeat` costs nothing and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "EfficientLeaf": "leaf",
    "Leaf": "leaf",
    "LogMel": "frontends",
    "Spectrogram": "frontends",
    "LogTBN": "compression",
    "PCEN": "compression",
    "HarmonicConv2d": "harmonic",
    "LogHarmonicConv2d": "harmonic",
    "MixedHarmonicConv2d": "harmonic",
    "harmonic_conv2d": "harmonic_conv",
    "Config": "config",
    "load_config": "configfile",
    "Extractor": "extractor",
    "build": "extractor",
    "FeatureStore": "store",
    "collate": "batching",
    "extract": "pipeline",
    "Options": "pipeline",
    "HlfeatError": "errors",
}

__all__ = [
    "PCEN",
    "Config",
    "EfficientLeaf",
    "Extractor",
    "FeatureStore",
    "HarmonicConv2d",
    "HlfeatError",
    "Leaf",
    "LogHarmonicConv2d",
    "LogMel",
    "LogTBN",
    "MixedHarmonicConv2d",
    "Options",
    "Spectrogram",
    "build",
    "collate",
    "extract",
    "harmonic_conv2d",
    "load_config",
]

if TYPE_CHECKING:
    from hlfeat.batching import collate
    from hlfeat.compression import PCEN, LogTBN
    from hlfeat.config import Config
    from hlfeat.configfile import load_config
    from hlfeat.errors import HlfeatError
    from hlfeat.extractor import Extractor, build
    from hlfeat.frontends import LogMel, Spectrogram
    from hlfeat.harmonic import HarmonicConv2d, LogHarmonicConv2d, MixedHarmonicConv2d
    from hlfeat.harmonic_conv import harmonic_conv2d
    from hlfeat.leaf import EfficientLeaf, Leaf
    from hlfeat.pipeline import Options, extract
    from hlfeat.store import FeatureStore


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'hlfeat' has no attribute {name!r}")
    return getattr(import_module(f"hlfeat.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
