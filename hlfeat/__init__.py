"""Folders of audio to learnable time-frequency features: EfficientLEAF, harmonic convolution, one command.

Names are imported when they are first used, so that `import hlfeat` costs nothing and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "EfficientLeaf": "nn.frontends.leaf",
    "Leaf": "nn.frontends.leaf",
    "LogMel": "nn.frontends.spectrograms",
    "Spectrogram": "nn.frontends.spectrograms",
    "LogTBN": "nn.frontends.compression",
    "PCEN": "nn.frontends.pcen",
    "RelativeLog": "nn.frontends.relative_log",
    "HarmonicConv2d": "nn.harmonic.modules",
    "LogHarmonicConv2d": "nn.harmonic.modules",
    "MixedHarmonicConv2d": "nn.harmonic.modules",
    "LinearAxis": "nn.axes",
    "LogAxis": "nn.axes",
    "CentreAxis": "nn.axes",
    "harmonic_conv2d": "nn.harmonic.functional",
    "harmonise": "nn.harmonise",
    "init_salience_": "nn.harmonic.salience",
    "pitch": "nn.pitch",
    "PitchTrack": "nn.pitch",
    "Config": "config.config",
    "load_config": "config.loading",
    "Extractor": "nn.extractor",
    "build": "nn.build",
    "parameter_groups": "nn.parameter_groups",
    "FeatureStore": "storage.store",
    "collate": "storage.collate",
    "extract": "extraction.extract",
    "Options": "extraction.options",
    "HlfeatError": "errors",
    "Report": "extraction.report",
    "Part": "partition",
    "Statistics": "statistics.dataset_statistics",
    "config_names": "config.loading",
    "dump_config": "config.loading",
    "Inputs": "inputs.collect",
    "collect_inputs": "inputs.collect",
    "Clip": "audio.clip",
    "load_audio": "inputs.loading",
    "plan_batches": "extraction.batching",
    "pad": "extraction.batching",
    "frame_mask": "nn.masking",
    "FeatureBatch": "storage.collate",
    "ClipLabel": "training.labels",
    "read_labels": "training.labels",
    "split_groups": "training.splits",
    "UsageError": "errors",
    "ConfigError": "errors",
    "LayerError": "errors",
    "OutputError": "errors",
    "ClipError": "errors",
    "TooManyFailuresError": "errors",
    "UnreachableError": "errors",
    "InterruptedRunError": "errors",
    "AxisError": "errors",
    "ExportError": "errors",
}

__all__ = [
    "PCEN",
    "AxisError",
    "CentreAxis",
    "Clip",
    "ClipError",
    "ClipLabel",
    "Config",
    "ConfigError",
    "EfficientLeaf",
    "ExportError",
    "Extractor",
    "FeatureBatch",
    "FeatureStore",
    "HarmonicConv2d",
    "HlfeatError",
    "Inputs",
    "InterruptedRunError",
    "LayerError",
    "Leaf",
    "LinearAxis",
    "LogAxis",
    "LogHarmonicConv2d",
    "LogMel",
    "LogTBN",
    "MixedHarmonicConv2d",
    "Options",
    "OutputError",
    "Part",
    "PitchTrack",
    "RelativeLog",
    "Report",
    "Spectrogram",
    "Statistics",
    "TooManyFailuresError",
    "UnreachableError",
    "UsageError",
    "build",
    "collate",
    "collect_inputs",
    "config_names",
    "dump_config",
    "extract",
    "frame_mask",
    "harmonic_conv2d",
    "harmonise",
    "init_salience_",
    "load_audio",
    "load_config",
    "pad",
    "parameter_groups",
    "pitch",
    "plan_batches",
    "read_labels",
    "split_groups",
]

if TYPE_CHECKING:
    from hlfeat.audio.clip import Clip
    from hlfeat.config.config import Config
    from hlfeat.config.loading import config_names, dump_config, load_config
    from hlfeat.errors import (
        AxisError,
        ClipError,
        ConfigError,
        ExportError,
        HlfeatError,
        InterruptedRunError,
        LayerError,
        OutputError,
        TooManyFailuresError,
        UnreachableError,
        UsageError,
    )
    from hlfeat.extraction.batching import pad, plan_batches
    from hlfeat.extraction.extract import extract
    from hlfeat.extraction.options import Options
    from hlfeat.extraction.report import Report
    from hlfeat.inputs.collect import Inputs, collect_inputs
    from hlfeat.inputs.loading import load_audio
    from hlfeat.nn.axes import CentreAxis, LinearAxis, LogAxis
    from hlfeat.nn.build import build
    from hlfeat.nn.extractor import Extractor
    from hlfeat.nn.frontends.compression import LogTBN
    from hlfeat.nn.frontends.leaf import EfficientLeaf, Leaf
    from hlfeat.nn.frontends.pcen import PCEN
    from hlfeat.nn.frontends.relative_log import RelativeLog
    from hlfeat.nn.frontends.spectrograms import LogMel, Spectrogram
    from hlfeat.nn.harmonic.functional import harmonic_conv2d
    from hlfeat.nn.harmonic.modules import HarmonicConv2d, LogHarmonicConv2d, MixedHarmonicConv2d
    from hlfeat.nn.harmonic.salience import init_salience_
    from hlfeat.nn.harmonise import harmonise
    from hlfeat.nn.masking import frame_mask
    from hlfeat.nn.parameter_groups import parameter_groups
    from hlfeat.nn.pitch import PitchTrack, pitch
    from hlfeat.partition import Part
    from hlfeat.statistics.dataset_statistics import Statistics
    from hlfeat.storage.collate import FeatureBatch, collate
    from hlfeat.storage.store import FeatureStore
    from hlfeat.training.labels import ClipLabel, read_labels
    from hlfeat.training.splits import split_groups


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'hlfeat' has no attribute {name!r}")
    return getattr(import_module(f"hlfeat.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
