"""The method `forgetting` on the common training path."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from terse.corpora.token_store import TokenStore
from terse.corpora.tokenizers import load_tokenizer
from terse.errors import TerseError
from terse.evaluation.measures import Measure
from terse.methods.forgetting import tasks
from terse.methods.forgetting.cost import cost_table
from terse.methods.forgetting.decisions import Calibration
from terse.methods.forgetting.evaluation import Evaluated, evaluate_arms, fullest
from terse.methods.forgetting.generation import continuations_table
from terse.methods.forgetting.mask_registry import baseline_arms, mask_of
from terse.methods.forgetting.model import Forgetter
from terse.methods.forgetting.modes import decided
from terse.methods.forgetting.packing import Rows
from terse.methods.forgetting.rows import AllBlocks, Lengths, RandomBlocks, token_counts
from terse.methods.forgetting.schedule import BASE, phase_at
from terse.methods.forgetting.settings import ForgettingSettings
from terse.methods.forgetting.spec import FORGETTING
from terse.methods.forgetting.storage import load_mask, published_counts, save_forgetter
from terse.methods.forgetting.tables import passage_table
from terse.models.loading import check_length, load_model
from terse.training.method import Batch, Method
from terse.training.terms import Terms

if TYPE_CHECKING:
    from transformers import TrainerCallback

FIELDS = ("input_ids", "attention_mask", "is_target")
VALIDATION_SEED = 1 << 20  # differs from the seeds of training rows
TASK_WINDOWS = 256
CALIBRATION_ROWS = 128


class Forgetting(Method[ForgettingSettings]):
    """A mask learns which tokens of its context a language model can do without."""

    spec = FORGETTING

    @property
    def lengths(self) -> Lengths:
        """Return the number of tokens of a window."""
        return Lengths(self.settings.context_len, self.settings.block_len)

    @property
    def _tokens(self) -> Path:
        return self.required(self.inputs.tokens, "tokens file")

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's tokenizer."""
        return load_tokenizer(self.required(self.inputs.base, "base"))

    @cached_property
    def special_ids(self) -> tuple[int, ...]:
        """Tokens that are never dropped."""
        if self.settings.task:
            return tasks.SPECIAL
        return tuple(sorted(int(i) for i in self.tokenizer.all_special_ids))

    @cached_property
    def start(self) -> int:
        """The first token of each window: BOS, or EOS where there is none."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if isinstance(token, int):
                return token
        raise TerseError("the tokenizer has neither BOS nor EOS to start a text with")

    def _base_model(self, device: str = "cpu") -> PreTrainedModel:
        if self.settings.task:
            return tasks.task_model(self.lengths)
        lm = load_model(self.required(self.inputs.base, "base"), device=device)
        check_length(lm, self.lengths.total, "windows", "lower context_len or block_len")
        return lm

    def build(self) -> Forgetter:
        """Return the base with a freshly initialised mask."""
        lm = self._base_model()
        mask = mask_of(self.settings, lm, self.counts)
        return Forgetter(lm, mask, self.settings, self.special_ids).train()

    def counts(self) -> Tensor:
        """Return the occurrences (V,) of each token in the training text."""
        if not self.settings.task:
            size = TokenStore(self.tokens_file, "train").vocab_size
            return token_counts(self.tokens_file, max(size, len(self.tokenizer)))
        rows = self._task_rows(self.settings.seed, CALIBRATION_ROWS)
        ids = torch.stack([rows[i]["input_ids"] for i in range(len(rows))])
        return torch.bincount(ids.flatten(), minlength=tasks.VOCAB)

    def _task_rows(self, seed: int, n_rows: int) -> tasks.TaskRows:
        return tasks.TaskRows(str(self.settings.task), self.lengths, seed=seed, n_rows=n_rows)

    def training_rows(self) -> Dataset[Any]:
        s = self.settings
        n_rows = s.n_steps * s.batch_size * s.n_grad_loops
        if s.task:
            return self._task_rows(s.seed, n_rows)
        store = TokenStore(self.tokens_file, "train")
        return RandomBlocks(store, self.lengths, self.start, self.start, seed=s.seed, n_rows=n_rows)

    def rows_of_epoch(self) -> int:
        store = TokenStore(self.tokens_file, "train")
        return len(AllBlocks(store, self.lengths, self.start, self.start))

    def validation_rows(self) -> Dataset[Any]:
        return self._held_out(TASK_WINDOWS) if self.settings.task else self._blocks(None)

    def _held_out(self, n_rows: int) -> tasks.TaskRows:
        return self._task_rows(VALIDATION_SEED + self.settings.seed, n_rows)

    def _blocks(self, limit: int | None) -> AllBlocks:
        store = TokenStore(self.tokens_file, "validation")
        return AllBlocks(store, self.lengths, self.start, self.start, limit=limit)

    def evaluated_rows(self) -> Dataset[Any]:
        """Return the windows on which every arm is scored."""
        limit = self.settings.eval_windows
        return self._held_out(limit or TASK_WINDOWS) if self.settings.task else self._blocks(limit)

    def collate(self, rows: list[Any]) -> Batch:
        """Return the fields of `Rows`, each (B, C + S)."""
        return default_collate([{name: row[name] for name in FIELDS} for row in rows])

    def count(self, batch: Batch) -> Tensor:
        """Return the divisors (3,): targets of the base's loss, rows, tokens of their contexts."""
        rows = Rows(**batch)
        n_rows = len(rows.input_ids)
        all_targets = rows.attention_mask.sum() - n_rows
        n_targets = rows.is_target.sum() if self.settings.mode == "prefix" else all_targets
        n_decided = decided(rows, self.settings.mode).sum()
        return torch.stack([n_targets, torch.tensor(n_rows, device=n_targets.device), n_decided])

    def n_tokens(self, batch: Batch) -> int:
        return int(batch["attention_mask"].sum())

    def loss(self, model: nn.Module, batch: Batch, n_targets: Tensor | int) -> tuple[Tensor, Terms]:
        """Return the losses of base and mask, and the values to log."""
        sums: dict[str, Tensor] = model(**batch)
        targets, rows, tokens = n_targets  # type: ignore[misc]
        divisors = {"base": targets, "kl": targets, "policy": rows, "bonus": rows, "price": tokens}
        parts = {name: sums[name] / divisor for name, divisor in divisors.items() if name in sums}
        loss = torch.stack(list(parts.values())).sum()
        plain = {name: value.detach() for name, value in sums.items()}
        terms = self._terms(plain, _forgetter(model), len(batch["input_ids"]) / rows)
        terms["forget_rate"] = sums["dropped"] / tokens
        if "entropy" in sums:
            terms["policy_entropy_nats"] = sums["entropy"] / tokens
        if "covered" in sums:
            terms["coverage"] = sums["covered"] / targets
        return loss, terms | {f"{name}_objective": part for name, part in parts.items()}

    def _terms(self, sums: dict[str, Tensor], forgetter: Forgetter, share: Any) -> dict[str, Any]:
        """Return losses and the state of the mask to log; share: of the accumulated rows.

        loss_nats: of the base's own loss, rows that were left whole among them; of a base that is
        not trained, with the mask's decisions.
        """
        forgotten = (sums["forgotten"], sums["forgotten_targets"])
        terms: dict[str, Any] = {
            "loss_nats": (sums["base"], sums["covered"]) if "base" in sums else forgotten,
            "forgotten_nats": forgotten,
            "multiplier": share * forgetter.multiplier,
            "exploration": share * phase_at(self.settings, forgetter.step).epsilon,
            "advantage_spread": share * forgetter.spread,
        }
        if "identity" in sums:
            terms["identity_nats"] = (sums["identity"], sums["targets"])
        return terms

    def score(self, model: nn.Module, batch: Batch) -> tuple[float, int]:
        """Return the nats of a validation batch's blocks at the budget, in `prefix` mode."""
        forgetter, rows = _forgetter(model), Rows(**batch)
        s = self.settings
        logits = forgetter.mask.logits(rows, decided(rows, "prefix"))
        forget_p = 0.0 if s.mask == "identity" else s.forget_p
        keep = forgetter.best(logits, rows, "prefix", forget_p)
        scores = forgetter.score(rows, keep, "prefix")
        return float(scores.nats.sum()), int(scores.scored.sum())

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the base's groups at `lr` and the mask's at `head_lr`."""
        forgetter = _forgetter(model)
        parts = ((forgetter.lm, {"part": BASE}), (forgetter.mask, {"lr": self.settings.head_lr}))
        return [
            {**group, **options}
            for part, options in parts
            for group in super(Forgetting, self).parameter_groups(part)
            if group["params"]
        ]

    def clipped_parts(self, model: nn.Module) -> list[list[nn.Parameter]]:
        """Return the trained parameters of base and mask, so that neither slows the other."""
        forgetter = _forgetter(model)
        parts = (
            [p for p in part.parameters() if p.requires_grad]
            for part in (forgetter.lm, forgetter.mask)
        )
        return [part for part in parts if part]

    def callbacks(self) -> "list[TrainerCallback]":
        from terse.methods.forgetting.callbacks import FollowSchedule

        return [FollowSchedule(self.settings)]

    def evaluate(self, model: nn.Module, device: str) -> list[Measure]:
        """Return every arm's scores on the same targets, at each forget rate."""
        return evaluate_arms(self._evaluated(model, device))

    def tables(self, model: nn.Module, device: str) -> dict[str, pd.DataFrame]:
        """Return a passage with keep probabilities, costs and continuations."""
        given = self._evaluated(model, device)
        tables = {
            "tokens": passage_table(given, self.piece),
            "cost": cost_table(given.model, fullest(given)),
        }
        if self.settings.n_samples:
            tables["continuations"] = continuations_table(given)
        return tables

    def piece(self, token: int) -> str:
        """Return a token as readable text."""
        if self.settings.task:
            return tasks.piece(token)
        return str(self.tokenizer.decode([token]))

    def _evaluated(self, model: nn.Module, device: str) -> Evaluated:
        forgetter = _forgetter(model).eval().to(device)
        if forgetter.calibration is None:
            forgetter.calibration = self.calibrate(forgetter)
        arms = baseline_arms(forgetter.lm, self.counts(), self.settings.seed)
        return Evaluated(
            model=forgetter,
            arms={name: mask.to(device) for name, mask in arms.items()},
            rows=self.evaluated_rows(),
            before=None if self.settings.task else self._base_model(device),
            device=device,
        )

    def calibrate(self, model: Forgetter) -> Calibration | None:
        """Return the thresholds of a learned mask, from training rows; None for other masks."""
        if not model.mask.learned:
            return None
        found = self.training_rows()
        n = min(CALIBRATION_ROWS, len(found))  # type: ignore[arg-type]
        batch = self.collate([found[i] for i in range(n)])
        rows = Rows(**{name: t.to(model.lm.device) for name, t in batch.items()})
        s = self.settings
        with torch.no_grad():
            logits = model.mask.logits(rows, decided(rows, s.mode))
        if not s.keep_recent:
            return Calibration.of(logits, model.free_tokens(rows, s.mode))

        def decided_on(dropped: float) -> Tensor:
            return model.tokens_of_mask(rows, s.mode, s.rate_of(dropped))

        return Calibration.by_share(logits, decided_on)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the language model, the mask and its thresholds."""
        forgetter = _forgetter(model)
        save_forgetter(forgetter, folder, self.calibrate(forgetter))

    def load(self, folder: Path) -> Forgetter:
        """Return a trained model with its mask, in eval mode."""
        plain = self.settings.model_copy(update={"train_base": "frozen"})  # a LoRA is merged
        lm = load_model(folder)

        def counts() -> Tensor:  # published counts need no text
            found = published_counts(folder)
            return self.counts() if found is None else found

        model = Forgetter(lm, mask_of(self.settings, lm, counts), plain, self.special_ids)
        model.calibration = load_mask(model, folder)
        return model.requires_grad_(False).eval()

    def tokenizer_folder(self) -> Path | None:
        """The base's folder; None for a task."""
        return self.inputs.base


def _forgetter(model: nn.Module) -> Forgetter:
    found = getattr(model, "module", model)  # inside DistributedDataParallel
    if not isinstance(found, Forgetter):
        raise TerseError(f"this method's models are Forgetters, not {type(found).__name__}")
    return found
