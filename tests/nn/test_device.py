"""What devices say, and which of them is selected."""

from __future__ import annotations

import pytest
import torch

from hlfeat.nn import device as devices
from hlfeat.nn.device import multiplies_in, on_device, out_of_memory, perhaps_out_of_memory

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 1 has a total capacity of 8 GiB"),
    MemoryError(),
    RuntimeError("CUDA out of memory. Tried to allocate more than 1EB memory."),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("HIP out of memory. Tried to allocate 2 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cuDNN error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 5 GB, other allocations: 1 MB, max allowed: 9 GB)"),
    RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
]
OTHERS = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: too many resources requested for launch"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuFFT error: CUFFT_INVALID_SIZE"),
    ValueError("out of memory"),  # no library says it so
]
PERHAPS = [
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("FIND was unable to find an engine to execute this computation after trying 5 plans."),
    RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    RuntimeError("cuFFT error: CUFFT_INTERNAL_ERROR"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda e: str(e)[:40])
def test_out_of_memory_in_all_spellings(error):
    assert out_of_memory(error)
    assert perhaps_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=lambda e: str(e)[:60])
def test_another_failure_is_not_out_of_memory(error):
    assert not out_of_memory(error)
    assert not perhaps_out_of_memory(error)


@pytest.mark.parametrize("error", PERHAPS, ids=lambda e: str(e)[:40])
def test_what_libraries_say_of_several_faults(error):
    assert not out_of_memory(error)
    assert perhaps_out_of_memory(error)


def test_a_device_is_selected_and_the_callers_restored(monkeypatch):
    """As torch selects it; it leaves alone a device that has no context at the end."""
    selected = [0]

    def exchange(device):
        before = selected[-1]
        selected.append(device)
        return before

    monkeypatch.setattr(torch.cuda, "_exchange_device", exchange)
    monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", exchange)

    def fail():
        with on_device(torch.device("cuda:1")):
            assert selected == [0, 1]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert selected == [0, 1, 0]
    with on_device(torch.device("cpu")), on_device(torch.device("mps")):
        assert selected == [0, 1, 0]


@pytest.mark.parametrize(
    ("capabilities", "bfloat16", "float16"),
    [
        ({"avx512_bf16": True, "amx_bf16": False, "avx512_fp16": False, "amx_fp16": False}, True, False),
        ({"avx512_bf16": False, "amx_bf16": True, "avx512_fp16": False, "amx_fp16": True}, True, True),
        ({"avx512_bf16": False, "amx_bf16": False, "avx512_fp16": False, "amx_fp16": False}, False, False),
        ({"sve_bf16": False}, True, True),  # not an x86 CPU
    ],
)
def test_half_precisions_that_a_cpu_has_instructions_for(monkeypatch, capabilities, bfloat16, float16):
    monkeypatch.setattr(devices, "_capabilities", lambda: capabilities)
    cpu = torch.device("cpu")
    assert multiplies_in(torch.bfloat16, cpu) == bfloat16
    assert multiplies_in(torch.float16, cpu) == float16
    assert multiplies_in(torch.float32, cpu)
    assert multiplies_in(torch.bfloat16, torch.device("cuda", 1))


def test_torch_still_names_the_instructions_of_x86():
    """Otherwise every CPU would be taken for one that has them, and be slow under autocast."""
    capabilities = torch.cpu.get_capabilities()
    if capabilities["architecture"] == "x86_64":
        assert {name for names in devices._CPU_INSTRUCTIONS.values() for name in names} <= capabilities.keys()
