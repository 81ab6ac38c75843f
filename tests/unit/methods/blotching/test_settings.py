"""Contradictions, derived keys, and what retrains nothing."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from terse.methods.blotching.spec import BLOTCHING
from tiny_blotching import settings


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"arm": "blind"}, "blind needs blotch_p"),
        ({"arm": "vanilla", "blotch_p": 0.5}, "vanilla has no blotch_p 0.5"),
        ({"arm": "direct", "n_btokens": 5}, "n_btokens belongs to the arm intensity"),
        ({"blotch_p_min": 0.5, "blotch_p_max": 0.5}, "less than blotch_p_max"),
        ({"blotch_spacing": "equal", "contig_blotches": False}, "contig_blotches"),
        ({"equal_rounding": "seeded"}, "needs blotch_spacing equal"),
        ({"arm": "direct", "curriculum_steps": 5}, "has only one share"),
        ({"max_posencs": 50}, "rotary positions have no table"),
        ({"posenc_drop_p": 0.1}, "rotary positions have no table"),
        (
            {"posenc_type": "SinPositionalEncoding", "max_posencs": 9, "seq_len": 20},
            "21 tokens have to fit",
        ),
        ({"min_lr": 0.1}, r"min_lr 0\.1 > lr"),
        ({"lr_schedule": "cosine", "min_lr": 1e-4}, "min_lr needs lr_schedule power"),
        ({"warmup_steps": 0}, "1 or more"),
        ({"d_model": 18, "n_heads": 4}, "not a multiple of"),
        ({"base": "b"}, "leave base and tokenizer out"),
        ({"corpus": "c", "seq_len": 9}, "is for arithmetic problems"),
        ({"model_parallel": True}, "model_parallel"),
        ({"ood_max_num": 30}, "must exceed the training's 30"),
        ({"ood_max_num": 40, "p_mult": 0.2, "max_mult_num": 40}, "must exceed the training's 40"),
        ({"arm": "direct", "contig_blotches": False}, "leaves out neighbouring steps"),
        ({"n_votes": 1}, "not a vote"),
        ({"n_train_loops": 2}, "n_train_loops, the steps of an epoch, needs n_epochs"),
        ({"torch_dtype": "float16"}, "precision"),
    ],
)
def test_contradictions_are_refused(changes: dict, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        settings(**changes)


def test_the_arm_follows_from_blotch_p() -> None:
    assert settings().arm == "intensity"
    assert [settings(blotch_p=p).arm for p in (0, 1, 0.3)] == ["vanilla", "direct", "blind"]
    assert settings(learn_posencs=True, posenc_type="SinPositionalEncoding").learnable_posencs
    assert settings(n_epochs=3, n_train_loops=4, max_steps=None).max_steps == 12


@hypothesis_settings(max_examples=30)
@given(st.integers(1, 300), st.floats(0.1, 2))
def test_the_rate_rises_to_its_peak_and_falls_by_its_power(w: int, exponent: float) -> None:
    chosen = settings(warmup_steps=w, max_steps=1000, lr_decay_exp=exponent, lr=1e-2, min_lr=1e-3)
    for step in (1, w, w + 1, 4 * w, 100 * w):
        expected = 1e-2 * step / w if step <= w else max(1e-2 * (w / step) ** exponent, 1e-3)
        assert chosen.lr_factor(step) * chosen.lr == pytest.approx(expected)


def test_what_only_the_evaluation_reads_retrains_nothing() -> None:
    scored = {"val_temp": 0.3, "eval_temps": [2.0], "n_votes": 3, "n_samples": 1, "n_eval_ps": 2}
    weights, results = BLOTCHING.weight_params, BLOTCHING.result_params
    plain = settings()
    assert weights(settings(**scored)) == weights(plain)
    for key, value_ in scored.items():
        assert results(settings(**{key: value_})) != results(plain)
    for key, value_ in {"n_val_problems": 9, "ood_max_num": 99, "blotch_p_max": 0.5}.items():
        assert weights(settings(**{key: value_})) != weights(plain)
