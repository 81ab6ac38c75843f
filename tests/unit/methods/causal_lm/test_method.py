"""The method `causal-lm`: what the model sees, what its loss is, what it starts from."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaForCausalLM

from terse.corpora.documents import write_documents
from terse.corpora.tokenizers import load_tokenizer, train_bpe
from terse.corpora.tokens import tokenize_documents
from terse.errors import TerseError
from terse.methods.causal_lm.method import CausalLM
from terse.methods.causal_lm.settings import CausalLMSettings
from terse.settings.corpora import Corpus
from terse.training.chunked_loss import check_plain_head, chunked_cross_entropy
from terse.training.method import Inputs

SETTINGS = {
    "method": "causal-lm", "corpus": "c", "tokenizer": "t", "max_steps": 3, "batch_size": 4,
    "ctx_len": 32, "d_model": 16, "n_layers": 2, "n_heads": 2, "checkpoint_steps": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Forty pages of the Python documentation with a tokenizer of 300 tokens."""
    folder = tmp_path_factory.mktemp("inputs")
    corpus = Corpus(source="python-docs", max_dataset_size=40, validation_fraction=0.3)
    write_documents(corpus, folder / "d.parquet")
    tokenizer = train_bpe(folder / "d.parquet", vocab_size=300, seed=0, folder=folder / "t")
    tokenize_documents(folder / "d.parquet", tokenizer, folder / "tokens.h5")
    return Inputs(folder / "tokens.h5", folder / "d.parquet", folder / "t")


def method(inputs: Inputs, **changes: Any) -> CausalLM:
    return CausalLM(CausalLMSettings.model_validate(SETTINGS | changes), inputs)


@pytest.fixture(scope="module")
def model(inputs: Inputs) -> LlamaForCausalLM:
    """An untrained model whose predictions are far from uniform."""
    torch.manual_seed(1)
    built = method(inputs).build().eval()
    with torch.no_grad():
        for matrix in (p for p in built.parameters() if p.ndim == 2):
            matrix.mul_(5.0)
    assert isinstance(built, LlamaForCausalLM)
    return built


def random_tokens(*shape: int) -> torch.Tensor:
    return torch.randint(3, 300, shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_prediction_does_not_know_later_tokens(model: LlamaForCausalLM) -> None:
    tokens = random_tokens(1, 32)
    before = model(tokens).logits
    for t in (0, 9, 30):
        changed = tokens.clone()
        changed[:, t + 1 :] = random_tokens(7, 32)[3, t + 1 :]
        after = model(changed).logits
        torch.testing.assert_close(after[:, : t + 1], before[:, : t + 1], rtol=0, atol=1e-5)
        assert (after[:, t + 1 :] - before[:, t + 1 :]).abs().max() > 0.1


@torch.no_grad()
def test_padding_on_the_right_changes_nothing(model: LlamaForCausalLM) -> None:
    tokens = random_tokens(2, 20)
    padded = nn.functional.pad(tokens, (0, 12), value=2)
    mask = (torch.arange(32) < 20).long().expand(2, -1)
    with_padding = model(padded, attention_mask=mask).logits[:, :20]
    torch.testing.assert_close(with_padding, model(tokens).logits, rtol=0, atol=1e-5)


def naive_loss(model: nn.Module, tokens: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the mean over the targets, one position at a time, in float64."""
    log_p = torch.log_softmax(model(tokens).logits.double(), -1)
    losses = [
        -log_p[b, t - 1, labels[b, t]].item()
        for b in range(len(labels))
        for t in range(1, labels.shape[1])
        if labels[b, t] != -100
    ]
    return sum(losses) / len(losses)


@torch.no_grad()
def test_the_loss_is_the_mean_cross_entropy_of_the_targets(
    model: LlamaForCausalLM, inputs: Inputs
) -> None:
    trained = method(inputs)
    rows = trained.training_rows()
    batch = trained.collate([rows[0], rows[len(rows) - 1]])  # type: ignore[arg-type]
    assert (batch["labels"] == -100).any()  # the last row is padded
    n_targets = trained.count(batch)
    assert int(n_targets) == int((batch["labels"][:, 1:] != -100).sum())
    loss, terms = trained.loss(model, batch, n_targets)
    expected = naive_loss(model, batch["input_ids"], batch["labels"])
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert terms == {}


def test_micro_batches_give_the_gradient_of_one_batch(
    model: LlamaForCausalLM, inputs: Inputs
) -> None:
    trained = method(inputs)
    rows = trained.training_rows()
    last = len(rows) - 1  # type: ignore[arg-type]
    chosen = [rows[i] for i in (0, 3, 8, last)]  # the last has fewer targets than the others
    model.requires_grad_(True)

    def gradients(*sizes: int) -> list[torch.Tensor]:
        model.zero_grad()
        n_targets = trained.count(trained.collate(chosen))
        start = 0
        for size in sizes:
            batch = trained.collate(chosen[start : start + size])
            trained.loss(model, batch, n_targets)[0].backward()
            start += size
        found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        return found

    whole = gradients(4)
    for sizes in ((2, 2), (3, 1), (1, 1, 1, 1)):
        for found, expected in zip(gradients(*sizes), whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    model.requires_grad_(False)


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_matrices_decay_vectors_do_not_and_nothing_is_left_out(
    inputs: Inputs, tie_embeddings: bool
) -> None:
    trained = method(inputs, l2=0.3, tie_embeddings=tie_embeddings)
    model = trained.build()
    frozen = model.get_input_embeddings().weight
    frozen.requires_grad_(False)
    decayed, plain = trained.parameter_groups(model)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert all(p.ndim == 2 for p in decayed["params"])
    assert all(p.ndim == 1 for p in plain["params"])
    found = [id(p) for p in decayed["params"] + plain["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters() if p is not frozen)
    names = {id(p): name for name, p in model.named_parameters()}
    assert sum(names[id(p)].endswith("norm.weight") for p in plain["params"]) == 5


def test_the_model_has_the_shape_that_the_settings_say(inputs: Inputs) -> None:
    torch.manual_seed(0)
    model = method(inputs, n_kv_heads=1, h_mult=3.0, n_layers=3, tie_embeddings=False).build()
    d, kv, h, vocabulary = 16, 8, 48, 300
    block = 2 * d * d + 2 * d * kv + 3 * d * h + 2 * d
    assert sum(p.numel() for p in model.parameters()) == 2 * vocabulary * d + 3 * block + d
    tokenizer = load_tokenizer(inputs.tokenizer or "")
    assert model.config.bos_token_id == tokenizer.bos_token_id
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.max_position_embeddings == 32
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())


def test_one_seed_makes_one_model(inputs: Inputs) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in method(inputs).build().parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


@torch.no_grad()
def test_a_saved_model_comes_back(model: LlamaForCausalLM, inputs: Inputs, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    assert not list((tmp_path / "model").glob("*.bin"))
    loaded = method(inputs).load(tmp_path / "model")
    tokens = random_tokens(2, 32)
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert not loaded.training


def test_a_base_gives_its_weights_and_its_tokenizer(
    model: LlamaForCausalLM, inputs: Inputs, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    model.save_pretrained(base)
    load_tokenizer(inputs.tokenizer or "").save_pretrained(base)
    settings = CausalLMSettings(
        method="causal-lm", corpus="c", base="b", max_steps=3, ctx_len=16, checkpoint_steps=[]
    )
    tuned = CausalLM(settings, Inputs(inputs.tokens, inputs.documents, base=base))
    built = tuned.build()
    for name, value in model.state_dict().items():
        assert torch.equal(built.state_dict()[name], value), name
    assert built.training
    assert all(p.requires_grad for p in built.parameters())
    assert tuned.tokenizer_folder() == base
    row = tuned.training_rows()[0]["input_ids"]
    assert row.shape == (16,)
    assert int(row[0]) == load_tokenizer(base).bos_token_id


def test_rows_hold_the_split_that_they_are_named_after(inputs: Inputs) -> None:
    trained = method(inputs)
    bos = load_tokenizer(inputs.tokenizer or "").bos_token_id
    assert inputs.tokens is not None
    for split, rows in (
        ("train", trained.training_rows()),
        ("validation", trained.validation_rows()),
    ):
        n_rows = len(rows)  # type: ignore[arg-type]
        labels = torch.cat([rows[i]["labels"] for i in range(n_rows)]).numpy()
        with h5py.File(inputs.tokens) as file:
            documents = np.split(file[split]["tokens"][:], file[split]["offsets"][1:-1])
        expected = np.concatenate([np.concatenate([[bos], document]) for document in documents])
        np.testing.assert_array_equal(labels[: len(expected)], expected)
        assert (labels[len(expected) :] == -100).all()


def test_a_lacking_input_is_a_sentence(inputs: Inputs, model: LlamaForCausalLM) -> None:
    with pytest.raises(TerseError, match="causal-lm needs a tokenizer"):
        method(Inputs(inputs.tokens)).build()
    with pytest.raises(TerseError, match="causal-lm needs a tokens file"):
        method(Inputs(tokenizer=inputs.tokenizer)).training_rows()
    with pytest.raises(TerseError, match="causal-lm needs a documents file"):
        method(Inputs(inputs.tokens, tokenizer=inputs.tokenizer)).evaluate(model, "cpu")


def test_checkpointing_computes_blocks_twice_and_gives_the_same_gradients(inputs: Inputs) -> None:
    tokens, gradients, calls = random_tokens(4, 32), [], []
    for recompute in (False, True):
        torch.manual_seed(1)
        chosen = method(inputs, gradient_checkpointing=recompute)
        built = chosen.build().train()
        counted = built.get_submodule("model.layers.0.self_attn").register_forward_hook(
            lambda *_, again=recompute: calls.append(again)
        )
        batch = {"input_ids": tokens, "labels": tokens}
        chosen.loss(built, batch, chosen.count(batch))[0].backward()
        counted.remove()
        gradients.append([p.grad for p in built.parameters()])
    assert calls == [False, True, True]
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


@pytest.mark.parametrize("chunk", [7, 31, 1000])
def test_a_loss_in_chunks_is_the_whole_one_and_so_are_its_gradients(
    inputs: Inputs, chunk: int
) -> None:
    tokens = random_tokens(4, 32)
    labels = tokens.clone()
    labels[0, 10:], labels[1, ::3] = -100, -100
    batch, found = {"input_ids": tokens, "labels": labels}, []
    for chosen in (method(inputs), method(inputs, loss_chunk=chunk)):
        torch.manual_seed(1)
        built = chosen.build().train()
        loss, _ = chosen.loss(built, batch, chosen.count(batch))
        loss.backward()
        found.append((loss.detach(), [p.grad for p in built.parameters()]))
    (whole, of_whole), (chunked, of_chunks) = found
    assert abs(float(chunked / whole) - 1) < 1e-6
    for one, other in zip(of_whole, of_chunks, strict=True):
        assert one is not None
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-7)


class Logits(TorchDispatchMode):
    """Notes the positions of each tensor of logits that is made."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.sizes = vocabulary, list[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.ndim > 1 and made.shape[-1] == self.vocabulary:
            self.sizes.append(made.numel() // self.vocabulary)
        return made


def test_no_more_than_a_chunk_of_logits_is_made_at_a_time_and_none_twice(inputs: Inputs) -> None:
    batch = {"input_ids": random_tokens(4, 32), "labels": random_tokens(4, 32)}
    products, sizes = [], []
    for changes in ({}, {"loss_chunk": 40}):
        chosen = method(inputs, **changes)
        built = chosen.build().train()
        with FlopCounterMode(display=False) as counter, Logits(len(chosen._tokenizer)) as logits:
            chosen.loss(built, batch, chosen.count(batch))[0].backward()
        products.append(counter.get_total_flops())
        sizes.append(set(logits.sizes) - {16})  # the head's weight is one of (16, V), transposed
    assert max(sizes[0]) >= 4 * 31
    assert sizes[1] == {40, 4}
    assert products[1] <= products[0]


@pytest.mark.parametrize("bias", [True, False])
def test_chunks_have_the_gradients_of_the_head_too(bias: bool) -> None:
    torch.manual_seed(0)
    head, hidden = nn.Linear(16, 50, bias=bias), torch.randn(30, 16, requires_grad=True)
    labels = torch.randint(50, (30,))
    labels[::4] = -100
    sides, found = [hidden, *head.parameters()], []
    for loss in (
        nn.functional.cross_entropy(head(hidden), labels, reduction="sum"),
        chunked_cross_entropy(hidden, head, labels, 7),
    ):
        found.append((loss, torch.autograd.grad(3 * loss, sides)))
    (whole, slopes), (chunked, ours) = found
    torch.testing.assert_close(chunked, whole)
    for one, other in zip(ours, slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    with pytest.raises(RuntimeError, match="differentiated already"):
        chunked.backward()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert chunked_cross_entropy(hidden, head, labels, 7).item() == chunked.item()
    assert counter.get_total_flops() == 2 * (labels >= 0).sum().item() * 16 * 50
    frozen = chunked_cross_entropy(hidden, head.requires_grad_(False), labels, 7)
    (alone,) = torch.autograd.grad(3 * frozen, hidden)
    assert torch.equal(alone, ours[0])


def test_chunks_in_autocast_add_up_in_float32() -> None:
    torch.manual_seed(0)
    head, hidden = nn.Linear(64, 50), torch.randn(4000, 64, requires_grad=True)
    labels = torch.randint(50, (4000,))
    exact = torch.autograd.grad(
        nn.functional.cross_entropy(head(hidden), labels, reduction="sum"), [hidden, head.weight]
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = chunked_cross_entropy(hidden, head, labels, 10)
    found = torch.autograd.grad(loss, [hidden, head.weight])
    assert loss.dtype == torch.float32
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.01 * other.norm()


def test_capped_logits_and_several_processes_are_refused(inputs: Inputs) -> None:
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8,
             "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 50}  # fmt: skip
    capped = Gemma2ForCausalLM(Gemma2Config(**small, final_logit_softcapping=0.01))
    with pytest.raises(TerseError, match="Gemma2ForCausalLM scales or caps its logits"):
        check_plain_head(capped)

    class More(nn.Linear):
        pass

    other = method(inputs).build()
    other.set_output_embeddings(More(16, 300, bias=False))
    with pytest.raises(TerseError, match="makes its logits with no plain linear layer"):
        check_plain_head(other)
    with pytest.raises(TerseError, match="loss_chunk works in one process, not in 2"):
        method(inputs, loss_chunk=40).settings.share(2)
    assert "loss_chunk" not in method(inputs).spec.result_params(method(inputs).settings)
    assert method(inputs).settings.share(2) == (2, 1)
