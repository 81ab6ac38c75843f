"""The method `causal-lm` on the common training path."""

from functools import cached_property
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from terse.corpora.documents import split_texts
from terse.corpora.places import evenly
from terse.corpora.tokenizers import load_tokenizer
from terse.corpora.windows import SomeDocuments, packed_rows, scoring_windows
from terse.errors import TerseError
from terse.evaluation.bits_per_byte import coder_baselines, score_documents
from terse.evaluation.measures import Measure
from terse.evaluation.scores import all_text, cost_measures, loss_measures
from terse.methods.causal_lm.settings import CausalLMSettings
from terse.methods.causal_lm.spec import CAUSAL_LM
from terse.models.loading import check_length, load_model
from terse.training.chunked_loss import check_plain_head, next_token_nats
from terse.training.method import Batch, Method
from terse.training.terms import Terms


class CausalLM(Method[CausalLMSettings]):
    """Next-token prediction on packed documents; every token of the corpus is a target."""

    spec = CAUSAL_LM

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.required(self.tokenizer_folder(), "tokenizer"))

    @property
    def _bos(self) -> int:
        bos = self._tokenizer.bos_token_id
        return bos if isinstance(bos, int) else -1

    def build(self) -> PreTrainedModel:
        """Return the base with its weights, or a freshly initialised Llama-architecture model."""
        base = self.inputs.base
        if base is None:
            model = self._from_scratch()
        else:
            model = self._base(base).requires_grad_(True).train()
        self.prepare(model)
        return model

    def prepare(self, model: PreTrainedModel) -> None:
        """Make a model compute in the memory that the settings ask for; raise if it can't."""
        if self.settings.gradient_checkpointing:
            recompute_blocks(model)
        if self.settings.loss_chunk is not None:
            check_plain_head(model)

    def loss(self, model: nn.Module, batch: Batch, n_targets: Tensor | int) -> tuple[Tensor, Terms]:
        """Return the cross-entropy per target, its logits a chunk at a time where that is set."""
        if (chunk := self.settings.loss_chunk) is None:
            return super().loss(model, batch, n_targets)
        lm = cast(PreTrainedModel, model)
        nats = next_token_nats(lm, batch["input_ids"], batch["labels"], chunk)
        return nats / n_targets, {}

    def _from_scratch(self) -> PreTrainedModel:
        s, tokenizer = self.settings, self._tokenizer
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=s.d_model,
            intermediate_size=round(s.h_mult * s.d_model),
            num_hidden_layers=s.n_layers,
            num_attention_heads=s.n_heads,
            num_key_value_heads=s.n_kv_heads or s.n_heads,
            max_position_embeddings=s.ctx_len,
            tie_word_embeddings=s.tie_embeddings,
        )
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(config, name, getattr(tokenizer, name))
        return LlamaForCausalLM(config)

    def _base(self, folder: Path) -> PreTrainedModel:
        model = load_model(folder)
        check_length(model, self.settings.ctx_len, "rows", "lower ctx_len")
        return model

    def training_rows(self) -> Dataset[Any]:
        return packed_rows(self.tokens_file, "train", self.settings.ctx_len, self._bos)

    def validation_rows(self) -> Dataset[Any]:
        return packed_rows(self.tokens_file, "validation", self.settings.ctx_len, self._bos)

    def evaluate(self, model: nn.Module, device: str) -> list[Measure]:
        """Return bits per byte and cost of the validation documents, and model-free coders' scores.

        A target's context is the part of its window before it, at least half a window where the
        document is long enough, so most of a document is computed twice.
        """
        # Without a BOS, documents are scored after EOS, as if another document had just ended.
        start = self._bos if self._bos >= 0 else self._tokenizer.eos_token_id
        if not isinstance(start, int):
            raise TerseError("the tokenizer has neither BOS nor EOS to score a document after")
        windows = scoring_windows(self.tokens_file, "validation", self.settings.ctx_len, start)
        chosen = evenly(n := windows.n_documents, self.settings.eval_documents or n)
        scored = score_documents(
            cast(PreTrainedModel, model), SomeDocuments(windows, chosen), device=device
        )
        sums, targets = scored["model"], all_text(self.settings.corpus)
        if len(chosen) < n:
            targets = f"{len(chosen)} of {n} validation documents of {self.settings.corpus}"
        documents = self.required(self.inputs.documents, "documents file")
        train, held_out = (split_texts(documents, split) for split in ("train", "validation"))
        kept = set(chosen)
        validation = (text for i, text in enumerate(held_out) if i in kept)
        measures = loss_measures("model", sums, targets) + cost_measures("model", sums, targets)
        return measures + coder_baselines(train, validation, targets)


def recompute_blocks(model: PreTrainedModel) -> None:
    """Compute the blocks of a model again in the backward pass, instead of keeping what they did.

    Raises TerseError if transformers can't.
    """
    if not model.supports_gradient_checkpointing:
        raise TerseError(
            f"gradient_checkpointing: transformers has none of {type(model).__name__}: leave it out"
        )
    # The name that earlier versions of transformers know is deprecated in later ones.
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    enable = next(getattr(model, name) for name in names if hasattr(model, name))
    enable({"use_reentrant": False})
