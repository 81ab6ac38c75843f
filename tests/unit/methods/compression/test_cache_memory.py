"""Contexts as keys and values of all layers, against one pass in which a mask hides the context."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from transformers import (
    GPTNeoConfig,
    GPTNeoForCausalLM,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from terse.errors import TerseError
from terse.evaluation.frontier.windows import Window
from terse.methods.compression.frozen_lm import embed
from terse.methods.compression.generation import generate
from terse.methods.compression.lora import lora_enabled
from terse.methods.compression.model import Batch, Compressor, followed_by
from terse.methods.compression.reading import Compressed, reading
from terse.methods.compression.settings import CompressionSettings
from terse.training.method import Inputs
from tiny_compression import compression
from tiny_compressor import ARCHITECTURES, SETTINGS, batch_of, lms_that_just_fit, read
from tiny_frontier import measured, n_held, window
from tiny_lms import BLOCKS, VOCAB, WIDTH, random_tokens, tiny_lm
from tiny_run import train_into
from torch_flops import flops_by_torch

START = 1
SETTINGS_OF_VECTORS = CompressionSettings.model_validate(SETTINGS)
TEXT = "The loop is a new kind of statement, which"
FROM_MASK = ("bloom",)  # positions are counted from the mask, so a gap can't be asked for


def compressor(architecture: str = "llama", **changes: Any) -> Compressor:
    """Return an untrained compressor in eval mode, its LoRA far from zero."""
    settings = CompressionSettings.model_validate(SETTINGS | {"memory": "cache"} | changes)
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
    model.lm.generation_config.eos_token_id = None  # type: ignore[union-attr]
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
def test_rows_that_ended_are_padded_until_all_have() -> None:
    model = compressor()
    context = random_tokens(2, 6)
    Z = model.compress(context, torch.ones_like(context))
    config: Any = model.lm.generation_config
    config.eos_token_id = None
    first, second = generate(model, Z, 8).tolist()
    shared = set(first) & set(second)
    ends = [next(t for t in row if t not in shared) for row in (first, second)]
    stops = [first.index(ends[0]) + 1, second.index(ends[1]) + 1]
    assert stops[0] != stops[1]
    config.eos_token_id, config.pad_token_id = ends, 0
    n = max(stops)
    rows = zip((first, second), stops, strict=True)
    expected = [row[:stop] + [0] * (n - stop) for row, stop in rows]
    assert generate(model, Z, 8).tolist() == expected


@torch.no_grad()
def test_writing_goes_on_after_more_text() -> None:
    model, plain = compressor(), Compressor(tiny_lm("llama"), SETTINGS_OF_VECTORS).eval()
    context, text = random_tokens(1, 6), random_tokens(1, 4, seed=5)
    for one in (model, plain):
        one.lm.generation_config.eos_token_id = None  # type: ignore[union-attr]
        prefix = one.prefix(one.compress(context, torch.ones_like(context)), "forward")
        written = one.write(followed_by(prefix, embed(one.lm, text)), 3)
        logits = one.read(prefix, torch.cat([text, written], 1), torch.ones(1, 7).long())
        assert torch.equal(logits[:, 4:].argmax(-1), written)


def test_the_gradient_goes_into_rows_and_lora_and_the_context_is_read_without() -> None:
    model, batch = compressor(lora_rank=2, rmb_task=True), batch_of()
    with grad_seen(model.lm) as seen:
        sums = model(**batch)
    assert seen[:2] == [(7, False), (2, True)]  # the context, once; the rows
    sum(sums.values()).backward()  # type: ignore[union-attr]
    assert (model.vectors.grad.abs().sum(1) > 0).all()  # type: ignore[union-attr]
    found = {n: p.grad for n, p in model.trained() if "lora_" in n}
    # The last block's output, MLP included, goes nowhere: only keys and values are read.
    unused = (".2.mlp", ".2.self_attn.q", ".2.self_attn.o")
    for name, gradient in found.items():
        if not any(part in name for part in unused):
            assert gradient is not None
            assert gradient.abs().sum() > 0, name
    assert all(p.grad is None for p in model.lm.parameters() if not p.requires_grad)
    with torch.no_grad():
        tokens = batch["context"]
        on = model.compress(tokens, torch.ones_like(tokens))
        model.settings = model.settings.model_copy(update={"lora_rank": 0})
        assert (model.compress(tokens, torch.ones_like(tokens)) - on).abs().max() > 1e-3


@contextmanager
def grad_seen(lm: Any) -> Iterator[list[tuple[int, bool]]]:
    """Collect positions and whether a gradient is recorded, of each pass through the body."""
    seen: list[tuple[int, bool]] = []

    def note(_module: Any, _args: Any, options: dict[str, Any]) -> None:
        seen.append((options["inputs_embeds"].shape[1], torch.is_grad_enabled()))

    handle = lm.base_model.register_forward_pre_hook(note, with_kwargs=True)
    yield seen
    handle.remove()


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
        ({"cmp_tail": True, "n_cmps": 7}, "cmp_tail repeats 7 tokens, but a span has 6"),
        ({"memory": "vectors", "cmp_layer": 0, "cmp_tail": True}, "leave cmp_tail out"),
        ({"memory": "caches"}, "memory"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        CompressionSettings.model_validate(SETTINGS | {"memory": "cache"} | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"seq_overlap": 4}, {"n_spans": 2, "n_cmps": 6, "seq_len": 17},
        {"rmb_task": True, "sep_cmpr": True}, {"rmb_only": True, "seq_len": 9},
    ],
)  # fmt: skip
def test_it_reads_as_many_positions_as_it_says(changes: dict[str, Any]) -> None:
    settings = CompressionSettings.model_validate(SETTINGS | {"memory": "cache"} | changes)
    o, k = settings.seq_overlap, settings.n_context
    batch = batch_of(k=k, n=max(1, o + settings.n_forward))
    batch["is_new"] = batch["target_mask"] * (torch.arange(batch["target"].shape[1]) >= o)
    if settings.rmb_only:
        assert (settings.span, k) == (9, 9)
        batch["target"], batch["target_mask"] = batch["context"], batch["context_mask"]
        batch["is_new"] = batch["context_mask"]
    for lm, fits in lms_that_just_fit(settings.longest):
        model = Compressor(lm, settings, START).eval()
        with nullcontext() if fits else pytest.raises(IndexError):
            model(**batch)
            model.read_context(Batch(**batch))


@torch.no_grad()
def test_a_context_longer_than_a_span_is_refused() -> None:
    model, tokens = compressor(), random_tokens(1, 7)
    with pytest.raises(TerseError, match="a context of 7 tokens: cmp_len is 6"):
        model.compress(tokens, torch.ones_like(tokens))


def test_narrow_embeddings_are_no_obstacle() -> None:
    lm = OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCAB, hidden_size=16, word_embed_proj_dim=8, ffn_dim=32,
            num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64,
        )
    )  # fmt: skip
    settings = CompressionSettings.model_validate(SETTINGS | {"memory": "cache"})
    sums = Compressor(lm, settings, START)(**batch_of())
    assert all(value.isfinite() for value in sums.values())


@pytest.mark.parametrize("architecture", ["mpt", "gpt_neo"])
@torch.no_grad()
def test_padding_changes_nothing_where_positions_are_indices(architecture: str) -> None:
    torch.manual_seed(0)
    lm: Any = {
        "mpt": lambda: MptForCausalLM(
            MptConfig(d_model=16, n_heads=2, n_layers=2, vocab_size=VOCAB, max_seq_len=64)
        ),
        "gpt_neo": lambda: GPTNeoForCausalLM(
            GPTNeoConfig(
                vocab_size=VOCAB, hidden_size=16, num_layers=2, num_heads=2, window_size=8,
                attention_types=[[["global", "local"], 1]], max_position_embeddings=64,
            )
        ),
    }[architecture]().eval()  # fmt: skip
    settings = CompressionSettings.model_validate(SETTINGS | {"memory": "cache", "cmp_len": 24,
                                                             "seq_len": 30})  # fmt: skip
    model, tokens = Compressor(lm, settings, START).eval(), random_tokens(1, 6)
    Z = model.compress(tokens, torch.ones_like(tokens))
    padded, mask = (nn.functional.pad(x, (18, 0)) for x in (tokens, torch.ones_like(tokens)))
    torch.testing.assert_close(model.compress(padded, mask), Z, rtol=1e-4, atol=1e-5)


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


@pytest.fixture
def way(inputs: Inputs, folder: Path) -> Compressed:
    method = compression(inputs, **CHANGES)
    model = method.load(folder / "model")
    with torch.no_grad():
        for parameter in model.lm.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6.0)  # far from uniform, so that positions matter
    return reading(method, model, "cpu")


def of_length(way: Compressed, n: int) -> Window:
    """Return a window whose context has n tokens."""
    found = (window(TEXT[:i], " reads") for i in range(1, len(TEXT)))
    return next(one for one in found if n == way.reader.tokens(one).L)


@pytest.mark.parametrize(("L", "ends"), [(3, [3]), (8, [8]), (9, [1, 9]), (19, [3, 11, 19])])
def test_the_frontier_reads_it_block_by_block(way: Compressed, L: int, ends: list[int]) -> None:
    given = of_length(way, L)
    with torch.inference_mode():
        (cost,) = way.read(given, [])
        tokens = way.reader.tokens(given)
        blocks = [tokens.context[a:b] for a, b in pairwise([0, *ends])]
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
        assert (cost.positions_held, way.positions) == (2 * len(ends), "kept")
        assert cost.positions_computed == L + len(ends) * (2 + 1) + 1 + tokens.m
        counted = flops_by_torch(lambda: way.read(given, []))
        assert cost.flops == pytest.approx(counted, rel=0.01)
    n = n_held(way, given, 0.5)
    assert measured(way, given, 0.5) == [n, n]


@torch.inference_mode()
def test_the_frontier_refuses_a_target_beyond_the_last_position(way: Compressed) -> None:
    given = of_length(way, 3)  # after k positions, however short the context is
    last = 8 + 2 + 1 + way.reader.tokens(given).m
    way.reader.limit = last
    way.read(given, [])
    way.reader.limit = last - 1
    with pytest.raises(TerseError, match=f"end at position {last}, but the reader has {last - 1}"):
        way.read(given, [])
