"""Greedy writing is the argmax at each place, whatever generation config a base ships with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel

from terse.evaluation.lm_eval.harness import language_model
from terse.methods.compression.frozen_lm import embed, written_after
from terse.models.generation import plainly
from terse.models.loading import load_model
from tiny_asking import ask
from tiny_compression import make_inputs

N = 6
SHIPPED: list[dict[str, Any]] = [
    {"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 1}, {"suppress_tokens": [70, 71, 72]},
    {"begin_suppress_tokens": [72]}, {"bad_words_ids": [[72]]}, {"forced_bos_token_id": 9},
    {"forced_eos_token_id": 1}, {"min_new_tokens": 3}, {"stop_strings": ["e"]},
    {"exponential_decay_length_penalty": (1, 1.5)}, {"max_new_tokens": 2}, {"max_time": 1e-9},
    {"do_sample": True, "temperature": 5.0}, {"num_beams": 3}, {"sequence_bias": {(72,): -90.0}},
    {"guidance_scale": 2.0}, {"encoder_repetition_penalty": 3.0},
    {"return_dict_in_generate": True}, {"penalty_alpha": 0.6, "top_k": 4},
    {"renormalize_logits": True, "min_length": 20},
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a base that says its last token again."""
    folder = make_inputs(tmp_path_factory.mktemp("base")).base
    assert folder is not None
    lm: Any = load_model(folder)
    with torch.no_grad():
        for block in lm.base_model.layers:
            for parameter in block.parameters():
                parameter.mul_(0.01)
        lm.lm_head.weight.copy_(lm.get_input_embeddings().weight)
    lm.save_pretrained(folder)
    return folder


@pytest.fixture
def lm(base: Path, request: pytest.FixtureRequest) -> PreTrainedModel:
    model: Any = load_model(base)
    model.generation_config = GenerationConfig(**{"eos_token_id": 1, **request.param})
    return model


def argmax(lm: PreTrainedModel, tokens: list[int], n: int) -> list[int]:
    text = list(tokens)
    for _ in range(n):
        text.append(int(lm(input_ids=torch.tensor([text])).logits[0, -1].argmax()))
    return text[len(tokens) :]


@torch.no_grad()
@pytest.mark.parametrize("lm", SHIPPED, indirect=True, ids=[next(iter(s)) for s in SHIPPED])
def test_what_is_written_is_the_argmax(lm: PreTrainedModel) -> None:
    shipped = lm.generation_config
    tokens = [70, 71, 72]
    found = written_after(lm, embed(lm, torch.tensor([tokens])), N)
    assert found[0].tolist() == argmax(lm, tokens, N)
    assert lm.generation_config is shipped


@torch.no_grad()
@pytest.mark.parametrize("lm", [{"repetition_penalty": 1.5}], indirect=True)
def test_what_is_asked_for_is_done(lm: PreTrainedModel) -> None:
    embeds = embed(lm, torch.tensor([[70, 71, 72]]))
    assert len(set(written_after(lm, embeds, N, no_repeat_ngram_size=1)[0].tolist())) == N


@pytest.mark.parametrize("lm", [{"eos_token_id": [1, 7]}], indirect=True)
def test_the_ends_that_a_model_ships_with_stay(lm: Any) -> None:
    with plainly(lm):
        assert lm.generation_config.eos_token_id == [1, 7]


@torch.no_grad()
def test_the_librarys_own_model_writes_the_argmax(base: Path) -> None:
    GenerationConfig(eos_token_id=1, repetition_penalty=1.5).save_pretrained(base)
    plain: Any = language_model(base, device="cpu", batch_size=1)
    context = "the function"
    written = ask(plain, "generate_until", (context, {"until": [], "max_gen_toks": N}))[0]
    tokens = plain.tokenizer.encode(context, add_special_tokens=False)
    assert written == plain.tokenizer.decode(argmax(plain.model, tokens, N))
