"""harmonic_conv2d: harmonic convolution at given positions, whatever the axis.

    Y[o, f, t] = bias[o] + sum over c, k = 1..Kf, u of  W[o, c, k, u] * X[c, p_k(f), t + u]

Sources: Zhang et al., "Deep Audio Priors Emerge from Harmonic Convolutional Networks", ICLR 2020; Takeuchi et al.,
"Harmonic Lowering for Accelerating Harmonic Convolution for Audio Signals", Interspeech 2020.

Two backends compute it and its gradients: torch operations on rows gathered in chunks
(hlfeat/nn/harmonic/torch_backend.py), and Triton kernels (hlfeat/nn/harmonic/triton_backend.py).

Gradients: an autograd.Function keeps the input and the weight only, and gathers rows again in its backward pass;
autograd's own derivative of the gather would scatter. Second derivatives, torch.export, torch.jit.trace, torch.func,
forward-mode differentiation and devices other than CPU and CUDA take `plain`, the same in ordinary torch operations.
torch.compile calls the backends, as one operation (hlfeat/nn/harmonic/custom_op.py).

Which gradients are the same to the bit every time:

    on a CPU, and with Triton kernels       all: each sum has a fixed order
    torch operations on CUDA                bias and gather; the convolutions' are cuDNN's, whose sums have a fixed
                                            order only with torch.backends.cudnn.deterministic = True
    `plain` on CUDA                         with torch.use_deterministic_algorithms(True)
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hlfeat.nn._private_torch import differentiated_elsewhere
from hlfeat.nn.device import multiplies_in
from hlfeat.nn.gpu_kernels import kernels_run
from hlfeat.nn.harmonic import torch_backend
from hlfeat.nn.harmonic.plan import Plan, Time, plan_for
from hlfeat.nn.harmonic.table import Table
from hlfeat.precision import tf32_convolutions


class Backend(Protocol):
    """A module that computes Y, and the gradients of x and of the weight from that of Y.

    x is as from `prepared`; x, weight and bias have one type.
    """

    def prepared(self, x: Tensor) -> Tensor: ...

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan, time: Time) -> Tensor: ...

    def gradients(
        self, x: Tensor, weight: Tensor, gy: Tensor, plan: Plan, time: Time, need_x: bool, need_w: bool
    ) -> tuple[Tensor | None, Tensor | None]: ...


class _HarmonicConv(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan, time: Time, backend: Backend) -> Tensor:
        return backend.convolve(x, weight, bias, plan, time)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.plan, ctx.time, ctx.backend = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        need_x, need_w, need_b = ctx.needs_input_grad[:3]
        gb = gy.sum((0, 2, 3)) if need_b else None
        # with a second derivative, if that is wanted
        gradients = differentiable_gradients if torch.is_grad_enabled() else ctx.backend.gradients
        gx, gw = gradients(x, weight, gy, ctx.plan, ctx.time, need_x, need_w)
        return gx, gw, gb, None, None, None


def differentiable_gradients(
    x: Tensor, weight: Tensor, gy: Tensor, plan: Plan, time: Time, need_x: bool, need_w: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of a backend, by `plain`: they have derivatives themselves."""
    wanted = [v for v, need in ((x, need_x), (weight, need_w)) if need]
    y = plain(x, weight, None, *plan.lerp_on(x.device, x.dtype), time)
    grads = iter(torch.autograd.grad(y, wanted, gy, create_graph=True) if wanted else ())
    return next(grads) if need_x else None, next(grads) if need_w else None


def plain(
    x: Tensor, weight: Tensor, bias: Tensor | None, lerp_rows: Tensor, lerp_weights: Tensor, time: Time
) -> Tensor:
    """The same operation in differentiable torch operations, one harmonic after the other.

    Shape: lerp_rows, lerp_weights [2, Kf, G] as from `linear_interpolation`.
    """
    low, high = lerp_rows.to(x.device)  # [Kf, G]
    low_weight, high_weight = lerp_weights.to(x.dtype).to(x.device).unsqueeze(-1)  # [Kf, G, 1]
    y: Tensor | None = None
    for k in range(weight.shape[2]):
        rows = x.index_select(2, low[k]) * low_weight[k] + x.index_select(2, high[k]) * high_weight[k]
        part = time.conv(rows, weight[:, :, k : k + 1], bias if k == 0 else None)
        y = part if y is None else y + part
    assert y is not None  # a kernel has at least one row
    return y


def _kernels_pay(x: Tensor) -> bool:
    """Whether the Triton kernels are taken if nobody says: where they run, and were measured to be faster.

    In full float32 they multiply thrice in TF32. They are for those who ask, until a GPU has shown how exact that is.
    """
    if not kernels_run(x.device):
        return False
    return x.dtype != torch.float32 or tf32_convolutions()


def backend_for(x: Tensor, weight: Tensor, plan: Plan, time: Time, fused: bool | None) -> Backend:
    """The Triton kernels or torch operations. Raises ValueError if the kernels are asked for and cannot be used."""
    if fused is False or (fused is None and not _kernels_pay(x)):
        return torch_backend
    try:
        from hlfeat.nn.harmonic import triton_backend
    except ImportError as e:
        raise ValueError("fused: expected Triton, which is not installed") from e
    missing = triton_backend.needs(x, weight, plan, time)
    if not missing:
        return triton_backend
    if fused:
        raise ValueError(f"fused: expected {missing}")
    return torch_backend


def harmonic_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    positions: np.ndarray | Tensor | Plan | Table | tuple[Tensor, Tensor],
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    fused: bool | None = None,
) -> Tensor:
    """Harmonic convolution at given positions: the operation behind HarmonicConv2d, for axes of one's own.

        Y[o, g, t] = bias[o] + sum over c, k, u of  W[o, c, k, u] * X[c, positions[k, g], t + u]

    Positions are fractional rows, read by linear interpolation; outside [0, F - 1] they read zero. Gradients with
    respect to x, weight and bias are exact. They are the same to the bit every time on a CPU and in Triton's kernels;
    with torch operations on CUDA, if torch.backends.cudnn.deterministic is True. Under autocast, a CPU without
    instructions for the half precision computes in float32; the result has autocast's type all the same.

    Args:
        x, weight, bias: input, kernel of Kf harmonics and Kt frames, and bias.
        positions: the row that harmonic k of output row g reads.
        stride, padding, dilation: of time, as for conv1d.
        groups: as for conv1d.
        fused: True: Triton kernels that interpolate while they multiply, on a CUDA device of compute capability 8.0 or
            newer, in float32, float16 or bfloat16. With torch.backends.cudnn.benchmark, the first call of each problem
            tries block sizes. False: torch operations, which exported and traced programs and torch.func always take.
            None: the kernels where they run, in TF32, float16 and bfloat16.

    Shape: x [B, C, F, T], weight [O, C / groups, Kf, Kt], bias [O] or None, positions [Kf, G] on the host (or a plan
        made of them, which saves looking it up) -> [B, O, G, T'], T' as for conv1d.

    Raises:
        ValueError: x, weight, bias and positions do not go together; `fused` where the kernels cannot be used.

    Example:
        >>> import hlfeat, torch
        >>> positions = torch.arange(129.0) * torch.tensor([[1.0], [2.0], [3.0]])  # three harmonics, linear axis
        >>> hlfeat.harmonic_conv2d(torch.randn(1, 2, 129, 50), torch.randn(4, 2, 3, 5), None, positions).shape
        torch.Size([1, 4, 129, 46])
    """
    time, device = Time(stride, padding, dilation, groups), x.device.type
    if torch.compiler.is_compiling() and not isinstance(positions, Plan):  # a plan cannot be traced, and need not be
        from hlfeat.nn.harmonic.custom_op import traced_conv

        return traced_conv(x, weight, bias, positions, time, fused)
    if isinstance(positions, tuple):  # a call that torch.compile leaves to Python, in a program that it compiles
        return plain(x, weight, bias, *positions, time)
    if isinstance(positions, Table):
        positions = positions.plan(x.shape[2], weight.shape[2])
    traced = _traced(x, weight, bias)
    if not traced:
        check(x, weight, bias, time)
    plan = positions if isinstance(positions, Plan) else plan_for(positions, x.shape[2])
    if x.shape[2] != plan.rows or weight.shape[2] != plan.harmonics:
        raise ValueError(
            f"expected an input of {plan.rows} rows and a kernel of {plan.harmonics} harmonics, as the positions have, "
            f"got {x.shape[2]} and {weight.shape[2]}"
        )
    if traced:  # tensors that are kept between calls would be constants of the trace
        return plain(x, weight, bias, plan.lerp_rows, plan.lerp_weights, time)
    if device not in ("cpu", "cuda"):
        return plain(x, weight, bias, *plan.lerp_on(x.device, x.dtype), time)
    wanted = x.dtype
    if torch.is_autocast_enabled(device):  # cast as nn.Conv2d is; inside, all is of one type
        wanted = torch.get_autocast_dtype(device)
        dtype = computed_in(wanted, x.device)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    with torch.autocast(device, enabled=False):
        backend = backend_for(x, weight, plan, time, fused)
        x = backend.prepared(x)
        if not (torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in (x, weight, bias))):
            return backend.convolve(x, weight, bias, plan, time).to(wanted)  # as `apply` does, 0.1 to 0.4 ms sooner
        y: Tensor = _HarmonicConv.apply(x, weight, bias, plan, time, backend)  # type: ignore[no-untyped-call]
        return y.to(wanted)


def computed_in(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The precision in which autocast's is computed: float32, where the device does not multiply in it."""
    return dtype if multiplies_in(dtype, device) else torch.float32


def _traced(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether each operation has to be visible: to a compiler, a tracer, torch.func or forward-mode differentiation."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return True
    return differentiated_elsewhere(x, weight, bias)


def check(x: Tensor, weight: Tensor, bias: Tensor | None, time: Time) -> None:
    """Raise ValueError for sizes that do not go together: a kernel would read past the end of a tensor."""
    if (
        x.dim() != 4
        or weight.dim() != 4
        or 0 in weight.shape
        or time.groups < 1
        or x.shape[1] != weight.shape[1] * time.groups
        or len(weight) % time.groups
    ):
        raise ValueError(
            f"expected an input [B, C, F, T] and a weight [O, C / groups, Kf, Kt], "
            f"got {list(x.shape)} and {list(weight.shape)} with groups {time.groups}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"expected a bias [{len(weight)}], got {list(bias.shape)}")
    if any(v is not None and v.device != x.device for v in (weight, bias)):
        raise ValueError(f"expected the weight and the bias on {x.device}, where the input is")
    if time.stride < 1 or time.dilation < 1 or time.padding < 0:
        raise ValueError(f"expected stride and dilation from 1 and padding from 0, got {tuple(time[:3])}")
    if time.frames(x.shape[3], weight.shape[3]) < 1:
        raise ValueError(f"expected at least as many frames as the kernel spans, got {x.shape[3]}")
