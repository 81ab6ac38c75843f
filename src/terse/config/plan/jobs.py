"""The jobs of a workflow and what each takes, from its texts to its frontier."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from terse.config.plan.scores import evaluation, readings
from terse.config.plan.sizes import SIZES, Measured, captured, measured
from terse.config.plan.texts import of_texts
from terse.config.plan.work import DISK_B_PER_S, PROCESS_MB, START_S, Work, flops_per_s
from terse.config.resources import (
    model_mem_mb,
    model_parameters,
    run_parameters,
    training_mem_mb,
)
from terse.config.workflow import Workflow
from terse.dimension.names import expand_estimators
from terse.settings.activations import Activations

_POINT_S, _PAIR_S = 8e-6, 6e-12  # of an estimate: per point; per pair of points and dimension
_ROW_S = 3e-6  # of a table
_PASS_S = 0.02  # of a training, whatever its model's size
_WINDOWED = 64 * 3  # contexts x windows that are measured again where tensors are stored
_ESTIMATE_MB = 8000  # what rules/dimensions.smk requests


def works(
    settings: Workflow,
    models: Sequence[str],
    runs: Iterable[str],
    folder: Path,
    tflops: float | None = None,
    *,
    studies: Sequence[str] = (),
) -> list[Work]:
    """Return what training the runs, measuring the models and the studies of the frontier take.

    The runs that others start from are among them. tflops: what a job's device, or its two cores,
    sustain; None: see `terse.config.plan.work`.
    """
    trained = with_bases(settings, runs)
    found = of_texts(settings, models, trained, studies, folder, tflops)
    found += [_training(settings, run, tflops) for run in trained]
    for model in models:
        size = measured(settings, model, folder)
        found.append(_capture(settings, size, tflops))
        found.append(_estimation(settings, size))
    found += [evaluation(settings, run, folder, tflops) for run in trained]
    return found + [one for study in studies for one in readings(settings, study, tflops)]


def with_bases(settings: Workflow, runs: Iterable[str]) -> list[str]:
    """Return runs, each after those that it starts from, without repetition."""
    found: dict[str, None] = {}
    for run in runs:
        chain, at = [], run
        while at is not None:
            chain.append(at)
            at = settings.base_run(at)
        found |= dict.fromkeys(reversed(chain))
    return list(found)


def _training(settings: Workflow, run: str, tflops: float | None) -> Work:
    chosen = settings.runs[run]
    n, tokens = run_parameters(settings, run), settings.spec(run).tokens_per_row(chosen)
    devices = settings.devices(chosen) * chosen.nodes
    seconds = memory = None
    if n is not None and tokens is not None and chosen.max_steps is not None:
        rows = chosen.max_steps * chosen.batch_size * chosen.n_grad_loops
        passes = 6 * n * tokens * rows / flops_per_s(devices, tflops, chosen.threads)
        seconds = START_S + passes + chosen.max_steps * chosen.n_grad_loops * _PASS_S
        memory = PROCESS_MB + (20 * n + 24 * chosen.batch_size * tokens * 4096) // 10**6
    return Work("train_model", run, 1, seconds, memory, training_mem_mb(settings, run, 1))


def _capture(settings: Workflow, size: Measured, tflops: float | None) -> Work:
    model, asked = size.model, settings.measure(size.model)
    n, loading = model_parameters(settings, model), settings.models[model]
    seconds = memory = None
    if None not in (n, size.contexts, size.bytes) and n is not None:
        contexts = -(-(size.contexts or 0) // size.shards)
        passes = 2 * n * asked.ctx_len * contexts / flops_per_s(settings.devices(loading), tflops)
        read = n * SIZES[loading.dtype] / DISK_B_PER_S
        written = (size.bytes or 0) / size.shards / DISK_B_PER_S
        fused = 0.0 if asked.save_cache_tensors else _clouds_s(asked, size, contexts)
        seconds = START_S + read + max(passes + fused, written)
        memory = capture_needs_mb(settings, model, size.modules, size.width)
    requested = model_mem_mb(settings, model, 1, memory or 0)
    return Work("cache_activations", model, size.shards, seconds, memory, requested)


def capture_mem_mb(settings: Workflow, model: str, attempt: int) -> int:
    """Return the memory (MB) that a shard's job requests; it grows with each attempt."""
    needs_mb = capture_needs_mb(settings, model, *captured(settings, model, Path()))
    return model_mem_mb(settings, model, attempt, needs_mb)


def capture_needs_mb(settings: Workflow, model: str, modules: int | None, width: int | None) -> int:
    """Return the memory (MB) of a capture as far as it is known: weights, a batch's states."""
    asked, n = settings.measure(model), model_parameters(settings, model) or 0
    states = 8 * asked.batch_size * asked.ctx_len * (modules or 0) * (width or 0)
    weights = 2 * n * SIZES[settings.models[model].dtype]
    return PROCESS_MB + (weights + states) // 10**6


def _estimation(settings: Workflow, size: Measured) -> Work:
    asked, seconds, memory = settings.measure(size.model), None, None
    if size.contexts is not None and size.modules is not None and size.width is not None:
        clouds = size.contexts + _WINDOWED if asked.save_cache_tensors else 0
        rows = size.contexts * size.modules * len(expand_estimators(asked.save_IDs_list))
        seconds = START_S + _clouds_s(asked, size, clouds) + rows * _ROW_S
        seconds += (size.bytes or 0) / DISK_B_PER_S
        memory = PROCESS_MB + min(500, size.contexts * size.modules * asked.ctx_len * 8 // 10**6)
    return Work("estimate_dimensions", size.model, 1, seconds, memory, _ESTIMATE_MB)


def _clouds_s(asked: Activations, size: Measured, contexts: int) -> float:
    """Return the seconds to estimate the dimensions of some contexts in every module."""
    if asked.cloud != "context" or not asked.save_IDs:
        return 0.0
    points = asked.ctx_len - asked.skip_first
    one = points * _POINT_S + points**2 * (size.width or 0) * _PAIR_S
    return contexts * (size.modules or 0) * one
