"""Steps of a context left out, in a frontier."""

from dataclasses import replace

import pytest
import torch

from terse.errors import TerseError
from terse.methods.blotching.reading import Blotched, reading
from terse.training.method import Inputs
from tiny_blotching import TEXT, blotching, built
from tiny_frontier import measured, n_held, window

STEPS = "A list is. A row is. A key is. The end. "
ENDS = tuple(i + 1 for i, c in enumerate(STEPS) if c == " " and STEPS[i - 1] == ".")
WINDOW = replace(window(STEPS, "It is so."), piece_ends=ENDS)


def way(text_inputs: Inputs, **changes: object) -> Blotched:
    method = blotching(text_inputs, **{**TEXT, **changes})
    return reading(method, built(method), "cpu")


@torch.inference_mode()
def test_whole_steps_are_held_the_first_always(text_inputs: Inputs) -> None:
    found = way(text_inputs)
    costs = {c.rate: c for c in found.read(WINDOW, [1.0, 0.5, 1e-9])}
    tokens = found.reader.tokens(WINDOW)
    sizes = [len(found.reader.token_ends(part)) for part in STEPS.replace(". ", ". |").split("|")]
    assert costs[1.0].positions_held == tokens.L
    assert costs[1e-9].positions_held == pytest.approx(sizes[0], abs=1)  # a token may cross
    assert costs[1e-9].positions_held <= costs[0.5].positions_held <= tokens.L
    assert costs[1.0].n_targets == tokens.m


@torch.inference_mode()
def test_without_blotches_it_is_the_model_on_the_text(text_inputs: Inputs) -> None:
    found = way(text_inputs, arm="vanilla")
    (cost,) = found.read(WINDOW, [1.0])
    tokens = found.reader.tokens(WINDOW)
    ids = torch.cat([tokens.context, tokens.target])[None]
    place = torch.arange(ids.shape[1])[None]
    logits = found.model(ids, torch.ones_like(ids), place)[0, tokens.L - 1 : -1]
    plain = torch.nn.functional.cross_entropy(logits, tokens.target, reduction="sum")
    assert cost.nats == pytest.approx(float(plain), rel=1e-5)


@pytest.mark.parametrize("excise", [True, False])
def test_the_kept_steps_are_measured(text_inputs: Inputs, excise: bool) -> None:
    found = way(text_inputs, excise_tokens=excise)
    n = n_held(found, WINDOW, 0.5)
    assert measured(found, WINDOW, 0.5) == [n, n]
    assert n > 0


def test_what_it_cannot_read_is_one_line(text_inputs: Inputs) -> None:
    found = way(text_inputs, blotch_p_min=0.5)
    with pytest.raises(TerseError, match=r"no rate of the study was trained: .* 0\.5 to 1"):
        found.read(WINDOW, [0.9])
    with pytest.raises(TerseError, match="the windows' corpus has no steps"):
        found.read(window(STEPS, "It is so."), [0.5])
    found.layout.longest = 21  # positions, one of them the intensity's
    with pytest.raises(TerseError, match=r"tokens, but the run's chains have up to 20: lower"):
        found.read(WINDOW, [0.5])
