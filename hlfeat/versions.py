"""Versions of hlfeat and of the libraries that features depend on."""

from __future__ import annotations

import platform

import numpy as np
import soundfile
import torch
import torchaudio

import hlfeat


def versions() -> dict[str, str]:
    """Name and version of each, as hlfeat.yaml and report.json record them."""
    return {
        "hlfeat": hlfeat.__version__,
        "torch": str(torch.__version__),
        "torchaudio": str(torchaudio.__version__),
        "soundfile": soundfile.__version__,
        "libsndfile": soundfile.__libsndfile_version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
