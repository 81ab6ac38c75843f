"""Positions, masks and generation of the method `blotching`."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from terse.corpora.arithmetic.characters import EOS, PAD, VOCAB_SIZE
from terse.errors import TerseError
from terse.methods.blotching.generation import Ending, generate, sample
from terse.methods.blotching.losses import token_nats
from terse.methods.blotching.model import Blotcher, check_positions
from terse.methods.blotching.rows import IGNORED
from tiny_blotching import POSENCS, blotching, built, long_chain, rng, settings
from tiny_lms import BUILD

EVERY = {
    posenc: {"posenc_type": posenc} | ({} if posenc.startswith("Rotary") else {"max_posencs": 200})
    for posenc in POSENCS
}


def batch_of(method: Any, n: int = 6, p: float = 0.5) -> dict[str, Tensor]:
    rows = [method.layout.row(method.validation_chains[i], p, rng(i)) for i in range(n)]
    return method.collate(rows)


def logits_of(model: Blotcher, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(batch["input_ids"], batch["attention_mask"], batch["position_ids"])


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


def test_share_zero_has_the_loss_of_whole_chains_bit_for_bit() -> None:
    vanilla, blind = blotching(arm="vanilla"), blotching(arm="blind", blotch_p=0.0)
    model = built(vanilla)
    for rows in ("training_rows", "validation_rows"):
        made = [m.collate([getattr(m, rows)()[i] for i in range(8)]) for m in (vanilla, blind)]
        losses = [m.loss(model, b, 1)[0] for m, b in zip((vanilla, blind), made, strict=True)]
        assert torch.equal(losses[0], losses[1])
        assert losses[0] > 0
    chain = vanilla.validation_chains[0]
    batch = vanilla.collate([vanilla.layout.row(chain, 0.0, rng(0))])
    whole = torch.from_numpy(chain.tokens)
    first = int((chain.steps > 0).argmax())  # the first target
    plain = torch.nn.functional.cross_entropy(
        model.lm(whole[None]).logits[0, first - 1 : -1], whole[first:], reduction="none"
    )
    assert torch.equal(token_nats(model, batch, 1)[0, first - 1 : -1], plain)


def uncached(model: Blotcher, prompt: np.ndarray, places: np.ndarray, ending: Ending) -> list[int]:
    """Return the greedy continuation by reading the whole prefix again for each token."""
    ids = list(prompt)
    while len(ids) < ending.longest and (len(ids) == len(prompt) or ids[-1] != ending.eos):
        n = len(ids)
        batch = {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, n, dtype=torch.long),
            "position_ids": torch.from_numpy(places[:n])[None],
        }
        ids.append(int(logits_of(model, batch)[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("posenc", POSENCS)
def test_cached_generation_equals_reading_the_prefix_again(posenc: str) -> None:
    method = blotching(**EVERY[posenc])
    model = built(method, seed=3)
    with torch.no_grad():
        model.lm.lm_head.weight[EOS] *= 2.5  # some sequences end before others
    chains = method.validation_chains[:8]
    prompts = [method.layout.prompt(c, [0.0, 0.5, 1.0][i % 3]) for i, c in enumerate(chains)]
    places = np.stack([method.layout.positions(rng(i)) for i in range(8)])
    short = Ending(EOS, PAD, max(map(len, prompts)) + 2)
    for line, prompt, place in zip(
        generate(model, prompts, places, short), prompts, places, strict=True
    ):
        expected = uncached(model, prompt, place, short)
        assert line.tolist() == expected + [PAD] * (len(line) - len(expected))
    ending = Ending(EOS, PAD, method.layout.longest)
    written = generate(model, prompts, places, ending)
    lengths = set()
    for line, prompt, place in zip(written, prompts, places, strict=True):
        expected = uncached(model, prompt, place, ending)
        lengths.add(len(expected))
        assert line[: len(expected)].tolist() == expected
        assert (line[len(expected) :] == PAD).all()
    assert len({len(prompt) for prompt in prompts}) > 1
    assert len(lengths) > 1
    assert (written == EOS).any()


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


def test_sampling_follows_the_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]]).repeat(6000, 1)
    generator = torch.Generator().manual_seed(0)
    assert (sample(logits, 0.0, generator) == 2).all()
    for temperature in (0.5, 1.0, 2.0):
        found = sample(logits, temperature, generator).bincount() / 6000
        expected = (torch.tensor([0.0, 1.0, 2.0]) / temperature).softmax(0)
        torch.testing.assert_close(found, expected, atol=0.025, rtol=0)
    seeded = [
        sample(logits, 1.0, torch.Generator().manual_seed(seed)).tolist() for seed in (1, 1, 2)
    ]
    assert seeded[0] == seeded[1] != seeded[2]


def test_tables_are_trained_only_where_they_are_to_be() -> None:
    for posenc in POSENCS[:3]:
        for learnable in (True, False):
            model = built(blotching(**EVERY[posenc], learnable_posencs=learnable))
            names = [name for name, _ in model.named_parameters()]
            assert ("positions.table" in names) == learnable
            assert "positions.table" in model.state_dict()
    model = built(blotching(posenc_type="SinPositionalEncoding", posenc_drop_p=0.5)).train()
    places = torch.arange(1, 40)[None]
    torch.manual_seed(0)
    assert abs((model.positions(places) == 0).float().mean() - 0.5) < 0.08
    found = model.eval().positions(places)[0]
    angles = torch.arange(1, 40)[:, None] / 10000 ** (torch.arange(8) / 8)
    torch.testing.assert_close(found[:, 0::2], angles.sin())
    torch.testing.assert_close(found[:, 1::2], angles.cos())


@pytest.mark.parametrize("posenc", POSENCS[:3])
def test_tables_stand_beside_scaled_embeddings_and_nothing_is_turned(posenc: str) -> None:
    method = blotching(**EVERY[posenc], arm="vanilla")
    model, batch = built(method), batch_of(method, 1, 0.0)
    embeds = 4.0 * model.lm.get_input_embeddings()(batch["input_ids"])  # sqrt(width)
    embeds = embeds + model.positions.table[batch["position_ids"]]
    with torch.no_grad():
        expected = model.lm(
            inputs_embeds=embeds, position_ids=torch.zeros_like(batch["position_ids"])
        ).logits
    torch.testing.assert_close(logits_of(model, batch), expected)


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


def test_smoothing_counts_in_the_loss_and_not_in_the_score() -> None:
    plain, smooth = blotching(), blotching(label_smoothing=0.2)
    model, batch = built(plain), batch_of(plain)
    n = plain.count(batch)
    assert n == batch["labels"].ne(IGNORED).sum()
    logits = logits_of(model, batch).log_softmax(-1)
    chosen = batch["labels"] != IGNORED
    nats = -logits[chosen].gather(1, batch["labels"][chosen][:, None]).sum()
    uniform = -logits[chosen].mean(-1).sum()
    torch.testing.assert_close(plain.loss(model, batch, n)[0], nats / n)
    torch.testing.assert_close(smooth.loss(model, batch, n)[0], (0.8 * nats + 0.2 * uniform) / n)
    assert smooth.score(model, batch)[0] == pytest.approx(nats.item(), rel=1e-5)


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
        with pytest.raises(TerseError, match="counts its positions by itself"):
            check_positions(model, settings(**changes))
