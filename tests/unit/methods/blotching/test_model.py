"""Masks, requests and embeddings of the model."""

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from terse.corpora.arithmetic.characters import VOCAB_SIZE
from terse.errors import TerseError
from terse.methods.blotching.generation import Ending, generate
from terse.methods.blotching.losses import token_nats
from terse.methods.blotching.model import Blotcher, check_positions
from tiny_blotching import (
    EVERY,
    POSENCS,
    batch_of,
    blotching,
    built,
    logits_of,
    long_chain,
    settings,
    uncached,
)
from tiny_lms import BUILD


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("posenc", POSENCS)
def test_masked_sequences_equal_shortened_ones(posenc: str, skip: bool) -> None:
    short = blotching(**EVERY[posenc], pad_pos_skip=skip)
    masked = blotching(**EVERY[posenc], pad_pos_skip=skip, excise_tokens=False)
    model = built(short)
    short_batch, masked_batch = batch_of(short), batch_of(masked)
    assert masked_batch["input_ids"].shape[1] > short_batch["input_ids"].shape[1]
    ours, full = logits_of(model, short_batch), logits_of(model, masked_batch)
    for i in range(len(ours)):
        kept = masked_batch["attention_mask"][i].bool()
        n = int(kept.sum())
        torch.testing.assert_close(ours[i, :n], full[i, kept], atol=2e-5, rtol=1e-4)
    sums = [
        token_nats(model, batch, n_groups).sum().item()
        for batch, n_groups in (
            (short_batch, 1),
            (short_batch, 3),
            (short_batch, 9),
            (short_batch, 0),
            (masked_batch, 0),
        )
    ]
    assert sums == pytest.approx([sums[0]] * 5, rel=1e-5)


@pytest.mark.parametrize("posenc", POSENCS)
def test_order_matters_and_the_future_does_not(posenc: str) -> None:
    method = blotching(**EVERY[posenc])
    model, batch = built(method), batch_of(method)
    before = logits_of(model, batch)
    later = {**batch, "input_ids": batch["input_ids"].clone()}
    later["input_ids"][:, 9:] = 5
    torch.testing.assert_close(logits_of(model, later)[:, :9], before[:, :9])
    swapped = {**batch, "input_ids": batch["input_ids"].clone()}
    swapped["input_ids"][:, [1, 2]] = batch["input_ids"][:, [2, 1]]
    differs = batch["input_ids"][:, 1] != batch["input_ids"][:, 2]
    change = (logits_of(model, swapped) - before)[differs, 8].abs().max()
    assert change > 1e-4


def test_a_dropped_token_changes_no_kept_logit() -> None:
    method = blotching(excise_tokens=False)
    model, batch = built(method), batch_of(method)
    before = logits_of(model, batch)
    dropped = batch["attention_mask"] == 0
    changed = {**batch, "input_ids": torch.where(dropped, 7, batch["input_ids"])}
    assert (changed["input_ids"] != batch["input_ids"]).any()
    kept = ~dropped
    torch.testing.assert_close(logits_of(model, changed)[kept], before[kept])


def test_requests_are_read_and_never_written() -> None:
    method = blotching()
    model = built(method)
    chain = long_chain()
    prompts = [method.layout.prompt(chain, p) for p in (0.0, 1.0)]
    assert [int(prompt[0]) for prompt in prompts] == [VOCAB_SIZE, VOCAB_SIZE + 10]
    np.testing.assert_array_equal(prompts[0][1:], prompts[1][1:])
    batch = batch_of(method)
    logits = logits_of(model, batch)
    assert logits.shape[-1] == VOCAB_SIZE
    asked = {**batch, "input_ids": batch["input_ids"].clone()}
    asked["input_ids"][:, 0] = VOCAB_SIZE + 3
    assert (logits_of(model, asked) - logits)[:, -1].abs().max() > 1e-5


def test_dropout_is_on_in_training_only() -> None:
    method = blotching(drop_p=0.3)
    model, batch = built(method), batch_of(method)
    seen: dict[int, Tensor] = {}
    parts = [p for layer in model.lm.model.layers for p in (layer.self_attn.o_proj, layer.mlp)]
    for number, part in enumerate(parts):
        part.register_forward_hook(lambda _m, _i, out, n=number: seen.update({n: out}))
    logits_of(model.train(), batch)
    assert len(seen) == 4
    for out in seen.values():
        assert abs((out == 0).float().mean() - 0.3) < 0.05
    assert {layer.self_attn.attention_dropout for layer in model.lm.model.layers} == {0.3}
    model.eval()
    torch.testing.assert_close(logits_of(model, batch), logits_of(model, batch))
    model.train()
    assert not torch.allclose(logits_of(model, batch), logits_of(model, batch))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom", "gpt_neox", "opt"])
def test_any_causal_lm_reads_requests_and_short_sequences(architecture: str) -> None:
    torch.manual_seed(0)
    lm = BUILD[architecture]().eval()
    model = Blotcher(lm, 4).eval()
    vocab = model.vocab_size
    ids = torch.randint(0, vocab, (1, 10))
    ones = torch.ones_like(ids)
    places = torch.arange(10)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids, ones, places), lm(ids).logits)
        ids[0, 0] = vocab + 2
        places_of = torch.arange(30)[None].numpy()
        ending = Ending(eos=0, pad=0, longest=20)
        written = generate(model, [ids[0].numpy()], places_of, ending)[0]
        expected = uncached(model, ids[0].numpy(), places_of[0], ending)
    assert written.tolist()[: len(expected)] == expected


def test_tied_weights_are_saved_once() -> None:
    lm = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=1, n_head=1))
    state = Blotcher(lm, 2).state_dict()
    places = [tensor.data_ptr() for tensor in state.values()]
    assert len(set(places)) == len(places)
    other = Blotcher(
        GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=1, n_head=1)), 2
    )
    other.load_state_dict(state, strict=False)
    torch.testing.assert_close(other.lm.lm_head.weight, lm.lm_head.weight)


def test_a_base_that_counts_by_itself_is_not_told_otherwise() -> None:
    model = Blotcher(BUILD["bloom"](), 0)
    assert not model.knows_positions
    check_positions(model, settings())
    for changes in ({"pad_pos_skip": False}, {"excise_tokens": False}):
        with pytest.raises(TerseError, match="counts its positions itself"):
            check_positions(model, settings(**changes))
