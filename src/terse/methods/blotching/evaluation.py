"""Scores of a trained run: its answers if it solves problems, and its losses."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from terse.evaluation.flops import lm_flops
from terse.evaluation.measures import Measure
from terse.evaluation.proportions import wilson
from terse.evaluation.scores import Columns, cost_measures, ratio_of_sums
from terse.methods.blotching.answers import Request, answers, vote
from terse.methods.blotching.blotches import Chain
from terse.methods.blotching.chains import Arithmetic
from terse.methods.blotching.losses import chain_losses
from terse.methods.blotching.model import Blotcher
from terse.methods.blotching.rows import Layout

GREEDY = 0.0


@dataclass
class Evaluation:
    """A model with its held-out chains; each answer is generated once.

    arithmetic: the problems; None where the chains are text.
    """

    model: Blotcher
    layout: Layout
    chains: Sequence[Chain]
    arithmetic: Arithmetic | None
    _answered: dict[Request, pd.DataFrame] = field(default_factory=dict)
    _losses: dict[float, pd.DataFrame] = field(default_factory=dict)

    def measures(self) -> list[Measure]:
        """Return the rows of `evaluation.csv`."""
        measures = [m for p in self.loss_ps for m in self._loss_measures(p)]
        if self.arithmetic is not None:
            measures.append(chance(self.arithmetic))
            for request in self.requests():
                measures += score(arm_name(request), self.answered(request))
            for p in self.spread_ps if self.layout.settings.n_votes else []:
                won = self.voted(p)
                arm = f"vote{_spell(p)}"
                measures.append(proportion(arm, "accuracy", won))
        return measures

    def requests(self) -> list[Request]:
        """Return all requests, each once: intensities, temperatures, out of distribution."""
        s = self.layout.settings
        asked = [Request("validation", p, t) for t in (GREEDY, s.val_temp) for p in self.ps]
        asked += [Request("validation", p, t) for t in s.eval_temps for p in self.spread_ps]
        asked += [Request("ood", p) for p in self.ps]
        return list(dict.fromkeys(asked))

    @property
    def ps(self) -> list[float | None]:
        """The requested intensities, each that of a token; [None] for arms without tokens."""
        s = self.layout.settings
        if s.arm != "intensity":
            return [None]
        trained = s.trained_ps()
        n = min(s.n_eval_ps, len(trained))
        chosen = np.linspace(0, len(trained) - 1, n).round().astype(int)
        return [trained[i] for i in chosen]

    @property
    def spread_ps(self) -> list[float | None]:
        """The smallest, the middle and the largest of them."""
        ps = self.ps
        return list(dict.fromkeys([ps[0], ps[len(ps) // 2], ps[-1]]))

    @property
    def loss_ps(self) -> list[float]:
        """The shares left out at which losses are computed: those that the arm is trained for."""
        return [self.layout.settings.constant_p if p is None else p for p in self.ps]

    def answered(self, request: Request) -> pd.DataFrame:
        """Return the answers to a request (see `answers`)."""
        if request not in self._answered:
            assert self.arithmetic is not None
            problems = getattr(self.arithmetic.problems, request.split)
            chains = getattr(self.arithmetic, request.split)
            self._answered[request] = answers(self.model, self.layout, problems, chains, request)
        return self._answered[request]

    def voted(self, p: float | None) -> pd.Series:
        """Return whether the majority of n_votes sampled answers is right, for each problem."""
        s = self.layout.settings
        draws = [Request("validation", p, s.val_temp, draw) for draw in range(s.n_votes)]
        return vote([self.answered(request) for request in draws])

    def losses(self, p: float) -> pd.DataFrame:
        """Return the losses of the held-out chains at a share left out (see `chain_losses`)."""
        if p not in self._losses:
            self._losses[p] = chain_losses(self.model, self.layout, self.chains, p)
        return self._losses[p]

    def _loss_measures(self, p: float) -> list[Measure]:
        of: Columns = {name: _floats(self.losses(p), name) for name in self.losses(p)}
        arm, targets = f"chains{_spell(p)}", self.targets
        losses = {
            "loss_nats": ("nats", "n_targets"),
            "loss_nats_per_original_token": ("nats", "n_original"),
            "answer_loss_nats": ("answer_nats", "n_answer"),
        }
        flops = lm_flops(self.model.lm).total(of["positions"], of["n_targets"])
        return [
            ratio_of_sums(arm, name, of[top], of[bottom], targets=targets)
            for name, (top, bottom) in losses.items()
        ] + cost_measures(arm, {**of, "flops": flops}, targets)

    @property
    def targets(self) -> str:
        """The value of `targets` for the losses."""
        what = "held-out problems, solved" if self.arithmetic is not None else "held-out windows"
        return f"what is left of {len(self.chains)} {what}"


def score(arm: str, table: pd.DataFrame) -> list[Measure]:
    """Return the scores of the answers to one request."""
    columns = {c: table[c].to_numpy(float) for c in ("n_tokens", "n_valid", "n_statements")}
    gold = table["gold_tokens"].to_numpy(float)
    return [
        proportion(arm, "accuracy", table["is_right"]),
        proportion(arm, "ended", table["ended"]),
        ratio_of_sums(arm, "length_ratio", columns["n_tokens"], gold),
        ratio_of_sums(arm, "valid_statements", columns["n_valid"], columns["n_statements"]),
    ]


def proportion(arm: str, measure: str, hits: Any) -> Measure:
    """Return the share of hits with Wilson's interval; hits: (problems,) bool."""
    n = len(hits)
    return Measure(arm, measure, float(hits.mean()), *wilson(int(hits.sum()), n), n=n)


def chance(arithmetic: Arithmetic) -> Measure:
    """Return the accuracy of always giving the training problems' most common answer."""
    train, held_out = (
        [tuple(chain.tokens[chain.steps == chain.steps[-1]]) for chain in chains]
        for chains in (arithmetic.train, arithmetic.validation)
    )
    guess = Counter(train).most_common(1)[0][0]
    return proportion("chance", "accuracy", pd.Series([answer == guess for answer in held_out]))


def arm_name(request: Request) -> str:
    """Return the name of a request in the tables, such as `greedy p=0.2`."""
    kind = "greedy" if request.temperature == GREEDY else f"T={request.temperature:g}"
    ood = "ood " if request.split == "ood" else ""
    return f"{ood}{kind}{_spell(request.p)}"


def _spell(p: float | None) -> str:
    return "" if p is None else f" p={p:.3g}"


def _floats(table: pd.DataFrame, column: str) -> np.ndarray:
    return table[column].to_numpy(float)
