"""Losses of chains against naive ones."""

import pytest
import torch

from terse.methods.blotching.losses import chain_losses, token_nats
from terse.methods.blotching.rows import IGNORED, RequestedRows
from tiny_blotching import batch_of, blotching, built, evaluated, logits_of, rng


@pytest.mark.parametrize("incl_intl_prob", [False, True])
@pytest.mark.parametrize(("arm", "p"), [("vanilla", 0.0), ("intensity", 0.5)])
def test_losses_are_those_of_each_chain_by_itself(arm: str, p: float, incl_intl_prob: bool) -> None:
    method, e = evaluated(arm=arm, incl_intl_prob=incl_intl_prob)
    found = chain_losses(e.model, e.layout, e.chains, p)
    rows = RequestedRows(e.chains, e.layout, p)
    for i, chain in enumerate(e.chains):
        batch = method.collate([rows[i]])
        labels = batch.pop("labels")[0]
        with torch.no_grad():
            scores = e.model(**batch)[0].log_softmax(-1)
        chosen = labels != IGNORED
        nats = -scores[chosen].gather(1, labels[chosen][:, None])[:, 0]
        n_answer = int((chain.steps == chain.steps[-1]).sum())
        first = int((chain.steps > 0).argmax())
        n_original = len(chain.tokens) - (first if not incl_intl_prob else arm == "vanilla")
        expected = {
            "nats": nats.sum(), "answer_nats": nats[-n_answer:].sum(), "n_answer": n_answer,
            "n_targets": len(nats), "n_original": n_original, "n_kept": len(labels),
        }  # fmt: skip
        for name, number in expected.items():
            assert found[name].iloc[i] == pytest.approx(float(number), rel=1e-4), name
    measures = {(m.arm, m.measure): m.value for m in e.measures()}
    name = "chains" + (" p=0.5" if arm == "intensity" else " p=0")
    assert measures[name, "answer_loss_nats"] == pytest.approx(
        found["answer_nats"].sum() / found["n_answer"].sum()
    )


def test_share_zero_has_the_loss_of_whole_chains_bit_for_bit() -> None:
    vanilla, blind = blotching(arm="vanilla"), blotching(arm="blind", blotch_p=0.0)
    model = built(vanilla)
    for rows in ("training_rows", "validation_rows"):
        made = [m.collate([getattr(m, rows)()[i] for i in range(8)]) for m in (vanilla, blind)]
        losses = [m.loss(model, b, 1)[0] for m, b in zip((vanilla, blind), made, strict=True)]
        assert torch.equal(losses[0], losses[1])
        assert losses[0] > 0
    chain = vanilla.validation_chains[0]
    batch = vanilla.collate([vanilla.layout.row(chain, 0.0, rng(0))])
    whole = torch.from_numpy(chain.tokens)
    first = int((chain.steps > 0).argmax())  # the first target
    plain = torch.nn.functional.cross_entropy(
        model.lm(whole[None]).logits[0, first - 1 : -1], whole[first:], reduction="none"
    )
    assert torch.equal(token_nats(model, batch, 1)[0, first - 1 : -1], plain)


def test_smoothing_counts_in_the_loss_and_not_in_the_score() -> None:
    plain, smooth = blotching(), blotching(label_smoothing=0.2)
    model, batch = built(plain), batch_of(plain)
    n = plain.count(batch)
    assert n == batch["labels"].ne(IGNORED).sum()
    logits = logits_of(model, batch).log_softmax(-1)
    chosen = batch["labels"] != IGNORED
    nats = -logits[chosen].gather(1, batch["labels"][chosen][:, None]).sum()
    uniform = -logits[chosen].mean(-1).sum()
    torch.testing.assert_close(plain.loss(model, batch, n)[0], nats / n)
    torch.testing.assert_close(smooth.loss(model, batch, n)[0], (0.8 * nats + 0.2 * uniform) / n)
    assert smooth.score(model, batch)[0] == pytest.approx(nats.item(), rel=1e-5)
