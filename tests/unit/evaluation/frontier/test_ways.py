"""Ways of reading: their ends, plain references, and the work they report."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AttentionInterface, MistralConfig, MistralForCausalLM

from terse.errors import TerseError
from terse.evaluation.frontier.choices import Oracle, Random
from terse.evaluation.frontier.eviction import Evicted, read_whole
from terse.evaluation.frontier.evictions.knorm import KNorm
from terse.evaluation.frontier.reader import CausalReader
from terse.evaluation.frontier.reading import n_left, read_all, read_or_why
from terse.evaluation.frontier.ways import reading_of
from terse.settings.frontier import ENDS, own_ways
from tiny_frontier import bpe, causal_reader, reader_lm, windows
from tiny_lms import tiny_lm
from torch_flops import flops_by_torch

WAYS = [way for way in own_ways() if way not in ENDS]
RATES = [1.0, 0.25, 0.0]


@pytest.fixture(scope="module")
def reader() -> CausalReader:
    torch.set_num_threads(1)
    return causal_reader()


def table(way: str, reader: CausalReader, rates: Sequence[float] = RATES) -> pd.DataFrame:
    return read_all(reading_of(way, reader, seed=0), windows(2), rates)


def nats(way: str, reader: CausalReader, rate: float | None = None) -> Any:
    found = table(way, reader)
    return found["nats"][found["rate"] == rate].to_numpy() if rate is not None else found["nats"]


@pytest.mark.parametrize("way", WAYS)
def test_a_way_is_full_at_rate_1_and_none_at_rate_0(way: str, reader: CausalReader) -> None:
    full, none = nats("full", reader).to_numpy(), nats("none", reader).to_numpy()
    found = table(way, reader)
    n = found["n_targets"][found["rate"] == 1.0].to_numpy()
    whole = found["nats"][found["rate"] == 1.0].to_numpy()
    assert abs((whole - full) / n).max() < (0.0 if way.startswith("evict") else 1e-5) + 1e-12
    assert abs((found["nats"][found["rate"] == 0.0].to_numpy() - none) / n).max() < 1e-5
    part = found["nats"][found["rate"] == 0.25].to_numpy()
    assert abs(part - full).max() > 1e-3  # something is lost in between


def test_none_and_recency_are_the_model_on_a_truncated_text(reader: CausalReader) -> None:
    for way, rate in (("none", 0.0), ("recency", 0.25)):
        found = nats(way, reader, rate)
        for window, value in zip(windows(2), found, strict=True):
            tokens = reader.tokens(window)
            kept = tokens.context[tokens.L - n_left(rate, tokens.L) :]
            ids = torch.cat([torch.tensor([reader.start]), kept, tokens.target])[None]
            logits = reader.lm(ids).logits[0, -tokens.m - 1 : -1]
            plain = cross_entropy(logits, tokens.target, reduction="sum")
            assert value == pytest.approx(float(plain), rel=1e-5)


def test_an_eviction_is_a_mask_on_the_evicted_entries(reader: CausalReader) -> None:
    """The same entries, hidden from the target by a mask in one pass, one head at a time."""
    window, score = windows(1)[0], KNorm()
    tokens, way = reader.tokens(windows(1)[0]), Evicted(reader, score)
    n = n_left(0.25, tokens.L)
    scores = way.look(read_whole(reader, tokens), tokens, window).scores
    queries: list[torch.Tensor] = []
    value = way.read(window, [0.25])[0].nats

    # An attention that hides, from the last m + 1 positions, what each head does not hold.
    def hiding(module: Any, q: Any, k: Any, v: Any, mask: Any, **options: Any) -> Any:
        held = torch.zeros(k.shape[1], k.shape[2], dtype=torch.bool)
        held[:, tokens.L :] = True
        held.scatter_(1, scores[module.layer_idx].topk(n).indices, True)
        T = q.shape[2]
        seen = torch.ones(T, T, dtype=torch.bool).tril().expand(k.shape[1], T, T).clone()
        seen[:, tokens.L :] &= held[:, None]
        groups = q.shape[1] // k.shape[1]
        k, v, seen = (x.repeat_interleave(groups, -3) for x in (k, v, seen))
        weights = (q @ k.transpose(-1, -2) * options["scaling"]).masked_fill(~seen, -torch.inf)
        queries.append(q)
        return (weights.softmax(-1) @ v).transpose(1, 2), None

    AttentionInterface.register("hiding", hiding)
    lm = causal_reader().lm
    lm.set_attn_implementation("hiding")
    ids = torch.cat([torch.tensor([reader.start]), tokens.context, tokens.target])[None]
    logits = lm(ids, use_cache=False).logits[0, -tokens.m - 1 : -1]
    assert queries
    assert value == pytest.approx(
        float(cross_entropy(logits, tokens.target, reduction="sum")), 1e-5
    )


@pytest.mark.parametrize("way", ["evict.recency", "evict.streaming"])
def test_turning_all_keys_by_the_same_positions_changes_nothing(
    way: str, reader: CausalReader
) -> None:
    """Only differences of positions count; those of the sinks change, those of recency do not."""
    kept, dense = nats(way, reader, 0.25), nats(f"{way}.dense", reader, 0.25)
    same = abs(kept - dense).max() < 1e-3
    assert same == (way == "evict.recency")


@pytest.mark.parametrize("way", [
        "full", "none", "surprisal", "oracle", "evict.knorm", "evict.snapkv", "evict.tova",
        "evict.expected_attention",
    ],
)  # fmt: skip
def test_the_work_is_what_torch_counts(way: str) -> None:
    reader = causal_reader()
    reading, window = reading_of(way, reader, 0), windows(1)[0]
    cost = reading.read(window, [0.5])[0]
    reader.bytes_per_position  # noqa: B018 - it runs a short pass once
    assert cost.flops == pytest.approx(
        flops_by_torch(lambda: reading.read(window, [0.5])), rel=0.01
    )


def test_what_the_rates_share_is_computed_once(
    reader: CausalReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four rates of an eviction: one pass over the context, one over four targets."""
    passes: list[tuple[int, ...]] = []
    reading = reading_of("evict.knorm", reader, 0)
    reading.read(
        windows(1)[0], [0.5]
    )  # a model's first reading counts its FLOPs, in passes of its own
    handle = reader.lm.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: passes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    reading.read(windows(1)[0], [0.5, 0.25, 0.125, 0.0625])
    reading.read(windows(1)[0], [1.0, 0.5, 0.25])
    handle.remove()
    L, m = (tokens := reader.tokens(windows(1)[0])).L, tokens.m
    # All entries are read alone, as `full` reads them.
    assert passes == [(1, L), (4, m), (1, L), (1, m), (2, m)]


@pytest.mark.parametrize(
    ("way", "architecture"),
    [("evict.random", "llama"), ("evict.random.dense", "llama"), ("evict.random", "gpt2")],
)
def test_rates_in_one_pass_are_those_of_passes_of_their_own(way: str, architecture: str) -> None:
    lm = reader_lm() if architecture == "llama" else tiny_lm(architecture)
    lm.resize_token_embeddings(300)
    reading, (window,) = reading_of(way, CausalReader(lm, bpe()), 0), windows(1, 120, 20)
    rates = [0.5, 0.25, 0.2, 0.1]
    with torch.inference_mode():
        together = [cost.nats for cost in reading.read(window, rates)]
        alone = [reading.read(window, [rate])[0].nats for rate in rates]
    assert together == pytest.approx(alone, rel=1e-5)
    assert len({round(value, 3) for value in alone}) == 4


def test_costs_of_a_window(reader: CausalReader) -> None:
    tokens = reader.tokens(windows(1)[0])
    L, m = tokens.L, tokens.m
    n = n_left(0.25, L)
    for way, held, computed in (
        ("full", L, L + m), ("none", 0, m), ("recency", n, n + m), ("surprisal", n, L + n + m),
        ("oracle", n, L + n + m),
        ("evict.knorm", n, L + m), ("evict.surprisal", n, 2 * L + m),
    ):  # fmt: skip
        cost = reading_of(way, reader, 0).read(windows(1)[0], [0.25])[0]
        assert (cost.positions_held, cost.positions_computed) == (held, computed), way
        assert cost.positions_whole == L
        # keys and values of 2 layers, 2 heads, 8 numbers, 4 bytes each
        assert cost.bytes_held == held * 2 * 2 * 2 * 8 * 4


@torch.inference_mode()
def test_the_oracle_keeps_what_the_target_needs_and_the_last_tokens(reader: CausalReader) -> None:
    window = windows(1)[0]
    tokens, choice = reader.tokens(window), Oracle()
    seen = choice.look(reader, tokens, window)
    target = set(tokens.target.tolist())
    occurs = torch.tensor([t in target for t in tokens.context.tolist()])
    for n in (1, 8, 40, tokens.L):
        kept = choice.take(seen, reader, tokens, n).tokens.tolist()
        assert len(kept) == n
        assert kept == sorted(kept)
        border = tokens.L - int(0.75 * n)
        assert kept[len(kept) - int(0.75 * n) :] == list(range(border, tokens.L))
        others = [i for i in kept if i < border]
        assert occurs[others].sum() == min(len(others), int(occurs[:border].sum()))
    assert "seen the target" in reading_of("oracle", reader, 0).note


def test_windows_add_up_in_any_order(reader: CausalReader) -> None:
    reading = reading_of("random", reader, 0)
    forward = read_all(reading, windows(3), [0.5]).set_index("window")["nats"]
    back = read_all(reading, windows(3)[::-1], [0.5]).set_index("window")["nats"]
    assert (forward - back.loc[forward.index]).abs().max() < 1e-5


def test_a_lower_rate_keeps_tokens_of_the_higher_one(reader: CausalReader) -> None:
    tokens, choice = reader.tokens(windows(1)[0]), Random(3)
    seen = choice.look(reader, tokens, windows(1)[0])
    few, many = (choice.take(seen, reader, tokens, n).tokens for n in (5, 20))
    assert set(few.tolist()) < set(many.tolist())
    assert many.tolist() == sorted(many.tolist())


def test_gaps_in_positions_are_no_borders_between_texts(reader: CausalReader) -> None:
    """Tokens after a gap still see those before it: transformers would take it for packing."""
    kept = nats("sink_recency.kept", reader, 0.25)
    dense = nats("sink_recency", reader, 0.25)
    recency = nats("recency", reader, 0.25)
    assert (abs(kept - dense) < abs(kept - recency)).all()


@pytest.mark.parametrize(
    ("way", "architecture", "why"),
    [
        ("recency.kept", "bloom", "no positions that can have gaps"),
        ("evict.knorm", "bloom", "no positions that can have gaps"),
        ("evict.knorm.dense", "gpt2", "no rotary positions over halves"),
        ("evict.expected_attention", "gptj", "no rotary positions over halves"),
    ],
)
def test_a_way_that_a_reader_does_not_have_says_so(way: str, architecture: str, why: str) -> None:
    lm = tiny_lm(architecture)
    lm.resize_token_embeddings(300)

    def make() -> Any:
        return reading_of(way, CausalReader(lm, bpe()), 0)

    found = read_or_why(make, windows(1, context=60, target=20), [0.5])
    assert found["nats"].isna().all()
    assert why in found["flag"][0]


def test_windows_longer_than_the_positions_are_one_line() -> None:
    reader = causal_reader(max_position_embeddings=64)
    with pytest.raises(TerseError, match=r"bytes has \d+ tokens, but the reader has 64 positions"):
        reading_of("full", reader, 0).read(windows(1)[0], [])


def test_layers_that_see_few_positions_leave_full_but_no_eviction() -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=16,
    )  # fmt: skip
    lm = MistralForCausalLM(config).eval()
    reader, window = CausalReader(lm, bpe()), windows(1, context=60, target=20)[0]
    tokens = reader.tokens(window)
    ids = torch.cat([torch.tensor([reader.start]), tokens.context, tokens.target])[None]
    plain = cross_entropy(lm(ids).logits[0, -tokens.m - 1 : -1], tokens.target, reduction="sum")
    with torch.inference_mode():
        (cost,) = reading_of("full", reader, 0).read(window, [])
        assert cost.nats == pytest.approx(float(plain), rel=1e-5)
        with pytest.raises(TerseError, match="has layers that see 16 positions only"):
            reading_of("evict.knorm", reader, 0).read(window, [0.5])


@pytest.mark.parametrize("way", ["recency", "evict.knorm"])
def test_a_rate_that_leaves_nothing_is_one_line(way: str, reader: CausalReader) -> None:
    with pytest.raises(TerseError, match=r"a rate of 0\.001 leaves nothing of a context of \d+"):
        reading_of(way, reader, 0).read(windows(1)[0], [0.001])


def test_an_unknown_way_names_the_nearest(reader: CausalReader) -> None:
    with pytest.raises(TerseError, match=r"did you mean 'evict\.snapkv'"):
        reading_of("evict.snapk", reader, 0)


def test_a_cache_without_its_first_tokens_is_flagged(reader: CausalReader) -> None:
    assert "first tokens" in reading_of("evict.recency", reader, 0).note
    assert not reading_of("evict.streaming", reader, 0).note
