"""Positions and FLOPs per byte against passes over each window by itself, counted by torch."""

from pathlib import Path

import pytest
import torch

from terse.corpora.token_store import TokenStore
from terse.corpora.windows import scoring_windows
from terse.methods.causal_lm.method import CausalLM
from terse.methods.causal_lm.settings import CausalLMSettings
from terse.training.method import Inputs
from tiny_compression import make_inputs
from torch_flops import flops_by_torch


@pytest.fixture(scope="module")
def method(tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    torch.set_num_threads(1)
    found = make_inputs(tmp_path_factory.mktemp("inputs"))
    assert found.tokens is not None
    settings = CausalLMSettings(
        method="causal-lm", corpus="pages", tokenizer="bpe", ctx_len=40, d_model=16, n_layers=2,
        n_heads=2, n_kv_heads=1, max_steps=1,
    )  # fmt: skip
    tokenizer = Path(found.tokens).parent / "t"
    return CausalLM(settings, Inputs(found.tokens, documents=found.documents, tokenizer=tokenizer))


def test_each_window_costs_what_its_own_pass_does(method: CausalLM) -> None:
    lm, tokens = method.build().eval(), method.inputs.tokens
    assert tokens is not None
    measures = {(m.arm, m.measure): m for m in method.evaluate(lm, "cpu")}
    n_positions, n_flops, known = 0, 0, {}
    for window in scoring_windows(tokens, "validation", 40, 0):
        real = window["attention_mask"].bool()
        n, m = int(real.sum()), int((window["labels"] >= 0).sum())
        if (n, m) not in known:
            ids = window["input_ids"][real][None]
            known[n, m] = flops_by_torch(lambda i=ids, m=m: lm(i, logits_to_keep=m))
        n_positions, n_flops = n_positions + n, n_flops + known[n, m]
    n_bytes = TokenStore(tokens, "validation").n_bytes.sum()
    positions, flops = (measures["model", f"{name}_per_byte"] for name in ("positions", "flops"))
    assert positions.value == pytest.approx(n_positions / n_bytes)
    assert flops.value == pytest.approx(n_flops / n_bytes, rel=0.01)
    assert flops.interval_low < flops.value < flops.interval_high
    assert {m.targets for m in measures.values()} == {"all validation documents of pages"}
