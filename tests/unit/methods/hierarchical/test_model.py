"""Invariants of the whole model: causality, padding, caches, probabilities."""

import pytest
import torch
from torch import Tensor

from terse.methods.hierarchical.generation import Reader, byte_rows, generate_bytes
from terse.methods.hierarchical.likelihoods import causal_nats
from terse.methods.hierarchical.model import HierarchicalAutoencoder
from tiny_hierarchical import model, rows


def predicted_logits(found: HierarchicalAutoencoder, ids: Tensor) -> Tensor:
    """Return the logits (B, S - 1, 258) of causal decoding."""
    with torch.inference_mode():
        levels = found.encode(ids)
        states = found.predicted_states(levels, found.code_lm(levels[-1].rows))
        return found.levels[0][1].head.logits(states, ids[:, 1:, None])[0]


@torch.inference_mode()
def other_last_byte(found: HierarchicalAutoencoder, ids: Tensor) -> Tensor:
    """Return rows that end otherwise, cut into as many segments: sums are bitwise the same."""
    shapes = [level.rows.shape for level in found.encode(ids)]
    for byte in range(97, 123):
        last = ids.clone()
        last[:, -1] = byte
        changed = not (last == ids).all(1).any()
        if changed and [level.rows.shape for level in found.encode(last)] == shapes:
            return last
    raise AssertionError("each last byte changes the number of segments")


def test_nothing_at_or_after_a_byte_reaches_what_is_said_before_it(
    built: HierarchicalAutoencoder,
) -> None:
    ids = rows(40, 40)
    at = 23
    with torch.inference_mode():
        before, logits = built.encode(ids)[0], predicted_logits(built, ids)
        other = ids.clone()
        other[:, at] = (other[:, at] - 97 + 11) % 26 + 97
        after, changed = built.encode(other)[0], predicted_logits(built, other)
    assert torch.equal(before.opens[:, : at + 1], after.opens[:, : at + 1])
    entropies = before.made.entropies, after.made.entropies
    assert torch.equal(entropies[0][:, :at], entropies[1][:, :at])
    assert not torch.equal(entropies[0][:, at:], entropies[1][:, at:])
    torch.testing.assert_close(logits[:, :at], changed[:, :at], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits[:, at:], changed[:, at:], atol=1e-3)
    last = other_last_byte(built, ids)
    assert torch.equal(logits, predicted_logits(built, last))


def test_padding_and_neighbours_change_nothing(built: HierarchicalAutoencoder) -> None:
    ids = rows(17, 40, 29)
    together = predicted_logits(built, ids)
    for row, length in enumerate((17, 40, 29)):
        alone = predicted_logits(built, ids[row : row + 1, :length])
        torch.testing.assert_close(together[row, : length - 1], alone[0], rtol=1e-4, atol=1e-4)
    built.eval()
    whole = built(ids)
    parts = [built(ids[i : i + 1, :n]) for i, n in enumerate((17, 40, 29))]
    for name, value in whole.items():
        if "perplexity" in name:  # which is no sum
            continue
        torch.testing.assert_close(value, sum(part[name] for part in parts), rtol=1e-4, atol=1e-3)


def test_what_segments_have_in_common_is_told_from_segments_alone() -> None:
    ids = rows(40, 9)  # the second row has far fewer
    found = []
    for batches in ([ids], [ids[:1], ids[1:, :9]]):
        built = model().train()
        for batch in batches:
            built(batch)
        built.after_step()
        norm = built.levels[0][0].out_norm
        found.append(torch.cat([norm.mean, norm.variance]))
    torch.testing.assert_close(*found)
    assert not torch.allclose(found[0][:1], torch.zeros(16))


def test_each_level_is_a_partition(built: HierarchicalAutoencoder) -> None:
    ids = rows(17, 40)
    for at in built.encode(ids):
        lengths = at.sequence.mask.sum(1)
        for row in range(2):
            own = at.segment[row, : lengths[row]]
            counts = torch.bincount(own)
            assert counts.sum() == lengths[row]
            assert len(counts) == at.n[row]
            assert (counts > 0).all()
            assert (own.diff() >= 0).all()


def test_reading_byte_by_byte_gives_the_same_logits(built: HierarchicalAutoencoder) -> None:
    ids = rows(40, 40, 40)
    expected = predicted_logits(built, ids)
    with torch.inference_mode():
        reader = Reader(built, 3)
        reader.begin()
        for t in range(39):
            torch.testing.assert_close(reader.logits(), expected[:, t], rtol=1e-3, atol=1e-3)
            reader.read(ids[:, t + 1], reader.rows)


def test_rows_of_other_lengths_are_read_at_their_own_pace(built: HierarchicalAutoencoder) -> None:
    prompts = [b"the quick", b"a", b"jumps over the lazy dog"]
    together = generate_bytes(built, prompts, 12)
    assert together == [generate_bytes(built, [prompt], 12)[0] for prompt in prompts]
    for prompt, text in zip(prompts, together, strict=True):
        ids = byte_rows([prompt + text], built.device)[:, :-1]
        best = predicted_logits(built, torch.nn.functional.pad(ids, (0, 1), value=97)).argmax(-1)
        for i, byte in enumerate(text):
            assert best[0, len(prompt) + i] == byte


def test_next_byte_probabilities_sum_to_one(built: HierarchicalAutoencoder) -> None:
    ids = rows(12)
    assert predicted_logits(built, ids).shape[-1] == 258
    symbols = torch.arange(258).unsqueeze(1)
    with torch.inference_mode():
        nats = causal_nats(built, torch.cat([ids[:, :11].expand(258, -1), symbols], 1))[:, 10]
    assert nats.neg().exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_thresholds_move_until_as_many_segments_come_out_as_wanted() -> None:
    found = model({"target_compression_ratio": 0.3, "max_segment_len": None}, top=None).train()
    ids, ratios = rows(60, 60, 41), []
    for _ in range(60):
        level = found.encode(ids)[0]
        ratios.append(level.n.sum().item() / level.sequence.mask.sum().item())
        found.after_step()
    assert abs(ratios[0] - 0.3) > 0.05
    assert sum(ratios[-10:]) / 10 == pytest.approx(0.3, abs=0.02)
