"""The library's own tests of a correct LM on a base that is read through a compressor."""

import itertools
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from tiny_compression import compression, make_inputs

from terse.errors import TerseError
from terse.evaluation.harness import language_model
from terse.models.compression.arms import Setting, compressed
from terse.models.compression.harness import CompressedLM
from terse.models.compression.method import Compression
from terse.models.compression.model import Batch

TEXT = "Once there was a text that is longer than a window of some tokens; it went on and on, über."


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


def ask(lm: Any, kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    requests: Any = [
        Instance(kind, doc={}, arguments=args, idx=i)  # type: ignore[arg-type]
        for i, args in enumerate(arguments)
    ]
    return getattr(lm, kind)(requests)


def pieces(lm: CompressedLM, *cuts: int) -> list[str]:
    """Return the text cut between tokens."""
    tokens = lm.encode(TEXT)
    bounds = [0, *cuts, len(tokens)]
    parts = [lm.decode(tokens[a:b]) for a, b in itertools.pairwise(bounds)]
    assert "".join(parts) == TEXT
    return parts


@pytest.mark.parametrize("cut", [3, 8, 9, 14, 20])
def test_likelihoods_of_parts_add_up(lm: CompressedLM, cut: int) -> None:
    a, b, c = pieces(lm, cut, cut + 5)
    pairs = [("", TEXT), ("", a), (a, b), (a + b, c), (a, b + c)]
    (whole, _), (first, _), (second, _), (third, _), (rest, _) = ask(lm, "loglikelihood", *pairs)
    assert whole == pytest.approx(first + second + third, rel=1e-5)
    assert rest == pytest.approx(second + third, rel=1e-5)
    assert ask(lm, "loglikelihood_rolling", (TEXT,))[0] == pytest.approx(whole, rel=1e-6)


def test_blocks_are_scored_as_the_arm_of_the_evaluation(
    found: tuple[Compression, CompressedLM],
) -> None:
    method, lm = found
    k, n = lm.lengths.context, lm.lengths.new
    tokens = lm.encode(TEXT)
    row = torch.tensor(tokens[: k + n])
    o = lm.lengths.overlap
    ones = torch.ones(1, n + o, dtype=torch.long)
    batch = Batch(
        row[None, :k], ones[:, :1].expand(1, k), row[None, k - o :], ones,
        torch.tensor([[0] * o + [1] * n]),
    )  # fmt: skip
    with torch.inference_mode():
        logits = compressed(lm.model, Setting(batch, batch, method.start))[0, o:]
    expected = torch.log_softmax(logits, -1).gather(-1, row[k:, None]).sum().item()
    context, text = lm.decode(tokens[:k]), lm.decode(tokens[k : k + n])
    assert ask(lm, "loglikelihood", (context, text))[0][0] == pytest.approx(expected, rel=1e-5)


def test_the_start_is_the_bases_own_likelihood(found: tuple[Compression, CompressedLM]) -> None:
    method, lm = found
    assert method.inputs.base is not None
    base = language_model(method.inputs.base, device="cpu", batch_size=2)
    start = lm.decode(lm.encode(TEXT)[: lm.lengths.context])
    expected = ask(base, "loglikelihood", ("", start))[0][0]
    assert ask(lm, "loglikelihood", ("", start))[0][0] == pytest.approx(expected, rel=1e-4)


def test_order_and_batch_size_change_nothing(lm: CompressedLM) -> None:
    pairs = [("a context", " x"), ("", TEXT), (TEXT, " and more"), ("b ", "c" * 40), ("", "z")]
    expected = ask(lm, "loglikelihood", *pairs)
    backwards = ask(lm, "loglikelihood", *pairs[::-1])[::-1]
    one_by_one = [ask(lm, "loglikelihood", pair)[0] for pair in pairs]
    for other in (backwards, one_by_one):
        for (ours, greedy), (theirs, flag) in zip(other, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
            assert greedy == flag


@pytest.mark.parametrize("n", [0, 5, 8, 30])
def test_what_is_written_is_the_likeliest_at_each_place(lm: CompressedLM, n: int) -> None:
    context = lm.encode(TEXT)[:n]
    written = [token for token, _ in zip(lm.write(context), range(20), strict=False)]
    assert len(written) > 8
    for place in range(n, n + len(written)):
        begin, _ = lm.window(place)
        row = (context + written)[begin : place + 1]
        assert lm.score([row])[0][1][-1]


def test_a_reproducer_has_no_likelihood(found: tuple[Compression, CompressedLM], tmp_path) -> None:
    method = compression(found[0].inputs, rmb_only=True)
    method.save(method.build(), tmp_path)
    assert method.inputs.base is not None
    with pytest.raises(TerseError, match="only reproduces"):
        CompressedLM(tmp_path, base=method.inputs.base)
