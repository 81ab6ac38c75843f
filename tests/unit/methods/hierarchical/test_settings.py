"""Contradictions, keys that nobody reads, and what trains nothing again."""

import json
from pathlib import Path
from typing import Any

import pytest

from terse.methods.hierarchical.method import Hierarchical
from terse.methods.hierarchical.spec import HIERARCHICAL
from terse.training.method import Inputs
from tiny_hierarchical import LEVELS, TOP, settings


def test_what_only_the_evaluation_reads_is_of_today(stage1: Path, text: Inputs) -> None:
    today = settings(*LEVELS, top=None, eval_bytes=700, n_samples=0)
    method = Hierarchical(today, text)
    tables = method.tables(method.load(stage1 / "model"), "cpu")
    assert "samples" not in tables
    stored = json.loads((stage1 / "model" / "hierarchical.json").read_text())
    assert not {"eval_bytes", "n_samples", "generation_interval"} & set(stored)
    plain = settings(*LEVELS, top=None)
    assert HIERARCHICAL.weight_params(today) == HIERARCHICAL.weight_params(plain)
    assert "generation_interval" in HIERARCHICAL.non_weight_params(today)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_levels": 2}, "num_levels 2, but compressor_level_configs has 1"),
        ({"base": "b"}, "give a tokenizer of kind bytes, or a base"),
        ({"compressor_level_configs": [{"dim": 15}]}, "dim 15 is not a multiple of 2 x heads"),
        ({"compressor_level_configs": [{"quantizer": "none"}]}, "set continuous: true"),
        ({"compressor_level_configs": [{"fsq_levels": [4]}]}, "fsq_levels and quantizer: fsq"),
        ({"compressor_level_configs": [{"entropy_delta": None}]}, "they open segments"),
        ({"propagate_key_padding_mask": False}, "propagate_key_padding_mask"),
        ({"freeze_entropy": True}, "freeze_entropy needs a base"),
        ({"freeze_levels": 1}, "freeze_levels needs a base"),
        ({"expander_dim_scale": 0.3}, "must be a multiple of 2 x heads"),
        ({"top_transformer_config": None, "expander_memory": "contextual"}, "needs a top LM"),
        ({"use_decoder_only_expander": True, "expander_num_enc_layers": 1}, "has no encoder"),
        (
            {
                "compressor_level_configs": [{"quantizer": "none"}],
                "base": "b",
                "tokenizer": None,
                "top_transformer_config": {**TOP, "continuous": True},
            },
            "quantizer none has no codes for a second stage to read",
        ),
        (
            {"compressor_level_configs": [{"target_compression_ratio": 0.2, "max_segment_len": 4}]},
            "target_compression_ratio 0.2 .* max_segment_len 4",
        ),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], words: str) -> None:
    from pydantic import ValidationError

    from terse.config.methods import settings_of
    from tiny_hierarchical import SETTINGS

    with pytest.raises(ValidationError, match=words):
        settings_of(SETTINGS | {"top_transformer_config": TOP} | changes)


def test_every_key_is_read() -> None:
    from terse.methods.hierarchical.settings import HierarchicalSettings, LevelSettings, TopSettings
    from terse.settings.run import Run

    package = Path(__file__).parents[4] / "src/terse/methods/hierarchical"
    code = "".join(path.read_text() for path in sorted(package.glob("*.py")))
    fixed = {"method", "initial_vocab_size", "lr_schedule"} | set(Run.model_fields)
    fixed |= {"use_continuous_expander_inputs", "propagate_key_padding_mask"}
    for block in (LevelSettings, TopSettings, HierarchicalSettings):
        unread = {key for key in set(block.model_fields) - fixed if f".{key}" not in code}
        assert unread == set(), block
