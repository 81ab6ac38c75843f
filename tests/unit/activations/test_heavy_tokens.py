"""Which tokens are heavy, where they begin, and how far out they are."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import LlamaForCausalLM

from terse.activations import cache
from terse.activations.heavy_summary import heavy_token_summary
from terse.activations.heavy_tokens import (
    COLUMNS,
    heavy_token_table,
    is_heavy,
    visible,
)
from terse.activations.shard import cache_shard
from tiny_llama import CTX_LEN, N_CONTEXTS, make_model, make_settings

LAYER = "model.layers.{layer}"
PATHS = {"block": LAYER, "mlp": f"{LAYER}.mlp", "norm": "model.norm"}
TEXTS = {token: f"<{token}>" for token in range(97)} | {5: ".\n"}


def sink_model() -> LlamaForCausalLM:
    """Return a model whose second block adds to the first token, and its third to token 5."""
    model = make_model()

    def to_the_first(_, inputs, out):
        return out.index_add(1, torch.tensor([0]), torch.full_like(out[:, :1], 500))

    def to_some(_, inputs, out):
        return out + 40 * (tokens == 5)[..., None] * out[:1, 1:2].norm()

    def remember(_, inputs):
        nonlocal tokens
        tokens = inputs[0]

    tokens = torch.empty(0)
    model.model.embed_tokens.register_forward_pre_hook(remember)
    model.model.layers[1].register_forward_hook(to_the_first)
    model.model.layers[2].register_forward_hook(to_some)
    return model


@pytest.fixture
def folder(chunks: Path, tmp_path: Path) -> Path:
    for shard in range(2):
        cache_shard(
            sink_model(), chunks, tmp_path / "a" / f"shard-{shard:05d}.h5", shard=shard,
            settings=make_settings(
                module_inblock_keys=["mlp", "block"], batch_size=1, module_name_mapping=PATHS
            ),
            n_shards=2, attributes={"model": "tiny", "revision": "main", "corpus": "pages"},
        )  # fmt: skip
    return tmp_path / "a"


@pytest.fixture
def table(folder: Path) -> pd.DataFrame:
    with cache.open(folder) as found:
        return heavy_token_table(found, TEXTS.__getitem__)


def test_each_heavy_token_with_the_layer_where_it_begins(folder: Path, table: pd.DataFrame) -> None:
    assert list(table.columns) == COLUMNS
    with cache.open(folder) as found:
        tokens, states = found.tokens[:], found.activations["block-l1"][:]
        norms, documents = found.norms["block-l1"][:], found.rows["document"]
    first = table.query("module == 'block' and position == 0")
    assert first["row"].tolist() == list(range(N_CONTEXTS))
    assert set(first["layer"]) == {1}
    assert set(first["last_layer"]) == {2}
    assert set(first["n_layers"]) == {2}
    assert first["token_id"].tolist() == tokens[:, 0].tolist()
    assert first["document"].tolist() == documents.tolist()
    assert first["n_alike"].tolist() == [(tokens[:, 0] == one).sum() for one in tokens[:, 0]]
    np.testing.assert_allclose(first["norm_over_median"], norms[:, 0])
    others = states[0, 1:].astype(np.float64)
    apart = np.linalg.norm(states[0] - others.mean(0), axis=1)
    np.testing.assert_allclose(norms[0], apart / np.median(apart), rtol=1e-5)
    later = table.query("module == 'block' and position > 0")
    expected = np.argwhere(tokens[:, 1:] == 5) + np.array([0, 1])
    np.testing.assert_array_equal(np.sort(later[["row", "position"]], 0), np.sort(expected, 0))
    assert set(later["layer"]) == {2}
    assert set(later["token"]) == {r".\n"}
    assert set(later["n_alike"]) == {len(expected)}
    assert table["module"].iloc[0] == "block"


def test_the_summary_counts_tokens_at_the_start_apart(table: pd.DataFrame) -> None:
    found = heavy_token_summary(table).query("module == 'block'").set_index(["token", "at_start"])
    dot = found.loc[(r".\n", "no")]
    part = table.query("module == 'block' and position > 0")
    assert (dot["n"], dot["share"], dot["layer"]) == (len(part), 1, 2)
    assert dot["heaviest"] == pytest.approx(part["heaviest"].median())
    assert (found.query("at_start == 'yes'")["share"] == 1).all()
    assert found.query("at_start == 'yes'")["n"].sum() == N_CONTEXTS


def test_nothing_is_heavy_where_more_than_an_eighth_would_be() -> None:
    norms = np.ones((2, CTX_LEN))
    norms[0, :4], norms[1, :5] = 100, 100
    assert is_heavy(norms).sum(1).tolist() == [4, 0]


def test_contexts_that_are_single_points_have_no_heavy_tokens(
    model: LlamaForCausalLM, chunks: Path, tmp_path: Path
) -> None:
    cache_shard(
        model, chunks, tmp_path / "shard-00000.h5", shard=0, n_shards=1,
        settings=make_settings(save_cache_tensors=False, cloud="last_token"),
        attributes={"model": "tiny", "revision": "main", "corpus": "pages"},
    )  # fmt: skip
    with cache.open(tmp_path) as found:
        table = heavy_token_table(found, TEXTS.__getitem__)
    assert len(table) == 0
    assert len(heavy_token_summary(table)) == 0


def test_line_ends_are_visible() -> None:
    assert visible("\n") == r"\n"
    assert visible("größe") == "größe"
