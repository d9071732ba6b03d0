"""Where features are computed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hlfeat.computer import Computer
from hlfeat.cpu_computer import CpuComputer
from hlfeat.device_computer import DeviceComputer
from hlfeat.errors import UsageError
from hlfeat.extractor import Extractor
from hlfeat.finishing import Finish


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is the GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?|mps", name):
        raise UsageError(f"--device {name}: expected auto, cpu, cuda, cuda:N or mps")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UsageError(f"--device {name}: cannot be used: torch {torch.__version__} finds {found} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"--device {name}: cannot be used: torch finds no Apple GPU")
    return device


def make_computer(
    extractor: Extractor,
    finish: Finish,
    device: torch.device,
    dtype: np.dtype[Any],
    channels: str | int,
    batch_samples: int,
    stopped: Callable[[], bool],
) -> Computer:
    """What fits the device."""
    if device.type == "cpu":
        return CpuComputer(extractor, finish, device, dtype, channels)
    return DeviceComputer(extractor, finish, device, dtype, channels, batch_samples, stopped)
