"""Bits per byte against a naive loop, and the coders beside it against `lzma` itself."""

import lzma
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from terse.corpora.documents import read_documents, write_documents
from terse.corpora.token_store import TokenStore
from terse.corpora.tokenizers import train_bpe
from terse.corpora.tokens import tokenize_documents
from terse.corpora.windows import SomeDocuments, scoring_windows
from terse.evaluation import bits_per_byte
from terse.evaluation.bits_per_byte import coder_baselines, score_documents
from terse.evaluation.scores import Columns, loss_measures
from terse.settings.corpora import Corpus

WORDS = ["how", "few", "tokens", "naïve", "東京", "🙂", "and", "dimensions", "über", "codes"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of 1 to 12 words in several scripts, tokenised by a BPE of 280 tokens."""
    folder = tmp_path_factory.mktemp("evaluation")
    texts = [
        " ".join(WORDS[(i * 7 + j * j) % len(WORDS)] for j in range(1 + i * 5 % 12)) + f" {i}"
        for i in range(16)
    ]
    pq.write_table(pa.table({"text": texts}), folder / "raw.parquet")
    corpus = Corpus(source="parquet", path=str(folder), validation_fraction=0.4)
    write_documents(corpus, folder / "out" / "d.parquet")
    tokenizer = train_bpe(folder / "out/d.parquet", vocab_size=280, seed=0, folder=folder / "t")
    tokenize_documents(folder / "out" / "d.parquet", tokenizer, folder / "tokens.h5")
    return folder


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """A random model, far from uniform, in which every position counts."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=280, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for matrix in (p for p in model.parameters() if p.ndim == 2):
            matrix.mul_(5.0)
    return model


@torch.no_grad()
def naive_nats(model: LlamaForCausalLM, tokens: np.ndarray, ctx_len: int, stride: int) -> float:
    """Return -sum log p of a document in float64, one token at a time, no batch, no padding."""
    total = 0.0
    for t, token in enumerate(tokens.tolist()):
        late = t - (ctx_len - 1)
        begin = 0 if late < 0 else (1 + late // stride) * stride
        context = torch.tensor([[0, *tokens[begin:t].tolist()]])  # BOS is token 0
        total -= model(context).logits[0, -1].double().log_softmax(-1)[token].item()
    return total


@pytest.mark.parametrize(("ctx_len", "stride"), [(256, None), (16, None), (16, 15), (16, 1)])
def test_equals_a_naive_loop_over_tokens(
    model: LlamaForCausalLM, folder: Path, ctx_len: int, stride: int | None
) -> None:
    windows = scoring_windows(folder / "tokens.h5", "validation", ctx_len, 0, stride)
    found = score_documents(model, windows, device="cpu", batch_tokens=50)["model"]
    store = TokenStore(folder / "tokens.h5", "validation")
    documents = [store.document(i) for i in range(len(store))]
    expected = [naive_nats(model, d, ctx_len, stride or ctx_len // 2) for d in documents]
    np.testing.assert_allclose(found["nats"], expected, rtol=1e-5)
    assert found["n_targets"].tolist() == [len(d) for d in documents]  # each token once
    rows = [row for rows in read_documents(folder / "out/d.parquet", "validation") for row in rows]
    assert found["n_bytes"].tolist() == [len(row["text"].encode()) for row in rows]
    bits, loss = loss_measures("model", found, "all")
    assert (bits.arm, bits.measure, loss.measure) == ("model", "bits_per_byte", "loss_nats")
    n_bytes, n_tokens = sum(len(r["text"].encode()) for r in rows), sum(map(len, documents))
    assert bits.value == pytest.approx(sum(expected) / math.log(2) / n_bytes, rel=1e-6)
    assert loss.value == pytest.approx(sum(expected) / n_tokens, rel=1e-6)
    assert bits.n == loss.n == len(documents)


def test_the_size_of_a_batch_changes_nothing(model: LlamaForCausalLM, folder: Path) -> None:
    windows = scoring_windows(folder / "tokens.h5", "train", 16, 0)
    one = score_documents(model, windows, device="cpu", batch_tokens=1)["model"]
    many = score_documents(model, windows, device="cpu", batch_tokens=4096)["model"]
    np.testing.assert_allclose(one["nats"], many["nats"], rtol=1e-5)
    for name in ("n_targets", "positions", "flops"):
        assert np.array_equal(one[name], many[name])


def test_some_documents_have_the_scores_that_they_have_among_all(
    model: LlamaForCausalLM, folder: Path
) -> None:
    windows = scoring_windows(folder / "tokens.h5", "train", 16, 0)
    assert windows.n_documents == len(TokenStore(folder / "tokens.h5", "train"))
    every = score_documents(model, windows, device="cpu")["model"]
    chosen = [1, windows.n_documents - 1]
    some = score_documents(model, SomeDocuments(windows, chosen), device="cpu")["model"]
    for name, values in every.items():
        np.testing.assert_allclose(some[name], values[chosen], rtol=1e-5)


def test_coders_read_no_more_than_they_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bits_per_byte, "DICTIONARY", 30)
    monkeypatch.setattr(bits_per_byte, "HELD_OUT", 30)
    read = []

    def texts(name: str) -> Iterator[str]:
        for i in range(100):
            read.append(name)
            yield f"{name} text {i}, ten bytes"

    found = coder_baselines(texts("train"), texts("held-out"), "all documents")
    assert (read.count("train"), read.count("held-out")) == (3, 3)
    assert {measure.targets for measure in found} == {"the first 2 of all documents"}
    assert {measure.n for measure in found} == {2}


def drawn(n: int, seed: int) -> Columns:
    """Documents of very different lengths, each with a rate of its own around 1 nat a byte."""
    random = np.random.default_rng(seed)
    n_bytes = np.ceil(random.lognormal(5, 1, n))
    nats = n_bytes * random.gamma(16, 1 / 16, n)
    return {"nats": nats, "n_bytes": n_bytes, "n_targets": n_bytes}


def test_the_interval_holds_the_value_and_narrows_with_documents() -> None:
    widths = []
    for n in (20, 200, 2000):
        bits, _ = loss_measures("model", drawn(n, seed=1), "all")
        assert bits.interval_low < bits.value < bits.interval_high
        widths.append(bits.interval_high - bits.interval_low)
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    truth = 1 / math.log(2)
    found = [loss_measures("model", drawn(60, seed), "all")[0] for seed in range(100)]
    covered = sum(m.interval_low <= truth <= m.interval_high for m in found)
    assert 87 <= covered <= 99


def test_the_interval_is_the_same_each_time() -> None:
    scores = drawn(20, seed=0)
    assert loss_measures("model", scores, "all", seed=1) == loss_measures(
        "model", scores, "all", seed=1
    )
    assert loss_measures("model", scores, "all", seed=1) != loss_measures(
        "model", scores, "all", seed=2
    )


def test_one_document_has_an_interval_of_no_width() -> None:
    bits, _ = loss_measures("model", drawn(1, seed=0), "all")
    assert bits.interval_low == bits.interval_high == pytest.approx(bits.value)


def test_the_coders_beside_the_model() -> None:
    random = np.random.default_rng(0)
    train = [" ".join(random.choice(WORDS, 300)) for _ in range(5)]
    new = [" ".join(random.choice(WORDS, 200)) for _ in range(3)]
    content = "".join(new).encode()
    uniform, xz, primed = coder_baselines(train, new, "all")
    assert [m.arm for m in (uniform, xz, primed)] == ["uniform", "xz", "xz_primed"]
    assert {m.measure for m in (uniform, xz, primed)} == {"bits_per_byte"}
    assert [m.n for m in (uniform, xz, primed)] == [3, 3, 3]
    assert uniform.value == 8.0
    compressed = lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
    assert xz.value == pytest.approx(8 * len(compressed) / len(content))
    assert len(content) > sum(map(len, new))  # bytes, not characters, are the unit
    assert primed.value < xz.value


def test_priming_helps_with_what_was_seen_and_not_with_noise() -> None:
    random = np.random.default_rng(0)
    page, noise = ("".join(map(chr, random.integers(33, 127, 5000))) for _ in range(2))
    _, xz, primed = coder_baselines([page], [page], "all")
    assert xz.value > 6
    assert primed.value < 0.2
    _, xz, primed = coder_baselines([page], [noise], "all")
    assert primed.value == pytest.approx(xz.value, rel=0.05)
