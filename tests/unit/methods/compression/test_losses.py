"""Losses of the compressor against naive loops."""

import pytest
import torch
from torch import nn

from terse.methods.compression.frozen_lm import embed
from tiny_compressor import batch_of, compressor, read
from tiny_lms import random_tokens


@torch.no_grad()
def test_losses_are_those_of_a_naive_loop() -> None:
    model, batch = compressor(rmb_task=True, kl_scale=1.0), batch_of()
    sums = model(**batch)
    lm, vectors = model.lm, model.vectors
    expected = {"ce": 0.0, "rmb": 0.0, "kl": 0.0}
    for b in range(3):
        context = batch["context"][b]
        target = batch["target"][b][batch["target_mask"][b].bool()]
        inside = torch.cat([embed(lm, context), vectors[:2]])[None]
        Z = lm(inputs_embeds=inside, output_hidden_states=True).hidden_states[-2][0, -2:]
        for name, cue, text in (("ce", 2, target), ("rmb", 3, context)):
            prefix = torch.cat([Z, vectors[cue : cue + 1], embed(lm, text)])[None]
            log_q = lm(inputs_embeds=prefix).logits[0].log_softmax(-1)
            for t, token in enumerate(text):
                expected[name] -= log_q[2 + t, token].item()
            if name == "ce":
                full = lm(torch.cat([context, text])[None]).logits[0].log_softmax(-1)
                for t in range(len(text)):
                    p = full[len(context) - 1 + t]
                    expected["kl"] += (p.exp() * (p - log_q[2 + t])).sum().item()
    for name, value in expected.items():
        assert sums[name].item() == pytest.approx(value, rel=1e-4), name
    assert sums["kl"] > 0


@torch.no_grad()
def test_divergence_is_zero_where_nothing_is_lost() -> None:
    from terse.methods.compression.losses import divergence

    logits = torch.randn(2, 4, 9)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    assert divergence(logits, logits + 3.0, mask).item() == pytest.approx(0.0, abs=1e-6)
    other = torch.randn(2, 4, 9)
    assert divergence(logits, other, mask) > 0
    changed = other.clone()
    changed[1, 2:] = 100.0
    assert divergence(logits, changed, mask) == divergence(logits, other, mask)


def test_cross_entropy_does_not_depend_on_the_other_losses() -> None:
    batch = batch_of()
    torch.manual_seed(1)
    alone = compressor(static_control=False)(**batch)["ce"]
    for changes in ({"kl_scale": 3.0}, {"rmb_task": True}, {"static_control": True}):
        torch.manual_seed(1)
        assert compressor(**{"static_control": False, **changes})(**batch)["ce"] == alone


@torch.no_grad()
def test_overlap_is_trained_on_and_stays_out_of_the_divergence() -> None:
    model = compressor(seq_overlap=2, kl_scale=1.0)
    context, new = random_tokens(1, 6), random_tokens(1, 5, seed=4)
    target = torch.cat([context[:, -2:], new], 1)
    ones = torch.ones_like(target)
    sums = model(
        context=context, context_mask=torch.ones_like(context), target=target, target_mask=ones,
        is_new=torch.tensor([[0, 0, 1, 1, 1, 1, 1]]),
    )  # fmt: skip
    Z = model.compress(context, torch.ones_like(context))
    log_q = read(model, Z, target).log_softmax(-1)
    expected = -log_q.gather(2, target[..., None]).sum()
    torch.testing.assert_close(sums["ce"], expected, rtol=1e-4, atol=1e-4)
    log_p = model.lm(torch.cat([context, new], 1)).logits[:, 5:-1].log_softmax(-1)
    expected = (log_p.exp() * (log_p - log_q[:, 2:])).sum()
    torch.testing.assert_close(sums["kl"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("loss", "changes"),
    [("rmb", {"rmb_task": True}), ("csl", {"csl_task": True, "train_embs": True})],
)
@torch.no_grad()
def test_losses_over_the_context_read_real_tokens_only(loss: str, changes: dict) -> None:
    model = compressor(**changes)
    batch = batch_of(B=1)
    batch["target_mask"] = torch.ones_like(batch["target"])
    expected = model(**batch)[loss]
    batch["context"] = nn.functional.pad(batch["context"], (3, 0))
    batch["context_mask"] = nn.functional.pad(batch["context_mask"], (3, 0))
    assert model(**batch)[loss].item() == pytest.approx(expected.item(), rel=1e-4)
