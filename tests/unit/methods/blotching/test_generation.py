"""Cached generation against reading the prefix again, and sampling."""

import numpy as np
import pytest
import torch

from terse.corpora.arithmetic.characters import EOS, PAD
from terse.methods.blotching.generation import Ending, generate, sample
from tiny_blotching import EVERY, POSENCS, blotching, built, rng, uncached


@pytest.mark.parametrize("posenc", POSENCS)
def test_cached_generation_equals_reading_the_prefix_again(posenc: str) -> None:
    method = blotching(**EVERY[posenc])
    model = built(method, seed=3)
    with torch.no_grad():
        model.lm.lm_head.weight[EOS] *= 2.5  # some sequences end before others
    chains = method.validation_chains[:8]
    prompts = [method.layout.prompt(c, [0.0, 0.5, 1.0][i % 3]) for i, c in enumerate(chains)]
    places = np.stack([method.layout.positions(rng(i)) for i in range(8)])
    short = Ending(EOS, PAD, max(map(len, prompts)) + 2)
    for line, prompt, place in zip(
        generate(model, prompts, places, short), prompts, places, strict=True
    ):
        expected = uncached(model, prompt, place, short)
        assert line.tolist() == expected + [PAD] * (len(line) - len(expected))
    ending = Ending(EOS, PAD, method.layout.longest)
    written = generate(model, prompts, places, ending)
    lengths = set()
    for line, prompt, place in zip(written, prompts, places, strict=True):
        expected = uncached(model, prompt, place, ending)
        lengths.add(len(expected))
        assert line[: len(expected)].tolist() == expected
        assert (line[len(expected) :] == PAD).all()
    assert len({len(prompt) for prompt in prompts}) > 1
    assert len(lengths) > 1
    assert (written == EOS).any()


def test_sampling_follows_the_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]]).repeat(6000, 1)
    generator = torch.Generator().manual_seed(0)
    assert (sample(logits, 0.0, generator) == 2).all()
    for temperature in (0.5, 1.0, 2.0):
        found = sample(logits, temperature, generator).bincount() / 6000
        expected = (torch.tensor([0.0, 1.0, 2.0]) / temperature).softmax(0)
        torch.testing.assert_close(found, expected, atol=0.025, rtol=0)
    seeded = [
        sample(logits, 1.0, torch.Generator().manual_seed(seed)).tolist() for seed in (1, 1, 2)
    ]
    assert seeded[0] == seeded[1] != seeded[2]
