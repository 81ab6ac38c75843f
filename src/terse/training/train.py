"""The one path on which every method is trained, stopped, resumed and published."""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainingArguments, set_seed

from terse.artifacts import atomic_file, write_json
from terse.corpora.tokenizers import load_tokenizer
from terse.machine.signals import Stopped, StopSignal
from terse.settings.run import Run
from terse.training.callbacks import (
    AtTheStart,
    KeepCheckpoints,
    LogLastStep,
    ReportProgress,
    StopOnSignal,
    progress_bar,
)
from terse.training.finite import check_weights
from terse.training.history import history_table
from terse.training.method import Method
from terse.training.state import TrainingState
from terse.training.tracking import report_to, tracked
from terse.training.trainer import MethodTrainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outputs:
    """Where a finished training is published."""

    model: Path
    checkpoints: Path
    history: Path
    record: Path


@dataclass(frozen=True)
class Conduct:
    """How a training is carried out.

    Only `device`, `deterministic`, `n_processes` and, on a CPU, the number of torch's threads can
    change the last bits of the result.
    """

    name: str
    device: str = "cpu"
    tracking: str = "none"
    deterministic: bool = True
    results: Path = Path("results")
    save_interval: int = 50  # steps between saves of the state
    rank: int = 0  # of this process among those that train together; 0 leads
    n_processes: int = 1


def train(
    method: Method[Any],
    *,
    state_folder: Path,
    outputs: Outputs,
    record: dict[str, Any],
    conduct: Conduct,
    signal: StopSignal,
) -> None:
    """Train a method's model from the start or from its saved state, and publish it.

    `record` is written next to the model, with "n_threads", the numbers of threads that worked on
    it in order; a warning says if a resumed training has another one than before.
    Raises Stopped after saving if the signal arrived, TerseError if a value is not finite (loss,
    weights, a row of the history) or another process took over the training.
    """
    settings: Run = method.settings
    _be_deterministic(conduct)
    set_seed(settings.seed)
    with TrainingState(state_folder, leads=conduct.rank == 0) as state:
        if conduct.n_processes == 1 and state.was_finished_meanwhile and _holds(outputs, record):
            logger.info("another process has finished this training in the meantime")
            state.delete()
            return
        with tracked(
            conduct.tracking, method, name=conduct.name, results=conduct.results,
            state=state.folder, leads=conduct.rank == 0,
        ) as tracker:  # fmt: skip
            threads = _threads(state, conduct)
            model = method.build()
            trainer = MethodTrainer(method, model, _arguments(method, state, conduct), state)
            for callback in [*_callbacks(trainer, model, state, conduct, signal), *tracker]:
                trainer.add_callback(callback)
            _train_to_the_end(trainer, state, signal)
            if conduct.rank == 0:
                _publish(trainer, method, model, state, outputs)
                write_json(outputs.record, record | {"n_threads": threads})
        if conduct.rank == 0:
            state.delete()  # last: a kill before this line loses nothing


def _threads(state: TrainingState, conduct: Conduct) -> list[int]:
    """Return the numbers of threads that worked on the training, this one's last."""
    if conduct.rank > 0:
        return []
    threads = state.note_threads(torch.get_num_threads(), resumed=state.latest() is not None)
    if len(threads) > 1 and conduct.device == "cpu":
        logger.warning(
            "the saved state is from a training with %s, which goes on with %d: the last bits of "
            "its weights may differ from those of a training that was not interrupted",
            "1 thread" if threads[-2] == 1 else f"{threads[-2]} threads", threads[-1],
        )  # fmt: skip
    return threads


def _train_to_the_end(trainer: MethodTrainer, state: TrainingState, signal: StopSignal) -> None:
    """Do the remaining steps; raise Stopped after saving if the signal arrived."""
    checkpoint = trainer.agreed(state.latest)
    trainer.args.eval_on_start = checkpoint is None  # otherwise the saved history has that row
    trainer.add_callback(AtTheStart(lambda: trainer.restore_unlogged(checkpoint)))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    step, last = trainer.state.global_step, trainer.method.settings.n_steps
    if step < last:
        reason = signal.name or "a signal to another process"
        raise Stopped(
            f"stopped by {reason} at step {step} of {last}; the state is saved, the same command "
            "resumes from there"
        )


def _holds(outputs: Outputs, record: dict[str, Any]) -> bool:
    """Return whether the outputs of a training with the same record exist."""
    if not all(path.exists() for path in vars(outputs).values()):
        return False
    of_code = {"git"}  # a change of the code alone does not train again
    there = json.loads(outputs.record.read_text())
    ours = json.loads(json.dumps(record, default=str))
    return all(there.get(key) == ours[key] for key in ours.keys() - of_code)


def _publish(
    trainer: MethodTrainer,
    method: Method[Any],
    model: nn.Module,
    state: TrainingState,
    outputs: Outputs,
) -> None:
    _save_weights(method, model, state, "model", trainer.state.global_step)
    state.publish("model", outputs.model)
    state.kept.mkdir(exist_ok=True)
    state.publish("kept", outputs.checkpoints)
    with atomic_file(outputs.history) as partial:
        history_table(trainer.state.log_history).to_csv(partial, index=False)


def _save_weights(
    method: Method[Any], model: nn.Module, state: TrainingState, name: str, step: int
) -> None:
    """Write a model and its tokenizer to the state in the Hugging Face format."""
    with state.saving(name) as partial:
        method.save(model, partial)
        check_weights(partial, step)
        if (folder := method.tokenizer_folder()) is not None:
            load_tokenizer(folder).save_pretrained(partial)


def _callbacks(
    trainer: MethodTrainer,
    model: nn.Module,
    state: TrainingState,
    conduct: Conduct,
    signal: StopSignal,
) -> list[TrainerCallback]:
    def keep(step: int) -> None:
        if conduct.rank > 0:
            return
        _save_weights(trainer.method, model, state, f"kept/step-{step}", step)

    return [
        KeepCheckpoints(trainer.method.settings.checkpoint_steps, keep),
        StopOnSignal(signal, trainer.any_process),
        LogLastStep(),
        ReportProgress(),
        *progress_bar(),
    ]


def _arguments(method: Method[Any], state: TrainingState, conduct: Conduct) -> TrainingArguments:
    settings: Run = method.settings
    batch_size, n_grad_loops = settings.share(conduct.n_processes)
    several_on_cpu = conduct.n_processes > 1 and conduct.device == "cpu"
    return TrainingArguments(
        output_dir=str(state.folder),
        run_name=conduct.name,
        seed=(settings.seed + conduct.rank) % 2**32,  # processes draw different masks
        data_seed=settings.seed,
        train_sampling_strategy="sequential" if method.rows_in_order else "random",
        max_steps=settings.n_steps,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=n_grad_loops,
        ddp_backend="gloo" if several_on_cpu else None,
        learning_rate=settings.lr,
        weight_decay=settings.l2,
        adam_beta2=0.95,
        max_grad_norm=settings.grad_clip,
        warmup_steps=settings.warmup_steps,
        **_schedule(method),
        bf16=settings.precision == "bfloat16",
        use_cpu=conduct.device == "cpu",
        logging_steps=settings.log_interval,
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=settings.eval_interval,
        save_strategy="steps",
        save_steps=conduct.save_interval,
        report_to=report_to(conduct.tracking),
        disable_tqdm=True,  # `progress_bar` adds it on a terminal
        remove_unused_columns=False,
        dataloader_pin_memory=conduct.device != "cpu",
    )


def _schedule(method: Method[Any]) -> dict[str, Any]:
    settings: Run = method.settings
    if method.lr_factor(1) is not None:
        return {"lr_scheduler_type": "constant"}  # the trainer asks the method for its factor
    if settings.lr_schedule != "plateau":
        options = method.schedule_options()
        return {"lr_scheduler_type": settings.lr_schedule, "lr_scheduler_kwargs": options or None}
    return {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "lr_scheduler_kwargs": {"patience": settings.patience, "factor": 0.5},
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
    }


def _be_deterministic(conduct: Conduct) -> None:
    """Request deterministic kernels: always on the CPU, on CUDA if the config says so."""
    if conduct.device != "cpu" and not conduct.deterministic:
        return
    # cuBLAS reads this at its start.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
