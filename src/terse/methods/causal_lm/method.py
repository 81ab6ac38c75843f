"""The method `causal-lm` on the common training path."""

from functools import cached_property
from pathlib import Path
from typing import Any, cast

from torch import nn
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
from terse.training.method import Method


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
        if self.inputs.base is not None:
            return self._base(self.inputs.base).requires_grad_(True).train()
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
