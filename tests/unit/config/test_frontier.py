"""Studies of the frontier: every fault is one line before any job."""

from pathlib import Path
from typing import Any

import pytest
from snakemake.utils import update_config

from terse.config import Workflow, load, read_yaml
from terse.config.reach import within_reach
from terse.config.ways import reader_of, training_corpora
from terse.errors import TerseError

DEFAULT = Path(__file__).parents[3] / "config" / "config.yaml"
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
        (
            {"ways": ["recency"]},
            "ways: recency: a way and also a run or model have this name",
        ),
        ({"ways": ["random", "random"]}, "frontier.s.ways: random is given twice"),
        ({"estimators": ["twonn"]}, "frontier.s.estimators: unknown estimator 'twonn'"),
        ({"estimators": ["twoNN_f00"]}, "estimator 'twoNN_f00' is not defined"),
        ({"ways": ["codes"]}, "frontier.s.ways: codes: a first stage has no likelihood"),
        ({"ways": ["codes"]}, "; or leave it out of these ways"),
        ({"ways": ["blotch"]}, "frontier.s.ways: blotch: its chains are sums, not text"),
        ({"ways": ["blotch-text"]}, "corpus docs has none: set its separator_pattern"),
        ({"ways": ["codes-lm"]}, "codes-lm: windows of 60 + 20 bytes are longer than its 69"),
        ({"ways": ["byte-lm"]}, "byte-lm: windows of 60 + 20 bytes are longer than its 64"),
        ({"reader": "byte-lm"}, "frontier.s.reader: byte-lm: windows of 60 + 20 bytes are"),
        ({"reader": "bas"}, "frontier.s.reader: unknown model or run 'bas'; did you mean 'base'"),
        ({"reader": "compress"}, "no complete language model, so it has no cache"),
        ({"reader": "bert"}, "frontier.s.reader: bert: an encoder predicts no text"),
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


def over_the_default(**changes: Any) -> Workflow:
    """Return the default with an overlay, merged as Snakemake merges them."""
    raw = read_yaml(DEFAULT)
    update_config(raw, changes)
    return load(raw)


def test_a_sweep_among_the_ways_stands_for_its_runs() -> None:
    swept = {"compress": {"sweep": {"n_cmps": [1, 4], "seed": [0]}}}
    found = over_the_default(runs=swept, frontier={"docs": {"ways": ["random", "compress"]}})
    assert found.frontier["docs"].ways == ["random", "compress-1-0", "compress-4-0"]
    assert found.select.frontier == ["docs"] == over_the_default(runs=swept).select.frontier


@pytest.mark.parametrize(
    ("runs", "left", "line"),
    [
        ({"forget": None}, "forget", "forget is left out: no run or model is called forget"),
        (
            {"compress": {"rmb_task": True, "rmb_only": True}}, "compress",
            "compress is left out: a compressor that only reproduces (rmb_only) has no likelihood",
        ),
        (
            {"byte-lm": {"ctx_len": 64}}, "byte-lm",
            "byte-lm is left out: windows of 192 + 48 bytes are longer than its 64 positions; "
            "lower context_bytes",
        ),
    ],
)  # fmt: skip
def test_a_way_of_the_default_that_an_overlay_breaks_is_left_out(
    runs: Any, left: str, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    ways = over_the_default().frontier["docs"].ways
    selected = [run for run in read_yaml(DEFAULT)["select"]["runs"] if run != left]
    changes = {"runs": runs, "select": {"runs": selected}}
    found = over_the_default(**changes)
    assert found.frontier["docs"].ways == [way for way in ways if way != left]
    assert found.select.frontier == ["docs"]
    assert caplog.messages == [f"frontier.docs.ways: {line}"]
    with pytest.raises(TerseError, match=rf"^frontier\.docs\.ways: .*{left}"):
        over_the_default(**changes, frontier={"docs": {"ways": ["random", left]}})


def test_the_default_study_is_left_out_without_its_reader(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs = dict.fromkeys(("base", "compress", "forget"))
    models = dict.fromkeys(("base", "base-step0", "base-step25", "base-step100", "base-step200"))
    changes = {"runs": runs, "models": models, "select": {"runs": ["codes"], "ids": []}}
    found = over_the_default(**changes)
    assert (found.frontier, found.select.frontier) == ({}, [])
    assert caplog.messages == [
        "frontier.docs.reader: the study is left out: no run or model is called base"
    ]
    with pytest.raises(TerseError, match=r"frontier\.docs\.reader: unknown model or run 'base'"):
        over_the_default(**changes, frontier={"docs": {"reader": "base"}})


@pytest.mark.parametrize(
    ("select", "drawn"),
    [
        ({"runs": ["codes"], "ids": []}, []),  # nothing is trained only to be drawn
        ({"runs": ["base", "compress"]}, []),
        ({"runs": ["base", "compress"], "frontier": ["docs"]}, ["docs"]),
        ({"runs": ["compress", "forget", "codes-lm", "byte-lm"], "ids": ["base"]}, ["docs"]),
    ],
)
def test_the_default_study_is_drawn_if_its_readers_are_selected(
    select: dict[str, list[str]], drawn: list[str]
) -> None:
    found = over_the_default(select=select)
    assert found.select.frontier == drawn
    assert found.frontier == over_the_default().frontier  # by its path it can still be had


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
