"""Learned stacks: equal cost, what they look at, what tuning may see; training on tones."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hlfeat import HarmonicConv2d
from scripts.evidence import stack_recipe, stack_tables, stacks
from scripts.evidence.note_frames import levels_of, note_frames
from scripts.evidence.pitch_rows import KINDS, make_rows, soft_labels
from scripts.evidence.stack_nets import STACKS, STARTS, TAPS, make_stack, multiply_adds, salience, start_as_salience
from scripts.evidence.stack_training import Recipe, loss, train, train_moving
from tests.evidence.test_pitch_rows import note

SHORT = Recipe(steps=40, moving_steps=3, moving_batch=4, filters_rate=0.1)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_all_stacks_cost_the_same(kind, layers):
    rows = make_rows(kind)
    made = [make_stack(stack, rows, layers, dilation=4) for stack in STACKS]
    assert len({sum(p.numel() for p in s.parameters()) for s in made}) == 1
    assert len({multiply_adds(s, len(rows.freqs)) for s in made}) == 1
    x = torch.zeros(1, 1, len(rows.freqs), 1)
    assert {s(x).shape for s in made} == {x.shape}
    with FlopCounterMode(display=False) as counter:  # torch's own count, of an operation that it knows
        made[STACKS.index("plain")](x)
    assert counter.get_total_flops() == 2 * multiply_adds(made[0], len(rows.freqs))


def sees(stack: nn.Module, rows: int, row: int) -> list[int]:
    """Input rows that an output row depends on."""
    x = torch.zeros(1, 1, rows, 1, requires_grad=True)
    stack[0](x)[0, 0, row, 0].backward()
    return x.grad[0, 0, :, 0].nonzero()[:, 0].tolist()


def test_stacks_look_where_they_should():
    rows = make_rows("log")
    looks = {kind: sees(make_stack(kind, rows, 1, dilation=4), 193, 96) for kind in STACKS}
    assert looks["plain"] == list(range(86, 107))
    assert looks["dilated"] == list(range(56, 137, 4))
    octaves = {96 - 24, 96, 96 + 24, 96 + 48, 96 + 72}  # k / 2 = 1/2, 1, 2, 4, 8
    assert octaves <= set(looks["harmonic"])
    assert looks["salience"] == looks["harmonic"]
    assert not octaves <= set(looks["wrong"])


def test_salience_by_hand():
    assert salience(5, decay=1, penalty=1).tolist() == pytest.approx([-1 / 2, 1, -3 / 4, 1 / 2, -1 / 4])
    assert salience(4, decay=1, penalty=0.5).tolist() == pytest.approx([-1 / 4, 1, -3 / 8, 1 / 2])
    assert salience(4, decay=2, penalty=0).tolist() == pytest.approx([0, 1, 0, 1 / 4])


def test_salience_finds_the_pitch_of_a_tone_untrained():
    for kind in ("log", "mel"):
        rows = make_rows(kind)
        levels = levels_of(rows, note_frames([note(440.0)]))
        stack = make_stack("salience", rows, 1)
        best = rows.freqs[stack(levels[None, None])[0, 0].argmax(dim=0)]
        assert (1200 * (best / 440).log2()).abs().max() < 60  # half a row in mel


def test_starts_of_several_channels():
    torch.manual_seed(0)
    layer = HarmonicConv2d(2, 3, (TAPS, 1), anchor=2)
    before = layer.weight.detach().clone()
    start_as_salience(layer, "first")
    assert torch.equal(layer.weight[1:], before[1:])
    assert layer.weight[0, 1, :, 0].tolist() == pytest.approx((salience() / 2).tolist())
    for start, least in (("copies", 0.95), ("small copies", 0.95), ("added", 0.3)):
        layer.reset_parameters()
        start_as_salience(layer, start)
        assert all(np.corrcoef(w.detach(), salience())[0, 1] > least for w in layer.weight[:, 0, :, 0])
        assert not torch.equal(layer.weight[0], layer.weight[1])
        assert not layer.bias.any()
        if start == "small copies":
            assert layer.weight.square().mean().sqrt().item() == pytest.approx(
                before.square().mean().sqrt().item(), rel=0.1
            )
    with pytest.raises(ValueError, match="expected a start of first, "):
        start_as_salience(layer, "other")


@pytest.fixture(scope="module")
def half() -> stacks.Half:
    """Tones of six instruments on mel rows."""
    tones = [note(f, 0.4, f"instrument {i % 6}") for i, f in enumerate(np.geomspace(110, 880, 18))]
    found = note_frames(tones)
    return stacks.Half(found, levels_of(make_rows("mel"), found))


def test_a_stack_learns_the_pitch_of_tones(half):
    job = stacks.job("x", "mel", "salience", 1, 1.0, 0, 1, SHORT)
    notes = range(18)
    record = stacks.learn_and_score(job, half, notes, half, notes)
    assert record["accuracy"] > 0.8
    assert set(record["instruments"]) == {f"instrument {i}" for i in range(6)}
    assert record == stacks.learn_and_score(job, half, notes, half, notes)
    assert json.loads(json.dumps(record)) == record


def test_moving_rows_move_and_harmonic_layers_follow(half):
    torch.manual_seed(0)
    for kind in ("harmonic", "wrong"):
        rows = make_rows("mel")
        stack, start, axis = make_stack(kind, rows, 1), rows.freqs, rows.wrong_axis
        train_moving(stack, kind, rows, half.notes, torch.arange(20), SHORT, torch.Generator().manual_seed(0))
        assert (rows.freqs - start).abs().max() > 0.1
        assert torch.equal(rows.freqs, rows.frontend.centre_freqs().double())
        assert stack[0].axis == (axis if kind == "wrong" else rows.axis)
        assert rows.axis.freqs == pytest.approx(rows.freqs.tolist())


def test_training_lowers_the_loss(half):
    torch.manual_seed(0)
    rows = make_rows("mel")
    stack = make_stack("plain", rows, 1)
    scores = []
    for steps in (1, 60):
        train(stack, rows, half.levels, half.notes.hertz, Recipe(steps=steps), torch.Generator().manual_seed(0))
        scores.append(loss(stack, half.levels, soft_labels(rows.freqs, half.notes.hertz)).item())
    assert scores[1] < scores[0] - 0.5


def test_tuning_sees_the_training_half_alone(half, tmp_path, monkeypatch):
    torch.save(half, stacks.prepared_path(str(tmp_path), "train", "mel"))  # and no test half exists
    learned = []
    monkeypatch.setattr(stacks, "learn_and_score", lambda *args: learned.append(args) or {})
    for job in stacks.tuning_jobs():
        if job["rows"] == "mel":
            stacks.work(job, str(tmp_path))
    assert len(learned) == len(stacks.DILATIONS) * 2 * 3
    for _, learn, fit, judge, judged in learned:
        assert judge is learn
        names = [{learn.notes.instruments[i] for i in side} for side in (fit, judged)]
        assert not names[0] & names[1]
        assert [len(n) for n in names] == [4, 2]
    with pytest.raises(FileNotFoundError):
        stacks.work(stacks.job(stacks.EXPERIMENT, "mel", "plain", 1, 1.0, 0, 1), str(tmp_path))


def tuned(scores: dict[int, float]) -> list[dict]:
    return [{**job, "accuracy": scores.get(job["dilation"], 0.0) + 0.01 * job["fold"]} for job in stacks.tuning_jobs()]


def test_the_dilation_is_the_best_over_folds():
    best = stacks.best_dilations(tuned({4: 0.5, 8: 0.4}))
    assert set(best.values()) == {4}
    assert set(best) == {(rows, layers) for rows in stacks.ROWS for layers in (1, 2)}


def test_jobs_are_every_stack_and_seed_once():
    jobs = stacks.final_jobs(stacks.best_dilations(tuned({4: 1.0})), seeds=10)
    assert len({json.dumps(j) for j in jobs}) == len(jobs)
    assert {j["dilation"] for j in jobs if j["stack"] == "dilated"} == {4}
    assert {j["dilation"] for j in jobs if j["stack"] != "dilated"} == {1}
    for rows in stacks.ROWS:
        there = [j for j in jobs if j["rows"] == rows and j["share"] == 1.0 and j["layers"] == 2]
        assert len(there) == 10 * len(stacks.stacks_on(rows))


def test_the_recipe_is_chosen_on_the_training_half():
    jobs = stack_recipe.candidate_jobs()
    assert all(0 <= job["fold"] < 3 for job in jobs)  # `work` reads no test half then
    assert len({json.dumps(job) for job in jobs}) == len(jobs)
    best = asdict(stack_recipe.CANDIDATES[2])
    text = stack_recipe.tables([{**job, "accuracy": 0.9 if job["recipe"] == best else 0.8} for job in jobs])
    assert text.count("| 90.0 | 90.0 | 90.0 | 90.0 | 90.0 | 90.0 | 90.0 |\n") == 1
    assert f"| {STARTS[1]} | 80.0 |" in text


def test_tables_of_stacks():
    dilations = stacks.best_dilations(tuned({4: 1.0}))
    score = {"harmonic": 0.9, "plain": 0.5, "dilated": 0.9, "wrong": 0.6, "salience": 0.95}
    records = [
        {**job, "accuracy": score[job["stack"]] + 0.001 * job["seed"], "parameters": 22, "multiply_adds": 4053,
         "core_seconds": 2.0, "instruments": {"a": score[job["stack"]], "b": score[job["stack"]]}}
        for job in stacks.final_jobs(dilations, seeds=3) if job["rows"] == "mel" and job["share"] == 0.1
    ]  # fmt: skip
    text = stack_tables.tables(tuned({4: 1.0}) + records)
    assert "| mel | 1 | 10 % | 90.1 ± 0.2 | 95.1 ± 0.2 | 90.1 ± 0.2 | 50.1 ± 0.2 | 60.1 ± 0.2 |\n" in text
    assert "| mel | 2 | 10 % | +0.0 (+0.0 to +0.0) | **+40.0** (+40.0 to +40.0) | **+30.0**" in text
    assert "| mel | 1 | 22 | 4,053 | 4 | 2.0 s |\n" in text
    assert stack_tables.tables([]) == ""
