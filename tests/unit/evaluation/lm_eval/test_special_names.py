"""The name of a special token inside a text is text, in a corpus and for lm-eval alike."""

from pathlib import Path
from typing import Any

import pytest

from terse.corpora.tokenizers import plain_backend
from terse.evaluation.lm_eval.harness import language_model
from terse.methods.forgetting.lm_eval import ForgetfulLM
from tiny_asking import ask
from tiny_compression import make_inputs
from tiny_forgetting import forgetting

TEXT = "a<|eos|>b<|bos|> c"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    method = forgetting(make_inputs(tmp_path_factory.mktemp("inputs")))
    folder = tmp_path_factory.mktemp("model")
    method.save(method.build(), folder)
    method.tokenizer.save_pretrained(folder)
    return folder


def test_adapters_read_text_as_a_corpus_is_read(folder: Path) -> None:
    lm: Any = ForgetfulLM(folder)
    assert lm.encode(TEXT) == plain_backend(lm.tokenizer).encode(TEXT).ids
    assert lm.decode(lm.encode(TEXT)) == TEXT
    assert not set(lm.encode(TEXT)) & {*lm.tokenizer.all_special_ids}


def test_a_plain_model_reads_the_same_text(folder: Path) -> None:
    base = make_inputs(folder / "plain").base
    assert base is not None
    plain: Any = language_model(base, device="cpu", batch_size=2)
    expected = plain_backend(plain.tokenizer).encode(TEXT).ids
    assert plain.tok_encode(TEXT, add_special_tokens=False) == expected
    assert plain.tok_batch_encode([TEXT])[0][0].tolist()[-len(expected) :] == expected
    one, two = ask(plain, "loglikelihood_rolling", (TEXT,), ("a<|eos|>b",))
    assert one < two < 0
