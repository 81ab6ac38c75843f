"""A causal language model with intensity tokens and a choice of positional encodings."""

import inspect
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from terse.errors import TerseError
from terse.methods.blotching.positions import PositionTable
from terse.methods.blotching.settings import BlotchingSettings


class Blotcher(nn.Module):
    """A causal LM over V tokens that also reads n intensity tokens, V .. V + n - 1.

    The head has only the V tokens, so intensities are never generated. A table of positions is
    added to the embeddings; without one, the LM's own positions follow `position_ids`.
    """

    def __init__(
        self, lm: PreTrainedModel, n_btokens: int, positions: PositionTable | None = None
    ) -> None:
        super().__init__()
        self.lm = lm
        self.positions = positions
        table = cast(nn.Embedding, lm.get_input_embeddings())
        self.vocab_size = int(lm.config.get_text_config().vocab_size)
        width = table.weight.shape[1]
        like: Any = {"dtype": table.weight.dtype, "device": table.weight.device}
        self.intensity = nn.Embedding(n_btokens, width, **like) if n_btokens else None
        if self.intensity is not None:
            nn.init.normal_(self.intensity.weight, std=table.weight.std().item())
        # Embeddings are scaled to the size of a table's rows (Vaswani et al. 2017, 1706.03762).
        self._scale = 1.0 if positions is None else width**0.5
        self._options = set(inspect.signature(lm.forward).parameters)
        self.register_state_dict_post_hook(_without_tied)

    @property
    def hf_device_map(self) -> Any:
        """The devices of a base that is spread over several; the Trainer reads it."""
        return self.lm.hf_device_map

    @property
    def knows_positions(self) -> bool:
        """Whether it accepts positions rather than only counting them itself."""
        return self.positions is not None or "position_ids" in self._options

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        cache: Any = None,
        n_groups: int = 0,
    ) -> Tensor:
        """Return logits (B, T, V) for input_ids (B, T) after those in the cache.

        attention_mask (B, cached + T): 1 for tokens that may be seen. position_ids (B, T).
        n_groups: if not 0, the mask only hides padding on the right; rows are read in this many
        groups of similar length, each padded to its own longest, and padding gets zeros.
        """
        if n_groups == 0:
            return self._logits(input_ids, attention_mask, position_ids, cache)
        lengths = attention_mask.sum(1)
        logits = None
        for rows in lengths.argsort(stable=True).chunk(n_groups):
            width = int(lengths[rows].max())
            ids, places = input_ids[rows, :width], position_ids[rows, :width]
            # No token before the padding sees it, and attention is faster without a mask.
            part = self._logits(ids, torch.ones_like(ids), places, None)
            if logits is None:
                logits = part.new_zeros(*input_ids.shape, part.shape[-1])
            logits[rows, :width] = part
        return cast(Tensor, logits)

    def _logits(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, cache: Any
    ) -> Tensor:
        embeds = self._embed(input_ids) * self._scale  # (B, T, H)
        if self.positions is not None:
            embeds = embeds + self.positions(position_ids)
            position_ids = torch.zeros_like(position_ids)  # no rotation
        options = {"position_ids": position_ids} if "position_ids" in self._options else {}
        return self.lm(
            inputs_embeds=embeds, attention_mask=attention_mask, past_key_values=cache,
            use_cache=cache is not None, **options,
        ).logits  # fmt: skip

    def _embed(self, input_ids: Tensor) -> Tensor:
        table = self.lm.get_input_embeddings()
        if self.intensity is None:
            return table(input_ids)
        shift = input_ids - self.vocab_size
        is_request = (shift >= 0)[..., None]  # (B, T, 1)
        words = table(input_ids.clamp(max=self.vocab_size - 1))
        return torch.where(is_request, self.intensity(shift.clamp(min=0)), words)


def fresh_lm(settings: BlotchingSettings, vocab_size: int, longest: int) -> LlamaForCausalLM:
    """Return a Llama-architecture model with fresh weights."""
    s = settings
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=s.d_model,
        intermediate_size=round(s.h_mult * s.d_model),
        num_hidden_layers=s.n_layers,
        num_attention_heads=s.n_heads,
        max_position_embeddings=longest,
        attention_dropout=s.drop_p,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config)


def drop_out(lm: LlamaForCausalLM, p: float) -> None:
    """Apply dropout p to what each attention and MLP adds to the residual stream."""

    def dropped(module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return nn.functional.dropout(output, p, training=module.training)

    layers: Any = lm.model.layers
    for layer in layers:
        layer.self_attn.o_proj.register_forward_hook(dropped)
        layer.mlp.down_proj.register_forward_hook(dropped)


def check_positions(model: Blotcher, settings: BlotchingSettings) -> None:
    """Raise TerseError where a base counts positions itself but others are requested."""
    if model.knows_positions:
        return
    if not settings.pad_pos_skip or not settings.excise_tokens:
        raise TerseError(
            "this base counts its positions itself, including masked tokens: leave pad_pos_skip "
            "and excise_tokens at true"
        )


def _without_tied(model: nn.Module, state: dict[str, Tensor], prefix: str, _metadata: Any) -> None:
    """Leave out further names of the same tensor: safetensors stores each once."""
    seen: set[int] = set()
    for name in [name for name in state if name.startswith(prefix)]:
        if (place := state[name].data_ptr()) in seen and state[name].numel():
            del state[name]
        seen.add(place)
