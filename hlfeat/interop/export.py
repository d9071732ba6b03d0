"""Frontend and stack as one file for other programs: torch.export's `.pt2`, or ONNX.

The file takes waveforms [clips, samples] without `lengths`: one clip, or clips cut to the same length. It takes any
number of clips and, where the tracer can prove that the operations are the same, any length. Before the file gets its
name it is read again and compared with the modules, on other numbers of clips and other lengths.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hlfeat.errors import ExportError, UsageError
from hlfeat.files import write_atomically
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.frontends.compression import LogTBN

SUFFIXES = (".pt2", ".onnx")
PARITY = 1e-4  # relative L2 error: other kernels sum in another order, and logarithms amplify that
SHORTEST = 5  # frames; tracers make a special case of a dimension of size 1
MOST_CLIPS, MOST_SAMPLES = 1 << 16, 1 << 31
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exported:
    """An exported model, not yet written.

    Args:
        data: the file's contents.
        samples: of a clip: the fewest, or the exact number.
        fixed: whether clips have exactly that number.
        difference: relative L2 error against the modules.
    """

    data: bytes
    samples: int
    fixed: bool
    difference: float


class Waveforms(nn.Module):
    """The module that is exported: an extractor without lengths, with a fixed frequency axis.

    Shape: [B, T] -> [B, C, F, N].
    """

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.frontend = extractor.frontend
        self.stack = extractor.stack

    def forward(self, waveforms: Tensor) -> Tensor:
        y = self.frontend(waveforms).contiguous()  # tracers cannot express the strides of a spectrogram
        return self.stack(y if y.dim() == 4 else y[:, None])[0]  # type: ignore[no-any-return]


def export(extractor: Extractor, suffix: str, seconds: float | None = None, about: str = "") -> Exported:
    """An extractor, in eval mode, as the contents of a file.

    Args:
        extractor: modules on the CPU.
        suffix: ".pt2" or ".onnx".
        seconds: the length of all clips; None: any length.
        about: the configuration as YAML, stored in the file.

    Raises:
        UsageError: an unknown suffix, packages that are not installed, clips shorter than SHORTEST frames.
        ExportError: modules that cannot be exported, or an exported model that computes something else.
    """
    check_suffix(suffix)
    fewest = SHORTEST * extractor.hop
    samples = fewest if seconds is None else round(seconds * extractor.sample_rate)
    if samples < fewest:
        raise UsageError(f"expected clips of at least {fewest / extractor.sample_rate:g} s, got {seconds:g} s")
    extractor = extractor.eval()
    with torch.no_grad():
        extractor(torch.zeros(1, fewest))  # caches filters and plans, which tracers cannot make
        program = traced(extractor, samples, fixed=seconds is not None)
        data = (to_onnx if suffix == ".onnx" else to_pt2)(program, about)
        run = (run_onnx if suffix == ".onnx" else run_pt2)(data)
        shapes = [(1, samples), (3, samples)] if seconds is not None else [(1, 3 * fewest + 7), (3, 16 * fewest + 1)]
        difference = max(parity(extractor, run, *shape) for shape in shapes)
    if not difference <= PARITY:
        raise ExportError(f"the exported features differ by {difference:.1e} from the modules'; nothing was written")
    return Exported(data, samples, seconds is not None, difference)


def check_suffix(suffix: str) -> None:
    """Raises UsageError for an unknown suffix, or where packages that it needs are not installed."""
    if suffix not in SUFFIXES:
        raise UsageError(f"expected a file named *{' or *'.join(SUFFIXES)}, got {suffix or 'no suffix'}")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if suffix == ".onnx" and missing:
        raise UsageError(f"ONNX needs {', '.join(missing)}: pip install 'hlfeat[onnx]'")


def traced(extractor: Extractor, samples: int, fixed: bool) -> torch.export.ExportedProgram:
    """The program for any number of clips, of exactly `samples` samples, or of at least so many where not `fixed`."""
    sizes: dict[int, Any] = {0: torch.export.Dim("clips", min=1, max=MOST_CLIPS)}
    if not fixed:
        sizes[1] = torch.export.Dim("samples", min=samples, max=MOST_SAMPLES)
    example = torch.zeros(2, samples if fixed else 10 * samples)
    # torchaudio's transforms cannot be traced strictly; LogTBN can be traced for any number of frames only strictly
    strict = isinstance(getattr(extractor.frontend, "compression", None), LogTBN)
    try:
        with _quiet():
            return torch.export.export(Waveforms(extractor), (example,), dynamic_shapes=(sizes,), strict=strict)
    except Exception as e:  # tracers raise many kinds
        length, remedy = ("", "") if fixed else (" for clips of any length", "seconds")
        raise ExportError(f"torch.export cannot export this{length}: {_reason(e)}", remedy=remedy) from e


def to_pt2(program: torch.export.ExportedProgram, about: str) -> bytes:
    """The contents of a `.pt2`; the configuration is its extra file hlfeat.yaml."""
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer, extra_files={"hlfeat.yaml": about})
    return buffer.getvalue()


def run_pt2(data: bytes) -> Run:
    """The function that the contents of a `.pt2` compute."""
    with _quiet():
        return torch.export.load(io.BytesIO(data)).module()


def to_onnx(program: torch.export.ExportedProgram, about: str) -> bytes:
    """The contents of an `.onnx`; the configuration is its metadata hlfeat.yaml."""
    try:
        with _quiet():
            names = {"input_names": ["waveforms"], "output_names": ["features"]}
            exported = torch.onnx.export(program, (), dynamo=True, verbose=False, **names)  # type: ignore[arg-type]
            assert exported is not None
            exported.model.metadata_props["hlfeat.yaml"] = about
            return exported.model_proto.SerializeToString()  # type: ignore[no-any-return]
    except Exception as e:
        raise ExportError(f"torch.onnx cannot export this: {_reason(e)}; .pt2 may do") from e


def run_onnx(data: bytes) -> Run:
    """The function that the contents of an `.onnx` compute, run by onnxruntime on the CPU."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    except Exception as e:
        raise ExportError(f"onnxruntime cannot run this: {_reason(e)}; .pt2 may do") from e
    return lambda x: torch.from_numpy(session.run(None, {"waveforms": x.numpy()})[0])


def parity(extractor: Extractor, run: Run, clips: int, samples: int) -> float:
    """Relative L2 error of the exported model, on noise of several levels."""
    noise = torch.randn(clips, samples, generator=torch.Generator().manual_seed(samples))
    x = noise * 10.0 ** -torch.arange(clips, dtype=noise.dtype)[:, None]
    expected = extractor(x)
    try:
        features = run(x)
    except Exception as e:
        raise ExportError(f"the exported model fails on {clips} clips of {samples} samples: {_reason(e)}") from e
    if features.shape != expected.shape:
        raise ExportError(f"expected features {list(expected.shape)}, the exported model gives {list(features.shape)}")
    return float((features - expected).norm() / expected.norm().clamp(min=torch.finfo(expected.dtype).tiny))


def write(exported: Exported, path: Path) -> None:
    """Write the file beside its name, and rename it into place."""
    try:
        write_atomically(path, exported.data)
    except OSError as e:
        raise ExportError(f"{path}: cannot be written: {e.strerror or e}") from e


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence exporters, which print, warn and log even when all goes well; failures are raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _reason(e: Exception) -> str:
    """The first cause of an exporter's error, cut to a line."""
    while isinstance(e.__cause__, Exception):
        e = e.__cause__
    text = " ".join(str(e).split())
    return f"{type(e).__name__}: {text[:200]}..." if len(text) > 200 else f"{type(e).__name__}: {text}"
