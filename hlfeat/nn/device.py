"""Devices: the one of a name, what a person calls it, its memory, and how it says that this does not suffice."""

from __future__ import annotations

import functools
import platform
import re
import resource
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

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


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Work on this GPU; at the end the caller's is the current one again.

    What torch does without a tensor (events, pinned memory, streams) happens on the current device, and opens a
    context there, which takes some hundred megabytes of its memory.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def peak_memory(device: torch.device) -> int:
    """Bytes at the highest: of the device, or of the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    scale = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


# How the CUDA, HIP and MPS allocators, the driver, Triton, cuDNN and torch on the CPU say it
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory"
    r"|\b(CUBLAS|CUDNN|CUSOLVER|CUSPARSE)_STATUS_ALLOC_FAILED|\bCUFFT_ALLOC_FAILED|cudaErrorMemoryAllocation"
    r"|\bCUDNN_STATUS_INTERNAL_ERROR_(DEVICE|HOST)_ALLOCATION_FAILED",
    re.IGNORECASE,
)
# What cuDNN and cuFFT say if there is no room for their workspace, and also where they cannot do the operation at all
_PERHAPS = re.compile(
    r"unable to find an engine to execute this computation|Unable to find a valid cuDNN algorithm|CUFFT_INTERNAL_ERROR"
)


def out_of_memory(e: BaseException) -> bool:
    """Whether this is how torch, CUDA's libraries, Triton or Python say that memory does not suffice."""
    if isinstance(e, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(e, RuntimeError) and _OUT_OF_MEMORY.search(str(e)) is not None


def perhaps_out_of_memory(e: BaseException) -> bool:
    """Whether less work may succeed: memory does not suffice, or a library says what it also says of other faults."""
    return out_of_memory(e) or (isinstance(e, RuntimeError) and _PERHAPS.search(str(e)) is not None)


def multiplies_in(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the device multiplies in this precision without converting to float32 first.

    An x86 CPU that lacks the instructions takes up to 2 times as long in bfloat16 as in float32, with AVX-512, and 3 to
    60 times as long without it. Only x86 is known to this function; any other CPU is taken for one that has them.
    """
    if device.type != "cpu" or dtype not in _CPU_INSTRUCTIONS:
        return True
    return any(_capabilities().get(name, True) for name in _CPU_INSTRUCTIONS[dtype])


# As torch.cpu.get_capabilities calls them; a CPU of another architecture has no such keys
_CPU_INSTRUCTIONS = {torch.bfloat16: ("avx512_bf16", "amx_bf16"), torch.float16: ("avx512_fp16", "amx_fp16")}


@functools.cache
def _capabilities() -> Mapping[str, Any]:
    return torch.cpu.get_capabilities()


def check_device_name(name: str) -> None:
    """Raises UsageError for what is the name of no device, on whichever machine."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", name):
        raise UsageError(f"device {name}: expected auto, cpu, cuda, cuda:N or mps")


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is the GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_device_name(name)
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UsageError(f"device {name}: cannot be used: torch {torch.__version__} finds {found} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"device {name}: cannot be used: torch finds no Apple GPU")
    return device
