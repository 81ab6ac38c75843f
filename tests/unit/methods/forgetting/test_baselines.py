"""Masks without training, by hand."""

from typing import Any

import torch

from terse.methods.forgetting.baselines import (
    RecencyMask,
    SaliencyMask,
    SinkRecencyMask,
    SurprisalMask,
)
from terse.methods.forgetting.decisions import decide, droppable
from terse.methods.forgetting.gates import gated_nats
from terse.methods.forgetting.masks import IdentityMask, Mask, NormForgetMask, RandomForgetMask
from tiny_forgetting import text_rows
from tiny_lms import VOCAB
from tiny_masks import LM


@torch.no_grad()
def test_baselines_by_hand() -> None:
    ids = torch.tensor([[1, 5, 6, 7, 8, 9, 10, 11, 0, 0]])
    real = ids != 0
    free = droppable(ids, real, (), 1, 1)

    def kept(mask: Mask, f: float) -> list[int]:
        keep = decide(mask(ids, real), "topk", droppable=free, forget_p=f) & real
        return ids[0][keep[0]].tolist()

    assert kept(RecencyMask(), 0.5) == [1, 8, 9, 10, 11]
    assert kept(SinkRecencyMask(), 0.5) == [1, 5, 6, 7, 11]
    assert kept(SinkRecencyMask(), 0.34) == [1, 5, 6, 7, 10, 11]
    counts = torch.zeros(VOCAB)
    counts[5], counts[7], counts[9] = 50, 40, 30
    assert kept(SurprisalMask(counts), 0.5) == [1, 6, 8, 10, 11]
    norms: Any = LM.get_input_embeddings()
    order = norms.weight[ids[0, 1:7]].norm(dim=-1).argsort()
    expected = {1, 11, *ids[0, 1:7][order[3:]].tolist()}
    assert set(kept(NormForgetMask(LM), 0.5)) == expected
    assert kept(IdentityMask(), 0.0) == ids[0][real[0]].tolist()
    own = NormForgetMask(LM, retain_percentage=0.5)
    assert set(ids[0][(own.keep(ids, real, free) & real)[0]].tolist()) == expected
    random = RandomForgetMask(0.5)
    assert (~random.keep(ids, real, free)).sum() == 3
    first, again = (RandomForgetMask(0.5, seed=3)(ids, real) for _ in range(2))
    assert torch.equal(first, again)


def test_saliency_is_what_a_gate_costs() -> None:
    rows = text_rows((14, 14), block=4)
    found = SaliencyMask(LM).logits(rows, rows.is_context)
    assert found.shape == rows.input_ids.shape
    with torch.no_grad():
        for t in range(3, 9):
            gates = torch.ones(rows.input_ids.shape)
            whole = gated_nats(LM, rows, gates).sum(1)
            gates[:, t] = 0.98
            rise = (gated_nats(LM, rows, gates).sum(1) - whole) / 0.02
            torch.testing.assert_close(found[:, t], rise, rtol=0.2, atol=0.1)
    assert found.abs().max() > 0.2
    torch.testing.assert_close(SaliencyMask(LM)(rows.input_ids, rows.is_context), found)
