"""What a GPU would be asked to do: operations on fake tensors, which have a device, a shape and no values.

    with FakeDevice() as device:
        x = device.empty(32, 128000)
        module = device.move(module)
        with device.counting() as counts:
            module(x)
    assert counts.launches <= 120

The backward pass of a fake CUDA tensor asks for a CUDA device. The device "meta" does not, and is no CPU either: take
it to count what a training step does.

An operation of torch counts as one launch, though a few take more (a sort, a reduction of a whole tensor). Bytes are
what operations read and write, each input and output once: views and expanded dimensions are not counted twice. What
is computed from a parameter's values, such as a kernel's size, has to be made before: fake tensors have none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NO_LAUNCH = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "_unsafe_view", "set_",
             "lift_fresh", "record_stream", "is_pinned", "_pin_memory", "alias"}  # fmt: skip
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "repeat_interleave", "equal"}


@dataclass
class Counts:
    """What the device was asked to do.

    Attributes:
        launches: operations that run on it; bytes: that they read and write.
        to_device, to_host: copies.
        waits: operations for whose result the host waits, copies to the host that do not say `non_blocking` included.
        operations, bytes_of: launches and bytes by name; float64: operations with a float64 tensor on the device.
    """

    launches: int = 0
    bytes: int = 0
    to_device: int = 0
    to_host: int = 0
    waits: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    bytes_of: Counter[str] = field(default_factory=Counter)
    float64: Counter[str] = field(default_factory=Counter)


def tensors_in(values: object) -> list[Tensor]:
    return [v for v in tree_leaves(values) if isinstance(v, Tensor)]


def nbytes(x: Tensor) -> int:
    """Bytes of a tensor's elements, those of expanded dimensions once."""
    if x.numel() == 0:
        return 0
    once = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        once *= 1 if stride == 0 else size
    span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return min(once, span) * x.element_size()


class _Counting(TorchDispatchMode):
    def __init__(self, device_type: str, counts: Counts) -> None:
        super().__init__()
        self._type, self._counts = device_type, counts

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._count(func, tensors_in((args, kwargs)), tensors_in(result), args, kwargs or {})
        return result

    def _count(self, func: Any, given: list[Tensor], made: list[Tensor], args: Any, kwargs: Mapping[str, Any]) -> None:
        counts, name = self._counts, func.overloadpacket.__name__

        def there(x: Tensor) -> bool:
            return x.device.type == self._type

        if any(there(x) and x.dtype == torch.float64 for x in [*given, *made]):
            counts.float64[name] += 1
        source = given[-1:] if name == "copy_" else given[:1]
        if name in ("_to_copy", "copy_") and source and made and there(source[0]) != there(made[0]):
            blocking = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
            if there(made[0]):
                counts.to_device += 1
            else:
                counts.to_host += 1
                counts.waits += blocking
            return
        if name in WAITS and any(map(there, given)):
            counts.waits += 1
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        on_device = [x for x in made if there(x)]
        if is_view or name in NO_LAUNCH or not on_device:
            return
        counts.launches += 1
        counts.operations[name] += 1
        moved = sum(map(nbytes, {id(x): x for x in given if there(x)}.values())) + sum(map(nbytes, on_device))
        counts.bytes += moved
        counts.bytes_of[name] += moved


class FakeDevice:
    """A device that is not there; within it, all tensors are fake.

    Args:
        name: such as "cuda", "cuda:1" or "meta".
    """

    def __init__(self, name: str = "cuda") -> None:
        self.device = torch.device(name)
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)

    def __enter__(self) -> FakeDevice:
        self._mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._mode.__exit__(*error)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32, requires_grad: bool = False) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device, requires_grad=requires_grad)

    def lengths(self, batch: int) -> Tensor:
        return self.empty(batch, dtype=torch.int64)

    def move(self, module: nn.Module) -> nn.Module:
        """The module with fake parameters and buffers on the device; a module can be moved once."""
        return module._apply(lambda x: torch.empty_like(x, device=self.device))

    @contextmanager
    def counting(self) -> Iterator[Counts]:
        counts = Counts()
        with _Counting(self.device.type, counts):
            yield counts
