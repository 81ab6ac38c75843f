"""What is removed is gone, what is kept is as it was, and each target is scored at its place."""

from dataclasses import replace

import pytest
import torch

from terse.errors import TerseError
from terse.methods.forgetting import pack
from terse.methods.forgetting.modes import hidden_logits, packed_logits, score
from terse.methods.forgetting.packing import Rows
from tiny_forgetting import ARCHITECTURES, language_model, random_keep, text_rows
from tiny_lms import tiny_lm


def naive_nats(lm, ids: list[int], positions: list[int], target: int) -> float:
    """Return the nats of a token behind a list of tokens at positions."""
    logits = lm(
        input_ids=torch.tensor([ids]), position_ids=torch.tensor([positions]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
    ).logits  # fmt: skip
    return -logits[0, -1].float().log_softmax(-1)[target].item()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_identity_is_the_base_bit_for_bit(architecture: str) -> None:
    lm, rows = language_model(architecture), text_rows()
    mask = rows.attention_mask.long()
    expected = lm(input_ids=rows.input_ids, attention_mask=mask, use_cache=False).logits
    every = torch.ones_like(rows.attention_mask)
    packed = pack(rows.input_ids, every, rows.attention_mask)
    assert torch.equal(
        packed_logits(lm, packed)[rows.attention_mask], expected[rows.attention_mask]
    )
    assert torch.equal(hidden_logits(lm, rows, every), expected)
    chosen = rows.is_target[:, 1:]
    logits = expected[:, :-1][chosen]
    nats = torch.nn.functional.cross_entropy(
        logits, rows.input_ids[:, 1:][chosen], reduction="none"
    )
    for mode in ("prefix", "kv", "pack"):
        found = score(lm, rows, every, mode)
        assert torch.equal(found.scored, rows.is_target)
        assert torch.equal(found.logits, logits)
        assert torch.equal(found.nats[rows.is_target], nats)
        assert torch.equal(
            found.hit[rows.is_target], logits.argmax(-1) == rows.input_ids[rows.is_target]
        )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@torch.no_grad()
def test_packed_equals_masked_and_needs_its_attention_mask(
    architecture: str, attention: str
) -> None:
    lm, rows = language_model(architecture, attention), text_rows((16, 16, 16))
    keep = random_keep(rows)
    packed = pack(rows.input_ids, keep, rows.attention_mask)
    place = torch.arange(16).expand(3, -1)
    masked = lm(
        input_ids=rows.input_ids, attention_mask=keep.long(), position_ids=place, use_cache=False
    ).logits
    expected = masked.gather(1, packed.src_index[..., None].expand(-1, -1, masked.shape[-1]))
    real = packed.attention_mask
    torch.testing.assert_close(packed_logits(lm, packed)[real], expected[real], rtol=0, atol=1e-4)
    # Without the mask, gaps between positions are taken for borders between sequences.
    blocked = lm(
        input_ids=packed.input_ids, position_ids=packed.position_ids, use_cache=False
    ).logits
    assert (blocked - expected)[real].abs().max() > 0.1


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@torch.no_grad()
def test_each_mode_against_a_naive_loop(architecture: str) -> None:
    lm, rows = language_model(architecture), text_rows((12, 9), block=4)
    keep = random_keep(rows)
    for mode in ("prefix", "kv", "pack"):
        found = score(lm, rows, keep, mode)
        for row in range(2):
            ids = rows.input_ids[row].tolist()
            for t in range(1, 12):
                left = [j for j in range(t) if keep[row, j] and rows.is_context[row, j]]
                if mode == "prefix":
                    block = [j for j in range(t) if rows.is_target[row, j]]
                    left = sorted({*left, *block, int(rows.is_context[row].sum()) - 1})
                else:
                    left = [j for j in range(t) if keep[row, j] or j == t - 1]
                is_target = bool(rows.is_target[row, t])
                if mode == "pack":
                    is_target = is_target and bool(keep[row, t - 1])
                assert bool(found.scored[row, t]) == is_target
                if is_target:
                    expected = naive_nats(lm, [ids[j] for j in left], left, ids[t])
                    assert found.nats[row, t].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("mode", ["prefix", "kv", "pack"])
@torch.no_grad()
def test_padding_and_other_rows_change_nothing(mode: str) -> None:
    lm, rows = language_model("llama"), text_rows((16, 11, 16))
    keep = random_keep(rows)
    found = score(lm, rows, keep, mode)
    alone = Rows(rows.input_ids[1:2, :11], rows.attention_mask[1:2, :11], rows.is_target[1:2, :11])
    single = score(lm, alone, keep[1:2, :11], mode)
    torch.testing.assert_close(found.nats[1, :11], single.nats[0], rtol=1e-4, atol=1e-4)
    dirty = replace(rows, input_ids=rows.input_ids.masked_fill(~rows.attention_mask, 17))
    again = score(lm, dirty, keep, mode)
    assert torch.equal(again.nats, found.nats)


@torch.no_grad()
def test_gaps_need_a_model_that_takes_positions() -> None:
    lm, rows = tiny_lm("bloom"), text_rows((16, 16, 16))
    keep = random_keep(rows)
    with pytest.raises(TerseError, match="BloomForCausalLM takes no position_ids"):
        score(lm, rows, keep, "prefix")
    found = score(lm, rows, keep, "prefix", positions="compact")
    assert torch.equal(found.scored, rows.is_target)


@torch.no_grad()
def test_dropped_tokens_leave_no_trace() -> None:
    lm, rows = language_model("llama"), text_rows((16, 16, 16))
    keep = random_keep(rows)
    other = torch.where(keep | rows.is_target, rows.input_ids, rows.input_ids % 57 + 3)
    assert (other != rows.input_ids).any()
    last = torch.arange(16) == 10  # what the first target is predicted from
    for mode in ("prefix", "kv"):
        seen = keep | last
        changed = replace(rows, input_ids=torch.where(seen, rows.input_ids, other))
        assert torch.equal(
            score(lm, rows, seen, mode).nats, score(lm, changed, seen, mode).nats
        ) or torch.allclose(
            score(lm, rows, seen, mode).nats, score(lm, changed, seen, mode).nats, atol=1e-5
        )
