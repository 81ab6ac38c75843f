"""Hooks, early stop, loss and entropy against the plain ways of getting them."""

import pytest
import torch
import transformers as hf
from torch import nn

from terse.activations.capture import Capture, loss_and_entropy
from terse.errors import TerseError
from terse.models.modules import ModuleRef, select_modules

TOKENS = torch.arange(40).view(2, 20)


def naive_loss_and_entropy(logits, tokens):
    log_p = torch.log_softmax(logits[:, :-1].double(), dim=-1)
    loss = -log_p.gather(2, tokens[:, 1:, None])[..., 0]
    return loss, -(log_p.exp() * log_p).nan_to_num(nan=0.0).sum(dim=-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocabulary", [7, 33_000])
def test_loss_and_entropy_equal_log_softmax_in_float64(dtype, vocabulary):
    torch.manual_seed(0)
    logits = (5 * torch.randn(2, 70, vocabulary)).to(dtype)
    tokens = torch.randint(vocabulary, (2, 70))
    before = logits.clone()
    loss, entropy = loss_and_entropy(logits, tokens)
    expected_loss, expected_entropy = naive_loss_and_entropy(logits, tokens)
    assert loss.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected_loss, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(entropy.double(), expected_entropy, rtol=2e-6, atol=2e-6)
    assert torch.equal(logits, before)


def test_logits_far_from_zero_and_impossible_tokens():
    logits = torch.tensor([[[1e4, 1e4 - 1, -torch.inf], [0.0, -torch.inf, -torch.inf], [0, 0, 0]]])
    loss, entropy = loss_and_entropy(logits, torch.tensor([[0, 0, 1]]))
    expected_loss, expected_entropy = naive_loss_and_entropy(logits, torch.tensor([[0, 0, 1]]))
    assert torch.isinf(loss[0, 1])
    torch.testing.assert_close(loss.double(), expected_loss)
    torch.testing.assert_close(entropy.double(), expected_entropy)


def test_nan_logits_give_nan():
    logits = torch.zeros(1, 3, 5)
    logits[0, 1, 2] = torch.nan
    loss, entropy = loss_and_entropy(logits, torch.zeros(1, 3, dtype=torch.int64))
    assert loss.isnan().tolist() == entropy.isnan().tolist() == [[False, True]]


def test_loss_is_the_models_own(model):
    with torch.no_grad():
        result = model(TOKENS, labels=TOKENS)
    loss, _ = loss_and_entropy(result.logits, TOKENS)
    torch.testing.assert_close(loss.mean(), result.loss)


def test_the_pass_stops_after_the_deepest_module(model):
    refs = select_modules(model, [0, 1], ["attn"], [])
    ran = []
    handles = [
        layer.register_forward_hook(lambda *_, i=i: ran.append(i))
        for i, layer in enumerate(model.model.layers)
    ]
    with Capture(model, refs, stop=True) as capture:
        outputs, logits = capture.run(TOKENS)
    for handle in handles:
        handle.remove()
    assert ran == [0]
    assert logits is None
    with Capture(model, refs, stop=False) as capture:
        full, logits = capture.run(TOKENS)
    assert logits is not None
    assert all(torch.equal(outputs[key], full[key]) for key in refs)


def test_hooks_are_gone_after_an_error(model):
    def hooks() -> int:
        return sum(len(module._forward_hooks) for module in model.modules())

    refs = select_modules(model, "all", ["mlp"], [])
    before = hooks()  # transformers leaves its own where hidden states were asked for
    with pytest.raises(RuntimeError, match=f"boom {len(refs)}"), Capture(model, refs, stop=True):
        raise RuntimeError(f"boom {hooks() - before}")
    assert hooks() == before


def test_a_module_that_does_not_run_is_an_error(model):
    refs = {"ghost": ModuleRef("ghost", "ghost", None, nn.Linear(2, 2))}
    with (
        Capture(model, refs, stop=False) as capture,
        pytest.raises(TerseError, match="ghost did not run"),
    ):
        capture.run(TOKENS)


def test_of_a_module_that_runs_several_times_the_last_or_the_named_run_is_kept():
    shared = hf.AlbertModel(
        hf.AlbertConfig(
            embedding_size=8, hidden_size=8, num_hidden_layers=3, num_attention_heads=2,
            intermediate_size=8, vocab_size=64,
        )
    ).eval()  # fmt: skip
    path = "encoder.albert_layer_groups.{layer}"
    mapping = {"last": path, "second": f"{path}#1"}
    refs = select_modules(shared, [0], ["last", "second"], [], mapping)
    with torch.no_grad():
        states = shared(TOKENS, output_hidden_states=True).hidden_states
    for stop in (True, False):
        with Capture(shared, refs, stop=stop) as capture:
            outputs, _ = capture.run(TOKENS)
        torch.testing.assert_close(outputs["last-l0"], states[3])
        torch.testing.assert_close(outputs["second-l0"], states[2])


def test_a_module_without_a_row_per_token_is_an_error(model):
    refs = {"rope": ModuleRef("rope", "rope", None, model.model.rotary_emb)}
    with (
        Capture(model, refs, stop=False) as capture,
        pytest.raises(TerseError, match=r"not \(2, 20, width\)"),
    ):
        capture.run(TOKENS)


def test_what_is_changed_in_place_later_is_kept_as_it_was():
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Embedding(64, 4), nn.Linear(4, 4)

        def forward(self, input_ids):
            hidden = self.first(input_ids)
            hidden += 1
            return self.second(hidden)

    model = Changing()
    refs = {"first": ModuleRef("first", "first", None, model.first)}
    with Capture(model, refs, stop=False) as capture:
        for _ in range(2):
            outputs, _ = capture.run(TOKENS)
            assert torch.equal(outputs["first"], model.first(TOKENS))
