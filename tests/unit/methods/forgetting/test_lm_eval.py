"""The library's own tests of a correct LM on a base that is read through its mask."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from terse.corpora.token_store import TokenStore
from terse.errors import TerseError
from terse.methods.forgetting.evaluation import Evaluated, arms_of, rows_of
from terse.methods.forgetting.lm_eval import ForgetfulLM
from terse.methods.forgetting.method import Forgetting
from terse.methods.forgetting.rows import AllBlocks
from terse.methods.forgetting.spec import FORGETTING
from terse.training.method import Inputs
from tiny_asking import (
    ask,
    check_that_order_and_batch_size_change_nothing,
    check_that_parts_add_up,
    check_that_the_likeliest_is_written,
    check_that_the_start_is_plain,
)
from tiny_forgetting import forgetting

MASKS: dict[str, dict[str, Any]] = {
    "rnn": {"mask": "rnn", "decide": "calibrated"},
    "recency": {"mask": "recency", "positions": "compact", "hidden_dim": 512},
    "surprisal": {"mask": "surprisal", "protect_first": 4, "hidden_dim": 512},
}


@dataclass(frozen=True)
class Published:
    """A method, the folder of its model, and this model as lm-eval asks it."""

    method: Forgetting
    folder: Path
    lm: ForgetfulLM


@pytest.fixture(scope="module", params=MASKS.values(), ids=list(MASKS))
def found(
    request: pytest.FixtureRequest, inputs: Inputs, tmp_path_factory: pytest.TempPathFactory
) -> Published:
    folder = tmp_path_factory.mktemp("forgetter")
    method = forgetting(inputs, **request.param)
    model = method.build()
    with torch.no_grad():  # far from uniform
        for parameter in model.parameters():
            parameter.mul_(3.0)
    method.save(model, folder)
    method.tokenizer.save_pretrained(folder)
    return Published(method, folder, ForgetfulLM(folder, batch_size=4))


@pytest.fixture
def lm(found: Published) -> ForgetfulLM:
    return found.lm


@pytest.mark.parametrize("cut", [3, 17, 19, 20, 24, 27, 30])
def test_likelihoods_of_parts_add_up(lm: ForgetfulLM, cut: int) -> None:
    check_that_parts_add_up(lm, cut)


@torch.no_grad()
def test_blocks_are_scored_as_the_arm_of_the_evaluation(found: Published) -> None:
    method, lm = found.method, found.lm
    assert method.inputs.tokens is not None
    store = TokenStore(method.inputs.tokens, "validation")
    documents = [store.document(i).tolist() for i in range(len(store))]
    k, n = lm.context, lm.block
    tokens = min((d for d in documents if len(d) > k + 2 * n), key=len)
    assert lm.encode(lm.decode(tokens)) == tokens
    windows = AllBlocks(store, method.lengths, method.start, method.start)
    firsts = range(k, len(tokens), n)
    items = [windows.window(documents.index(tokens), first) for first in firsts]
    given = Evaluated(method.load(found.folder), {}, windows, None, "cpu")
    arms = {arm: (keep, scores) for arm, keep, scores, _ in arms_of(given, rows_of(items, "cpu"))}
    keep, scores = arms["mask-f0.5"]
    assert (~keep[:, 1 : k + 1]).float().mean() == pytest.approx(0.45, abs=0.15)
    assert (scores.nats.sum(1) - arms["identity"][1].nats.sum(1)).abs().max() > 0.1
    for i, first in enumerate(firsts):
        logs, best = lm.score([tokens[first - k : first + n]])[0]
        of_block = scores.scored[i]
        torch.testing.assert_close(-logs[k:], scores.nats[i][of_block], rtol=1e-4, atol=1e-4)
        assert best[k:].tolist() == scores.hit[i][of_block].tolist()
    start = float(lm.score([tokens[:k]])[0][0].sum())
    whole = ask(lm, "loglikelihood_rolling", (lm.decode(tokens),))[0]
    assert whole == pytest.approx(start - float(scores.nats.sum()), rel=1e-5)


def test_the_start_is_the_published_models_own_likelihood(found: Published) -> None:
    check_that_the_start_is_plain(found.lm, found.folder)


def test_order_and_batch_size_change_nothing(lm: ForgetfulLM) -> None:
    check_that_order_and_batch_size_change_nothing(lm)


@pytest.mark.parametrize("n", [0, 5, 19, 30])
def test_what_is_written_is_the_likeliest_at_each_place(lm: ForgetfulLM, n: int) -> None:
    check_that_the_likeliest_is_written(lm, n)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask": "rnn", "decide": "sample"}, "draws different tokens to forget"),
        ({"mask": "random", "hidden_dim": 512}, "draws different tokens to forget"),
        ({"task": "filler", "base": None, "corpus": None}, "synthetic task"),
    ],
)
def test_what_has_no_one_likelihood_is_refused(
    changes: dict[str, Any], words: str, inputs: Inputs, tmp_path: Path
) -> None:
    settings = FORGETTING.weight_params(forgetting(inputs, **changes).settings)
    (tmp_path / "forgetter.json").write_text(json.dumps({"settings": settings}))
    with pytest.raises(TerseError, match=words):
        ForgetfulLM(tmp_path)


def test_a_mask_is_published_with_what_it_counted(inputs: Inputs, tmp_path: Path) -> None:
    method = forgetting(inputs, mask="surprisal", hidden_dim=512)
    method.save(method.build(), tmp_path)
    counts = load_file(tmp_path / "mask.safetensors")["counts"]
    assert torch.equal(counts, method.counts())
    alone = forgetting(Inputs(base=inputs.base), mask="surprisal", hidden_dim=512)
    assert torch.equal(alone.load(tmp_path).mask.get_buffer("counts"), counts)
    save_file({}, tmp_path / "mask.safetensors")  # of an earlier version: counted again
    assert torch.equal(method.load(tmp_path).mask.get_buffer("counts"), counts)
    with pytest.raises(TerseError, match="needs a tokens file"):
        alone.load(tmp_path)


def test_a_folder_without_a_mask_is_told(inputs: Inputs) -> None:
    assert inputs.base is not None
    with pytest.raises(TerseError, match=r"forgetter\.json is missing"):
        ForgetfulLM(inputs.base)
