"""Which steps are left out, and what a row says to the model."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from terse.corpora.arithmetic.characters import EOS, SEPARATOR, VOCAB_SIZE, decode
from terse.corpora.arithmetic.expressions import read, value
from terse.errors import TerseError
from terse.methods.blotching.blotches import bin_of, dropped_steps, evenly, kept_tokens
from terse.methods.blotching.rows import IGNORED, BlotchedRows, Layout, collate
from terse.methods.blotching.spec import BLOTCHING
from tiny_blotching import blotching, long_chain, rng, settings

CHAIN = long_chain()  # 3*2+18=2*3+18=3+3+18=8+3+3+10=3+11+10=1+3+10+10=4+10+10=14+10=24


def row_of(p: float, seed: int = 0, **changes):
    layout = Layout(settings(**changes), VOCAB_SIZE, len(CHAIN.tokens) + 1, None)
    return layout.row(CHAIN, p, rng(seed))


@given(
    st.floats(0, 1), st.sampled_from(["random", "equal"]), st.integers(0, 10**6),
    st.sampled_from([0.0, 0.4]),
)  # fmt: skip
def test_problem_first_separator_answer_and_eos_stay(
    p: float, spacing: str, seed: int, tok_drop_p: float
) -> None:
    chosen = settings(blotch_spacing=spacing, tok_drop_p=tok_drop_p)
    kept = CHAIN.tokens[kept_tokens(CHAIN, p, chosen, rng(seed))]
    text = decode(kept)
    assert text.startswith("3*2+18=")
    assert text.endswith("24")
    assert kept[-1] == EOS
    if not tok_drop_p:
        whole = decode(CHAIN.tokens).split("=")
        statements = text.split("=")
        assert all(value(read(statement)) == 24 for statement in statements)
        assert [s for s in whole if s in statements] == statements


def test_share_zero_keeps_all_and_share_one_the_answer() -> None:
    for spacing in ("random", "equal"):
        chosen = settings(blotch_spacing=spacing)
        assert kept_tokens(CHAIN, 0.0, chosen, rng(1)).all()
        kept = kept_tokens(CHAIN, 1.0, chosen, rng(1))
        assert decode(CHAIN.tokens[kept]) == "3*2+18=24"


def test_single_tokens_go_at_their_rate() -> None:
    kept = np.array([kept_tokens(CHAIN, 0.0, settings(tok_drop_p=0.3), rng(i)) for i in range(200)])
    inside = (CHAIN.steps > 0) & (CHAIN.steps < CHAIN.steps[-1])
    n = kept[:, inside].size
    assert abs(1 - kept[:, inside].mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / n)
    assert kept[:, ~inside].all()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_random_spacing_has_its_rate(p: float) -> None:
    chosen, n = settings(), 4000
    dropped = np.concatenate([dropped_steps(7, p, chosen, rng(i)) for i in range(n // 7)])
    bound = 4 * math.sqrt(p * (1 - p) / len(dropped))
    assert abs(dropped.mean() - p) < bound


def test_neighbours_stay_where_they_must_not_both_go() -> None:
    chosen = settings(contig_blotches=False)
    for i in range(50):
        dropped = dropped_steps(9, 0.9, chosen, rng(i))
        assert not (dropped[1:] & dropped[:-1]).any()
        assert dropped.sum() >= 2


@given(st.integers(0, 40), st.floats(0, 1))
def test_equal_spacing_has_its_exact_count(n: int, p: float) -> None:
    dropped = dropped_steps(n, p, settings(blotch_spacing="equal"), rng(3))
    count = math.floor(p * n + 0.5)
    assert dropped.sum() == count
    places = np.flatnonzero(dropped)
    assert list(places) == [math.floor((i + 0.5) * n / count) for i in range(count)]
    gaps = np.diff(places)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_evenly_spread_places_differ_by_one_at_most() -> None:
    for n in range(1, 30):
        for count in range(1, n + 1):
            gaps = np.diff(np.flatnonzero(evenly(n, count)))
            assert evenly(n, count).sum() == count
            assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_a_drawn_rounding_has_the_right_mean() -> None:
    chosen = settings(blotch_spacing="equal", equal_rounding="seeded")
    counts = [dropped_steps(7, 0.5, chosen, rng(i)).sum() for i in range(800)]
    assert set(counts) == {3, 4}
    assert abs(np.mean(counts) - 3.5) < 0.08


def test_a_row_is_the_same_alone_as_in_any_batch() -> None:
    method = blotching(blotch_spacing="equal")
    rows = method.training_rows()
    alone = [rows[i] for i in range(8)]
    batch = method.collate(alone)
    again = method.training_rows()
    for i in (5, 2, 7):
        row = again[i]
        for key, value_ in row.items():
            np.testing.assert_array_equal(value_, alone[i][key])
            np.testing.assert_array_equal(batch[key][i, : len(value_)], value_)


@pytest.mark.parametrize("n", [2, 5, 11])
def test_a_bin_stands_for_its_share_and_back(n: int) -> None:
    chosen = settings(n_btokens=n, blotch_p_min=0.1, blotch_p_max=0.9)
    shares = chosen.trained_ps()
    np.testing.assert_allclose(shares, np.linspace(0.1, 0.9, n))
    assert [bin_of(p, chosen) for p in shares] == list(range(n))
    for p in np.linspace(0.1, 0.9, 50):
        nearest = np.abs(np.array(shares) - p)
        assert nearest[bin_of(float(p), chosen)] <= nearest.min() + 1e-9
    for p in (0.09, 0.91, -1.0):
        with pytest.raises(TerseError, match=r"was not trained; allowed: 0\.1 to 0\.9"):
            bin_of(p, chosen)


@pytest.mark.parametrize("excise", [True, False])
def test_targets_are_the_next_kept_tokens_behind_the_problem(excise: bool) -> None:
    row = row_of(0.5, seed=4, excise_tokens=excise)
    seen = row["attention_mask"].astype(bool)
    ids, labels = row["input_ids"][seen], row["labels"][seen]
    first = int(np.flatnonzero(ids == SEPARATOR)[0])
    assert ids[0] == VOCAB_SIZE + 5
    assert (labels[:first] == IGNORED).all()
    np.testing.assert_array_equal(labels[first:-1], ids[first + 1 :])
    assert labels[-1] == IGNORED
    assert (row["labels"][~seen] == IGNORED).all()
    assert seen.all() == excise
    assert len(ids) < len(CHAIN.tokens)


def test_the_problem_is_a_target_where_it_is_to_be_one() -> None:
    row = row_of(0.0, incl_intl_prob=True)
    np.testing.assert_array_equal(row["labels"][:-1], row["input_ids"][1:])
    plain = row_of(0.0, incl_intl_prob=True, arm="vanilla")
    np.testing.assert_array_equal(plain["labels"][:-1], CHAIN.tokens[1:])


@pytest.mark.parametrize(("skip", "excise"), [(True, True), (True, False), (False, True)])
def test_positions_count_kept_tokens_or_keep_the_gaps(skip: bool, excise: bool) -> None:
    row = row_of(0.5, seed=4, pad_pos_skip=skip, excise_tokens=excise)
    places = row["position_ids"][row["attention_mask"].astype(bool)]
    kept = np.append(True, kept_tokens(CHAIN, 0.5, settings(), rng(4)))
    expected = np.arange(kept.sum()) if skip else np.flatnonzero(kept)
    np.testing.assert_array_equal(places, expected)


def test_direct_is_intensity_at_one_but_for_the_token() -> None:
    direct, asked = row_of(1.0, arm="direct"), row_of(1.0)
    for key in ("input_ids", "labels"):
        np.testing.assert_array_equal(direct[key], asked[key][1:])
    assert asked["input_ids"][0] == VOCAB_SIZE + 10


def test_epochs_have_every_chain_once_in_another_order() -> None:
    method = blotching(max_steps=20)
    rows = method.training_rows()
    chains = method.arithmetic.train
    layout = Layout(settings(arm="vanilla"), VOCAB_SIZE, method.layout.longest, None)
    plain = BlotchedRows(chains, layout, n_rows=2 * len(chains), rows_per_step=8)
    epochs = [
        [decode(plain[i]["input_ids"]) for i in range(start, start + len(chains))]
        for start in (0, len(chains))
    ]
    whole = sorted(decode(chain.tokens) for chain in chains)
    assert sorted(epochs[0]) == sorted(epochs[1]) == whole
    assert epochs[0] != epochs[1]
    bins = [int(rows[i]["input_ids"][0]) for i in range(2 * len(chains))]
    assert bins[: len(chains)] != bins[len(chains) :]
    assert len(rows) == 20 * 8
    with pytest.raises(IndexError):
        rows[len(rows)]


def test_the_curriculum_leaves_out_more_and_more() -> None:
    chosen = {"max_steps": 40, "curriculum_steps": 40, "batch_size": 8}
    rows = blotching(**chosen).training_rows()
    bins = [int(rows[i]["input_ids"][0]) - VOCAB_SIZE for i in range(len(rows))]
    assert set(bins[:16]) == {0}
    assert max(bins[:160]) <= 5
    assert max(bins[-80:]) >= 9
    twice = blotching(**chosen, n_grad_loops=2)
    rows = twice.training_rows()
    assert {int(rows[i]["input_ids"][0]) for i in range(32)} == {VOCAB_SIZE}
    held_out = twice.validation_rows()
    assert max(int(held_out[i]["input_ids"][0]) for i in range(12)) > VOCAB_SIZE + 5
    blind = blotching(**chosen, arm="blind", blotch_p=0.9).training_rows()
    whole = [len(blind[i]["input_ids"]) for i in range(len(blind))]
    assert np.mean(whole[:80]) > np.mean(whole[-80:]) + 3


def test_random_positions_are_drawn_per_row_and_increase() -> None:
    method = blotching(posenc_type="RandPositionalEncoding", max_posencs=400)
    rows = method.training_rows()
    places = [rows[i]["position_ids"] for i in range(20)]
    assert all((np.diff(line) > 0).all() and line[-1] < 400 for line in places)
    assert len({line[0] for line in places}) > 5
    np.testing.assert_array_equal(rows[3]["position_ids"], places[3])


def test_padding_is_on_the_right_and_no_target() -> None:
    batch = collate([row_of(1.0), row_of(0.0)], 7)
    short = len(row_of(1.0)["input_ids"])
    assert (batch["input_ids"][0, short:] == 7).all()
    assert (batch["labels"][0, short:] == IGNORED).all()
    assert (batch["attention_mask"][0, short:] == 0).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"arm": "blind"}, "blind needs blotch_p"),
        ({"arm": "vanilla", "blotch_p": 0.5}, "vanilla has no blotch_p 0.5"),
        ({"arm": "direct", "n_btokens": 5}, "n_btokens is of the arm intensity"),
        ({"blotch_p_min": 0.5, "blotch_p_max": 0.5}, "less than blotch_p_max"),
        ({"blotch_spacing": "equal", "contig_blotches": False}, "contig_blotches"),
        ({"equal_rounding": "seeded"}, "goes with blotch_spacing equal"),
        ({"arm": "direct", "curriculum_steps": 5}, "one share only"),
        ({"max_posencs": 50}, "rotary positions have no table"),
        ({"posenc_drop_p": 0.1}, "rotary positions have no table"),
        (
            {"posenc_type": "SinPositionalEncoding", "max_posencs": 9, "seq_len": 20},
            "21 tokens have to fit",
        ),
        ({"min_lr": 0.1}, r"min_lr 0\.1 > lr"),
        ({"lr_schedule": "cosine", "min_lr": 1e-4}, "min_lr goes with lr_schedule power"),
        ({"warmup_steps": 0}, "1 or more"),
        ({"d_model": 18, "n_heads": 4}, "no multiple of"),
        ({"base": "b"}, "leave base and tokenizer out"),
        ({"corpus": "c", "seq_len": 9}, "is of the arithmetic problems"),
        ({"model_parallel": True}, "model_parallel"),
        ({"ood_max_num": 30}, "more than the training's 30"),
        ({"ood_max_num": 40, "p_mult": 0.2, "max_mult_num": 40}, "more than the training's 40"),
        ({"arm": "direct", "contig_blotches": False}, "leaves out neighbours too"),
        ({"n_votes": 1}, "no vote"),
        ({"n_epochs": 2}, "n_epochs and n_train_loops go together"),
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


def test_numbers_out_of_distribution_are_above_factors_too() -> None:
    products = {"max_ents": 2, "p_mult": 1.0, "max_num": 3, "max_mult_num": 20}
    ood = blotching(**products).arithmetic.problems.ood
    largest = [max(factors) for (factors,) in ood]
    assert all(20 < number <= 41 for number in largest)
    assert len(set(largest)) > 3


def test_over_long_chains_are_an_error() -> None:
    with pytest.raises(TerseError, match=r"the longest chain has \d+ tokens, seq_len allows 20"):
        blotching(seq_len=20).training_rows()
    arithmetic = blotching(max_num=9, max_ents=2).arithmetic
    within, ood = (
        max(len(chain.tokens) for chain in chains)
        for chains in ((*arithmetic.train, *arithmetic.validation), arithmetic.ood)
    )
    assert arithmetic.longest == ood > within
    with pytest.raises(TerseError, match="max_posencs is 30"):
        blotching(posenc_type="SinPositionalEncoding", max_posencs=30).build()
