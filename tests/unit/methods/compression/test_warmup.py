"""The first steps of a training, in which the vectors only learn to reproduce the context."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor
from transformers import DynamicCache

from terse.config.methods import settings_of
from terse.machine.signals import Stopped, StopSignal
from terse.methods.compression.frozen_lm import embed
from terse.methods.compression.lora import lora_enabled
from terse.methods.compression.method import LOSSES
from terse.methods.compression.model import Compressor
from terse.methods.compression.settings import CompressionSettings
from terse.methods.compression.spec import COMPRESSION
from terse.training.method import Inputs
from tiny_compression import SETTINGS as OF_RUN
from tiny_compression import compression
from tiny_compressor import SETTINGS, batch_of, lms_that_just_fit
from tiny_lms import tiny_lm
from tiny_run import AtStep, train_into

START, FWD, RMB = 1, 2, 3  # the token; the places of the rows behind two CMP rows
CACHE: dict[str, Any] = {"memory": "cache", "cmp_tail": True, "lora_rank": 2}
WAYS = {
    "vectors": {},
    "vectors-lora-tail": {"cmp_tail": True, "lora_rank": 2},
    "cache": {"memory": "cache"},
    "cache-lora-tail": CACHE,
}
ways = pytest.mark.parametrize("changes", WAYS.values(), ids=WAYS)


def in_training(step: int, **changes: Any) -> Compressor:
    """Return a compressor at a step of a training with two steps of warm-up, its LoRA not zero."""
    settings = CompressionSettings.model_validate(SETTINGS | {"rmb_warmup": 2} | changes)
    model = Compressor(tiny_lm("llama"), settings, START).train()
    model.step = step
    with torch.no_grad():
        for name, parameter in model.trained():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    return model


def padded_batch() -> dict[str, Tensor]:
    """Return windows of which the first context has only four tokens."""
    batch = batch_of()
    batch["context_mask"][0, :2] = 0
    return batch


def copied(model: Any, batch: dict[str, Tensor], start: int = START) -> float:
    """Return the nats of the contexts' own tokens, a window at a time, without padding."""
    nats = 0.0
    for tokens, mask in zip(batch["context"], batch["context_mask"], strict=True):
        text = tokens[mask.bool()]
        after = torch.cat([model.vectors[RMB : RMB + 1], embed(model.lm, text[:-1])])[None]
        if model.settings.memory == "cache":
            logits = _from_cache(model, text, after, torch.tensor([[start]]))
        else:
            logits = _from_vectors(model, text, after)
        logs = logits[0, -len(text) :].log_softmax(-1)
        nats -= float(logs.gather(1, text[:, None]).sum())
    return nats


def _rows(model: Compressor, text: Tensor) -> Tensor:
    last = embed(model.lm, text[-2:]) if model.settings.cmp_tail else 0.0
    return (model.vectors[:2] + last)[None]


def _from_vectors(model: Compressor, text: Tensor, after: Tensor) -> Tensor:
    inside = torch.cat([embed(model.lm, text)[None], _rows(model, text)], 1)
    with lora_enabled(model.lm, model.settings.lora_rank > 0):
        states = model.lm(inputs_embeds=inside, output_hidden_states=True).hidden_states
    return model.lm(inputs_embeds=torch.cat([states[-2][:, -2:], after], 1)).logits


def _from_cache(model: Compressor, text: Tensor, after: Tensor, start: Tensor) -> Tensor:
    lm, k, n = model.lm, model.settings.cmp_len, len(text)

    def places(first: int, count: int) -> Tensor:
        return torch.arange(first, first + count)[None]

    seen = torch.cat([start, text[None]], 1)  # its last token at position k
    cache = lm(seen, position_ids=places(k - n, n + 1), use_cache=True).past_key_values
    with lora_enabled(lm, model.settings.lora_rank > 0):
        cache = lm(
            inputs_embeds=_rows(model, text), position_ids=places(k + 1, 2), past_key_values=cache
        ).past_key_values
    first = lm(start, use_cache=True).past_key_values
    kept = DynamicCache()
    for i, (begun, layer) in enumerate(zip(first.layers, cache.layers, strict=True)):
        keys = torch.cat([begun.keys, layer.keys[:, :, -2:]], 2)
        kept.update(keys, torch.cat([begun.values, layer.values[:, :, -2:]], 2), i)
    return lm(inputs_embeds=after, position_ids=places(k + 3, n), past_key_values=kept).logits


@ways
@torch.no_grad()
def test_at_first_the_loss_is_that_of_the_copy_and_then_that_of_what_follows(
    changes: dict[str, Any],
) -> None:
    batch = padded_batch()
    for step in (0, 1):
        model = in_training(step, **changes)
        sums = model(**batch)
        plain = model.eval()(**batch)  # a validation, whatever the step
        assert (set(sums), set(plain)) == ({"rmb", "static"}, {"ce", "static"})
        assert sums["rmb"].item() == pytest.approx(copied(model, batch), rel=1e-4)
        assert sums["static"] == plain["static"]
    model = in_training(2, **changes)
    sums, without = model(**batch), in_training(2, rmb_warmup=0, **changes)
    without.load_state_dict(model.state_dict())
    assert {**sums} == {**without(**batch)} == {**model.eval()(**batch)}
    assert set(sums) == {"ce", "static"}
    both = in_training(2, rmb_task=True, **changes)(**batch)
    assert set(both) == {"ce", "rmb", "static"}


@ways
def test_the_cue_of_what_follows_has_no_gradient_at_first(changes: dict[str, Any]) -> None:
    for step, learns, rests in ((1, RMB, FWD), (2, FWD, RMB)):
        model = in_training(step, **changes)
        sum(model(**padded_batch()).values()).backward()  # type: ignore[union-attr]
        gradient: Any = model.vectors.grad
        assert gradient[rests].abs().max() == 0
        assert (gradient[[0, 1, learns]].abs().sum(1) > 0).all()
        loras = [p.grad for n, p in model.trained() if "lora_" in n and p.grad is not None]
        assert bool(loras) == ("lora_rank" in changes)
        assert all(g.abs().max() > 0 for g in loras)


@contextmanager
def passes(lm: Any) -> Iterator[list[tuple[int, bool]]]:
    """Collect positions and whether a gradient is recorded, of each pass through the body."""
    seen: list[tuple[int, bool]] = []

    def note(_module: Any, args: Any, options: dict[str, Any]) -> None:
        tokens = options.get("inputs_embeds")
        tokens = args[0] if tokens is None else tokens
        seen.append((tokens.shape[1], torch.is_grad_enabled()))

    handle = lm.base_model.register_forward_pre_hook(note, with_kwargs=True)
    yield seen
    handle.remove()


@pytest.mark.parametrize("more", [{}, {"kl_scale": 1.0, "gen_targs": True}])
def test_only_what_a_step_needs_is_computed(more: dict[str, Any]) -> None:
    """Contexts of 6 tokens as 2 rows, then 5 targets; the control is 3 rows."""
    context, rows, start = (1 + 6, False), (2, True), (1, False)
    batch = batch_of()
    model = in_training(0, static_control=False, **CACHE, **more)
    with passes(model.lm) as seen:
        model(**batch)
    assert seen == [context, rows, start, (6, True)]
    if more:
        return
    for step, copy_or_target in ((1, 6), (2, 5)):
        with passes((model := in_training(step, **CACHE)).lm) as seen:
            model(**batch)
        assert seen == [context, rows, start, (copy_or_target, True), (3 + 4, True)]


def test_the_control_has_the_targets_of_the_other_steps() -> None:
    """Also where the base writes them, as tokens or as distributions."""
    for more in ({"gen_targs": True}, {"gen_targs": True, "gen_ids": False}, {"kl_scale": 1.0}):
        first, later = (in_training(step, **more)(**batch_of()) for step in (0, 2))
        assert set(first) == {"rmb", "static"}
        assert first["static"] == later["static"]


STEPS: dict[str, Any] = {
    "rmb_warmup": 3, "max_steps": 6, "batch_size": 2, "n_grad_loops": 2, "log_interval": 2,
    "checkpoint_steps": [2, 3],
}  # fmt: skip
KINDS = {"vectors": {"memory": "vectors"}, "cache": CACHE}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def whole(kind: dict[str, Any], inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that nothing stopped."""
    return train_into(tmp_path_factory.mktemp("whole"), compression(inputs, **STEPS, **kind))


@pytest.mark.parametrize("step", [1, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_resumed_it_is_the_same_training(
    step: int, kind: dict[str, Any], whole: Path, inputs: Inputs, tmp_path: Path
) -> None:
    method, stop = compression(inputs, **STEPS, **kind), StopSignal()
    own = method.callbacks()
    method.callbacks = lambda: [*own, AtStep(step, stop)]  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        train_into(tmp_path, method, stop)
    train_into(tmp_path, compression(inputs, **STEPS, **kind))
    for name in ("model", "checkpoints/step-2", "checkpoints/step-3"):
        weights = f"{name}/model.safetensors"
        assert (tmp_path / weights).read_bytes() == (whole / weights).read_bytes()
    tables = [
        pd.read_csv(f / "history.csv").drop(columns="tokens_per_s") for f in (whole, tmp_path)
    ]
    pd.testing.assert_frame_equal(*tables)


def train_rows(folder: Path) -> pd.DataFrame:
    history = pd.read_csv(folder / "history.csv")
    return history[history["split"] == "train"].set_index("step")


def test_the_history_shows_both_parts(
    kind: dict[str, Any], whole: Path, inputs: Inputs, tmp_path: Path
) -> None:
    """Rows of two steps each: the second one holds a step of either part."""
    some = train_rows(whole)
    one = train_rows(
        train_into(tmp_path, compression(inputs, **{**STEPS, "log_interval": 1}, **kind))
    )
    assert one["rmb_nats"].notna().tolist() == [True] * 3 + [False] * 3
    assert one["ce_nats"].notna().tolist() == [False] * 3 + [True] * 3
    assert some["rmb_nats"].notna().tolist() == [True, True, False]
    for name in ("rmb_nats", "ce_nats", "static_nats", "objective", "loss_nats"):
        means = [one[name][i : i + 2].mean() for i in (0, 2, 4)]  # over the steps that have it
        np.testing.assert_allclose(some[name], means, rtol=1e-4, err_msg=name)
    parts = one[["rmb_nats", "ce_nats", "static_nats"]].sum(axis=1)
    np.testing.assert_allclose(one["objective"], parts, rtol=1e-4)
    pd.testing.assert_series_equal(one["loss_nats"], one["ce_nats"], check_names=False)
    validation = pd.read_csv(whole / "history.csv").query("split == 'validation'")
    assert validation["loss_nats"].notna().all()


def test_the_objective_per_target_is_that_of_the_copy(inputs: Inputs) -> None:
    method = compression(inputs, **STEPS)
    model, rows = method.build(), method.training_rows()
    batch = method.collate([rows[i] for i in range(4)])
    with torch.no_grad():
        loss, terms = method.loss(model, batch, method.count(batch))
        copy = copied(model, batch) / int(batch["context_mask"].sum())
        static = model(**batch)["static"] / method.count(batch)[LOSSES.index("static")]
    assert float(loss) == pytest.approx(copy + float(static), rel=1e-4)
    assert set(terms) == {"rmb_nats", "static_nats"}


def test_split_into_passes_it_is_the_same(inputs: Inputs, tmp_path: Path) -> None:
    found = []
    for size in (4, 1):
        split = {**STEPS, "batch_size": size, "n_grad_loops": 4 // size}
        folder = train_into(tmp_path / str(size), compression(inputs, **split))
        found.append((train_rows(folder), load_file(folder / "model" / "model.safetensors")))
    for name in ("rmb_nats", "ce_nats", "static_nats", "objective"):
        np.testing.assert_allclose(found[0][0][name], found[1][0][name], rtol=1e-4)
    for name, value in found[0][1].items():
        torch.testing.assert_close(value, found[1][1][name], rtol=1e-3, atol=2e-4)


def test_the_control_is_the_same_prompt_without_a_warm_up(
    kind: dict[str, Any], whole: Path, inputs: Inputs, tmp_path: Path
) -> None:
    plain = train_into(tmp_path, compression(inputs, **{**STEPS, "rmb_warmup": 0}, **kind))
    first, other = (load_file(f / "model" / "model.safetensors") for f in (whole, plain))
    assert torch.equal(first["static"], other["static"])
    assert (first["vectors"] - other["vectors"]).abs().max() > 1e-3
    kept = [load_file(whole / "checkpoints" / f"step-{i}" / "model.safetensors") for i in (2, 3)]
    assert torch.equal(kept[0]["vectors"][FWD], kept[1]["vectors"][FWD])
    assert not torch.equal(kept[1]["vectors"][FWD], first["vectors"][FWD])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rmb_only": True}, "rmb_only reproduces in all steps: leave rmb_warmup out"),
        ({"max_steps": 3}, "rmb_warmup 3 leaves no step for what follows .* allowed: 0 to 2"),
        ({"rmb_warmup": -1}, "rmb_warmup"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        settings_of({**OF_RUN, "rmb_warmup": 3, **changes})


def test_epochs_that_turn_out_too_short_are_refused() -> None:
    settings = settings_of({**OF_RUN, "rmb_warmup": 3, "max_steps": None, "epochs": 1})
    assert settings.with_steps(n_rows=16).max_steps == 4
    with pytest.raises(ValidationError, match="allowed: 0 to 2"):
        settings.with_steps(n_rows=12)


def of_run(**changes: Any) -> Any:
    return settings_of({**OF_RUN, **changes})


def test_a_run_without_it_is_the_run_that_it_was(trained: Path, inputs: Inputs) -> None:
    assert "rmb_warmup" not in COMPRESSION.weight_params(of_run())
    params = COMPRESSION.result_params(of_run(rmb_warmup=3))
    assert COMPRESSION.settings_from(params).rmb_warmup == 3
    assert "rmb_warmup" not in (trained / "model" / "compressor.json").read_text()
    assert compression(inputs).load(trained / "model").settings.rmb_warmup == 0
    assert compression(inputs).callbacks() == []


def test_its_cost_is_the_mean_over_the_steps() -> None:
    """8 tokens of context as 2 vectors, 6 new ones."""
    tokens = {n: COMPRESSION.tokens_per_row(of_run(rmb_warmup=n)) for n in (0, 3)}
    assert tokens == {0: 8 + 2 + 2 * (2 + 6), 3: 8 + 2 + (2 + 6) + ((2 + 6) + (2 + 8)) // 2}
    both = COMPRESSION.tokens_per_row(of_run(rmb_warmup=3, rmb_task=True))
    assert both == 8 + 2 + (2 + 6) + (2 + 6) // 2 + (2 + 8)


@pytest.mark.parametrize("changes", [{"seq_len": 7}, {"memory": "cache"}], ids=["vectors", "cache"])
def test_the_copy_counts_among_the_positions(changes: dict[str, Any]) -> None:
    settings = CompressionSettings.model_validate(SETTINGS | {"rmb_warmup": 2} | changes)
    task = {"rmb_warmup": 0, "rmb_task": True}
    assert settings.longest == settings.model_copy(update=task).longest
    batch = batch_of(n=settings.n_forward)
    for lm, fits in lms_that_just_fit(settings.longest):
        model = Compressor(lm, settings, START).train()
        with nullcontext() if fits else pytest.raises(IndexError):
            model(**batch)
            model.eval()(**batch)


def test_what_is_left_of_the_copy_is_scored_and_shown(
    kind: dict[str, Any], whole: Path, inputs: Inputs
) -> None:
    method = compression(inputs, **STEPS, **kind)
    model = method.load(whole / "model")
    found = {(m.arm, m.measure): m.value for m in method.evaluate(model, "cpu")}
    windows = method._evaluated
    batch = method.collate([windows[i] for i in range(len(windows))])
    with torch.no_grad():
        nats = copied(model, batch, method.start) / int(batch["context_mask"].sum())
    assert found["remembered", "loss_nats"] == pytest.approx(nats, rel=1e-4)
    assert found["remembered_shuffled", "loss_nats"] != found["remembered", "loss_nats"]
    assert method.tables(model, "cpu")["samples"]["reproduced"].str.len().gt(0).all()
