"""Every arm is scored on the same targets, and the recovery is what it says."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from terse.errors import TerseError
from terse.methods.compression.arms import ARMS
from terse.methods.compression.evaluation import paired_rows, recovery, score_arms
from terse.methods.compression.model import Batch, Compressor
from terse.training.method import Inputs
from tiny_compression import compression
from tiny_run import train_into


def test_every_arm_has_the_same_targets_and_batches_change_nothing(
    model: Compressor, inputs: Inputs
) -> None:
    windows = compression(inputs)._evaluated
    sums = score_arms(model, windows, 0)
    assert set(sums.arms) == set(ARMS)
    items = [windows[i] for i in range(len(windows))]
    others = score_arms(model, windows, 0, batch_size=7)
    for arm in ARMS:
        of = sums[arm]
        assert of["n_targets"].sum() == sum(int(item["is_new"].sum()) for item in items)
        assert of["n_bytes"].sum() == sum(item["target_bytes"] for item in items)
        for name, values in of.items():
            np.testing.assert_allclose(others[arm][name], values, rtol=1e-4, atol=1e-3)
        assert (of["kl"] == 0).all() if arm == "high" else (of["kl"] > 0).all()
        assert (of["top1"] <= of["top5"]).all()


def test_shuffled_contexts_are_of_other_documents(inputs: Inputs) -> None:
    windows = compression(inputs)._evaluated
    for rows, others in paired_rows(windows, 16):
        assert all(a["document"] != b["document"] for a, b in zip(rows, others, strict=True))
    first = windows.places[0]
    # One long document: the window half of all windows away is of the same one.
    windows.places = [first] * 9 + [place for place in windows.places if place[0] != first[0]][:1]
    for rows, others in paired_rows(windows, 4):
        assert all(a["document"] != b["document"] for a, b in zip(rows, others, strict=True))
    windows.places = [first] * 9
    with pytest.raises(TerseError, match="two validation documents"):
        next(paired_rows(windows, 16))


def test_the_table_has_every_arm_and_measure(model: Compressor, inputs: Inputs) -> None:
    measures = compression(inputs).evaluate(model, "cpu")
    table = pd.DataFrame([vars(measure) for measure in measures])
    for measure in ("loss_nats", "bits_per_byte", "accuracy_top1", "accuracy_top5"):
        rows = table[table["measure"] == measure]
        assert list(rows["arm"]) == list(ARMS)
        assert (rows["interval_low"] <= rows["value"]).all()
        assert (rows["interval_high"] >= rows["value"]).all()
    recovered = table[table["measure"] == "recovery"]
    assert list(recovered["arm"]) == ["compressed", "static", "shuffled", "tail", "mean_pool"]
    cost = table.set_index(["measure", "arm"])["value"]
    difference = cost["loss_nats", "shuffled"] - cost["loss_nats", "compressed"]
    assert cost["gain_over_shuffled_nats", "compressed"] == pytest.approx(difference)
    assert cost["positions", "high"] == 8
    assert cost["positions", "compressed"] == 3
    # 3 blocks, keys and values, 2 heads of 8, float32
    assert cost["key_value_bytes", "high"] == 8 * 3 * 2 * 16 * 4
    assert cost["key_value_bytes", "compressed"] == 3 * 3 * 2 * 16 * 4
    plain = {m.arm: m.value for m in measures if m.measure == "loss_nats"}
    bits = {m.arm: m.value for m in measures if m.measure == "bits_per_byte"}
    ratios = [bits[arm] / plain[arm] for arm in ARMS]
    np.testing.assert_allclose(ratios, ratios[0])
    again = compression(inputs).evaluate(model, "cpu")
    assert [vars(m) for m in again if m.flag == ""] == [vars(m) for m in measures if m.flag == ""]


def test_recovery_of_known_losses() -> None:
    rng = np.random.default_rng(0)
    n_targets = rng.integers(50, 100, 60).astype(float)
    low = n_targets * (4.0 + rng.normal(0, 0.3, 60))
    gain = n_targets * (1.0 + rng.normal(0, 0.1, 60))
    nats = {"low": low, "high": low - gain, "compressed": low - 0.4 * gain, "static": low}
    found = recovery("compressed", nats, n_targets)
    assert found.value == pytest.approx(0.4)
    # paired: the spread of the documents' own losses drops out
    assert found.interval_high - found.interval_low < 1e-6
    assert recovery("static", nats, n_targets).value == 0
    assert recovery("high", nats, n_targets).value == 1
    noisy = nats | {"compressed": low - gain * rng.normal(0.4, 0.5, 60)}
    found = recovery("compressed", noisy, n_targets)
    assert found.interval_low < 0.4 < found.interval_high
    assert 0.05 < found.interval_high - found.interval_low < 0.5


def test_recovery_of_no_gap_is_flagged() -> None:
    rng = np.random.default_rng(0)
    n_targets = np.full(40, 10.0)
    low = 40 + rng.normal(0, 1, 40)
    nats = {"low": low, "high": low + rng.normal(0, 1, 40), "compressed": low - 1}
    found = recovery("compressed", nats, n_targets)
    assert math.isnan(found.value)
    assert found.flag == "the gap is within its uncertainty"


def test_reproduction_alone_has_all_arms_too(inputs: Inputs, tmp_path: Path) -> None:
    method = compression(inputs, rmb_only=True, seq_len=10, max_steps=2)
    model = method.load(train_into(tmp_path, method) / "model")
    assert {"rmb_nats", "ce_nats"} & set(pd.read_csv(tmp_path / "history.csv")) == {"rmb_nats"}
    windows = method._evaluated
    sums = score_arms(model, windows, 0)
    assert set(sums.arms) == set(ARMS)
    assert sums["compressed"]["n_targets"].sum() == 10 * len(windows)
    row = windows[0]
    batch = Batch(**{name: row[name][None] for name in Batch.__dataclass_fields__})
    with torch.no_grad():
        logits = model.read_context(batch)[0].log_softmax(-1)
        twice = torch.cat([row["context"], row["context"]])[None]
        expected = model.lm(twice).logits[0, 9:-1].log_softmax(-1)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_gains_are_paired() -> None:
    from terse.methods.compression.evaluation import gains

    rng = np.random.default_rng(0)
    n_targets = rng.integers(50, 100, 60).astype(float)
    own = n_targets * (4.0 + rng.normal(0, 1.0, 60))  # documents differ by far more than the arms
    nats = {"low": own + 0.3 * n_targets, "high": own, "compressed": own, "static": own}
    found = {m.measure: m for m in gains(nats, n_targets)}
    assert set(found) == {"gain_over_low_nats", "gain_over_static_nats"}
    low = found["gain_over_low_nats"]
    assert low.value == pytest.approx(0.3)
    assert low.interval_high - low.interval_low < 1e-9
    assert found["gain_over_static_nats"].value == 0


def test_a_reproduced_context_is_scored_on_held_out_text(inputs: Inputs) -> None:
    """By a loop over tokens: the loss of each context token after the vectors and REMEMBER."""
    method = compression(inputs, rmb_task=True, eval_windows=6)
    torch.manual_seed(0)
    model = method.build().eval()
    found = {(m.arm, m.measure): m for m in method.evaluate(model, "cpu") if "remem" in m.arm}
    nats, best, n = 0.0, 0, 0
    with torch.no_grad():
        for i in range(len(method._evaluated)):
            context = method._evaluated[i]["context"][method._evaluated[i]["context_mask"].bool()]
            given = model.prefix(model.compress(context[None], context[None] * 0 + 1), "remember")
            for token in context:
                logits = model.lm(inputs_embeds=given).logits[0, -1].log_softmax(-1)
                nats, best, n = (
                    nats - float(logits[token]),
                    best + int(logits.argmax() == token),
                    n + 1,
                )
                given = torch.cat([given, model.lm.get_input_embeddings()(token)[None, None]], 1)
    assert found["remembered", "loss_nats"].value == pytest.approx(nats / n, rel=1e-4)
    assert found["remembered", "accuracy_top1"].value == pytest.approx(best / n)
    assert found["remembered_shuffled", "loss_nats"].value != found["remembered", "loss_nats"].value
    assert "context themselves" in found["remembered", "loss_nats"].targets
