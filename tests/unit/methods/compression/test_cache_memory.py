"""Contexts as keys and values of all layers, against one pass in which a mask hides the context."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from terse.errors import TerseError
from terse.methods.compression.frozen_lm import embed
from terse.methods.compression.generation import generate
from terse.methods.compression.lora import lora_enabled
from terse.methods.compression.model import Compressor
from terse.methods.compression.reading import reading
from terse.methods.compression.settings import CompressionSettings
from terse.training.method import Inputs
from tiny_compression import compression
from tiny_compressor import ARCHITECTURES, SETTINGS, batch_of, read
from tiny_frontier import measured, n_held, window
from tiny_lms import BLOCKS, WIDTH, random_tokens, tiny_lm
from tiny_run import train_into
from torch_flops import flops_by_torch

START = 1
TEXT = "The loop is a new kind of statement, which"
FROM_MASK = ("bloom",)  # positions are counted from the mask, so a gap can't be asked for


def compressor(architecture: str = "llama", **changes: Any) -> Compressor:
    """Return an untrained compressor in eval mode, its LoRA far from zero."""
    settings = CompressionSettings.model_validate(SETTINGS | {"cmp_layer": -2} | changes)
    settings = settings.model_copy(update={"memory": "cache"})
    model = Compressor(tiny_lm(architecture), settings, START).eval()
    with torch.no_grad():
        for name, parameter in model.trained():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    return model


def one_pass(model: Compressor, context: Tensor, target: Tensor) -> Tensor:
    """Return the logits of a target in a single pass whose mask hides the context from it."""
    lm, s = model.lm, model.settings
    (B, k), n, c = context.shape, target.shape[1], s.n_cmps
    rows = model.vectors[:c].expand(B, -1, -1)
    if s.cmp_tail:
        rows = rows + embed(lm, context[:, -c:])
    start = embed(lm, torch.full((B, 1), START))
    cue = model.cue_row("forward").expand(B, 1, -1)
    parts = [start, embed(lm, context), rows, cue, embed(lm, target[:, :-1])]
    T = 1 + k + c + n
    seen = torch.ones(T, T, dtype=torch.bool).tril()
    seen[1 + k + c :, 1 : 1 + k] = False
    mask = torch.zeros(T, T).masked_fill(~seen, torch.finfo(torch.float32).min)
    logits = lm(
        inputs_embeds=torch.cat(parts, 1), attention_mask=mask.expand(B, 1, T, T),
        position_ids=torch.arange(T).expand(B, -1), use_cache=False,
    ).logits  # fmt: skip
    return logits[:, -n:]


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a not in FROM_MASK])
@torch.no_grad()
def test_it_is_a_pass_whose_mask_hides_the_context(architecture: str, tail: bool) -> None:
    model = compressor(architecture, cmp_tail=tail)
    context, target = random_tokens(2, 6), random_tokens(2, 5, seed=3)
    if tail:
        model.vectors[:2].normal_()
    Z = model.compress(context, torch.ones_like(context))
    expected = one_pass(model, context, target)
    torch.testing.assert_close(read(model, Z, target), expected, rtol=1e-4, atol=1e-4)
    other = random_tokens(2, 6, seed=9)
    changed = read(model, model.compress(other, torch.ones_like(other)), target)
    assert (changed - expected).abs().max() > 1e-2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_padding_changes_nothing(architecture: str) -> None:
    model = compressor(architecture, sep_cmpr=True)
    tokens = random_tokens(1, 4)
    Z = model.compress(tokens, torch.ones_like(tokens))
    padded = nn.functional.pad(tokens, (2, 0))
    mask = nn.functional.pad(torch.ones_like(tokens), (2, 0))
    torch.testing.assert_close(model.compress(padded, mask), Z, rtol=1e-4, atol=1e-4)
    target = random_tokens(1, 5, seed=3)
    longer = nn.functional.pad(target, (0, 3), value=9)
    real = nn.functional.pad(torch.ones_like(target), (0, 3))
    logits = model.read(model.prefix(Z, "forward"), longer, real)[:, :5]
    torch.testing.assert_close(logits, read(model, Z, target), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_writing_with_the_cache_is_greedy_by_teacher_forcing(architecture: str) -> None:
    model = compressor(architecture)
    model.lm.config.eos_token_id = None
    context = random_tokens(2, 6)
    Z = model.compress(context, torch.ones_like(context))
    greedy = torch.empty(2, 0, dtype=torch.long)
    for t in range(8):
        padded = nn.functional.pad(greedy, (0, 1))
        greedy = torch.cat([greedy, read(model, Z, padded)[:, t].argmax(-1, keepdim=True)], 1)
    assert torch.equal(generate(model, Z, 8), greedy)
    with pytest.raises(TerseError, match="writes greedily, without do_sample"):
        generate(model, Z, 8, do_sample=True)


@torch.no_grad()
def test_it_stops_at_the_end_of_a_text() -> None:
    model = compressor()
    context = random_tokens(1, 6)
    Z = model.compress(context, torch.ones_like(context))
    model.lm.config.eos_token_id = None
    whole = generate(model, Z, 8)[0].tolist()
    model.lm.config.eos_token_id = whole[3]
    assert generate(model, Z, 8)[0].tolist() == whole[: whole.index(whole[3]) + 1]


def test_the_gradient_goes_into_rows_and_lora_and_the_context_is_read_without() -> None:
    model, batch = compressor(lora_rank=2, rmb_task=True), batch_of()
    before = {name: p.clone() for name, p in model.lm.named_parameters() if not p.requires_grad}
    sum(model(**batch).values()).backward()  # type: ignore[union-attr]
    assert (model.vectors.grad.abs().sum(1) > 0).all()  # type: ignore[union-attr]
    found = {n: p.grad for n, p in model.trained() if "lora_" in n}
    # The last block's output, MLP included, goes nowhere: only keys and values are read.
    unused = (".2.mlp", ".2.self_attn.q", ".2.self_attn.o")
    for name, gradient in found.items():
        if not any(part in name for part in unused):
            assert gradient is not None
            assert gradient.abs().sum() > 0, name
    assert all(torch.equal(before[n], p) for n, p in model.lm.named_parameters() if n in before)
    with torch.no_grad():
        tokens = batch["context"]
        on = model.compress(tokens, torch.ones_like(tokens))
        model.settings = model.settings.model_copy(update={"lora_rank": 0})
        assert (model.compress(tokens, torch.ones_like(tokens)) - on).abs().max() > 1e-3


@torch.no_grad()
def test_the_lora_acts_at_the_rows_only() -> None:
    model = compressor(lora_rank=2)
    tokens, target = random_tokens(1, 6), random_tokens(1, 5, seed=2)
    plain = tiny_lm("llama")
    torch.testing.assert_close(model.lm(tokens).logits, plain(tokens).logits)
    Z = model.compress(tokens, torch.ones_like(tokens))
    with lora_enabled(model.lm, True):  # on while the context is read, too
        everywhere = model.compress(tokens, torch.ones_like(tokens))
    assert (Z - everywhere).abs().max() > 1e-3
    assert read(model, Z, target).isfinite().all()


@torch.no_grad()
def test_spans_are_written_apart_one_after_another() -> None:
    model = compressor(n_spans=2, seq_len=17)
    context = random_tokens(2, 12)
    Z = model.compress(context, torch.ones_like(context))
    assert Z.shape == (2, 4, BLOCKS * 2 * WIDTH)
    ones = torch.ones(2, 6, dtype=torch.long)
    for i in range(2):
        part = model.memory_of(context[:, 6 * i : 6 * i + 6], ones, torch.full((2,), 2 * i))
        torch.testing.assert_close(Z[:, 2 * i : 2 * i + 2], part)
    moved = model.memory_of(context[:, 6:], ones, torch.zeros(2, dtype=torch.long))
    assert (moved - Z[:, 2:]).abs().max() > 1e-3  # the positions differ


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cmp_layer": "half"}, "cmp_layer does not go with memory: cache"),
        ({"proj_cmpr": True}, "proj_cmpr does not go with"),
        ({"train_embs": True}, "train_embs does not go with"),
        ({"memory": "caches"}, "memory"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], words: str) -> None:
    plain = {key: value for key, value in SETTINGS.items() if key != "cmp_layer"}
    with pytest.raises(ValidationError, match=words):
        CompressionSettings.model_validate(plain | {"memory": "cache"} | changes)


CHANGES: dict[str, Any] = {"memory": "cache", "cmp_tail": True, "lora_rank": 2, "rmb_task": True}


@pytest.fixture(scope="module")
def folder(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training."""
    return train_into(tmp_path_factory.mktemp("memory"), compression(inputs, **CHANGES))


def test_a_run_of_it_learns_and_is_evaluated(inputs: Inputs, folder: Path) -> None:
    method = compression(inputs, **CHANGES)
    model = method.load(folder / "model")
    found = {(m.arm, m.measure): m.value for m in method.evaluate(model, "cpu")}
    arms = {arm for arm, measure in found if measure == "loss_nats"}
    assert {"low", "high", "compressed", "static", "shuffled", "tail"} <= arms
    assert "mean_pool" not in arms
    assert found["compressed", "loss_nats"] != found["shuffled", "loss_nats"]
    assert found["compressed", "positions"] == 3  # two vectors and the cue
    tables = method.tables(model, "cpu")
    assert list(tables["cost"]["way"]) == ["high", "compressed", "compressing"]
    assert tables["samples"]["with_vectors"].str.len().gt(0).all()
    assert set(tables["dimensions"]["cloud"]) >= {"vector-0", "vector-1", "token_mean"}


def test_the_frontier_reads_it_block_by_block(inputs: Inputs, folder: Path) -> None:
    method = compression(inputs, **CHANGES)
    way = reading(method, method.load(folder / "model"), "cpu")
    found = (window(TEXT[:i], " reads") for i in range(1, len(TEXT)))
    given = next(one for one in found if way.reader.tokens(one).L == 19)
    with torch.inference_mode():
        (cost,) = way.read(given, [])
        tokens = way.reader.tokens(given)
        blocks = [tokens.context[:3], tokens.context[3:11], tokens.context[11:]]
        Z = torch.cat(
            [
                way.model.memory_of(b[None], torch.ones_like(b[None]), torch.tensor([2 * i]))
                for i, b in enumerate(blocks)
            ],
            1,
        )
        logits = read(way.model, Z, tokens.target[None])[0]
        plain = nn.functional.cross_entropy(logits, tokens.target, reduction="sum")
        assert cost.nats == pytest.approx(float(plain), rel=1e-5)
        assert (cost.positions_held, way.positions) == (6, "kept")
        assert cost.positions_computed == 19 + 3 * (2 + 1) + 1 + tokens.m
        counted = flops_by_torch(lambda: way.read(given, []))
        assert cost.flops == pytest.approx(counted, rel=0.01)
    n = n_held(way, given, 0.5)
    assert measured(way, given, 0.5) == [n, n]
