"""Each arm against a naive loop."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from terse.methods.compression.arms import ARMS, ScoredBatch, arms_of, part_means
from terse.methods.compression.evaluation import paired_rows
from terse.methods.compression.frozen_lm import embed
from terse.methods.compression.model import Batch, Compressor
from terse.training.method import Inputs
from tiny_compression import compression


def naive_nats(model: Compressor, arm: str, item: dict, other: dict, o: int) -> list[float]:
    """Return the loss of each new token of one window, one token at a time."""
    lm, (context, target) = model.lm, (item["context"], item["target"][item["is_new"].bool()])
    rows = model.vectors

    def vectors_of(tokens: torch.Tensor) -> torch.Tensor:
        inside = torch.cat([embed(lm, tokens), rows[:2]])[None]
        states = lm(inputs_embeds=inside, output_hidden_states=True).hidden_states
        return torch.cat([states[-2][0, -2:], rows[2:3]])

    states = lm(context[None], output_hidden_states=True).hidden_states[-2][0]
    before = len(context) - o  # where the overlap begins, which follows raw
    prefix = {
        "low": embed(lm, torch.tensor([0])),
        "high": embed(lm, context[:before]),
        "compressed": vectors_of(context),
        "static": model.static,
        "shuffled": vectors_of(other["context"]),
        "tail": embed(lm, context[before - 3 : before]),
        "mean_pool": torch.cat([states[:4].mean(0)[None], states[4:].mean(0)[None], rows[2:3]]),
    }[arm]
    losses = []
    for t, token in enumerate(target):
        inside = torch.cat([prefix, embed(lm, context[before:]), embed(lm, target[:t])])[None]
        losses.append(-lm(inputs_embeds=inside).logits[0, -1].log_softmax(-1)[token].item())
    return losses


def padded(row: dict, n: int) -> Batch:
    """Return a window with n places more in front of its context."""
    fields = {name: row[name][None] for name in Batch.__dataclass_fields__}
    for name in ("context", "context_mask"):
        fields[name] = torch.nn.functional.pad(fields[name], (n, 0))
    return Batch(**fields)


@torch.no_grad()
def test_means_of_parts_are_of_real_states_and_none_is_empty() -> None:
    states = torch.arange(6.0)[None, :, None].repeat(2, 1, 1)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]])
    found = part_means(states, mask, 3)[..., 0]
    assert found.tolist() == [[0.5, 2.5, 4.5], [4, 4, 5]]


@pytest.mark.parametrize(("overlap", "padding"), [(0, 0), (2, 0), (0, 3)])
@pytest.mark.parametrize("arm", list(ARMS))
@torch.no_grad()
def test_each_arm_against_a_naive_loop(
    arm: str, overlap: int, padding: int, trained: Path, inputs: Inputs
) -> None:
    method = compression(inputs, eval_windows=None, seq_overlap=overlap)
    model = method.build().eval()
    model.load_state_dict(load_file(trained / "model" / "model.safetensors"))
    pairs = (pair for rows in paired_rows(method._evaluated, 8) for pair in zip(*rows, strict=True))
    first = next(pairs)
    ragged = next(pair for pair in pairs if not pair[0]["target_mask"].all())
    for row, other in (first, ragged):
        batches = [padded(one, padding) for one in (row, other)]
        logits = ARMS[arm](model, ScoredBatch(batches[0], batches[1], start=0))
        new = row["is_new"].bool()
        nats = -logits[0].log_softmax(-1).gather(1, row["target"][:, None])[:, 0][new]
        expected = naive_nats(model, arm, row, other, overlap)
        np.testing.assert_allclose(nats, expected, rtol=1e-4)


def test_without_its_prompt_there_is_no_static_arm(inputs: Inputs) -> None:
    model = compression(inputs, static_control=False).build()
    assert "static" not in arms_of(model)
    assert "static" not in {m.arm for m in compression(inputs).evaluate(model, "cpu")}
