"""Training, resuming, saving and loading on the common path."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import set_seed

from terse.config.methods import settings_of
from terse.errors import TerseError
from terse.machine.signals import Stopped, StopSignal
from terse.methods.forgetting.evaluation import rows_of
from terse.methods.forgetting.masks import MLPForgetMask
from terse.methods.forgetting.model import Forgetter
from terse.training.method import Inputs
from tiny_forgetting import ARCHITECTURES, SETTINGS, forgetting, language_model, text_rows
from tiny_run import AtStep, train_into


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_resumed_equals_uninterrupted(
    step: int, tmp_path: Path, inputs: Inputs, trained_forgetter: Path
) -> None:
    method, stop = forgetting(inputs), StopSignal()
    inner = method.callbacks
    method.callbacks = lambda: [*inner(), AtStep(step, stop)]  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        train_into(tmp_path, method, stop)
    train_into(tmp_path, forgetting(inputs))
    for name in ("model/model.safetensors", "model/mask.safetensors", "model/forgetter.json"):
        assert (tmp_path / name).read_bytes() == (trained_forgetter / name).read_bytes()


def test_history_says_what_the_mask_does(trained_forgetter: Path) -> None:
    rows = pd.read_csv(trained_forgetter / "history.csv").query("split == 'train'")
    columns = [
        "forgotten_nats", "identity_nats", "forget_rate", "multiplier", "policy_entropy_nats",
        "advantage_spread", "coverage", "tokens_per_s",
    ]  # fmt: skip
    assert rows[columns].notna().all(axis=None)
    assert rows["forget_rate"].between(0.2, 0.8).all()
    assert rows["identity_nats"].iloc[0] == pytest.approx(5.7, abs=0.5)  # of 300 tokens, untrained
    assert (rows["advantage_spread"].iloc[1:] > 0).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"train_base": "frozen", "grad": "saliency", "entropy_beta": 0.0},
        {"train_base": "frozen", "grad": "st_gumbel", "mask": "cnn_mlp", "cnn_hidden_dim": 8},
        {"train_base": "lora", "lora_rank": 2, "mask": "rnn", "mode": "kv", "credit_window": 4},
    ],
)
def test_frozen_parts_stay_bit_for_bit(
    changes: dict[str, Any], inputs: Inputs, tmp_path: Path
) -> None:
    method = forgetting(
        inputs, max_steps=2, exploration_epochs=[0.0], checkpoint_steps=[], **changes
    )
    kept: list[Any] = []
    build = method.build
    method.build = lambda: kept.append(build()) or kept[0]  # type: ignore[method-assign]
    train_into(tmp_path, method)
    fresh = dict(forgetting(inputs).build().lm.named_parameters())
    for name, value in kept[0].lm.named_parameters():
        plain = name.replace(".base_layer", "")
        if plain in fresh:
            assert torch.equal(value, fresh[plain]), name
        else:
            assert "lora_" in name
    set_seed(0)
    start = dict(build().mask.named_parameters())
    assert all(
        not torch.equal(p, start[n]) for n, p in kept[0].mask.named_parameters() if "hh" not in n
    )
    loaded = method.load(tmp_path / "model")
    rows = rows_of([method.validation_rows()[i] for i in range(3)], "cpu")
    every = torch.ones_like(rows.attention_mask)
    with torch.no_grad():
        kept[0].eval()
        expected, found = (m.score(rows, every, "prefix").nats for m in (kept[0], loaded))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)  # a LoRA is merged
    if changes["train_base"] == "frozen":
        assert torch.equal(found, expected)


@pytest.mark.parametrize("mask", ["random", "norm", "surprisal", "sink_recency", "identity"])
def test_masks_without_weights_train_the_base(mask: str, inputs: Inputs, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"mask": mask, "max_steps": 1, "exploration_epochs": [0.0]}
    method = forgetting(inputs, **settings, hidden_dim=512, checkpoint_steps=[])
    train_into(tmp_path, method)
    row = pd.read_csv(tmp_path / "history.csv").query("split == 'train'")
    model = method.load(tmp_path / "model")
    rows = rows_of([method.validation_rows()[i] for i in range(3)], "cpu")
    keep = model.decisions(rows, "prefix", 0.5)
    free = model.free_tokens(rows, "prefix")
    n = free.sum(1) // 2 if mask != "identity" else 0
    assert ((free & ~keep).sum(1) == n).all()
    assert row.empty or row["loss_nats"].notna().all()


def gradients(method: Any, model: Any, rows: list[Any], *sizes: int) -> list[torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(7)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = [method.collate(rows[a : a + n]) for a, n in zip(starts, sizes, strict=True)]
    n_targets = torch.stack([method.count(part) for part in parts]).sum(0)
    for part in parts:
        method.loss(model, part, n_targets)[0].backward()
    return [p.grad.clone() for _, p in model.trained()]


@pytest.mark.parametrize(
    "changes",
    [
        {"kl_scale": 0.5},
        {"mode": "kv", "credit_window": 3},
        {"mode": "pack"},
        {"grad": "st_gumbel"},
    ],
)
def test_micro_batches_give_the_gradient_of_one_batch(
    changes: dict[str, Any], inputs: Inputs
) -> None:
    method = forgetting(inputs, **changes)
    model = method.build()
    model.multiplier.fill_(0.3)
    windows = method.validation_rows()
    rows = [windows[i] for i in range(64)]  # the first of a document have next to no context
    whole = gradients(method, model, rows, 64)
    assert sum(g.abs().max() > 0 for g in whole) == len(whole)
    for found, expected in zip(gradients(method, model, rows, 16, 16, 16, 16), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "changes", [{}, {"mode": "kv"}, {"grad": "st_gumbel"}, {"grad": "saliency"}]
)
def test_any_architecture_learns(architecture: str, changes: dict[str, Any]) -> None:
    settings: Any = settings_of({**SETTINGS, "context_len": 11, "block_len": 5, **changes})
    lm = language_model(architecture)
    model = Forgetter(lm, MLPForgetMask(lm, 8), settings).train()
    model.step = 5
    rows = text_rows()
    sums = model(**vars(rows))
    (sums["policy"] + sums["base"]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for _, p in model.trained())
    assert max(float(p.grad.abs().max()) for p in model.mask.parameters()) > 0  # type: ignore[union-attr]
    assert lm.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(("fraction", "n_whole"), [(0.0, 0), (0.25, 16), (1.0, 64)])
def test_a_share_of_the_rows_is_read_whole(fraction: float, n_whole: int, inputs: Inputs) -> None:
    method = forgetting(inputs, identity_fraction=fraction, exploration_epochs=[1.0])
    model = method.build().eval()
    windows = method.training_rows()
    batch = method.collate([windows[0]] * 64)
    torch.manual_seed(1)
    sums = model(**batch)
    per_row = int(batch["is_target"][0].sum())
    found = 64 - int(sums["forgotten_targets"]) // per_row
    assert found == pytest.approx(n_whole, abs=8 if 0 < n_whole < 64 else 0)
    if fraction == 1:
        rows = rows_of([windows[0]], "cpu")
        identity = model.score(rows, torch.ones_like(rows.is_target)).nats.sum().detach()
        assert float(sums["base"].detach()) == pytest.approx(64 * float(identity), rel=1e-5)
        nats, n = method.loss(model, batch, method.count(batch))[1]["loss_nats"]
        assert float(nats) / int(n) == pytest.approx(float(identity) / per_row, rel=1e-5)


def test_loss_nats_with_a_frozen_base_is_what_its_decisions_cost(inputs: Inputs) -> None:
    method = forgetting(inputs, train_base="frozen", exploration_epochs=[0.0], grad="st_gumbel")
    model, rows = method.build(), method.validation_rows()
    batch = method.collate([rows[i] for i in range(32)])
    loss, terms = method.loss(model, batch, method.count(batch))
    nats, n = terms["loss_nats"]
    assert int(n) == int(batch["is_target"].sum())
    assert float(nats) / int(n) == pytest.approx(5.7, abs=0.5)  # of 300 tokens, untrained
    assert abs(float(loss) - float(nats) / int(n)) > 1


def test_base_and_mask_are_clipped_apart(inputs: Inputs) -> None:
    method = forgetting(inputs)
    model = method.build()
    of_base, of_mask = method.clipped_parts(model)
    assert [*map(id, of_base)] == [*map(id, model.lm.parameters())]
    assert [*map(id, of_mask)] == [*map(id, model.mask.parameters())]
    frozen = forgetting(inputs, train_base="frozen")
    assert len(frozen.clipped_parts(frozen.build())) == 1


def test_price_rises_where_too_much_is_kept(inputs: Inputs) -> None:
    method = forgetting(inputs, forget_p=0.3, exploration_epochs=[0.0])
    model = method.build()
    batch = method.collate([method.training_rows()[i] for i in range(4)])
    for bias, sign in ((4.0, 1), (-4.0, -1)):
        with torch.no_grad():
            model.mask.last.bias.fill_(bias)  # type: ignore[union-attr]
        model.multiplier.zero_()
        method.loss(model, batch, method.count(batch))
        model.update_duals()
        assert float(model.multiplier) * sign > 0
        model.zero_grad()
        model(**batch)["price"].backward()
        assert float(model.mask.last.bias.grad) * sign > 0  # type: ignore[union-attr]


def test_windows_longer_than_the_base_reads_are_refused(inputs: Inputs) -> None:
    with pytest.raises(TerseError, match="windows of 68 tokens are longer than the 64 positions"):
        forgetting(inputs, context_len=60).build()
