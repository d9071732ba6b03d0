"""Full float32 or TF32, whatever was set before, by whichever of torch's two ways; and what was there comes back."""

from __future__ import annotations

import itertools
import threading

import pytest
import torch

from hlfeat.precision import float32_precision

BACKENDS = torch.backends
PLACES = {
    "generic": BACKENDS,
    "cuda": BACKENDS.cudnn,
    "products": BACKENDS.cuda.matmul,
    "convolutions": BACKENDS.cudnn.conv,
    "recurrent": BACKENDS.cudnn.rnn,
    "products on a CPU": BACKENDS.mkldnn.matmul,
    "convolutions on a CPU": BACKENDS.mkldnn.conv,
}
OLD = {
    "products": lambda: BACKENDS.cuda.matmul.allow_tf32,
    "convolutions": lambda: BACKENDS.cudnn.allow_tf32,
    "precision": torch.get_float32_matmul_precision,
}


def read():
    return {name: place.fp32_precision for name, place in PLACES.items()}


def read_old():
    """What the older settings answer, errors included."""
    answers = {}
    for name, ask in OLD.items():
        try:
            answers[name] = ask()
        except RuntimeError as e:
            answers[name] = type(e)
    return answers


def all_states():
    """What is read now, and below whatever may be set above: this tells "none" from a setting of its own."""
    states, top = [read(), read_old()], BACKENDS.fp32_precision
    BACKENDS.fp32_precision = "none"
    middle = BACKENDS.cudnn.fp32_precision
    for above in itertools.product(("none", "ieee", "tf32"), (middle, "none", "ieee", "tf32")):
        BACKENDS.fp32_precision, BACKENDS.cudnn.fp32_precision = above
        states.append(read())
    BACKENDS.fp32_precision, BACKENDS.cudnn.fp32_precision = top, middle
    return states


@pytest.fixture(autouse=True)
def defaults():
    """Settings as a new process has them, before and after."""

    def reset():
        torch.set_float32_matmul_precision("highest")
        BACKENDS.cudnn.allow_tf32 = True
        for name, place in PLACES.items():
            place.fp32_precision = "tf32" if name in ("convolutions", "recurrent") else "none"

    reset()
    yield
    reset()


SET_BEFORE = {
    "nothing": lambda: None,
    "old: cuDNN off": lambda: setattr(BACKENDS.cudnn, "allow_tf32", False),
    "old: products on": lambda: setattr(BACKENDS.cuda.matmul, "allow_tf32", True),
    "old: medium": lambda: torch.set_float32_matmul_precision("medium"),
    "new: all on": lambda: setattr(BACKENDS, "fp32_precision", "tf32"),
    "new: all full": lambda: setattr(BACKENDS, "fp32_precision", "ieee"),
    "new: bfloat16": lambda: setattr(BACKENDS, "fp32_precision", "bf16"),
    "new: CUDA on": lambda: setattr(BACKENDS.cudnn, "fp32_precision", "tf32"),
    "new: convolutions as above": lambda: setattr(BACKENDS.cudnn.conv, "fp32_precision", "none"),
    "new: convolutions full": lambda: setattr(BACKENDS.cudnn.conv, "fp32_precision", "ieee"),
    "new: products on": lambda: setattr(BACKENDS.cuda.matmul, "fp32_precision", "tf32"),
}


def check_inside(tf32):
    settings, wanted = read(), "tf32" if tf32 else "ieee"
    assert {settings[name] for name in ("products", "convolutions", "recurrent")} == {wanted}
    assert {settings[name] for name in ("products on a CPU", "convolutions on a CPU")} == {"ieee"}


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("setters", list(itertools.permutations(SET_BEFORE, 2)), ids=" and ".join)
def test_settings_of_both_kinds_are_replaced_and_come_back(setters, tf32):
    for name in setters:
        SET_BEFORE[name]()
    before = all_states()
    with float32_precision(tf32):
        check_inside(tf32)
    assert all_states() == before
    with pytest.raises(KeyError), float32_precision(tf32):
        raise KeyError
    assert all_states() == before


def test_the_innermost_decides():
    with float32_precision(True):
        with float32_precision(False):
            check_inside(False)
            with float32_precision(True):
                check_inside(True)
            check_inside(False)
        check_inside(True)


def test_of_several_threads_one_that_wants_full_precision_decides():
    """Threads end in another order than they began; the last one to end puts back what was there before the first."""
    before, steps = all_states(), [threading.Event() for _ in range(4)]

    def other():
        with float32_precision(True):
            steps[0].set()
            steps[1].wait(60)
        steps[2].set()

    thread = threading.Thread(target=other)
    with float32_precision(False):
        thread.start()
        assert steps[0].wait(60)
        check_inside(False)
        with float32_precision(True):
            check_inside(True)  # both want it
        check_inside(False)
    check_inside(True)
    steps[1].set()
    thread.join()
    assert steps[2].is_set()
    assert all_states() == before


def test_triton_kernels_multiply_as_convolutions_do():
    backend = pytest.importorskip("hlfeat.nn.harmonic.triton_backend")
    for tf32 in (True, False):
        with float32_precision(tf32):
            assert backend._precision(torch.zeros(1)) == ("tf32" if tf32 else "tf32x3")  # three products: float32
            assert backend._precision(torch.zeros(1).half()) == "ieee"
    assert backend._precision(torch.zeros(1)) == "tf32"  # torch's own setting
