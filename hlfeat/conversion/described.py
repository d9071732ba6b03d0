"""hlfeat.yaml of features that are stored in another way: another output and fingerprint, and all else as it was."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from hlfeat.errors import OutputError
from hlfeat.storage.description import RunDescription, fingerprint_of, has_its_fingerprint
from hlfeat.storage.layout import Layout


@dataclass(frozen=True, slots=True)
class ConvertedDescription(RunDescription):
    """A description whose text is given, so that keys of other versions stay."""

    text: bytes = b""

    def to_yaml(self) -> bytes:
        return self.text


def convert_description(folder: Path, output: Mapping[str, Any]) -> ConvertedDescription:
    """The description of the features of a folder, stored as `output` says.

    Its fingerprint is that of a run with this configuration, which so can go on in the result.

    Raises OutputError where the fingerprint of the folder is not that of its configuration.
    """
    text = Layout(folder).description.read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.safe_load(text)
    if not has_its_fingerprint(RunDescription.from_dict(data)):
        path = Layout(folder).description
        raise OutputError(f"{path}: the fingerprint is not that of the configuration: was it edited, or is it newer?")
    data["config"]["output"] = {**data["config"]["output"], **output}
    data["fingerprint"] = fingerprint_of(RunDescription.from_dict(data))
    data.pop("inputs", None)  # of parts
    described = RunDescription.from_dict(data)
    values = {f.name: getattr(described, f.name) for f in fields(RunDescription)}
    return ConvertedDescription(**values, text=_edit(text, data).encode())


def _edit(text: str, data: Mapping[str, Any]) -> str:
    """The text with the fingerprint and the output of `data`. Lines that stay keep the form that the run gave them."""
    output = yaml.safe_dump(data["config"]["output"], sort_keys=False, allow_unicode=True)
    block = "".join(f"    {line}\n" for line in output.splitlines())
    edited = re.sub(r"(?m)^fingerprint: .*$", f"fingerprint: {data['fingerprint']}", text, count=1)
    edited = re.sub(r"(?m)^inputs:\n(?:  .*\n)*", "", edited)
    head, config, rest = edited.partition("\nconfig:\n")
    rest = re.sub(r"(?m)^  output:\n(?:    .*\n)*", lambda _: f"  output:\n{block}", rest, count=1)
    edited = head + config + rest
    if yaml.safe_load(edited) == data:
        return edited
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True)  # it was not written by a run
