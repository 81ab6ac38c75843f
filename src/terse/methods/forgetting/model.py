"""A language model and the mask that learns what it can forget, and one training step of both."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel

from terse.errors import TerseError
from terse.methods.forgetting.base_lm import at_rest, prepare_base
from terse.methods.forgetting.decisions import (
    Calibration,
    all_but_lowest,
    decide,
    droppable,
    n_to_drop,
)
from terse.methods.forgetting.gradient_estimators import GRADIENT_ESTIMATORS, Step
from terse.methods.forgetting.masks import Mask
from terse.methods.forgetting.modes import Scores, check_sight, decided, score
from terse.methods.forgetting.packing import Rows
from terse.methods.forgetting.policy import entropy
from terse.methods.forgetting.schedule import Phase, phase_at
from terse.methods.forgetting.settings import ForgettingSettings
from terse.training.divergence import kl_divergence

Sums = dict[str, Tensor]
DUALS = ("multiplier", "excess", "scale")
PRICE_STEP = 0.05  # change of the multiplier per unit of excess and step
PRICE_NOW = 1.0  # added to the multiplier per unit of the last step's excess, for damping
SCALE_MEMORY = 0.9  # decay of the scale's moving average, per step
LEAST_DRAWS = 0.01  # added to a row's variance of kept tokens, which is zero when all is decided


class Forgetter(nn.Module):
    """A causal language model `lm` and a `mask`.

    multiplier: the price of a kept token. excess: how far the mean keep probability exceeded the
    budget in the last step. scale: the value of a token, by which rewards are divided. The state
    dict holds the trained tensors and these three.
    """

    multiplier: Tensor
    excess: Tensor
    scale: Tensor

    def __init__(
        self,
        lm: PreTrainedModel,
        mask: Mask,
        settings: ForgettingSettings,
        special_ids: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.settings, self.special_ids = settings, special_ids
        self.lm, self.mask = lm, mask
        prepare_base(lm, settings)
        for name in DUALS:
            self.register_buffer(name, torch.zeros(()))
        self.calibration: Calibration | None = None  # set when the model is published
        self.step = 0  # training step, set by `callbacks.FollowSchedule`
        self.spread = 0.0  # of the last batch's advantages, nats per target; for the log
        self._noted: dict[str, float] = {}

    @property
    def reward_mode(self) -> str:
        """The mode that scores the targets of rewards: never kept tokens only."""
        return "kv" if self.settings.mode == "kv" else "prefix"

    @property
    def constant_length(self) -> int:
        """C: the tokens of a full row whose decisions get rewards."""
        s = self.settings
        return s.context_len + (s.block_len if self.reward_mode == "kv" else 0)

    @property
    def pad_id(self) -> int:
        """The token that rows are padded with."""
        pad = self.lm.config.get_text_config().pad_token_id
        return pad if isinstance(pad, int) and pad >= 0 else 0

    def free_tokens(self, rows: Rows, mode: str) -> Tensor:
        """Return the tokens (B, T) that may be dropped."""
        s = self.settings
        where = decided(rows, mode)
        return droppable(rows.input_ids, where, self.special_ids, s.protect_first, s.protect_last)

    def tokens_of_mask(self, rows: Rows, mode: str, forget_p: float) -> Tensor:
        """Return the tokens (B, T) that the mask decides on: with `keep_recent`, not the last."""
        free, s = self.free_tokens(rows, mode), self.settings
        if not s.keep_recent:
            return free
        n = free.sum(1, keepdim=True)
        n_kept = n - n_to_drop(n, forget_p)
        return free & (free.cumsum(1) <= n - (s.keep_recent * n_kept).long())

    def decisions(self, rows: Rows, mode: str, forget_p: float) -> Tensor:
        """Return the tokens (B, T) that the trained mask keeps at a forget rate, by the run's rule.

        Raises TerseError if the mask or the rule looks at text that is scored.
        """
        s = self.settings
        rule = s.decide if self.mask.learned else self.mask.rule
        looks = rule == "topk" or s.keep_recent > 0
        ahead = looks and mode != "prefix" and forget_p > 0
        check_sight(self.mask.causal and not ahead, mode, f"mask {s.mask} with rule {rule}")
        logits = self.mask.logits(rows, decided(rows, mode)).float()
        threshold = math.log(s.threshold / (1 - s.threshold))
        if rule == "calibrated":
            if self.calibration is None:
                raise TerseError("this mask has no thresholds yet: publish or calibrate it")
            threshold = self.calibration.threshold(s.dropped_by_mask(forget_p))
        if rule == "topk":
            return self.best(logits, rows, mode, forget_p)
        free = self.tokens_of_mask(rows, mode, forget_p)
        return decide(logits, rule, droppable=free, threshold=threshold)

    def best(self, logits: Tensor, rows: Rows, mode: str, forget_p: float) -> Tensor:
        """Return the tokens (B, T) that stay if exactly the budget is dropped, lowest logits first.

        logits (B, T): of a mask, or any others.
        """
        n_dropped = n_to_drop(self.free_tokens(rows, mode).sum(1), forget_p)
        return all_but_lowest(logits, self.tokens_of_mask(rows, mode, forget_p), n_dropped)

    def score(self, rows: Rows, keep: Tensor, mode: str | None = None) -> Scores:
        """Return the cost of the targets of rows with decisions (B, T)."""
        return score(
            self.lm, rows, keep, mode or self.reward_mode,
            positions=self.settings.positions, pad_id=self.pad_id,
        )  # fmt: skip

    def forward(self, **tensors: Tensor) -> Sums:
        """Return the sums of a batch (the fields of `Rows`): losses and logged values."""
        s, phase, rows = self.settings, phase_at(self.settings, self.step), Rows(**tensors)
        if s.mode == "kv":
            rows = all_targets(rows)
        free = self.tokens_of_mask(rows, s.mode, s.forget_p)
        learns = self.mask.learned and phase.trains_mask
        K = s.n_rollouts if learns else 1
        # One call, row by row: the same numbers however rows are batched.
        uniform = torch.rand((len(free), K + 1, free.shape[1]), device=free.device)
        if learns:
            sums, keep, full = self._mask_sums(rows, free, uniform[:, :K], phase)
        else:
            sums, keep, full = {}, self._unlearned(rows, free, uniform[:, 0], phase), None
        sums["dropped"] = (free & ~keep).sum()
        return sums | self._base_sums(rows, keep, uniform[:, -1, 0], full)

    def _mask_sums(
        self, rows: Rows, free: Tensor, uniform: Tensor, phase: Phase
    ) -> tuple[Sums, Tensor, Scores]:
        """Return the mask's losses, decisions (B, T) for the base, and scores of whole rows."""
        with torch.no_grad(), at_rest(self.lm):
            full = self.score(rows, torch.ones_like(free))
        logits = self.mask.logits(rows, decided(rows, self.settings.mode)).float()
        credited = free & decided(rows, self.reward_mode)
        step = Step(rows, logits, free, credited, phase, full)
        policy, keep = GRADIENT_ESTIMATORS[self.settings.grad](self, step, uniform)
        bonus = entropy(logits, free).sum()
        sums = {"policy": policy, "entropy": bonus, "identity": full.nats.sum()}
        sums["targets"] = full.scored.sum()
        sums["bonus"] = -phase.entropy_beta * bonus / self.constant_length
        if self.settings.grad != "saliency":  # whose budget depends only on the threshold
            sums["price"] = self._price(logits, free)
        return sums, keep, full

    def _price(self, logits: Tensor, free: Tensor) -> Tensor:
        """Return the price of exceeding the budget, summed over tokens."""
        p = torch.sigmoid(logits).masked_fill(~free, 0.0).sum()
        n = free.sum()
        self._note(kept=p.detach(), free=n)
        price = (self.multiplier + PRICE_NOW * self.excess).detach()
        return price * (p - self._budget * n)

    @property
    def _budget(self) -> float:
        """The share of the tokens left to the mask that it keeps."""
        return 1 - self.settings.dropped_by_mask(self.settings.forget_p)

    def _unlearned(self, rows: Rows, free: Tensor, uniform: Tensor, phase: Phase) -> Tensor:
        """Return the decisions (B, T) of exploration, or of a mask without weights."""
        if self.mask.learned:
            return decide(uniform, "topk", droppable=free, forget_p=self.settings.explored)
        return self.mask.keep(rows.input_ids, decided(rows, self.settings.mode), free)

    def _base_sums(self, rows: Rows, keep: Tensor, uniform: Tensor, full: Scores | None) -> Sums:
        """Return the base's summed nats; uniform (B,) picks the share of rows left whole."""
        s = self.settings
        if s.train_base == "frozen":
            with torch.no_grad():
                scores = self.score(rows, keep)
            return {"forgotten": scores.nats.sum(), "forgotten_targets": scores.scored.sum()}
        whole = uniform < s.identity_fraction
        if s.mode == "pack":
            rows, full = all_targets(rows), None
        scores = self.score(rows, keep | whole[:, None], s.mode)
        sums = {"base": scores.nats.sum(), "covered": scores.scored.sum()}
        sums["forgotten"] = scores.nats.detach()[~whole].sum()
        sums["forgotten_targets"] = scores.scored[~whole].sum()
        if s.kl_scale:
            sums["kl"] = s.kl_scale * self._divergence(rows, scores, full)
        return sums

    def _divergence(self, rows: Rows, scores: Scores, full: Scores | None) -> Tensor:
        """Return the summed divergence of the targets' predictions from those with whole rows."""
        if full is None:
            with torch.no_grad(), at_rest(self.lm):
                full = self.score(rows, torch.ones_like(rows.is_target), self.settings.mode)
        return kl_divergence(full.logits[scores.scored[full.scored]], scores.logits)

    def reward_scale(self, advantages: Tensor, credited: Tensor, q: Tensor) -> Tensor:
        """Return the value of a token in earlier steps, in nats per target; 1 at first.

        It records for the next step the spread of advantages (B, K, T) divided by that of the
        number of kept tokens, from the probabilities q (B, T) of those `credited` (B, T). Unlike
        the spread of advantages itself, it does not shrink as decisions become certain, which
        would raise the value of a token relative to its price indefinitely.
        """
        n = credited.sum(1).clamp(min=1)
        squares = advantages.square().mean(1).masked_fill(~credited, 0.0).sum(1) / n  # (B,)
        draws = (q * (1 - q)).detach().masked_fill(~credited, 0.0).sum(1)  # (B,)
        self.spread = float(squares.mean().sqrt())
        self._note(squares=squares.sum(), draws=draws.sum() + len(q) * LEAST_DRAWS)
        return torch.where(self.scale > 0, self.scale, torch.ones_like(self.scale))

    def _note(self, **values: Tensor) -> None:
        for name, value in values.items():
            self._noted[name] = self._noted.get(name, 0.0) + float(value)

    def update_duals(self) -> None:
        """Move the multiplier towards the budget, and the scale, after a step; see `DUALS`."""
        noted, self._noted = over_processes(self._noted), {}
        if noted.get("free"):
            excess = noted["kept"] / noted["free"] - self._budget
            self.excess.fill_(excess)
            self.multiplier.add_(PRICE_STEP * excess)
        if noted.get("squares"):
            found, old = (noted["squares"] / noted["draws"]) ** 0.5, float(self.scale)
            self.scale.fill_(SCALE_MEMORY * old + (1 - SCALE_MEMORY) * found if old else found)

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the trained parameters by name; tied weights once."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)

    def train(self, mode: bool = True) -> "Forgetter":
        """Switch to training mode; a frozen base stays in eval mode."""
        super().train(mode)
        if self.settings.train_base == "frozen":
            self.lm.eval()
        return self

    def state_dict(self, *args: Any, prefix: str = "", **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the trained tensors and the duals by name, without the base's frozen ones."""
        whole = super().state_dict(*args, prefix=prefix, **options)
        names = [*(name for name, _ in self.trained()), *DUALS]
        return {prefix + name: whole[prefix + name] for name in names}

    def load_state_dict(self, state_dict: Mapping[str, Any], *_: Any, **__: Any) -> Any:
        """Load the trained tensors; raises TerseError if any other is given."""
        wanted = {*(name for name, _ in self.trained()), *DUALS}
        if wrong := wanted ^ set(state_dict):
            raise TerseError(f"these weights belong to another run: {sorted(wrong)[0]}")
        result = super().load_state_dict(state_dict, strict=False)
        result.missing_keys.clear()  # the frozen ones come from the base
        return result


def all_targets(rows: Rows) -> Rows:
    """Return rows in which every token but the first is a target."""
    is_target = rows.attention_mask.clone()
    is_target[:, 0] = False
    return replace(rows, is_target=is_target)


def over_processes(noted: dict[str, float]) -> dict[str, float]:
    """Return the sums over all processes that train together."""
    if not (dist.is_available() and dist.is_initialized()):
        return noted
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, noted)
    total: dict[str, float] = {}
    for one in cast(list[dict[str, float]], gathered):
        for name, value in one.items():
            total[name] = total.get(name, 0.0) + value
    return total
