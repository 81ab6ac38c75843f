"""`cache_shard` end to end on a tiny model, against a naive loop over contexts."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn

from terse.activations import cache
from terse.activations.shard import cache_shard
from terse.activations.shards import attributes_of
from terse.dimension import estimate
from terse.errors import TerseError
from tiny_llama import CTX_LEN, N_CONTEXTS, WIDTH, make_model, make_settings, write_chunks

KEYS = [f"{key}-l{layer}" for layer in range(3) for key in ("mlp", "attn", "block")] + ["norm"]


def cached(model, chunks: Path, folder: Path, settings, n_shards: int = 2) -> Path:
    for shard in range(n_shards):
        cache_shard(
            model,
            chunks,
            folder / f"shard-{shard:05d}.h5",
            settings=settings,
            shard=shard,
            n_shards=n_shards,
            attributes={"model": "tiny", "revision": None},
        )
    return folder


def naive(model, chunks: Path) -> dict[str, np.ndarray]:
    """One context at a time, everything by the book."""
    with h5py.File(chunks) as file:
        tokens = torch.from_numpy(file["tokens"][:].astype(np.int64))
    blocks, last, loss, entropy = [], [], [], []
    for row in tokens:
        with torch.no_grad():
            result = model(row[None], output_hidden_states=True)
        blocks.append(torch.cat(result.hidden_states[1:-1]))
        last.append(result.hidden_states[-1][0])
        log_p = torch.log_softmax(result.logits[0, :-1].double(), dim=-1)
        loss.append(nn.functional.nll_loss(log_p, row[1:], reduction="none"))
        entropy.append(torch.distributions.Categorical(logits=log_p).entropy())
    stacked = torch.stack(blocks)  # (n, L-1, T, D)
    return {
        "tokens": tokens.numpy(),
        "loss": torch.stack(loss).numpy(),
        "entropy": torch.stack(entropy).numpy(),
        "norm": torch.stack(last).numpy(),
        **{f"block-l{layer}": stacked[:, layer].numpy() for layer in range(stacked.shape[1])},
    }


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_everything_equals_a_naive_loop(model, chunks, tmp_path, compression):
    settings = make_settings(compression=compression)
    expected = naive(model, chunks)
    with cache.open(cached(model, chunks, tmp_path / "a", settings, n_shards=3)) as found:
        assert list(found.modules) == list(found.activations) == list(found.means) == KEYS
        np.testing.assert_array_equal(found.tokens[:], expected["tokens"])
        np.testing.assert_allclose(found.loss[:], expected["loss"], atol=1e-5)
        np.testing.assert_allclose(found.entropy[:], expected["entropy"], atol=1e-5)
        for key in ("block-l0", "block-l1", "norm"):
            np.testing.assert_allclose(found.activations[key][:], expected[key], atol=1e-5)
            np.testing.assert_allclose(found.means[key][:], expected[key].mean(1), atol=1e-5)
            assert not found.n_nonfinite[key][:].any()
        assert not found.ids
    assert cache.verify(tmp_path / "a") == N_CONTEXTS * (5 * len(KEYS) + 4)


def test_reading_is_lazy_joined_and_by_row(model, chunks, tmp_path):
    with cache.open(cached(model, chunks, tmp_path / "a", make_settings(), n_shards=4)) as found:
        rows = found.activations["block-l1"]
        whole = np.asarray(rows)
        assert rows.shape == (N_CONTEXTS, CTX_LEN, WIDTH)
        assert len(rows) == N_CONTEXTS
        for i in range(N_CONTEXTS):
            np.testing.assert_array_equal(rows[i], whole[i])
            for j in range(i, N_CONTEXTS + 1):
                np.testing.assert_array_equal(rows[i:j], whole[i:j])
        np.testing.assert_array_equal(rows[-1], whole[-1])
        assert rows[5:2].shape == (0, CTX_LEN, WIDTH)
        with pytest.raises(IndexError):
            rows[N_CONTEXTS]
        with pytest.raises(TerseError, match="step of 1"):
            rows[::2]
        with pytest.raises(TerseError, match="did you mean 'block-l1'"):
            found.activations["block-1"]
        assert found.rows["document"].tolist()[:3] == ["größe-0", "größe-0", "größe-1"]
        assert found.rows["byte_end"].tolist() == [100 * i + 90 for i in range(N_CONTEXTS)]
        assert found.attributes["model"] == "tiny"
        assert found.attributes["revision"] is None
        assert found.attributes["settings"]["ctx_len"] == CTX_LEN
        assert found.attributes["chunk_settings"] == {"chunk_gap": 50}


def test_batch_size_and_number_of_shards_change_nothing(model, chunks, tmp_path):
    first = cached(model, chunks, tmp_path / "a", make_settings(batch_size=4), n_shards=1)
    other = cached(model, chunks, tmp_path / "b", make_settings(batch_size=3), n_shards=13)
    with cache.open(first) as a, cache.open(other) as b:
        for key in KEYS:
            np.testing.assert_allclose(a.activations[key][:], b.activations[key][:], atol=1e-5)
        np.testing.assert_allclose(a.loss[:], b.loss[:], atol=1e-5)
        assert a.rows.equals(b.rows)


def test_made_again_it_is_the_same_file(model, chunks, tmp_path):
    cached(model, chunks, tmp_path / "a", make_settings(), n_shards=1)
    cached(model, chunks, tmp_path / "b", make_settings(), n_shards=1)
    name = "shard-00000.h5"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == [name]


@pytest.mark.parametrize("save_fp", ["float16", "bfloat16"])
def test_half_precision_is_one_rounding(model, chunks, tmp_path, save_fp):
    cached(model, chunks, tmp_path / "a", make_settings())
    cached(model, chunks, tmp_path / "b", make_settings(save_fp=save_fp))
    with cache.open(tmp_path / "a") as exact, cache.open(tmp_path / "b") as rounded:
        for key in KEYS:
            values = torch.from_numpy(exact.activations[key][:])
            expected = values.to(getattr(torch, save_fp)).float().numpy()
            np.testing.assert_array_equal(rounded.activations[key][:], expected)
            np.testing.assert_array_equal(rounded.means[key][:], exact.means[key][:])
    with h5py.File(tmp_path / "b" / "shard-00000.h5") as file:
        stored = file["activations/block-l0"]
        about = attributes_of(stored)
        assert about["dtype"] == save_fp
        assert stored.dtype == {"float16": np.float16, "bfloat16": np.uint16}[save_fp]
        assert about["module_path"] == "model.layers.0"
        assert about["layer"] == 0


def test_without_tensors_the_dimensions_are_those_of_the_saved_tensors(model, chunks, tmp_path):
    cached(model, chunks, tmp_path / "a", make_settings())
    fused = make_settings(save_cache_tensors=False, skip_first=2)
    cached(model, chunks, tmp_path / "b", fused)
    with cache.open(tmp_path / "a") as a, cache.open(tmp_path / "b") as b:
        assert not b.activations
        for key in KEYS:
            found = estimate(a.activations[key][:], ["mle", "mind_ml"], skip_first=2)
            for name in ("mle", "mind_ml"):
                np.testing.assert_allclose(b.ids[name][key][:], found[name], rtol=1e-5)
                assert b.reasons[name][key][:].tolist() == [""] * N_CONTEXTS
            assert b.n_eff[key][:].tolist() == found.n_eff.tolist()
            assert b.n_dup[key][:].tolist() == found.n_dup.tolist()
        np.testing.assert_array_equal(a.means["norm"][:], b.means["norm"][:])
    cache.verify(tmp_path / "b")


def test_an_undefined_dimension_comes_with_its_reason(model, chunks, tmp_path):
    few = make_settings(save_cache_tensors=False, skip_first=CTX_LEN - 10)
    with cache.open(cached(model, chunks, tmp_path / "a", few)) as found:
        assert np.isnan(found.ids["mle"]["norm"][:]).all()
        assert all("few" in reason for reason in found.reasons["mle"]["norm"][:])


def test_id_input_float16_rounds_before_estimating(model, chunks, tmp_path):
    calls = []

    def recording(points, names, **options):
        calls.append(points.dtype)
        return estimate(points, names, **options)

    settings = make_settings(save_cache_tensors=False, id_input="float16")
    cache_shard(
        model, chunks, tmp_path / "s.h5", settings=settings, shard=0, n_shards=1,
        attributes={}, estimator=recording,
    )  # fmt: skip
    assert set(calls) == {torch.float16}


def test_means_only_stops_early_and_writes_little(model, chunks, tmp_path):
    settings = make_settings(
        save_cache_tensors=False, save_IDs=False, save_loss=False, save_entropy=False,
        layer_idx_list=[0], module_outblock_keys=[],
    )  # fmt: skip
    ran = []  # by batches; the passes over one context look for what the blocks add
    handle = model.model.layers[1].register_forward_hook(
        lambda _, args, output: ran.append(1) if len(args[0]) > 1 else None
    )
    with cache.open(cached(model, chunks, tmp_path / "a", settings)) as found:
        assert found.loss is None
        assert found.entropy is None
        assert list(found.means) == ["mlp-l0", "attn-l0", "block-l0"]
    handle.remove()
    assert not ran


@pytest.mark.parametrize(
    ("poison", "save_fp", "per_row"),
    [(np.nan, "float32", CTX_LEN), (np.inf, "float32", CTX_LEN), (1e5, "float16", CTX_LEN)],
)
@pytest.mark.parametrize("means", [True, False])
def test_nan_inf_and_overflow_are_counted_and_told(
    chunks, tmp_path, caplog, poison, save_fp, per_row, means
):
    model = make_model()
    model.lm_head.weight.data = model.lm_head.weight.data.clone()
    model.model.norm.weight.data.zero_()
    model.model.norm.register_forward_hook(lambda m, i, out: out + poisoned)
    poisoned = torch.zeros(WIDTH)
    poisoned[3] = poison
    settings = make_settings(
        save_fp=save_fp, save_mean_tensors=means, module_name_mapping={"norm": "model.norm"}
    )
    with caplog.at_level("WARNING"):
        cached(model, chunks, tmp_path / "a", settings, n_shards=1)
    with cache.open(tmp_path / "a") as found:
        counts = {key: rows[:].tolist() for key, rows in found.n_nonfinite.items()}
    assert counts.pop("norm") == [per_row] * N_CONTEXTS
    assert not any(any(rows) for rows in counts.values())
    total = per_row * N_CONTEXTS
    assert f"norm holds {total} values that are NaN or inf, in {N_CONTEXTS} of" in caplog.text


def test_an_encoder_has_dimensions_and_no_loss(chunks, tmp_path):
    config = hf.BertConfig(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40,
        vocab_size=97,
    )  # fmt: skip
    encoder = hf.BertModel(config).eval()
    wrong = make_settings(module_outblock_keys=[])
    with pytest.raises(TerseError, match="BertModel has no logits: set save_loss"):
        cached(encoder, chunks, tmp_path / "a", wrong)
    right = make_settings(module_outblock_keys=["emb"], save_loss=False, save_entropy=False)
    with cache.open(cached(encoder, chunks, tmp_path / "a", right)) as found:
        assert found.activations["emb"].shape == (N_CONTEXTS, CTX_LEN, WIDTH)


def test_what_does_not_fit_together_is_refused_before_any_work(model, chunks, tmp_path):
    with pytest.raises(TerseError, match="has contexts of 32, not of 48, tokens"):
        cached(model, chunks, tmp_path / "a", make_settings(ctx_len=48))
    long = write_chunks(tmp_path / "long.h5", n=2, ctx_len=80)
    with pytest.raises(TerseError, match="exceeds the 64 positions"):
        cached(model, long, tmp_path / "a", make_settings(ctx_len=80))
    with h5py.File(chunks, "r+") as file:
        file["tokens"][2, 3] = 97
    with pytest.raises(TerseError, match="contain token 97, but the model has 97 embeddings"):
        cached(model, chunks, tmp_path / "a", make_settings())
    nothing = make_settings(
        save_cache_tensors=False, save_mean_tensors=False, save_IDs=False, save_loss=False,
        save_entropy=False,
    )  # fmt: skip
    with pytest.raises(TerseError, match="nothing would be saved"):
        cached(model, chunks, tmp_path / "a", nothing)
    with pytest.raises(TerseError, match="no shard 2 of 2"):
        cache_shard(
            model, chunks, tmp_path / "s.h5", settings=make_settings(), shard=2, n_shards=2,
            attributes={},
        )  # fmt: skip
    with pytest.raises(TerseError, match="cannot read the chunks"):
        cached(model, tmp_path / "nowhere.h5", tmp_path / "a", make_settings())
    assert not (tmp_path / "a").exists()
