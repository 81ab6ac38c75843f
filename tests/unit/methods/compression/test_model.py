"""What the compressor sees, what it says, and what of it moves, on six architectures."""

from typing import Any

import pytest
import torch
from torch import nn

from terse.errors import TerseError
from terse.methods.compression.frozen_lm import embed
from terse.methods.compression.model import Batch, Compressor, rows_like
from terse.methods.compression.settings import CompressionSettings
from tiny_compressor import ARCHITECTURES, SETTINGS, batch_of, compressor, read
from tiny_lms import VOCAB, WIDTH, random_tokens, tiny_lm


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_tokens_own_embeddings_as_vectors_give_the_full_context(architecture: str) -> None:
    """The identity oracle: c = k, Z the embeddings, no cue."""
    model = compressor(architecture)
    batch = batch_of()
    full = model.lm(torch.cat([batch["context"], batch["target"]], 1)).logits[:, 5:-1]
    ones = torch.ones_like(batch["target"])
    read_back = model.read(embed(model.lm, batch["context"]), batch["target"], ones)
    torch.testing.assert_close(read_back, full, rtol=1e-5, atol=1e-5)
    whole = model.read_context(Batch(**{**batch, "target_mask": ones}))
    torch.testing.assert_close(whole, full, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_padding_anywhere_changes_nothing(architecture: str) -> None:
    model = compressor(architecture, sep_cmpr=True)
    tokens = random_tokens(1, 6)
    Z = model.compress(tokens, torch.ones_like(tokens))
    for places in ([0, 1, 2], [6, 7, 8], [0, 4, 8]):
        mask = torch.ones(1, 9, dtype=torch.long)
        mask[:, places] = 0
        padded = torch.zeros(1, 9, dtype=torch.long)
        padded[mask.bool()] = tokens[0]
        padded_Z = model.compress(padded, mask)
        torch.testing.assert_close(padded_Z, Z, rtol=1e-4, atol=1e-4)
    target = random_tokens(1, 5, seed=3)
    logits = read(model, Z, target)
    longer = nn.functional.pad(target, (0, 3), value=9)
    mask = nn.functional.pad(torch.ones_like(target), (0, 3))
    padded_logits = model.read(model.prefix(Z, "forward"), longer, mask)[:, :5]
    torch.testing.assert_close(padded_logits, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_full_context_does_not_see_padding(architecture: str) -> None:
    model, batch = compressor(architecture), batch_of(B=1)
    batch["target_mask"] = torch.ones_like(batch["target"])
    expected = model.read_context(Batch(**batch))
    batch["context"] = nn.functional.pad(batch["context"], (4, 0))
    batch["context_mask"] = nn.functional.pad(batch["context_mask"], (4, 0))
    found = model.read_context(Batch(**batch))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layer", [0, 1, "half", -2, -1, "output"])
@torch.no_grad()
def test_vectors_know_the_context_exactly_where_a_block_has_mixed_it_in(
    architecture: str, layer: int | str
) -> None:
    model = compressor(architecture, cmp_layer=layer)
    tokens = random_tokens(1, 6)
    Z = model.compress(tokens, torch.ones_like(tokens))
    assert Z.shape == (1, 2, WIDTH)
    other = model.compress(random_tokens(1, 6, seed=5), torch.ones_like(tokens))
    if layer == 0:
        assert torch.equal(Z, other)
    else:
        assert (Z - other).abs().max() > 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_a_logit_knows_neither_its_target_nor_later_ones(architecture: str) -> None:
    model = compressor(architecture)
    context = random_tokens(1, 6)
    Z, target = model.compress(context, torch.ones_like(context)), random_tokens(1, 5, seed=2)
    logits = read(model, Z, target)
    for t in range(5):
        changed = target.clone()
        changed[:, t:] = random_tokens(1, 5, seed=7)[:, t:]
        after = read(model, Z, changed)
        torch.testing.assert_close(after[:, : t + 1], logits[:, : t + 1], rtol=0, atol=1e-5)
        if t < 4:
            assert (after[:, t + 1 :] - logits[:, t + 1 :]).abs().max() > 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_vector_depends_on_the_rows_up_to_its_own(architecture: str) -> None:
    model = compressor(architecture, n_cmps=3, sep_cmpr=True)
    context = random_tokens(1, 6)
    for i in range(3):
        model.zero_grad()
        Z = model.compress(context, torch.ones_like(context))
        Z[0, i].square().sum().backward()
        touched = model.vectors.grad.abs().sum(1) > 0  # type: ignore[union-attr]
        # CMP_0..2, FWD, RMB, SEP: the original masked CMP_j out for CMP_i, j < i.
        assert touched.tolist() == [j <= i for j in range(3)] + [False, False, True]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_only_the_rows_are_trained_and_the_rest_stays_bit_identical(architecture: str) -> None:
    model = compressor(
        architecture, sep_cmpr=True, proj_cmpr=True, proj_hid_mult=2.0, rmb_task=True, kl_scale=0.5
    )
    trained = {name for name, _ in model.trained()}
    assert trained == set(model.state_dict())
    n_trained = sum(p.numel() for _, p in model.trained())
    rows, static, projection = 2 + 2 + 1, 3, 16 * 32 + 32 + 32 * 16 + 16
    assert n_trained == (rows + static) * WIDTH + projection
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for _, p in model.trained()], lr=0.1, weight_decay=0.1)
    model.train()
    assert not any(module.training for module in model.lm.modules())
    for step in range(3):
        sum(model(**batch_of(seed=step)).values()).backward()  # type: ignore[union-attr]
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in trained), name


def test_what_is_opted_in_is_trained() -> None:
    tied = compressor("gpt2", train_embs=True, static_control=False)
    assert dict(tied.trained()).keys() == {"vectors", "lm.transformer.wte.weight"}
    heads = compressor("llama", train_lmhead=True, csl_task=True, static_control=False)
    assert dict(heads.trained()).keys() == {"vectors", "lm.lm_head.weight"}
    sums = heads(**batch_of())
    assert {"ce", "csl"} == set(sums)
    tokens = torch.cat([batch_of()["context"], batch_of()["target"]], 1)
    labels = tokens.clone()
    labels[-1, -2:] = -100
    expected = heads.lm(tokens, labels=labels).loss * (3 * 10 - 2)
    assert sums["csl"].item() == pytest.approx(expected.item(), rel=1e-5)


@torch.no_grad()
def test_spans_are_compressed_by_themselves_and_stand_in_order() -> None:
    model = compressor(n_spans=2, seq_len=17)
    context = random_tokens(2, 12)
    Z = model.compress(context, torch.ones_like(context))
    single = compressor()
    single.vectors.copy_(model.vectors)
    parts = [single.compress(part, torch.ones_like(part)) for part in context.split(6, 1)]
    torch.testing.assert_close(Z, torch.cat(parts, 1))


@torch.no_grad()
def test_overlap_is_read_raw_and_full_context_does_not_repeat_it() -> None:
    model = compressor(seq_overlap=2)
    batch = batch_of(n=5, B=1)
    batch = {name: value[:1] for name, value in batch.items()}
    new = random_tokens(1, 5, seed=4)
    target = torch.cat([batch["context"][:, -2:], new], 1)
    ones = torch.ones_like(target)
    is_new = torch.tensor([[0, 0, 1, 1, 1, 1, 1]])
    whole = Batch(batch["context"], batch["context_mask"], target, ones, is_new)
    expected = model.lm(torch.cat([batch["context"], new], 1)).logits[:, 5:-1]
    torch.testing.assert_close(model.read_context(whole)[:, 2:], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_expected_embedding_is_a_mean_over_the_vocabulary() -> None:
    model = compressor("llama", cmp_layer="output")
    context = random_tokens(1, 6)
    inside = torch.cat([embed(model.lm, context), model.vectors[None, :2]], 1)
    shares = model.lm(inputs_embeds=inside).logits[:, -2:].softmax(-1)
    expected = sum(shares[..., v : v + 1] * embed(model.lm, torch.tensor(v)) for v in range(VOCAB))
    Z = model.compress(context, torch.ones_like(context))
    torch.testing.assert_close(Z, expected, rtol=1e-4, atol=1e-4)


def test_targets_that_the_model_writes_itself() -> None:
    batch = batch_of()
    hard = compressor("llama", gen_targs=True, static_control=False)
    written = hard.rewritten(Batch(**batch)).target
    tokens = batch["context"]
    for _ in range(5):
        following = hard.lm(tokens).logits[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, following], 1)
    same = written == tokens[:, 6:]
    # EOS is held back until the window is full; up to there the texts agree.
    upto = (tokens[:, 6:] == 2).cumsum(1) == 0
    assert same[upto].all()
    expected = compressor("llama", static_control=False)
    expected.load_state_dict(hard.state_dict())
    assert hard(**batch)["ce"] == expected(**{**batch, "target": written})["ce"]
    soft = compressor("llama", gen_targs=True, gen_ids=False, static_control=False)
    soft.load_state_dict(hard.state_dict())
    full = soft.read_context(Batch(**{**batch, "target": written}))
    logits = soft.read(
        soft.prefix(soft.compress(batch["context"], batch["context_mask"]), "forward"),
        written, batch["target_mask"],
    )  # fmt: skip
    by_hand = -(full.softmax(-1) * logits.log_softmax(-1)).sum(-1)
    expected_sum = (by_hand * batch["is_new"]).sum().item()
    assert soft(**batch)["ce"].item() == pytest.approx(expected_sum, rel=1e-4)


def test_rows_have_the_mean_and_spread_of_the_embeddings() -> None:
    table = torch.randn(5000, 8) * torch.linspace(0.01, 2, 8) + torch.linspace(-1, 3, 8)
    rows = rows_like(table, 4000)
    torch.testing.assert_close(rows.mean(0), table.mean(0), rtol=0, atol=0.15)
    torch.testing.assert_close(rows.std(0), table.std(0), rtol=0.1, atol=0)


def test_half_precision_base_with_float32_rows() -> None:
    lm = tiny_lm("llama").to(torch.bfloat16)
    model = Compressor(lm, CompressionSettings.model_validate(SETTINGS | {"proj_cmpr": True}))
    assert {p.dtype for _, p in model.trained()} == {torch.float32}
    sums = model(**batch_of())
    sum(sums.values()).backward()  # type: ignore[union-attr]
    assert model.vectors.grad is not None
    assert torch.isfinite(model.vectors.grad).all()
    exact = compressor(proj_cmpr=True)
    exact.load_state_dict(model.state_dict())
    assert sums["ce"].item() == pytest.approx(exact(**batch_of())["ce"].item(), rel=0.05)


def test_embeddings_narrower_than_hidden_states_need_a_projection() -> None:
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=VOCAB, hidden_size=16, word_embed_proj_dim=8, ffn_dim=32, num_hidden_layers=3,
        num_attention_heads=2, max_position_embeddings=128, pad_token_id=0,
    )  # fmt: skip
    lm = OPTForCausalLM(config)
    with pytest.raises(TerseError, match="16 wide, embeddings 8: set proj_cmpr: true"):
        Compressor(lm, CompressionSettings.model_validate(SETTINGS))
    model = Compressor(lm, CompressionSettings.model_validate(SETTINGS | {"proj_cmpr": True}))
    context = random_tokens(1, 6)
    assert model.compress(context, torch.ones_like(context)).shape == (1, 2, 8)


def test_a_model_spread_by_a_device_map_trains_alike(tmp_path: Any) -> None:
    """One block lies on the disk and is fetched for each pass."""
    from transformers import AutoModelForCausalLM

    tiny_lm("llama").save_pretrained(tmp_path / "base")
    places: dict[str, Any] = {
        "model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk",
        "model.layers.2": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu",
    }  # fmt: skip
    spread = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", device_map=places, offload_folder=tmp_path / "disk"
    )
    assert next(spread.model.layers[1].parameters()).device.type == "meta"
    model = Compressor(spread, CompressionSettings.model_validate(SETTINGS))
    assert model.hf_device_map == places
    whole = compressor()
    whole.load_state_dict(model.state_dict())
    for each in (model, whole):
        sum(each(**batch_of()).values()).backward()
    torch.testing.assert_close(model.vectors.grad, whole.vectors.grad)
    assert not hasattr(whole, "hf_device_map")
