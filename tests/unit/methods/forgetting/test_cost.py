"""FLOPs of arms, masks and tables against passes over single windows, counted by torch."""

from typing import Any

import pytest
import torch

from terse.evaluation.flops import lm_flops
from terse.methods.forgetting.cost import cost_table, mask_flops
from terse.methods.forgetting.evaluation import arms_of, fullest, rows_of, score_arms
from terse.methods.forgetting.packing import Rows
from terse.training.method import Inputs
from tiny_compression import make_inputs
from tiny_forgetting import forgetting
from torch_flops import flops_by_torch

MASKS: dict[str, dict[str, Any]] = {
    "mlp": {"mask": "mlp"},
    "cnn": {"mask": "cnn_mlp", "cnn_hidden_dim": 12},
    "lstm": {"mask": "rnn", "rnn_type": "LSTM"},
    "both ways": {"mask": "rnn", "bidirectional": True},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    torch.set_num_threads(1)
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def evaluated(inputs: Inputs, **changes: Any) -> Any:
    method = forgetting(inputs, eval_windows=12, **changes)
    return method._evaluated(method.build(), "cpu")


def trimmed(rows: Rows) -> Rows:
    """Return a row without its padding."""
    n = int(rows.attention_mask.sum())
    return Rows(rows.input_ids[:, :n], rows.attention_mask[:, :n], rows.is_target[:, :n])


@pytest.mark.parametrize(
    "changes",
    [pytest.param(m, marks=[pytest.mark.slow] if n != "mlp" else []) for n, m in MASKS.items()],
    ids=MASKS,
)
def test_each_arm_costs_what_deciding_and_reading_do(
    changes: dict[str, Any], inputs: Inputs
) -> None:
    given = evaluated(inputs, **changes)
    model, sums = given.model, score_arms(given)
    expected = dict.fromkeys(("identity", "mask-f0.5", "recency-f0.25"), 0)
    for i in range(len(given.rows)):
        rows = trimmed(rows_of([given.rows[i]], "cpu"))
        keeps = {arm: keep for arm, keep, _, _ in arms_of(given, rows)}
        for arm in expected:
            expected[arm] += flops_by_torch(
                lambda arm=arm, rows=rows, keeps=keeps: model.score(rows, keeps[arm], "prefix")
            )
        expected["mask-f0.5"] += flops_by_torch(
            lambda rows=rows: model.decisions(rows, "prefix", 0.5)
        )
    for arm, flops in expected.items():
        assert sums[arm]["flops"].sum() == pytest.approx(flops, rel=0.01), arm


def test_the_oracle_pays_for_both_its_passes(inputs: Inputs) -> None:
    given = evaluated(inputs)
    rows, saliency = trimmed(rows_of([given.rows[5]], "cpu")), given.arms["saliency"]
    expected = flops_by_torch(lambda: saliency.logits(rows, rows.is_context))
    found = mask_flops(saliency, "cpu").total(rows.input_ids.shape[1], rows.is_target.sum())
    assert found == pytest.approx(expected, rel=0.01)
    assert expected > 1.8 * lm_flops(given.model.lm).total(rows.input_ids.shape[1])
    assert mask_flops(given.arms["norm"], "cpu").total(100) == 0


def test_counting_draws_nothing_from_a_random_mask(inputs: Inputs) -> None:
    given = evaluated(inputs)
    before = given.arms["random"].generator.get_state()
    mask_flops(given.arms["random"], "cpu")
    assert torch.equal(given.arms["random"].generator.get_state(), before)


def test_the_table_of_forget_rates(inputs: Inputs) -> None:
    given = evaluated(inputs)
    rows = fullest(given)
    table = cost_table(given.model, rows).set_index("forget_rate")
    assert list(table.index) == [0.0, 0.25, 0.5]
    score, decide = given.model.score, given.model.decisions
    n_rows, reading, deciding = len(rows.input_ids), 0.0, 0.0
    for i in range(n_rows):
        one = Rows(
            *(part[i : i + 1] for part in (rows.input_ids, rows.attention_mask, rows.is_target))
        )
        keep = decide(one, "prefix", 0.5)
        reading += flops_by_torch(lambda one=one, keep=keep: score(one, keep, "prefix")) / n_rows
        deciding += flops_by_torch(lambda one=one: decide(one, "prefix", 0.5)) / n_rows
    assert table.loc[0.5, "forward_flops"] == pytest.approx(reading + deciding, rel=0.01)
    assert table.loc[0.5, "mask_flops"] == pytest.approx(deciding, rel=0.01)
    assert table.loc[0.0].filter(like="_ratio").eq(1).all()
    assert table["mask_flops"][0.0] == 0
    b, n = table["positions"][0.5], table["positions"][0.0]
    assert table["linear_ratio"][0.5] == pytest.approx(b / n)
