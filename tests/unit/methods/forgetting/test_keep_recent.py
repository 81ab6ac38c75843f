"""A share of what is kept are the last tokens; the mask chooses among those before."""

from typing import Any

import pytest
import torch
from torch import Tensor

from terse.errors import TerseError
from terse.methods.forgetting.decisions import n_to_drop
from terse.methods.forgetting.gradient_estimators import GRADIENT_ESTIMATORS
from terse.methods.forgetting.modes import decided
from terse.methods.forgetting.packing import Rows
from tiny_forgetting import forgetting, text_rows

RATES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


@pytest.mark.parametrize("recent", [0.25, 0.5, 0.9])
@torch.inference_mode()
def test_the_budget_is_exact_and_the_last_tokens_stay(recent: float, inputs: Any) -> None:
    model = forgetting(inputs, keep_recent=recent, decide="topk").build().eval()
    rows = text_rows((41, 33, 9), block=5)
    free = model.free_tokens(rows, "prefix")
    n = free.sum(1)
    for forget_p in RATES:
        keep = model.decisions(rows, "prefix", forget_p)
        n_kept = n - n_to_drop(n, forget_p)
        assert torch.equal((keep & free).sum(1), n_kept)
        for kept, own, most in zip(keep, free, n_kept.tolist(), strict=True):
            assert kept[own][int(own.sum()) - int(recent * most) :].all()
        assert keep[~free & rows.is_context].all()


class Rising(torch.nn.Module):
    """A mask whose logits rise along the context by two spreads of their noise."""

    causal, learned, sign = True, True, 1.0

    def logits(self, rows: Rows, where: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int(rows.input_ids.sum()))
        noise = torch.randn(where.shape, generator=generator)
        return noise + self.sign * 2 * torch.linspace(0, 1, where.shape[1])


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("forget_p", [0.5, 0.9])
def test_calibrated_thresholds_meet_each_budget(
    forget_p: float, sign: float, inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = forgetting(inputs, keep_recent=0.75, forget_p=forget_p)
    model = method.build().eval()
    monkeypatch.setattr(Rising, "sign", sign)
    model.mask = Rising()  # type: ignore[assignment]
    monkeypatch.setattr(type(method), "training_rows", lambda _: Listed(100))
    monkeypatch.setattr(type(method), "collate", lambda _, chosen: stacked(chosen))
    model.calibration = method.calibrate(model)
    rows = Rows(**stacked([Listed(100)[i] for i in range(100)]))
    n = int(model.free_tokens(rows, "prefix").sum())
    for rate in (0.1, 0.25, 0.5, 0.75, 0.9):
        dropped = int((~model.decisions(rows, "prefix", rate) & rows.is_context).sum())
        assert dropped / n == pytest.approx(rate, abs=0.012)


class Listed:
    """Rows of 200 tokens of context."""

    def __init__(self, n: int) -> None:
        whole = text_rows((205,) * n, block=5)
        self.fields = vars(whole)

    def __len__(self) -> int:
        return len(self.fields["input_ids"])

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {name: values[i] for name, values in self.fields.items()}


def stacked(chosen: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([one[name] for one in chosen]) for name in chosen[0]}


@pytest.mark.parametrize(
    ("forget_p", "explore_p", "dropped"),
    [(0.9, 0.5, 0.5), (0.5, 0.25, 0.25), (0.5, 0.9, 0.625), (0.5, None, 0.5)],
)
def test_exploration_drops_its_share_of_all(
    forget_p: float, explore_p: float | None, dropped: float, inputs: Any
) -> None:
    """At most all that is left to the mask: with 0.75 of a kept half, 0.625 of the tokens."""
    method = forgetting(inputs, keep_recent=0.75, forget_p=forget_p, explore_p=explore_p)
    s, rows = method.settings, text_rows((205,) * 4, block=5)
    model = method.build()
    free = model.tokens_of_mask(rows, "prefix", forget_p)
    share = s.explored * float(free.sum()) / float(model.free_tokens(rows, "prefix").sum())
    assert share == pytest.approx(dropped, abs=0.01)


@pytest.mark.parametrize("grad", ["reinforce", "saliency"])
def test_training_keeps_the_budget_of_what_is_left_to_the_mask(grad: str, inputs: Any) -> None:
    method = forgetting(inputs, keep_recent=0.5, grad=grad)
    model, rows = method.build(), text_rows((30, 30), block=5)
    model.train()
    seen: list[Any] = []
    plain = GRADIENT_ESTIMATORS[grad]

    def noted(*given: Any) -> Any:
        seen.append(found := plain(*given))
        return found

    GRADIENT_ESTIMATORS[grad] = noted
    try:
        sums = model(**vars(rows))
    finally:
        GRADIENT_ESTIMATORS[grad] = plain
    free, own = (
        model.free_tokens(rows, "prefix"), model.tokens_of_mask(rows, "prefix", 0.5)
    )  # fmt: skip
    keep = seen[0][1]
    assert keep[free & ~own].all()
    if grad == "saliency":
        assert torch.equal((free & ~keep).sum(1), n_to_drop(free.sum(1), 0.5))
        return
    logits = model.mask.logits(rows, decided(rows, "prefix"))
    p = torch.sigmoid(logits)[own]
    model.update_duals()
    left = 1 - 0.5 / 0.75  # of the tokens left to the mask
    assert float(model.excess) == pytest.approx(p.mean().item() - left, abs=1e-6)
    assert float(sums["price"]) == 0  # nothing to pay in the first step
    again = model(**vars(rows))
    price = float(model.multiplier) + float(model.excess)
    expected = price * (p.sum().item() - left * len(p))
    assert float(again["price"].detach()) == pytest.approx(expected, rel=1e-4)


def test_the_mask_starts_near_its_budget(inputs: Any) -> None:
    model = forgetting(inputs, keep_recent=0.75, forget_p=0.75).build()
    assert model.mask.last.bias.sigmoid().item() == pytest.approx(1 - 0.75 / (1 - 0.75 * 0.25))


def test_the_validation_score_is_of_its_decisions(inputs: Any) -> None:
    method = forgetting(inputs, keep_recent=0.5, decide="topk")
    model, rows = method.build().eval(), text_rows((30, 24), block=5)
    with torch.no_grad():
        keep = model.decisions(rows, "prefix", 0.5)
        nats, n = method.score(model, vars(rows))
        assert nats == pytest.approx(float(model.score(rows, keep, "prefix").nats.sum()))
    assert n == 10


@pytest.mark.parametrize("mode", ["kv", "pack"])
def test_it_is_no_way_to_read_as_text_comes(mode: str, inputs: Any) -> None:
    model = forgetting(inputs, keep_recent=0.5, decide="threshold").build().eval()
    assert not model.settings.decides_at_once
    with pytest.raises(TerseError, match="mask mlp with rule threshold"):
        model.decisions(text_rows(), mode, 0.5)
