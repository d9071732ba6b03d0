"""Whether Triton's kernels are used on a device: they are wherever they run."""

from __future__ import annotations

import logging
import threading
from functools import cache

import torch

from hlfeat.nn._private_torch import operations_watched

log = logging.getLogger("hlfeat")

OLDEST = 80  # compute capability 8.0: the first with products of TF32 and bfloat16

_lock = threading.Lock()
_run: dict[torch.device, bool] = {}


@cache
def capability(device: torch.device) -> int:
    """Compute capability of a CUDA device, such as 90."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def kernels_run(device: torch.device) -> bool:
    """Whether Triton compiles and runs kernels on this device; elsewhere torch operations compute the same.

    A small kernel is tried once for a device, which takes a second if Triton has not kept it. Where that fails, as
    without a C compiler, a warning says why. Operations that a TorchDispatchMode or a tracer watches stay torch's.
    """
    if device.type != "cuda" or operations_watched():
        return False
    if device not in _run:
        if not torch.cuda.is_available() or torch.cuda.is_current_stream_capturing():
            return False  # a CUDA graph cannot record what compiling does
        with _lock:
            if device not in _run:
                _run[device] = capability(device) >= OLDEST and _tried(device)
    return _run[device]


def _tried(device: torch.device) -> bool:
    try:
        from hlfeat.nn._triton_products import right_values
    except ImportError:
        return False
    try:
        if right_values(device):
            return True
        reason = "a product has wrong values"
    except Exception as e:  # the compiler's, the driver's, or the linker's
        reason = f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"
    log.warning("Triton's kernels do not run on %s, so torch operations compute there: %s", device, reason)
    return False
