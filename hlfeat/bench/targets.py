"""What was measured beside each target for a GPU: a table made of the JSON that `hlfeat bench` writes.

A target is met if all of its cases were measured and the worst of them is good enough, missed if a case is not.
Whatever the files do not hold was not measured. Results of different devices are not mixed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hlfeat.bench.tables import Row, markdown
from hlfeat.errors import UsageError

# The cases of `hlfeat bench harmonic` and the inputs of `hlfeat bench frontend`, named as their rows are.
_PAPER = ("1", "2", "3", "1a", "2a", "3a", "4", "5", "6", "7", "8", "9")
HARMONIC_CASES = frozenset(f"{setting}, {axis}" for setting in _PAPER for axis in ("linear", "log", "centre")) | {
    f"80 bands, anchor {anchor}, centre" for anchor in (1, 4)
}
FRONTEND_INPUTS = frozenset({"256 x 1 s", "32 x 8 s", "16 x 16 s", "1 x 600 s"})
PIPELINE_CONFIGS = frozenset({"eleaf-8g-opt"})  # the default

COLUMNS = {
    "target": "target",
    "aim": "aim",
    "measured": "measured, worst|.2f",
    "where": "worst setting",
    "cases": "cases",
    "verdict": "verdict",
}
FILE_COLUMNS = {
    "file": "file",
    "bench": "bench",
    "float32": "float32",
    "commit": "commit",
    "date": "date",
    "state": "state",
}


@dataclass(frozen=True)
class Measured:
    """A file of results.

    Attributes:
        convolutions, products: "tf32" or "ieee"; None where the file does not say it.
    """

    path: Path
    bench: str
    device: str
    facts: Row = field(repr=False)
    rows: list[Row] = field(repr=False)

    @property
    def convolutions(self) -> str | None:
        return self._precision("convolutions")

    @property
    def products(self) -> str | None:
        return self._precision("matrix products")

    def _precision(self, what: str) -> str | None:
        precisions = self.facts.get("float32")
        return precisions.get(what) if isinstance(precisions, dict) else None


Cases = Iterator[tuple[str, float | None]]  # what a file holds for a target: a case, and its ratio


@dataclass(frozen=True)
class Target:
    """A ratio that is to be at most, or at least, `aim` in every case.

    Attributes:
        cases: the names of those that must be measured; others count too.
        select: the cases that a file holds.
    """

    name: str
    aim: float
    at_least: bool
    cases: frozenset[str]
    select: Callable[[Measured], Cases]

    def row(self, files: Iterable[Measured], on_gpu: bool) -> Row:
        """The row of the table."""
        values: dict[str, float] = {}
        worse, worst_of = (min, min) if self.at_least else (max, max)
        for file in files:
            for case, value in self.select(file):
                if value is not None and math.isfinite(value):
                    values[case] = worse(value, values.get(case, value))
        row: Row = {
            "target": self.name,
            "aim": f"{'>=' if self.at_least else '<='} {self.aim}",
            "cases": f"{len(self.cases & values.keys())} of {len(self.cases)}",
            "verdict": "not measured",
        }
        if values:
            where = worst_of(values, key=values.__getitem__)
            row |= {"measured": values[where], "where": where, "verdict": self._verdict(values, on_gpu)}
        return row

    def _verdict(self, values: dict[str, float], on_gpu: bool) -> str:
        if not on_gpu:
            return "no GPU"
        if any(value < self.aim if self.at_least else value > self.aim for value in values.values()):
            return "missed"
        return "met" if self.cases <= values.keys() else "not all measured"


def harmonic(engine: str, precision: str, key: str, file: Measured) -> Cases:
    """Ratios to nn.Conv2d by setting and axis, without sizes of one's own.

    Engine: "fused", the Triton kernels, or "ours", torch operations.
    """
    if file.bench.startswith("harmonic") and file.convolutions == precision:
        for row in file.rows:
            name, _, axis = row["candidate"].partition(", ")
            case = f"{row['setting']}, {axis}"
            if name == engine and case in HARMONIC_CASES:
                yield case, row.get(key)


def frontend(key: str, file: Measured) -> Cases:
    """Ratios of EfficientLEAF 8G-opt with 80 filters and LogTBN to log-mel, by input, in full float32."""
    if file.bench.startswith("frontend") and file.convolutions == file.products == "ieee":
        for row in file.rows:
            if row["setting"] == "8G-opt-80" and row["candidate"] == "ours, logtbn" and not row.get("busy"):
                yield row["input"], row.get(key)


def pipeline(seconds: float, file: Measured) -> Cases:
    """The speed of a whole run relative to decoding, by configuration, for FLAC clips of one length."""
    if file.bench.startswith("pipeline"):
        for row in file.rows:
            usual = row["stage"] == "whole" and row.get("engine") == "usual" and row.get("kinds") == ["flac"]
            lengths = [row.get(key) or 0.0 for key in ("shortest", "longest")]
            if usual and all(abs(length / seconds - 1) < 0.01 for length in lengths):
                yield row["config"], row.get("to_decode")


def _harmonic_targets() -> Iterator[Target]:
    for engine, called in (("fused", "Triton kernels, "), ("ours", "torch operations, ")):
        for precision, precise in (("tf32", "TF32"), ("ieee", "float32")):
            for key, step, aim in (("forward_ratio", "forward", 1.0), ("training_ratio", "with backward", 1.2)):
                name = f"harmonic convolution / nn.Conv2d, {called}{step}, {precise}"
                yield Target(name, aim, False, HARMONIC_CASES, partial(harmonic, engine, precision, key))


_LEAF = "EfficientLEAF 8G-opt/80 / torchaudio log-mel"
_RUN = "speed of `extract` / of decoding alone, FLAC clips"
TARGETS: Sequence[Target] = (
    *_harmonic_targets(),
    Target(f"{_LEAF}, inference", 2.0, False, FRONTEND_INPUTS, partial(frontend, "forward_to_logmel")),
    Target(f"{_LEAF}, training step", 3.0, False, FRONTEND_INPUTS, partial(frontend, "training_to_logmel")),
    Target(f"{_RUN} of 10 s", 0.9, True, PIPELINE_CONFIGS, partial(pipeline, 10.0)),
    Target(f"{_RUN} of 1 s", 0.7, True, PIPELINE_CONFIGS, partial(pipeline, 1.0)),
)


def read(paths: Sequence[Path]) -> list[Measured]:
    """The results in these files and folders; other JSON is left out.

    Raises UsageError if a file cannot be read, or if there are no results.
    """
    results = []
    for path in paths:
        for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
            try:
                facts: Any = json.loads(file.read_bytes())
            except (OSError, ValueError) as e:
                raise UsageError(f"{file}: expected the JSON of a bench: {e}") from e
            if isinstance(facts, dict) and {"bench", "device", "rows"} <= facts.keys():
                results.append(Measured(file, facts["bench"], facts["device"], facts, facts["rows"]))
    if not results:
        raise UsageError(f"{', '.join(map(str, paths))}: expected results of hlfeat bench, found none")
    return results


def report(results: Sequence[Measured]) -> str:
    """For each device a table of the targets, and of the files that it was made of."""
    parts = ["# Targets for a GPU\n"]
    for device in dict.fromkeys(r.device for r in results):
        files, on_gpu = [r for r in results if r.device == device], device.startswith("cuda")
        parts.append(f"## {device}\n")
        if not on_gpu:
            parts.append("This device is no GPU. The targets are a GPU's, so none is met or missed here.\n")
        parts.append(markdown([target.row(files, on_gpu) for target in TARGETS], COLUMNS))
        parts.append(markdown([_file_row(file) for file in files], FILE_COLUMNS))
    return "\n".join(parts)


def _file_row(file: Measured) -> Row:
    states: dict[object, str] = {True: "complete", False: "stopped before its end"}
    both = dict.fromkeys([file.convolutions or "unknown", file.products or "unknown"])
    return {
        "file": file.path.name,
        "bench": file.bench,
        "float32": ", ".join(both),
        "commit": file.facts.get("commit") or "unknown",
        "date": file.facts.get("date") or "unknown",
        "state": states.get(file.facts.get("complete"), "unknown"),
    }
