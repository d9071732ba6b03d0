"""The results of a bench while it runs, and what they depend on.

A bench may be stopped at any moment. What it has measured until then has been printed, and is in its file.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from hlfeat.bench.tables import Row, append_table
from hlfeat.errors import OutputError
from hlfeat.files import write_atomically
from hlfeat.nn.device import device_name
from hlfeat.versions import versions

Say = Callable[[str], None]
Done = Callable[[Sequence[Row]], None]  # called with the rows of each setting as soon as it is measured

TF32_CAPABILITY = (8, 0)  # older GPUs compute in full float32, whatever they are told


def precisions(device: torch.device) -> dict[str, str]:
    """How float32 is multiplied on the device at this moment: "tf32", or "ieee", which is full float32."""
    backends: Any = torch.backends
    asked = {"convolutions": backends.cudnn.conv, "matrix products": backends.cuda.matmul}
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < TF32_CAPABILITY:
        return dict.fromkeys(asked, "ieee")
    return {name: "tf32" if place.fp32_precision == "tf32" else "ieee" for name, place in asked.items()}


def environment(device: torch.device) -> Row:
    """What the measurements depend on: device, precision, date, commit (None outside a checkout), versions."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return {
        "device": device_name(device),
        "float32": precisions(device),
        "date": date,
        "commit": commit,
        "versions": versions(),
    }


def describe(facts: Row, what: str) -> str:
    """The environment in a line, with what is measured."""
    names = {"ieee": "full float32", "tf32": "TF32"}
    products = ", ".join(f"{name} in {names[precision]}" for name, precision in facts["float32"].items())
    return f"{facts['device']}, torch {facts['versions']['torch']}: {what}, {products}, medians"


class Results:
    """The rows of a bench: a table that grows, and a file of JSON that is whole at every moment.

    Args:
        columns: of the table, as `tables.markdown` takes them.
        say: called with the lines of the table.
        header: of the file, before its rows; see `environment`.
        path: of the file; None: there is none. It has `"complete": false` until `finish` is called.

    Raises OutputError, also later, where the file cannot be written.
    """

    def __init__(
        self, columns: Mapping[str, str], say: Say, header: Mapping[str, Any] | None = None, path: Path | None = None
    ) -> None:
        self.rows: list[Row] = []
        self._columns, self._say, self._header, self._path = columns, say, header or {}, path
        self._write(complete=False)

    def add(self, new: Sequence[Row]) -> None:
        """Print the rows of the next setting, and write them."""
        append_table(new, self._columns, self._say, first=not self.rows)
        self.rows += new
        self._write(complete=False)

    def finish(self) -> None:
        """Every setting has been measured."""
        self._write(complete=True)

    def _write(self, complete: bool) -> None:
        if self._path is not None:
            write_json(self._path, {**self._header, "complete": complete}, self.rows)


def write_json(path: Path, header: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write header and rows as JSON, in one step. Raises OutputError where the file cannot be written."""
    text = json.dumps({**header, "rows": list(rows)}, indent=1) + "\n"
    try:
        write_atomically(path, text.encode())
    except OSError as e:
        raise OutputError(f"{path}: cannot be written: {e.strerror or e}") from e
