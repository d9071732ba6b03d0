"""The files of docs/running.md for launchers that are not here: what they start is what hlfeat understands."""

from __future__ import annotations

from typing import Any

import yaml

from hlfeat.cli.parts import choose_part
from hlfeat.partition import WHOLE
from hlfeat.storage.named_place import place_of
from tests.docs.markdown import ROOT, blocks


def file_of(name: str) -> Any:
    """A file of the page, read."""
    (text,) = (b.text for b in blocks(ROOT / "docs/running.md") if b.text.startswith(f"# {name}\n"))
    return yaml.safe_load(text)


def test_each_pod_of_the_job_has_a_part(tmp_path, monkeypatch, invoke):
    spec = file_of("hlfeat-job.yaml")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    program, *arguments = container["command"]
    assert program == "hlfeat"
    assert spec["completionMode"] == "Indexed"
    option = arguments[arguments.index("--part") + 1]
    found = []
    for pod in range(spec["completions"]):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(pod))
        found.append(choose_part(option, place_of(tmp_path), 1)[0])
    assert found == WHOLE.split(spec["completions"])
    asked = invoke(*arguments, "-n")  # the folder of clips is not here, but the options are right
    assert "/shared/clips" in asked.stderr
    assert "does not exist" in asked.stderr or "no such" in asked.stderr.lower()
