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


@pytest.mark.parametrize("seed", [2**32, 2**40, -1])
def test_a_seed_that_numpy_cannot_take_is_refused(seed: int) -> None:
    with pytest.raises((TerseError, ValidationError), match="seed"):
        workflow(base={**BASE, "seed": seed})
    with pytest.raises((TerseError, ValidationError), match="seed"):
        Harness.model_validate({"seed": seed})
    workflow(base={**BASE, "seed": 2**32 - 1})
