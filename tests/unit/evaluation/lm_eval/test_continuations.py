"""Each character of a continuation is scored, however its tokens fall on the join."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from terse.errors import TerseError
from terse.evaluation.lm_eval.harness import language_model
from terse.evaluation.lm_eval.pairs import joined, spaces_moved
from tiny_asking import ask

TEXTS = [
    "see the function on the other side", "see the functions of the others there",
    "今天天气很好，明天天气不好", "今天天气不好，今天很好", "the function of the theatre",
]  # fmt: skip


def byte_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 20, trainer)
    return tokenizer


def llama_like() -> Tokenizer:
    """A space goes in front of each text, and unknown characters are bytes, as in Llama 2."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    pieces = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=pieces, show_progress=False)
    words = [word for text in TEXTS for word in text.split()]
    tokenizer.train_from_iterator(words * 20, trainer)
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {"byte-bpe": byte_bpe, "llama-like": llama_like}
PAIRS = [
    ("see t", "he"), ("see the functi", "on"), ("see functi", "on of"), ("see the", " function"),
    ("see the ", "function"), ("今天天", "气很好"), ("see the", "\n\nfunction"), ("", "see the"),
    ("the functio", "n"),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("context", "text"), PAIRS)
def test_a_continuation_keeps_all_its_characters(kind: str, context: str, text: str) -> None:
    tokenizer = KINDS[kind]()
    first, whole = joined(lambda text: tokenizer.encode(text).ids, *spaces_moved(context, text))
    assert whole[:first] == tokenizer.encode(context.rstrip()).ids
    assert len(whole) > first
    assert tokenizer.decode(whole, skip_special_tokens=False) == context + text
    assert tokenizer.decode(whole[:first]) == context.rstrip()


def test_what_does_not_merge_is_encoded_together() -> None:
    tokenizer = byte_bpe()
    first, whole = joined(lambda text: tokenizer.encode(text).ids, "see the", " function")
    assert whole == tokenizer.encode("see the function").ids
    assert first == len(tokenizer.encode("see the").ids)


@pytest.mark.parametrize("context", ["", "see the", "see the "])
def test_an_empty_continuation_has_no_likelihood(context: str) -> None:
    tokenizer = byte_bpe()
    with pytest.raises(TerseError, match=r"no token.*'' after '"):
        joined(lambda text: tokenizer.encode(text).ids, context, "")


def test_a_continuation_of_spaces_that_a_tokenizer_drops_has_no_likelihood() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(TerseError, match=r"no token.*'  ' after 'a'"):
        joined(lambda text: tokenizer.encode(text).ids, "a", "  ")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The library's own model of a language model in a folder."""
    folder: Path = tmp_path_factory.mktemp("plain")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_bpe(), bos_token="<s>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = LlamaConfig(
        vocab_size=420, num_attention_heads=2, bos_token_id=0, eos_token_id=0, **sizes
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return language_model(folder, device="cpu", batch_size=2)


def test_the_librarys_own_model_scores_all_of_a_continuation(plain: Any) -> None:
    pairs = [(context, text) for context, text in PAIRS if context]
    for (context, text), (nats, _) in zip(pairs, ask(plain, "loglikelihood", *pairs), strict=True):
        first, whole = joined(plain.tokenizer.encode, *spaces_moved(context, text))
        with torch.no_grad():
            logs = plain.model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
        expected = sum(float(logs[i - 1, whole[i]]) for i in range(first, len(whole)))
        assert nats == pytest.approx(expected, rel=1e-4)
        assert math.isfinite(nats)
        assert nats < 0


def test_a_context_of_spaces_begins_a_text(plain: Any) -> None:
    spaces, none = ask(plain, "loglikelihood", ("  ", "see"), ("", "  see"))
    assert spaces == none
    with pytest.raises(TerseError, match="no token"):
        ask(plain, "loglikelihood", ("", ""))
