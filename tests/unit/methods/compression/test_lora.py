"""LoRA is active in the compressing pass only."""

import pytest
import torch

from tiny_compressor import ARCHITECTURES, batch_of, compressor
from tiny_lms import BLOCKS, tiny_lm


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_lora_is_seen_by_the_compressing_pass_only(architecture: str) -> None:
    model = compressor(architecture, lora_rank=2, static_control=False)
    plain = tiny_lm(architecture)
    names = [name for name, _ in model.trained()]
    assert len(names) > 2 * BLOCKS
    assert all("lora_" in name or name == "vectors" for name in names)
    batch = batch_of(B=1)
    tokens = batch["context"]
    with torch.no_grad():
        before = model.compress(tokens, torch.ones_like(tokens))
        for name, parameter in model.trained():
            if "lora_B" in name:
                parameter.normal_()
        assert (model.compress(tokens, torch.ones_like(tokens)) - before).abs().max() > 1e-3
        torch.testing.assert_close(model.lm(tokens).logits, plain(tokens).logits)
    sum(model(**batch).values()).backward()  # type: ignore[union-attr]
    gradients = {n: p.grad for n, p in model.trained() if "lora_A" in n and ".2." not in n}
    assert all(g is not None and g.abs().sum() > 0 for g in gradients.values())
