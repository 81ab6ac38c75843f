"""Studies of the frontier: every fault is one line before any job."""

from typing import Any

import pytest

from terse.config import load
from terse.config.reach import within_reach
from terse.config.ways import reader_of, training_corpora
from terse.errors import TerseError

STUDY: dict[str, Any] = {
    "corpus": "docs", "reader": "base", "ways": ["recency"], "context_bytes": 60,
    "target_bytes": 20,
}  # fmt: skip
RUN: dict[str, Any] = {
    "method": "causal-lm", "corpus": "docs", "tokenizer": "bpe", "ctx_len": 64, "d_model": 16,
    "n_heads": 2, "max_steps": 5, "checkpoint_steps": [],
}  # fmt: skip
LEVELS = [{"dim": 16, "heads": 2, "codebook_size": 16}]
CONFIG: dict[str, Any] = {
    "corpora": {
        "docs": {"source": "python-docs", "validation_fraction": 0.2},
        "sentences": {
            "source": "python-docs", "validation_fraction": 0.2, "separator_pattern": "[.]\\s+",
        },
        "whole": {"source": "python-docs", "validation_fraction": 0},
    },
    "tokenizers": {"bpe": {"corpus": "docs", "vocab_size": 300}, "bytes": {"kind": "bytes"}},
    "runs": {
        "base": RUN,
        "byte-lm": RUN | {"tokenizer": "bytes"},
        "elsewhere": RUN | {"corpus": "sentences"},
        "recency": RUN,
        "compress": {
            "method": "compression", "base": "base", "corpus": "docs", "cmp_len": 8, "n_cmps": 2,
            "seq_len": 14, "max_steps": 5, "checkpoint_steps": [],
        },
        "blotch": {
            "method": "blotching", "max_steps": 5, "warmup_steps": 1, "checkpoint_steps": [],
        },
        "blotch-text": {
            "method": "blotching", "base": "base", "corpus": "sentences", "seq_len": 40,
            "max_steps": 5, "warmup_steps": 1, "checkpoint_steps": [],
        },
        "codes": {
            "method": "hierarchical", "corpus": "docs", "tokenizer": "bytes",
            "sequence_length": 70, "compressor_level_configs": LEVELS, "max_steps": 5,
            "checkpoint_steps": [],
        },
        "codes-lm": {
            "method": "hierarchical", "corpus": "docs", "base": "codes", "sequence_length": 70,
            "compressor_level_configs": LEVELS, "max_steps": 5, "checkpoint_steps": [],
            "top_transformer_config": {"dim": 16, "num_layers": 1, "num_heads": 2},
        },
    },
    "models": {"base": {"run": "base"}, "bert": {"hub": "some/bert", "kind": "encoder"}},
}  # fmt: skip


def study(**changes: Any) -> Any:
    return load({**CONFIG, "frontier": {"s": STUDY | changes}})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"ways": ["recncy"]}, "frontier.s.ways: unknown way 'recncy'; did you mean 'recency'"),
        (
            {"ways": ["snapkv"]},
            "frontier.s.ways: unknown way 'snapkv'; did you mean 'evict.snapkv'",
        ),
        ({"ways": ["recency"]}, "frontier.s.ways: recency is a way and also a run or model"),
        ({"ways": ["random", "random"]}, "frontier.s.ways: random is given twice"),
        ({"estimators": ["twonn"]}, "frontier.s.estimators: unknown estimator 'twonn'"),
        ({"estimators": ["twoNN_f00"]}, "estimator 'twoNN_f00' is not defined"),
        ({"ways": ["codes"]}, "frontier.s.ways: codes: a first stage has no likelihood"),
        ({"ways": ["codes"]}, "; leave it out of these ways"),
        ({"ways": ["blotch"]}, "frontier.s.ways: blotch: its chains are sums, not text"),
        ({"ways": ["blotch-text"]}, "corpus docs has none: set its separator_pattern"),
        ({"ways": ["codes-lm"]}, "windows of 60 + 20 bytes are longer than the 69 positions"),
        ({"ways": ["byte-lm"]}, "windows of 60 + 20 bytes are longer than the 64 positions"),
        ({"reader": "byte-lm"}, "frontier.s.reader: windows of 60 + 20 bytes are longer than"),
        ({"reader": "bas"}, "frontier.s.reader: unknown model or run 'bas'; did you mean 'base'"),
        ({"reader": "compress"}, "no complete language model, so it has no cache"),
        ({"reader": "bert"}, "frontier.s.reader: bert is an encoder"),
        ({"rates": [0.5, 0.0]}, "frontier.s.rates: a rate of 0 leaves nothing; allowed: between"),
        ({"rates": [1.0]}, "frontier.s.rates: a rate of 1 leaves everything"),
        ({"rates": [0.01]}, "frontier.s: a rate of 0.01 leaves nothing of 60 bytes"),
        ({"rates": [0.5, 0.5]}, "frontier.s.rates: a rate is given twice"),
        ({"corpus": "doc"}, "frontier.s.corpus: unknown corpus 'doc'; did you mean 'docs'"),
        ({"corpus": "whole"}, "frontier.s.corpus: whole holds no documents out for validation"),
        ({"context_byte": 3}, "unknown key 'context_byte'; did you mean 'context_bytes'"),
    ],
)
def test_a_fault_is_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(TerseError) as caught:
        study(**({"ways": ["random"]} | changes))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_runs_and_models_are_ways_with_their_own_reader() -> None:
    found = study(ways=["random", "compress", "base"]).frontier["s"]
    assert [reader_of(found, way) for way in found.ways] == ["base", "compress", "base"]
    assert found.all_ways == ["full", "none", "random", "compress", "base"]


def test_the_ends_are_always_scored_once() -> None:
    assert study(ways=["full", "random"]).frontier["s"].all_ways == ["full", "none", "random"]


def test_text_of_other_corpora_that_trained_a_reader_is_known() -> None:
    settings = study(ways=["random", "elsewhere", "blotch-text"], corpus="sentences")
    found = settings.frontier["s"]
    assert training_corpora(settings, found, "random") == ["docs"]
    assert training_corpora(settings, found, "elsewhere") == []
    assert training_corpora(settings, found, "blotch-text") == ["docs"]  # its base's


def test_selected_studies_exist() -> None:
    with pytest.raises(TerseError, match=r"select.frontier: unknown study 'x'"):
        load({**CONFIG, "select": {"frontier": ["x"]}})


def test_a_study_whose_reader_is_out_of_reach_is_left_out() -> None:
    raw = {**CONFIG, "frontier": {"s": STUDY | {"ways": ["random"], "reader": "far"}}}
    raw["models"] = CONFIG["models"] | {"far": {"hub": "some/lm"}}
    reached = within_reach(load({**raw, "select": {"frontier": ["s"]}}))
    assert reached.select.frontier == ["s"]
    away = {**raw, "select": {"frontier": ["s"]}, "unreachable": {"far": "no network"}}
    assert within_reach(load(away)).select.frontier == []
