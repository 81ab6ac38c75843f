"""Training and resuming compressors on the common path."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from terse.errors import TerseError
from terse.machine.signals import Stopped, StopSignal
from terse.training.method import Inputs, mean_loss
from tiny_compression import compression
from tiny_run import AtStep, train_into


@pytest.mark.parametrize("step", [*(pytest.param(i, marks=pytest.mark.slow) for i in (1, 5)), 4])
def test_resumed_equals_uninterrupted(
    step: int, tmp_path: Path, inputs: Inputs, trained: Path
) -> None:
    method, stop = compression(inputs), StopSignal()
    method.callbacks = lambda: [AtStep(step, stop)]  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        train_into(tmp_path, method, stop)
    train_into(tmp_path, compression(inputs))
    for name in ("model/model.safetensors", "checkpoints/step-0/model.safetensors"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


def test_the_base_on_disk_and_in_memory_is_left_as_it_was(inputs: Inputs, tmp_path: Path) -> None:
    from terse.provenance import digest_file

    assert inputs.base is not None
    before = digest_file(inputs.base)
    method = compression(inputs, rmb_task=True, kl_scale=1.0, proj_cmpr=True, l2=0.5)
    kept: list[Any] = []
    build = method.build
    method.build = lambda: kept.append(build()) or kept[0]  # type: ignore[method-assign]
    train_into(tmp_path, method)
    assert digest_file(inputs.base) == before
    fresh = compression(inputs).build().lm.state_dict()
    for name, value in kept[0].lm.state_dict().items():
        assert torch.equal(value, fresh[name]), name


def gradients(method: Any, model: Any, rows: list[Any], *sizes: int) -> list[torch.Tensor]:
    model.zero_grad()
    n_targets = torch.stack(
        [method.count(method.collate(part)) for part in _split(rows, sizes)]
    ).sum(0)
    for part in _split(rows, sizes):
        method.loss(model, method.collate(part), n_targets)[0].backward()
    return [p.grad.clone() for _, p in model.trained()]


def _split(rows: list[Any], sizes: tuple[int, ...]) -> list[list[Any]]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [rows[start : start + size] for start, size in zip(starts, sizes, strict=True)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rmb_task": True, "kl_scale": 0.7},
        {"gen_targs": True, "gen_ids": False},
        {"train_embs": True, "csl_task": True, "csl_scale": 0.3},
        {"rmb_only": True, "rmb_task": True},
        {"seq_overlap": 3, "kl_scale": 1.0},
    ],
)
def test_micro_batches_give_the_gradient_of_one_batch(
    changes: dict[str, Any], inputs: Inputs
) -> None:
    method = compression(inputs, **changes)
    model = method.build()
    windows = method.validation_rows()
    places = range(len(windows))
    full = islice((row for i in places if (row := windows[i])["target_mask"].all()), 5)
    ragged = (row for i in places if not (row := windows[i])["target_mask"].all())
    rows = list(full) if changes.get("rmb_only") else [*islice(full, 4), next(ragged)]
    whole = gradients(method, model, rows, 5)
    assert all(g.abs().max() > 0 for g in whole)
    for sizes in ((2, 3), (4, 1), (1, 1, 1, 1, 1)):
        for found, expected in zip(gradients(method, model, rows, *sizes), whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_history_has_each_loss_by_itself(trained: Path, inputs: Inputs, tmp_path: Path) -> None:
    plain = pd.read_csv(trained / "history.csv")
    rows = plain[plain["split"] == "train"]
    assert list(rows["step"]) == [2, 4, 6]
    total = rows["ce_nats"] + rows["static_nats"]
    pd.testing.assert_series_equal(rows["objective"], total, rtol=1e-4, check_names=False)
    pd.testing.assert_series_equal(rows["loss_nats"], rows["ce_nats"], check_names=False)
    method = compression(inputs)
    expected = mean_loss(method, method.load(trained / "model"), method.validation_rows(), "cpu")
    validation = plain[plain["split"] == "validation"]
    assert validation["loss_nats"].iloc[-1] == pytest.approx(expected, rel=1e-5)
    weighted = train_into(tmp_path, compression(inputs, kl_scale=2.0, max_steps=2, warmup_steps=0))
    row = pd.read_csv(weighted / "history.csv").query("split == 'train'").iloc[0]
    parts = row["ce_nats"] + row["static_nats"] + 2.0 * row["kl_nats"]
    assert row["objective"] == pytest.approx(parts, rel=1e-4)
    assert row["ce_nats"] == pytest.approx(rows["ce_nats"].iloc[0], rel=0.02)


def test_the_control_leaves_the_compressor_alone(inputs: Inputs, tmp_path: Path) -> None:
    """Clipped together, one's gradient would shorten the other's; unfrozen, they would share."""
    shared = {
        "max_steps": 3, "checkpoint_steps": [], "grad_clip": 1e-3, "proj_cmpr": True,
        "train_embs": True, "l2": 0.1, "n_samples": 0,
    }  # fmt: skip
    folders = {
        control: train_into(
            tmp_path / str(control), compression(inputs, static_control=control, **shared)
        )
        for control in (True, False)
    }
    weights = {c: load_file(f / "model" / "model.safetensors") for c, f in folders.items()}
    prompt = weights[True].pop("static")
    assert prompt.shape == (3, 16)
    for name, value in weights[False].items():
        torch.testing.assert_close(weights[True][name], value, rtol=0, atol=1e-7)


def test_at_layer_0_the_compressor_is_the_static_prompt(inputs: Inputs, tmp_path: Path) -> None:
    """Started from the same rows, they train alike and score alike."""
    method = compression(inputs, cmp_layer=0, checkpoint_steps=[], grad_clip=1e-3)
    build = method.build

    def alike() -> Any:
        model = build()
        with torch.no_grad():
            model.static.copy_(model.vectors[:3])
        return model

    method.build = alike  # type: ignore[method-assign]
    train_into(tmp_path, method)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    torch.testing.assert_close(weights["static"], weights["vectors"][:3], rtol=1e-4, atol=1e-5)
    measures = method.evaluate(method.load(tmp_path / "model"), "cpu")
    nats = {m.arm: m.value for m in measures if m.measure == "loss_nats"}
    assert nats["compressed"] == nats["shuffled"] == pytest.approx(nats["static"], rel=1e-4)


def test_plateau_halves_the_rate(inputs: Inputs, tmp_path: Path) -> None:
    method = compression(
        inputs, lr=1e-6, lr_schedule="plateau", patience=1, eval_interval=1, log_interval=1,
        max_steps=6,
    )  # fmt: skip
    history = pd.read_csv(train_into(tmp_path, method) / "history.csv")
    rates = history[history["split"] == "train"]["learning_rate"].to_numpy()
    halvings = np.log2(1e-6 / rates)
    np.testing.assert_allclose(halvings, halvings.round(), atol=1e-9)
    assert halvings[0] == 0
    assert (np.diff(halvings) >= 0).all()
    assert halvings[-1] >= 1


def test_windows_longer_than_the_base_reads_are_refused(inputs: Inputs) -> None:
    with pytest.raises(TerseError, match="windows of 65 tokens are longer than the 64 positions"):
        compression(inputs, seq_len=65).build()
