"""Tables of positions: what is trained, and where they are added."""

import pytest
import torch

from tiny_blotching import EVERY, POSENCS, batch_of, blotching, built, logits_of


def test_tables_are_trained_only_where_they_are_to_be() -> None:
    for posenc in POSENCS[:3]:
        for learnable in (True, False):
            model = built(blotching(**EVERY[posenc], learnable_posencs=learnable))
            names = [name for name, _ in model.named_parameters()]
            assert ("positions.table" in names) == learnable
            assert "positions.table" in model.state_dict()
    model = built(blotching(posenc_type="SinPositionalEncoding", posenc_drop_p=0.5)).train()
    places = torch.arange(1, 40)[None]
    torch.manual_seed(0)
    assert abs((model.positions(places) == 0).float().mean() - 0.5) < 0.08
    found = model.eval().positions(places)[0]
    angles = torch.arange(1, 40)[:, None] / 10000 ** (torch.arange(8) / 8)
    torch.testing.assert_close(found[:, 0::2], angles.sin())
    torch.testing.assert_close(found[:, 1::2], angles.cos())


@pytest.mark.parametrize("posenc", POSENCS[:3])
def test_tables_stand_beside_scaled_embeddings_and_nothing_is_turned(posenc: str) -> None:
    method = blotching(**EVERY[posenc], arm="vanilla")
    model, batch = built(method), batch_of(method, 1, 0.0)
    embeds = 4.0 * model.lm.get_input_embeddings()(batch["input_ids"])  # sqrt(width)
    embeds = embeds + model.positions.table[batch["position_ids"]]
    with torch.no_grad():
        expected = model.lm(
            inputs_embeds=embeds, position_ids=torch.zeros_like(batch["position_ids"])
        ).logits
    torch.testing.assert_close(logits_of(model, batch), expected)
