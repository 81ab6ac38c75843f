"""Training of one and two stages: resuming, gradients, what is trained and what stays."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from terse.figures.study import FinishedRun, figures_of, joined_tables
from terse.machine.signals import Stopped, StopSignal
from terse.methods.causal_lm.settings import CausalLMSettings
from terse.methods.hierarchical.method import Hierarchical
from terse.methods.hierarchical.spec import HIERARCHICAL
from terse.methods.hierarchical.storage import load_hierarchical
from terse.training.method import Inputs
from tiny_hierarchical import LEVELS, rows, settings
from tiny_run import AtStep, train_into


def digest(tensors: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors.values())).hexdigest()


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_resumed_equals_uninterrupted(
    step: int, tmp_path: Path, text: Inputs, stage1: Path
) -> None:
    found, stop = settings(*LEVELS, top=None, n_grad_loops=2), StopSignal()
    interrupted = Hierarchical(found, text)
    callbacks = interrupted.callbacks
    interrupted.callbacks = lambda: [*callbacks(), AtStep(step, stop)]  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        train_into(tmp_path, interrupted, stop)
    train_into(tmp_path, Hierarchical(found, text))
    name = "model/model.safetensors"
    assert (tmp_path / name).read_bytes() == (stage1 / name).read_bytes()


def test_codebooks_thresholds_and_weights_move_in_training(stage1: Path) -> None:
    before = load_file(stage1 / "checkpoints" / "step-0" / "model.safetensors")
    after = load_file(stage1 / "model" / "model.safetensors")
    still = {name for name in after if torch.equal(before[name], after[name])}
    # The thresholds of a level without a target ratio stay; no code of it was idle for long.
    assert {name for name in still if not name.endswith(("shift", "idle"))} == set()
    assert "compressors.0.shift" not in still
    assert "compressors.1.shift" in still
    assert int(after["compressors.0.quantizer.n_steps"]) == 6  # not 12 micro-batches
    history = pd.read_csv(stage1 / "history.csv").query("split == 'train'")
    total = (
        history[[f"reconstruction{i}_per_byte" for i in (0, 1)]].sum(axis=1) / 2
        + history[[f"vq{i}_per_byte" for i in (0, 1)]].sum(axis=1)
        + 0.1 * history[[f"lm{i}_per_byte" for i in (0, 1)]].sum(axis=1) / 2
    )
    np.testing.assert_allclose(history["objective"], total, rtol=1e-4)
    np.testing.assert_allclose(history["loss_nats"], history["reconstruction0_per_byte"])
    for name, size in (("perplexity0", 12), ("smoothed_perplexity1", 7)):
        assert history[name].between(1, size).all()


def test_micro_batches_give_the_gradient_of_one_batch(text: Inputs) -> None:
    method = Hierarchical(settings(*LEVELS), text)
    model = method.build()
    items = [method.training_rows()[i] for i in range(4)]

    def gradients(*sizes: int) -> list[torch.Tensor]:
        model.zero_grad()
        parts = [method.collate(items[sum(sizes[:i]) :][:n]) for i, n in enumerate(sizes)]
        total = torch.stack([method.count(part) for part in parts]).sum()
        for part in parts:
            method.loss(model, part, total)[0].backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    whole = gradients(4)
    # Two levels, a top LM, and all of them reached.
    assert len(whole) == len(list(model.parameters()))
    for sizes in ((1, 3), (2, 2)):
        for found, expected in zip(gradients(*sizes), whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_reconstruction_trains_the_compressor_through_the_codes(text: Inputs) -> None:
    method = Hierarchical(settings(top=None), text)
    model = method.build()
    sums = model(method.collate([method.training_rows()[0]])["ids"])
    sums["reconstruction0"].backward()
    blocks = model.levels[0][0]
    for part in (blocks.compression, blocks.shared, blocks.pool):
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())
    assert all(p.grad is None for p in blocks.lm.parameters())


@pytest.mark.slow
def test_a_second_stage_leaves_its_base_as_it_was(
    second: Hierarchical, stage1: Path, tmp_path: Path, text: Inputs
) -> None:
    folder = train_into(tmp_path, second)
    base = load_file(stage1 / "model" / "model.safetensors")
    after = load_file(folder / "model" / "model.safetensors")
    assert digest(base) == digest({name: after[name] for name in base})
    trained = {name for name in after if name not in base}
    assert all(name.startswith("top.") for name in trained)
    before = load_file(folder / "checkpoints" / "step-0" / "model.safetensors")
    assert all(not torch.equal(before[name], after[name]) for name in trained)
    measures = {
        (m.arm, m.measure): m for m in second.evaluate(second.load(folder / "model"), "cpu")
    }
    two_part = measures["two_part", "bits_per_byte"].value
    parts = [
        m.value
        for (arm, name), m in measures.items()
        if arm == "two_part" and name != "bits_per_byte" and name.endswith("bits_per_byte")
    ]
    assert len(parts) == 3  # codes and two expanders
    assert two_part == pytest.approx(sum(parts))
    assert 0 < measures["causal", "bits_per_byte"].value < 12
    assert measures["level0", "codes_per_byte"].value <= 1
    assert measures["xz", "bits_per_byte"].value > 0
    tables = second.tables(second.load(folder / "model"), "cpu")
    assert set(tables) == {"segmentation", "dimensions", "samples", "speed"}
    assert (tables["speed"]["bytes_per_s"] > 0).all()
    assert set(tables["dimensions"]["cloud"]) == {"pooled", "quantised"}
    evaluation = pd.DataFrame([vars(m) for m in measures.values()])
    run = FinishedRun("x", second.settings, evaluation, tables)
    assert set(figures_of(HIERARCHICAL, [run])) == {"scores", "segmentation"}
    assert len(joined_tables(HIERARCHICAL, [run])) == 4
    score = pd.DataFrame([{"arm": "model", "measure": "bits_per_byte", "value": 2.0,
                           "interval_low": 1.9, "interval_high": 2.1}])  # fmt: skip
    rival = FinishedRun("byte-lm", CausalLMSettings(method="causal-lm", corpus="c", tokenizer="b",
                        max_steps=1, checkpoint_steps=[]), score, {})  # fmt: skip
    below = FinishedRun("stage1", settings(*LEVELS, top=None), evaluation, tables, (rival,))
    both = figures_of(HIERARCHICAL, [below, replace(run, compared=(rival,))])
    assert [t.get_text() for t in both["scores"].axes[0].get_yticklabels()][-1] == "byte-lm"
    assert [ax.get_title() for ax in both["segmentation"].axes] == ["stage1"]  # cut as `run` is


@pytest.mark.slow
def test_a_level_learns_above_one_that_stays_as_it_was(
    text: Inputs, stage1: Path, tmp_path: Path
) -> None:
    inputs = replace(text, base=stage1 / "model")
    found = settings(
        LEVELS[0], {**LEVELS[1], "codebook_size": 9}, top=None, base="stage1", tokenizer=None,
        freeze_levels=1,
    )  # fmt: skip
    folder = train_into(tmp_path, Hierarchical(found, inputs))
    base = load_file(stage1 / "model" / "model.safetensors")
    after = load_file(folder / "model" / "model.safetensors")
    kept = {name for name in base if name.split(".")[1] == "0"}
    assert digest({n: base[n] for n in kept}) == digest({n: after[n] for n in kept})
    before = load_file(folder / "checkpoints" / "step-0" / "model.safetensors")
    still = {name for name in before if name not in kept and torch.equal(before[name], after[name])}
    assert {name for name in still if not name.endswith(("shift", "idle"))} == set()
    history = pd.read_csv(folder / "history.csv").query("split == 'train'")
    assert "reconstruction0_per_byte" not in history
    total = history["reconstruction1_per_byte"] + history["vq1_per_byte"]
    total += 0.1 * history["lm1_per_byte"]
    np.testing.assert_allclose(history["objective"], total, rtol=1e-4)


def test_a_pretrained_entropy_model_keeps_the_codes_meaning(
    text: Inputs, stage1: Path, tmp_path: Path
) -> None:
    inputs = replace(text, base=stage1 / "model")
    frozen = settings(
        {**LEVELS[0], "target_compression_ratio": None}, top=None, base="stage1", tokenizer=None,
        freeze_entropy=True, max_steps=2, checkpoint_steps=[], eval_interval=2,
    )  # fmt: skip
    folder = train_into(tmp_path, Hierarchical(frozen, inputs))
    ours = load_hierarchical(folder / "model").levels[0][0]
    base = load_hierarchical(stage1 / "model").levels[0][0]
    for part, source in zip(ours.entropy_parts(), base.entropy_parts(), strict=True):
        assert digest(dict(part.state_dict())) == digest(dict(source.state_dict()))
    assert base.shift != 0
    one, other = (load_hierarchical(f / "model").encode(rows(30))[0] for f in (folder, stage1))
    assert torch.equal(one.opens, other.opens)
    assert not torch.equal(ours.pool.value.weight, base.pool.value.weight)
