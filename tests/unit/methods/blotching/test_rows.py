"""What a row says to the model."""

import numpy as np
import pytest

from terse.corpora.arithmetic.characters import SEPARATOR, VOCAB_SIZE, decode
from terse.methods.blotching.blotches import kept_tokens
from terse.methods.blotching.rows import IGNORED, BlotchedRows, Layout, collate
from tiny_blotching import CHAIN, blotching, rng, settings


def row_of(p: float, seed: int = 0, **changes):
    layout = Layout(settings(**changes), VOCAB_SIZE, len(CHAIN.tokens) + 1, None)
    return layout.row(CHAIN, p, rng(seed))


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
