"""Figures of the long training in docs/training.md and in the README are those that scripts/train.py has written."""

from __future__ import annotations

import json
import re

from tests.docs.markdown import README, ROOT, blocks

RESULTS = ROOT / "scripts/results/cpu-2-threads-train-speech.jsonl"


def test_epochs_are_those_of_the_results():
    epochs = {result["epoch"]: result for result in map(json.loads, RESULTS.open())}
    (text,) = (b.text for b in blocks(ROOT / "docs/training.md") if b.language == "text" and "es_MX_f" in b.text)
    lines = re.findall(r"epoch +(\d+): loss ([\d.]+), held-out accuracy ([\d.]+)% .*moved: (.*)", text)
    assert [int(line[0]) for line in lines] == [1, 2, 15]
    for epoch, loss, accuracy, moved in lines:
        result = epochs[int(epoch)]
        assert (loss, accuracy) == (f"{result['loss']:.3f}", f"{result['accuracy']:.1%}"[:-1])
        filters = re.findall(r"(\w+) ([\d.]+)%", moved)
        assert filters
        for name, percent in filters:
            assert percent == f"{result['filters_moved'][name]:.2%}"[:-1]


def test_the_readme_says_how_far_filters_move():
    *_, last = map(json.loads, RESULTS.open())
    text = re.search(r"centres by ([\d.]+) %\s+and their bandwidths by ([\d.]+) %", README.read_text(encoding="utf-8"))
    assert text
    for percent, name in zip(text.groups(), ("center_freqs", "bandwidths"), strict=True):
        assert float(percent) / 100 == round(last["filters_moved"][name], 3 if "." in percent else 2)
