"""Residual streams that are scaled, several, or other than (B, T, D): what is captured of them."""

from pathlib import Path

import h5py
import pytest
import torch
from torch import Tensor

from terse.activations import cache
from terse.activations.capture import Capture
from terse.activations.shard import cache_shard
from terse.activations.table import dimension_table
from terse.errors import TerseError
from terse.models.layers import layer_list
from terse.models.modules import select_modules
from tiny_architectures import LAYERS, WIDTH, tiny_model
from tiny_llama import make_settings, write_chunks
from tiny_lms import random_tokens, tiny_lm

# architecture -> axis of the streams in what a block puts out
SEVERAL = {"deepseek_v4": 2, "hy_v4": 2, "gemma3n_text": 0}
N_STREAMS = 4
KEYS = [f"block.stream{j}-l{i}" for i in range(LAYERS) for j in range(N_STREAMS)]


def captured(model, keys: list[str], tokens: Tensor, norm: bool = False) -> dict[str, Tensor]:
    refs = select_modules(model, "all", keys, ["norm"] if norm else [])
    with Capture(model, refs, stop=False) as capture:
        return capture.run(tokens)[0]


def block_outputs(model, tokens: Tensor) -> list[Tensor]:
    """Each block's own output, by hooks."""
    blocks = layer_list(model)
    assert blocks is not None
    seen: list[Tensor] = []
    handles = [
        block.register_forward_hook(
            lambda _m, _i, out: seen.append(out if isinstance(out, Tensor) else out[0])
        )
        for block in blocks[1]
    ]
    with torch.no_grad():
        model(tokens)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize(("name", "axis"), SEVERAL.items())
def test_each_of_several_streams_has_a_name(name, axis):
    model, tokens = tiny_model(name), random_tokens(2, 12)
    outputs = captured(model, ["block"], tokens)
    assert list(outputs) == KEYS
    for i, whole in enumerate(block_outputs(model, tokens)):
        for j in range(N_STREAMS):
            assert outputs[f"block.stream{j}-l{i}"].shape == (2, 12, WIDTH)
            assert torch.equal(outputs[f"block.stream{j}-l{i}"], whole.select(axis, j))
    for key in ("attn", "mlp"):
        with pytest.raises(TerseError, match=f"several residual streams.*; leave '{key}' out"):
            select_modules(model, "all", [key], [])


def test_a_stream_is_stored_and_measured_under_its_name(tmp_path: Path):
    model = tiny_model("hy_v4")
    chunks = write_chunks(tmp_path / "chunks.h5", n=2)
    with h5py.File(chunks, "a") as file:
        file["tokens"][:] = file["tokens"][:] % 61
    settings = make_settings(module_inblock_keys=["block"], module_outblock_keys=[],
                             layer_idx_list=[1], save_loss=False, save_entropy=False)  # fmt: skip
    cache_shard(model, chunks, tmp_path / "s" / "shard-00000.h5", settings=settings, shard=0,
                n_shards=1, attributes={"model": "t", "revision": None, "corpus": "c"})  # fmt: skip
    with cache.open(tmp_path / "s") as found:
        assert list(found.activations) == [f"block.stream{j}-l1" for j in range(N_STREAMS)]
        table = dimension_table(found, ["mle"])
    assert set(table["module"]) == {f"block.stream{j}" for j in range(N_STREAMS)}
    assert set(table["layer"]) == {1}


@pytest.mark.parametrize("name", ["beam", "doge", "zaya"])
def test_of_a_scaled_stream_the_rest_is_the_input_times_a_constant(name):
    model, tokens = tiny_model(name), random_tokens(2, 12)
    outputs = captured(model, ["attn", "mlp", "block"], tokens)
    refs = select_modules(model, "all", ["mlp"], [])
    for i in range(1, LAYERS):
        terms = outputs[f"attn-l{i}"] + outputs[f"mlp-l{i}"]
        carried = refs[f"mlp-l{i}"].carried
        assert carried is not None
        assert not carried.is_plain
        expected = carried.of(outputs[f"block-l{i - 1}"]) + terms
        torch.testing.assert_close(outputs[f"block-l{i}"], expected, atol=1e-4, rtol=1e-4)


def test_a_halved_block_halves_its_terms():
    model, tokens = tiny_lm("llama"), random_tokens(2, 12)
    plain = captured(model, ["attn", "mlp"], tokens)
    layer = model.model.layers[0]
    whole = layer.forward
    layer.forward = lambda hidden, *args, **kwargs: 0.5 * whole(hidden, *args, **kwargs)
    halved = captured(model, ["attn", "mlp"], tokens)
    carried = select_modules(model, [0], ["attn"], [])["attn-l0"].carried
    assert carried is not None
    assert carried.factor == 0.5
    for key in ("attn-l0", "mlp-l0"):
        torch.testing.assert_close(halved[key], 0.5 * plain[key])


@pytest.mark.parametrize("name", ["prophetnet", "cpmant", "xlnet"])
@pytest.mark.parametrize("shape", [(2, 12), (4, 4)])
def test_of_further_positions_and_other_axes_the_tokens_are_taken(name, shape):
    model, tokens = tiny_model(name), random_tokens(*shape)
    outputs = captured(model, ["block"], tokens)
    with torch.no_grad():
        states = model(tokens, output_hidden_states=True).hidden_states
    first = next(i for i, state in enumerate(states) if torch.equal(outputs["block-l0"], state))
    for i in range(LAYERS - 1):
        assert outputs[f"block-l{i}"].shape == (*shape, WIDTH)
        torch.testing.assert_close(outputs[f"block-l{i}"], states[first + i])


def test_what_is_no_block_is_refused():
    with pytest.raises(TerseError, match=r"no module of XLM.* puts it out .*; leave 'block' out"):
        select_modules(tiny_model("xlm"), "all", ["block"], [])
    for key in ("mixer", "block"):
        with pytest.raises(TerseError, match="has 2 residual streams, in separate tensors"):
            select_modules(tiny_model("reformer"), "all", [key], [])


def test_layers_that_run_for_images_only_are_left_out():
    model = tiny_model("mllama")
    refs = select_modules(model, "all", ["attn", "block"], [])
    assert list(refs) == ["attn-l0", "block-l0", "attn-l2", "block-l2"]
    with pytest.raises(TerseError, match=r"layer 1 .* does not run on text alone.*one: 0"):
        select_modules(model, [0, 1], ["block"], [])
    with pytest.raises(TerseError, match=r"layer 1 .* has no 'attn'; layers that have one: 0, 2"):
        select_modules(model, [1], ["attn"], [])


def test_a_norm_inside_a_larger_module_is_not_the_final_one():
    with pytest.raises(TerseError, match="has no final norm"):
        select_modules(tiny_model("qwen4_exp_text"), "all", ["block"], ["norm"])
