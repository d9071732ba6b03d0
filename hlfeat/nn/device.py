"""Devices: the one of a name, what a person calls it, its memory."""

from __future__ import annotations

import platform
import re
import resource
from contextlib import AbstractContextManager, nullcontext

import torch

from hlfeat.errors import UsageError


def device_name(device: torch.device) -> str:
    """What a person calls the device."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"{device} ({threads} thread{'s' if threads != 1 else ''})"
    return str(device)


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Compute in the tensors' own type. The meta device, which has shapes alone, knows no autocast to be turned off."""
    if device.type == "meta":
        return nullcontext()
    off: AbstractContextManager[None] = torch.autocast(device.type, enabled=False)
    return off


def peak_memory(device: torch.device) -> int:
    """Bytes at the highest: of the device, or of the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    scale = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def out_of_memory(e: BaseException) -> bool:
    """Whether this is how torch or Python say that memory does not suffice (torch on the CPU: a RuntimeError)."""
    return isinstance(e, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(e)


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is the GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?|mps", name):
        raise UsageError(f"device {name}: expected auto, cpu, cuda, cuda:N or mps")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UsageError(f"device {name}: cannot be used: torch {torch.__version__} finds {found} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"device {name}: cannot be used: torch finds no Apple GPU")
    return device
