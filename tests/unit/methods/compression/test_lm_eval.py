"""The library's own tests of a correct LM on a base that is read through a compressor."""

from pathlib import Path

import pytest
import torch

from terse.errors import TerseError
from terse.methods.compression.arms import ScoredBatch, compressed
from terse.methods.compression.lm_eval import CompressedLM
from terse.methods.compression.method import Compression
from terse.methods.compression.model import Batch
from tiny_asking import (
    TEXT,
    ask,
    check_that_order_and_batch_size_change_nothing,
    check_that_parts_add_up,
    check_that_the_likeliest_is_written,
    check_that_the_start_is_plain,
)
from tiny_compression import compression, make_inputs


@pytest.fixture(scope="module", params=[{}, {"seq_overlap": 3}], ids=["plain", "overlap"])
def found(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Compression, CompressedLM]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("compressor")
    method = compression(make_inputs(folder), **request.param)
    model = method.build()
    with torch.no_grad():  # far from uniform
        for parameter in model.lm.parameters():
            parameter.mul_(3.0)
        model.vectors.mul_(5.0)
    model.lm.save_pretrained(folder / "base")
    (folder / "model").mkdir()
    method.save(model, folder / "model")
    assert method.inputs.base is not None
    return method, CompressedLM(folder / "model", base=method.inputs.base, batch_size=4)


@pytest.fixture
def lm(found: tuple[Compression, CompressedLM]) -> CompressedLM:
    return found[1]


@pytest.mark.parametrize("cut", [3, 8, 9, 14, 20])
def test_likelihoods_of_parts_add_up(lm: CompressedLM, cut: int) -> None:
    check_that_parts_add_up(lm, cut)


def test_blocks_are_scored_as_the_arm_of_the_evaluation(
    found: tuple[Compression, CompressedLM],
) -> None:
    method, lm = found
    k, n, o = lm.context, lm.block, lm.overlap
    tokens = lm.encode(TEXT)
    row = torch.tensor(tokens[: k + n])
    ones = torch.ones(1, n + o, dtype=torch.long)
    batch = Batch(
        row[None, :k], ones[:, :1].expand(1, k), row[None, k - o :], ones,
        torch.tensor([[0] * o + [1] * n]),
    )  # fmt: skip
    with torch.inference_mode():
        logits = compressed(lm.model, ScoredBatch(batch, batch, method.start))[0, o:]
    expected = torch.log_softmax(logits, -1).gather(-1, row[k:, None]).sum().item()
    context, text = lm.decode(tokens[:k]), lm.decode(tokens[k : k + n])
    assert ask(lm, "loglikelihood", (context, text))[0][0] == pytest.approx(expected, rel=1e-5)


def test_the_start_is_the_bases_own_likelihood(found: tuple[Compression, CompressedLM]) -> None:
    method, lm = found
    assert method.inputs.base is not None
    check_that_the_start_is_plain(lm, method.inputs.base)


def test_order_and_batch_size_change_nothing(lm: CompressedLM) -> None:
    check_that_order_and_batch_size_change_nothing(lm)


@pytest.mark.parametrize("n", [0, 5, 8, 30])
def test_what_is_written_is_the_likeliest_at_each_place(lm: CompressedLM, n: int) -> None:
    check_that_the_likeliest_is_written(lm, n)


def test_a_reproducer_has_no_likelihood(
    found: tuple[Compression, CompressedLM], tmp_path: Path
) -> None:
    method = compression(found[0].inputs, rmb_only=True)
    method.save(method.build(), tmp_path)
    assert method.inputs.base is not None
    with pytest.raises(TerseError, match="only reproduces"):
        CompressedLM(tmp_path, base=method.inputs.base)
