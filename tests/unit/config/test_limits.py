"""Seeds and rows that a job could not take are refused before any job."""

from typing import Any

import pytest
from pydantic import ValidationError

from terse.config.workflow import Workflow
from terse.errors import TerseError
from terse.settings.harness import Harness

CORPORA = {"c": {"source": "python-docs"}}
TOKENIZERS = {"t": {"corpus": "c"}}
BASE = {"method": "causal-lm", "corpus": "c", "tokenizer": "t", "max_steps": 1, "ctx_len": 64}


def workflow(**runs: Any) -> Workflow:
    return Workflow.model_validate({"corpora": CORPORA, "tokenizers": TOKENIZERS, "runs": runs})


def test_rows_longer_than_the_base_reads_are_refused() -> None:
    more = {"method": "causal-lm", "corpus": "c", "base": "base", "max_steps": 1}
    again = {**more, "base": "more"}
    workflow(base=BASE, more={**more, "ctx_len": 64})
    longer = {"more": {**more, "ctx_len": 64}, "again": {**again, "ctx_len": 128}}
    for runs in ({"more": {**more, "ctx_len": 65}}, longer):
        with pytest.raises((TerseError, ValidationError), match="its base base has 64 positions"):
            workflow(base=BASE, **runs)


@pytest.mark.parametrize(
    ("key", "fits", "longer"),
    [
        ("context_len", {"method": "forgetting", "context_len": 48, "block_len": 16}, 49),
        ("seq_len", {"method": "compression", "cmp_len": 10, "seq_len": 64}, 65),
    ],
)
def test_windows_of_every_method_fit_its_base(key: str, fits: dict[str, Any], longer: int) -> None:
    run = {**fits, "corpus": "c", "base": "base", "max_steps": 2, "warmup_steps": 0}
    if run["method"] == "forgetting":
        run["exploration_epochs"] = [0.5, 0]
    workflow(base=BASE, short=run)
    with pytest.raises((TerseError, ValidationError), match=f"runs.long.{key}: rows of 65 tokens"):
        workflow(base=BASE, long={**run, key: longer})


@pytest.mark.parametrize("seed", [2**32, 2**40, -1])
def test_a_seed_that_numpy_cannot_take_is_refused(seed: int) -> None:
    with pytest.raises((TerseError, ValidationError), match="seed"):
        workflow(base={**BASE, "seed": seed})
    with pytest.raises((TerseError, ValidationError), match="seed"):
        Harness.model_validate({"seed": seed})
    workflow(base={**BASE, "seed": 2**32 - 1})
