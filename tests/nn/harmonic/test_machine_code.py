"""What the Triton kernels compile to for GPUs that are not here: registers, spills, loads and instructions, counted."""

from __future__ import annotations

from typing import Any

import pytest

from tests import helpers
from tests.interpreter import compiled

pytest.importorskip("triton")

Facts = dict[str, Any]


def named(facts: Facts) -> str:
    return f"{facts['kernel']} {facts['dtype']} {facts['precision']} {facts['constants']} {facts['blocks']}"


def on_tensor_cores(facts: Facts) -> bool:
    return bool(facts["precision"] != "ieee" or facts["dtype"] != "fp32")


def sizes(facts: Facts) -> tuple[int, int, int, int, int]:
    """Frames, columns of the left side and of the result in one step; bytes of a value; threads."""
    blocks, constants = facts["blocks"], facts["constants"]
    out = blocks["o"] * (constants["TAPS"] if facts["kernel"] == "columns" else 1)
    return blocks["t"], blocks["k"], out, 4 if facts["dtype"] == "fp32" else 2, 32 * blocks["warps"]


def no_register_spills_and_two_programs_share_a_multiprocessor(capability: int, kernels: list[Facts]) -> None:
    """One program's loads hide behind the other's products."""
    for facts in kernels:
        assert facts["spills"] == 0, named(facts)
        assert facts["programs"] >= 2, named(facts)


def tensor_cores_multiply_each_product_once_or_thrice(capability: int, kernels: list[Facts]) -> None:
    """Thrice for full float32."""
    for facts in kernels:
        t, k, out, _, threads = sizes(facts)
        products = facts["loop"]["tensor_products"] * threads // 32
        assert on_tensor_cores(facts), named(facts)
        assert products == t * k * out * (3 if facts["precision"] == "tf32x3" else 1), named(facts)
        if capability == 90:
            assert facts["loop"]["HGMMA"] > 0, named(facts)


def each_row_is_read_and_interpolated_once_for_a_harmonic(capability: int, kernels: list[Facts]) -> None:
    """Not once for each tap. A step loads two rows and the weights of all taps, and an entry of the lists."""
    for facts in kernels:
        if facts["kernel"] == "columns":
            t, k, out, size, threads = sizes(facts)
            rows, weights, entry = 2 * t * k * size, k * out * size, 24 * threads
            assert facts["loop"]["bytes"] * threads <= rows + weights + entry, named(facts)
            assert facts["loop"]["FFMA"] <= t * k // threads + 2, named(facts)
        if facts["kernel"] == "correlate":
            t, k, out, size, threads = sizes(facts)
            assert facts["loop"]["bytes"] * threads <= 2 * t * k * size + t * out * size, named(facts)


def loads_are_vectors(capability: int, kernels: list[Facts]) -> None:
    """Where frames are whole sixteens: 16 bytes of a float32 row, 8 of the others."""
    for facts in kernels:
        if facts["kernel"] == "columns" and facts["constants"].get("whole", True):
            t, k, out, _, threads = sizes(facts)
            weights = max(facts["constants"]["TAPS"], out * k // threads // 4)  # each tap's are loaded on their own
            vectors = 2 * t * k // threads // 4 + weights  # four values each, if not more
            assert facts["loop"]["loads"] <= vectors + 5, named(facts)  # of the lists


# Of the bench's largest setting, 16 -> 32 channels and 7 taps: bytes loaded, and instructions of a thread, for a
# thousand multiply-adds; TF32x3 has three products of each. When each tap read its rows again, they were 281 bytes
# (tf32) and 4.2 to 4.9 instructions.
LEAN = {
    ("columns", 80, "tf32"): (112, 2.5),
    ("columns", 80, "fp16"): (62, 0.7),
    ("columns", 90, "tf32"): (112, 1.2),
    ("columns", 90, "fp16"): (62, 0.7),
    ("correlate", 80, "tf32"): (126, 3.0),
    ("correlate", 80, "fp16"): (63, 1.8),
    ("correlate", 90, "tf32"): (126, 1.8),
    ("correlate", 90, "fp16"): (63, 1.4),
    ("columns", 80, "tf32x3"): (160, 6.2),
    ("columns", 90, "tf32x3"): (160, 4.2),
    ("correlate", 80, "tf32x3"): (255, 9.5),
    ("correlate", 90, "tf32x3"): (190, 3.3),
}


def few_bytes_and_instructions_for_the_work(capability: int, kernels: list[Facts]) -> None:
    seen = 0
    for facts in kernels:
        kind = facts["precision"] if facts["dtype"] == "fp32" else facts["dtype"]
        constants = facts["constants"]
        key = (facts["kernel"], capability, kind)
        largest = (constants["CHANNELS"], constants["OUT"], constants["TAPS"]) == (16, 32, 7)
        if key in LEAN and largest and constants.get("whole", True):
            t, k, out, _, threads = sizes(facts)
            thousands = t * k * out / 1000
            bytes_loaded, instructions = LEAN[key]
            assert facts["loop"]["bytes"] * threads / thousands <= bytes_loaded, named(facts)
            assert facts["loop"]["operations"] / thousands <= instructions, named(facts)
            seen += 1
    assert seen == 6


@pytest.mark.parametrize("capability", [80, 90] if helpers.THOROUGH else [90])
def test_kernels_are_lean(capability, tmp_path):
    """One test for all that is counted: compiling them takes most of a minute."""
    kernels = compiled("tests.compile_kernels", capability, tmp_path)
    assert len(kernels) == 27
    no_register_spills_and_two_programs_share_a_multiprocessor(capability, kernels)
    tensor_cores_multiply_each_product_once_or_thrice(capability, kernels)
    each_row_is_read_and_interpolated_once_for_a_harmonic(capability, kernels)
    loads_are_vectors(capability, kernels)
    few_bytes_and_instructions_for_the_work(capability, kernels)
