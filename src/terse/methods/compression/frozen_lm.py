"""Passes through a causal language model from embeddings up to one hidden state or to logits.

Positions are computed from the mask, so padding anywhere changes nothing; a model that computes
them from the mask itself (BLOOM) does so.
"""

import inspect
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from terse.errors import TerseError
from terse.models.generation import plainly
from terse.models.modules import module_paths


class _Reached(Exception):  # noqa: N818 - ends a pass whose result is there
    pass


def blocks_of(lm: PreTrainedModel) -> nn.ModuleList:
    """Return the model's list of L blocks."""
    path = module_paths(lm).get("block")
    if path is None:
        raise TerseError(f"no list of blocks found in {type(lm).__name__}")
    blocks = lm.get_submodule(path.removesuffix(".{layer}"))
    if not isinstance(blocks, nn.ModuleList):
        raise TerseError(f"the blocks of {type(lm).__name__} are not a list, but {type(blocks)}")
    return blocks


def layer_index(layer: int | str, n_blocks: int) -> int:
    """Return the index, 0 to L, of one of the L + 1 hidden states; `half` is L // 2.

    Raises TerseError for an index out of range.
    """
    if layer == "half":
        return n_blocks // 2
    index = int(layer) if int(layer) >= 0 else int(layer) + n_blocks + 1
    if not 0 <= index <= n_blocks:
        raise TerseError(
            f"cmp_layer {layer}: the model has {n_blocks} blocks; allowed: "
            f"{-n_blocks - 1}..{n_blocks}, half, output"
        )
    return index


def positions_of(mask: Tensor) -> Tensor:
    """Return positions (B, T) counting real tokens, from a mask (B, T) of ones and zeros."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def hidden_state(lm: PreTrainedModel, embeds: Tensor, mask: Tensor, index: int) -> Tensor:
    """Return hidden state `index` of L + 1, (B, T, H), without running the blocks after it.

    embeds: (B, T, E). mask: (B, T). Index L is the state after the final norm.
    """
    body, blocks = lm.base_model, blocks_of(lm)
    options = _options(body, mask)
    if index == len(blocks):
        return body(inputs_embeds=embeds.to(lm.dtype), **options).last_hidden_state
    found: list[Tensor] = []

    def stop(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])
        raise _Reached

    handle = blocks[index].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        body(inputs_embeds=embeds.to(lm.dtype), **options)
    except _Reached:
        return found[0]  # (B, T, H)
    finally:
        handle.remove()
    raise TerseError(f"block {index} of {type(lm).__name__} did not run in a forward pass")


def logits_of(lm: PreTrainedModel, embeds: Tensor, mask: Tensor, n_last: int) -> Tensor:
    """Return the logits (B, n_last, V) at the last positions of embeddings (B, T, E)."""
    options = _options(lm, mask) | keeping(lm, n_last)
    logits = lm(inputs_embeds=embeds.to(lm.dtype), **options).logits
    return logits[:, -n_last:]


def keeping(lm: PreTrainedModel, n_last: int) -> dict[str, int]:
    """Return the option that makes a model compute only its last logits, if it has one."""
    known = "logits_to_keep" in inspect.signature(lm.forward).parameters
    return {"logits_to_keep": n_last} if known else {}


def _options(module: nn.Module, mask: Tensor) -> dict[str, Any]:
    options: dict[str, Any] = {"attention_mask": mask, "use_cache": False}
    if "position_ids" in inspect.signature(module.forward).parameters:
        options["position_ids"] = positions_of(mask)
    return options


def embed(lm: PreTrainedModel, tokens: Tensor) -> Tensor:
    """Return the model's own embeddings (B, T, E) of tokens (B, T)."""
    return lm.get_input_embeddings()(tokens)


def expected_embedding(lm: PreTrainedModel, logits: Tensor) -> Tensor:
    """Return the expected embeddings (B, T, E) under the distributions of logits (B, T, V)."""
    table = cast(nn.Embedding, lm.get_input_embeddings()).weight  # (V, E)
    return torch.softmax(logits.float(), -1).to(table.dtype) @ table[: logits.shape[-1]]


@torch.no_grad()
def written_after(
    lm: PreTrainedModel, embeds: Tensor, n: int, *, mask: Tensor | None = None, **options: Any
) -> Tensor:
    """Return at most n tokens (B, n) that the model generates after embeddings (B, T, E).

    Uses the key-value cache. options: those of transformers' `generate`; without any, generation is
    greedy whatever the model's own generation config says.
    """
    if mask is None:
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
    end = lm.config.get_text_config().eos_token_id
    pad = end[0] if isinstance(end, list) else end  # some models have several EOS
    chosen = {"do_sample": False, "num_beams": 1, "pad_token_id": pad or 0}
    generate = cast(Any, lm.generate)
    with plainly(lm):
        return generate(
            inputs_embeds=embeds.to(lm.dtype), attention_mask=mask, max_new_tokens=n,
            use_cache=True, **{**chosen, **options},
        )  # fmt: skip
