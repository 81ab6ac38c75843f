"""The arms see what they say they see, and the recovery is what it says."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from terse.errors import TerseError
from terse.methods.compression.arms import ARMS, ScoredBatch, arms_of, part_means
from terse.methods.compression.cost import cache_bytes
from terse.methods.compression.evaluation import paired_rows, recovery, score_arms
from terse.methods.compression.frozen_lm import embed
from terse.methods.compression.model import Batch, Compressor
from terse.training.method import Inputs
from tiny_compression import compression
from tiny_run import train_into


@pytest.fixture(scope="module")
def model(inputs: Inputs, trained: Path) -> Compressor:
    return compression(inputs).load(trained / "model")


def naive_nats(model: Compressor, arm: str, item: dict, other: dict, o: int) -> list[float]:
    """Return the loss of each new token of one window, one token at a time."""
    lm, (context, target) = model.lm, (item["context"], item["target"][item["is_new"].bool()])
    rows = model.vectors

    def vectors_of(tokens: torch.Tensor) -> torch.Tensor:
        inside = torch.cat([embed(lm, tokens), rows[:2]])[None]
        states = lm(inputs_embeds=inside, output_hidden_states=True).hidden_states
        return torch.cat([states[-2][0, -2:], rows[2:3]])

    states = lm(context[None], output_hidden_states=True).hidden_states[-2][0]
    before = len(context) - o  # where the overlap begins, which follows raw
    prefix = {
        "low": embed(lm, torch.tensor([0])),
        "high": embed(lm, context[:before]),
        "compressed": vectors_of(context),
        "static": model.static,
        "shuffled": vectors_of(other["context"]),
        "tail": embed(lm, context[before - 3 : before]),
        "mean_pool": torch.cat([states[:4].mean(0)[None], states[4:].mean(0)[None], rows[2:3]]),
    }[arm]
    losses = []
    for t, token in enumerate(target):
        inside = torch.cat([prefix, embed(lm, context[before:]), embed(lm, target[:t])])[None]
        losses.append(-lm(inputs_embeds=inside).logits[0, -1].log_softmax(-1)[token].item())
    return losses


def padded(row: dict, n: int) -> Batch:
    """Return a window with n places more in front of its context."""
    fields = {name: row[name][None] for name in Batch.__dataclass_fields__}
    for name in ("context", "context_mask"):
        fields[name] = torch.nn.functional.pad(fields[name], (n, 0))
    return Batch(**fields)


@torch.no_grad()
def test_means_of_parts_are_of_real_states_and_none_is_empty() -> None:
    states = torch.arange(6.0)[None, :, None].repeat(2, 1, 1)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]])
    found = part_means(states, mask, 3)[..., 0]
    assert found.tolist() == [[0.5, 2.5, 4.5], [4, 4, 5]]


@pytest.mark.parametrize(("overlap", "padding"), [(0, 0), (2, 0), (0, 3)])
@pytest.mark.parametrize("arm", list(ARMS))
@torch.no_grad()
def test_each_arm_against_a_naive_loop(
    arm: str, overlap: int, padding: int, trained: Path, inputs: Inputs
) -> None:
    method = compression(inputs, eval_windows=None, seq_overlap=overlap)
    model = method.build().eval()
    model.load_state_dict(load_file(trained / "model" / "model.safetensors"))
    windows = method._evaluated
    rows, others = next(paired_rows(windows, len(windows)))
    ragged = next(i for i, row in enumerate(rows) if not row["target_mask"].all())
    for i in (0, ragged):
        batches = [padded(row, padding) for row in (rows[i], others[i])]
        logits = ARMS[arm](model, ScoredBatch(batches[0], batches[1], start=0))
        new = rows[i]["is_new"].bool()
        nats = -logits[0].log_softmax(-1).gather(1, rows[i]["target"][:, None])[:, 0][new]
        expected = naive_nats(model, arm, rows[i], others[i], overlap)
        np.testing.assert_allclose(nats, expected, rtol=1e-4)


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


def test_without_its_prompt_there_is_no_static_arm(inputs: Inputs) -> None:
    model = compression(inputs, static_control=False).build()
    assert "static" not in arms_of(model)
    assert "static" not in {m.arm for m in compression(inputs).evaluate(model, "cpu")}


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


def test_tables_show_samples_and_cost(model: Compressor, inputs: Inputs) -> None:
    tables = compression(inputs).tables(model, "cpu")
    samples = tables["samples"]
    assert list(samples) == [
        "context", "what_follows", "with_context", "with_vectors", "with_nothing",
    ]  # fmt: skip
    assert len(samples) == 2
    assert samples["context"].str.len().min() > 5
    cost = tables["cost"].set_index("way")
    assert list(cost.index) == ["high", "compressed", "compressing"]
    assert cost.loc["compressed", "positions_ratio"] == 3 / 8
    assert (cost["time_to_first_token_s"] > 0).all()
    assert (
        cost.loc["compressing", "time_to_first_token_s"]
        > (cost.loc["compressed", "time_to_first_token_s"])
    )


@torch.no_grad()
def test_cache_bytes_are_those_of_the_keys_and_values(model: Compressor) -> None:
    assert cache_bytes(model, torch.randn(1, 5, 16)) == 5 * 3 * 2 * 16 * 4


def test_dimensions_are_those_of_the_vectors_over_contexts(
    model: Compressor, inputs: Inputs
) -> None:
    from terse.dimension import estimate
    from terse.methods.compression.tables import clouds, dimensions_table

    windows = compression(inputs)._evaluated
    found = clouds(model, windows)
    assert set(found) == {"vector-0", "vector-1", "mean", "last_token", "token_mean"}
    with torch.no_grad():
        for i in (0, 7, 39):
            context = windows[i]["context"][None]
            Z = model.compress(context, torch.ones_like(context))[0]
            torch.testing.assert_close(found["vector-1"][i], Z[1], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(found["mean"][i], Z.mean(0), rtol=1e-4, atol=1e-4)
            states = model.lm(context, output_hidden_states=True).hidden_states[-2][0]
            torch.testing.assert_close(found["last_token"][i], states[-1], rtol=1e-4, atol=1e-4)
            mean = states.mean(0)
            torch.testing.assert_close(found["token_mean"][i], mean, rtol=1e-4, atol=1e-4)
    table = dimensions_table(model, windows).set_index(["cloud", "estimator"])
    expected = float(estimate(found["mean"], ["mle_inv"])["mle_inv"])
    assert table.loc[("mean", "mle_inv"), "id"] == pytest.approx(expected)
    assert table.loc[("mean", "mle_inv"), "n_eff"] == 40


@pytest.mark.parametrize(("cloud", "n_spans"), [("last_token", 1), ("means", 1), ("means", 2)])
def test_vectors_are_captured_as_other_models_states(
    cloud: str, n_spans: int, trained: Path, inputs: Inputs, tmp_path: Path
) -> None:
    """Cut from the corpus, cached in shards, tabled: the whole way of any other model."""
    from terse.activations import cache
    from terse.activations.shard import cache_shard
    from terse.activations.table import dimension_table
    from terse.corpora.chunks import chunk_documents
    from terse.dimension import estimate
    from terse.settings.activations import Activations

    folder = trained / "model"
    method = compression(inputs, n_spans=n_spans, seq_len=6 + 8 * n_spans)
    if n_spans > 1:
        folder = tmp_path / "spans"
        folder.mkdir()
        method.save(method.build(), folder)
    asked = {"corpus": "c", "batch_size": 7, **method.settings.measurement(), "cloud": cloud}
    asked["save_IDs_list"] = ["mle_inv", "twoNN_f10"]
    settings = Activations.model_validate(asked)
    assert inputs.tokens is not None
    chunk_documents(
        inputs.tokens, tmp_path / "chunks.h5", ctx_len=settings.ctx_len,
        min_chunks_from_a_document=1, max_chunks_from_a_document=2, split="validation",
    )  # fmt: skip
    for shard in (0, 1):
        cache_shard(
            method.measured(folder, "cpu"), tmp_path / "chunks.h5",
            tmp_path / "shards" / f"shard-{shard:05d}.h5", settings=settings, shard=shard,
            n_shards=2, attributes={"model": "z", "revision": "main", "corpus": "c"},
        )  # fmt: skip
    model = method.load(folder)
    with cache.open(tmp_path / "shards") as found:
        contexts = torch.from_numpy(found.tokens[:]).long()[:, 1:]  # BOS in front
        with torch.no_grad():
            Z = model.compress(contexts, torch.ones_like(contexts))
        expected = Z[:, -1] if cloud == "last_token" else Z.mean(1)
        kept = found.last_tokens if cloud == "last_token" else found.means
        np.testing.assert_allclose(kept["vectors"][:], expected, rtol=1e-4, atol=1e-5)
        table = dimension_table(found, settings.save_IDs_list, cloud=cloud)
    ids = estimate(expected, settings.save_IDs_list)
    assert table["module"].tolist() == ["vectors"] * 2
    assert (table["n_eff"] == len(contexts)).all()
    np.testing.assert_allclose(table["id"], [ids["mle_inv"], ids["twoNN_f10"]], rtol=1e-3)


def test_vectors_that_know_no_context_are_one_point(inputs: Inputs) -> None:
    model = compression(inputs, cmp_layer=0).build().eval()
    from terse.methods.compression.tables import dimensions_table

    table = dimensions_table(model, compression(inputs)._evaluated)
    rows = table[table["cloud"] == "vector-0"]
    assert rows["id"].isna().all()
    assert (rows["n_eff"] == 1).all()


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
