"""The Hugging Face Trainer with our losses, atomic checkpoints and a history in plain units."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from terse.artifacts import write_json
from terse.errors import TerseError
from terse.training.finite import check_row, check_weights
from terse.training.method import Method, mean_loss
from terse.training.state import TrainingState
from terse.training.terms import TermSums

_UNLOGGED = "unlogged.json"


class MethodTrainer(Trainer):
    """Trains any method; the method defines everything that differs between methods."""

    # The method divides by the targets of the whole step. Otherwise the Trainer decides by whether
    # the model's `forward` takes **kwargs, and divides by the number of passes once more.
    loss_is_scaled_for_ga = True

    def __init__(
        self, method: Method[Any], model: nn.Module, args: TrainingArguments, state: TrainingState
    ) -> None:
        self.method = method
        self.training_state = state
        self._staging: Path | None = None
        self._tokens_since_log = 0
        self._busy_since_log = 0.0
        self._terms = TermSums()
        self._logged_step = 0  # step of the last training row
        rows = method.training_rows()
        super().__init__(
            model=model, args=args, train_dataset=rows, eval_dataset=method.validation_rows(),
            data_collator=method.collate, callbacks=method.callbacks(),
        )  # fmt: skip
        self.remove_callback(PrinterCallback)
        if self.args.n_gpu > 1:
            raise TerseError("one process sees several GPUs: start one process per GPU (torchrun)")

    def _get_num_items_in_batch(
        self, batch_samples: list[Any], device: torch.device
    ) -> Tensor | int | None:
        """Count the targets of the accumulated batch over all processes."""
        counts = torch.stack([self.method.count(batch) for batch in batch_samples]).to(device)
        if self.args.world_size > 1:
            counts = cast(Tensor, self.accelerator.gather(counts))
        return counts.sum(0)

    def compute_loss(  # type: ignore[override]
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return the method's loss, scaled because gradients are averaged over the processes."""
        if num_items_in_batch is None:
            num_items_in_batch = self.method.count(inputs)
        loss, terms = self.method.loss(model, inputs, num_items_in_batch)
        self._terms.add(terms)
        return loss * self.args.world_size

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None
    ) -> Tensor:
        """Do one forward and backward pass, and count its tokens and time."""
        start = time.perf_counter()
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._busy_since_log += time.perf_counter() - start
        self._tokens_since_log += self.method.n_tokens(inputs)
        return loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build AdamW over the method's parameter groups."""
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args)
            groups = self.method.parameter_groups(cast(nn.Module, model or self.model))
            self.optimizer = kind(groups, **options)
        return self.optimizer

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Clip the method's parts separately; return the total norm before clipping."""
        parts = self.method.clipped_parts(self.accelerator.unwrap_model(model))
        limit = self.args.max_grad_norm
        norms = [cast(Tensor, self.accelerator.clip_grad_norm_(part, limit)) for part in parts]
        return norms[0] if len(norms) == 1 else torch.stack(norms).norm()

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Return the method's own schedule, or that of the settings."""
        if self.lr_scheduler is None and self.method.lr_factor(1) is not None:
            chosen = cast(torch.optim.Optimizer, optimizer or self.optimizer)
            self.lr_scheduler = LambdaLR(
                chosen, lambda done: self.method.lr_factor(done + 1) or 0.0
            )
        return super().create_scheduler(num_training_steps, optimizer)

    def evaluate(self, *_args: Any, **_options: Any) -> dict[str, float]:
        """Return the exact loss per target over the validation rows."""
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        with self.autocast_smart_context_manager():
            rows = cast(Dataset[Any], self.eval_dataset)
            metrics = {"eval_loss": mean_loss(self.method, model, rows, str(self.args.device))}
        model.train()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add throughput and the method's terms to a training row; refuse values not finite."""
        check_row(logs, self.state.global_step)
        if "loss" in logs:
            (tokens,) = self._summed([self._tokens_since_log])
            logs["tokens_per_s"] = tokens / max(self._busy_since_log, 1e-9)
            steps = max(self.state.global_step - self._logged_step, 1)
            logs.update(self._terms.over_processes(self._summed).means(steps))
            check_row(logs, self.state.global_step)
            self._logged_step = self.state.global_step
            self._tokens_since_log, self._busy_since_log, self._terms = 0, 0.0, TermSums()
        super().log(logs, start_time)

    def _unlogged(self) -> dict[str, Any]:
        """Return the partial sums of the next training row, over all processes."""
        loss, tokens = self._summed([float(self._tr_loss), float(self._tokens_since_log)])
        return {
            "step": self._logged_step, "loss": loss / self.args.world_size, "tokens": tokens,
            "busy_s": self._busy_since_log,
            "terms": self._terms.over_processes(self._summed).as_json(),
        }  # fmt: skip

    def restore_unlogged(self, checkpoint: Path | None) -> None:
        """Restore the partial history row of a saved state, so that it covers all its steps."""
        self._logged_step = self.state.global_step
        file = None if checkpoint is None else checkpoint / _UNLOGGED
        if file is None or not file.is_file():
            return
        found = json.loads(file.read_text())
        self._logged_step = self._globalstep_last_logged = found["step"]
        self._tr_loss += found["loss"]  # in each process: the mean is logged
        leads = self.args.process_index == 0  # in the first process only: the sum is logged
        self._tokens_since_log = found["tokens"] if leads else 0
        self._busy_since_log = found["busy_s"]
        self._terms = TermSums(found["terms"] if leads else _zeros(found["terms"]))

    def _summed(self, values: list[float]) -> list[float]:
        """Return the sums over all processes."""
        if self.args.world_size == 1:
            return values
        mine = torch.tensor(values, dtype=torch.float64, device=self.args.device)
        dist.all_reduce(mine)
        return mine.tolist()

    def any_process(self, here: bool) -> bool:
        """Return in all processes whether `here` is true in any of them."""
        return self._summed([float(here)])[0] > 0

    def agreed(self, find: Callable[[], Path | None]) -> Path | None:
        """Return in all processes what the first one finds."""
        found = [find() if self.args.process_index == 0 else None]
        if self.args.world_size > 1:
            dist.broadcast_object_list(found)
        return found[0]

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging or self.training_state.folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save the state so that a kill at any time leaves only complete checkpoints."""
        name = f"checkpoint-{self.state.global_step}"
        unlogged = self._unlogged()
        terms = {name: total for name, (total, _) in unlogged["terms"].items()}
        check_row({**unlogged, **terms}, self.state.global_step)
        if self.args.process_index > 0:
            self._write_checkpoint(None, model, trial)
            self.accelerator.wait_for_everyone()  # until it is published
            return
        with self.training_state.saving(name) as partial:
            self._write_checkpoint(partial, model, trial)
            written = partial / name
            for file in written.iterdir():
                file.rename(partial / file.name)
            written.rmdir()
            check_weights(partial, self.state.global_step)
            write_json(partial / _UNLOGGED, unlogged)
        self.accelerator.wait_for_everyone()
        self.training_state.prune()

    def _write_checkpoint(self, staging: Path | None, model: nn.Module, trial: Any) -> None:
        """Write this process' part of a checkpoint to the first process' staging folder."""
        self._staging = self.agreed(lambda: staging)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        self.accelerator.wait_for_everyone()


def _zeros(terms: dict[str, list[float | None]]) -> dict[str, list[float | None]]:
    return {
        name: [None if v is None else 0.0 for v in pair]
        for name, pair in terms.items()
        if isinstance(pair, list)
    }
