"""What scoring takes: the evaluation of each run, and each way of a study of the frontier."""

from pathlib import Path

from terse.config.plan.sizes import bytes_per_token, text_of
from terse.config.plan.work import PROCESS_MB, START_S, Work, flops_per_s
from terse.config.resources import (
    model_mem_mb,
    model_parameters,
    run_parameters,
    training_mem_mb,
)
from terse.config.ways import reader_of
from terse.config.workflow import Workflow

_CODED_B_PER_S = 2e6  # of text that the coders without a model compress


def evaluation(settings: Workflow, run: str, folder: Path, tflops: float | None) -> Work:
    """Return the job that scores a run on its validation text."""
    chosen, n, seconds, coded = settings.runs[run], run_parameters(settings, run), None, 0.0
    tokens = documents = 0
    if chosen.corpus is not None:
        text = text_of(settings, chosen.corpus, folder)
        if text.bytes is None or text.documents is None:
            return _scoring(settings, run, None, n)
        coded = text.bytes / _CODED_B_PER_S
        tokenizer = settings.tokenizer_of_run(run) or "bytes"
        tokens = round((text.held_out or 0) / bytes_per_token(settings, tokenizer))
        documents = round(text.documents * text.validation)
    positions = settings.spec(run).evaluated_positions(chosen, tokens, documents)
    if n is not None and positions is not None:
        devices = settings.devices_of_evaluation(run)
        passes = 2 * n * positions / flops_per_s(devices, tflops, chosen.threads)
        seconds = START_S + coded + passes
    return _scoring(settings, run, seconds, n)


def _scoring(settings: Workflow, run: str, seconds: float | None, n: int | None) -> Work:
    memory = None if n is None else PROCESS_MB + 8 * n // 10**6
    return Work("evaluate_run", run, 1, seconds, memory, training_mem_mb(settings, run, 1))


def readings(settings: Workflow, study: str, tflops: float | None) -> list[Work]:
    """Return the jobs of a study's ways: the whole windows once, and then at each rate.

    Evictions share the pass over a context, and read only the target at each rate.
    """
    asked = settings.frontier[study]
    passes = 1.0 + len(asked.rates)
    found = [
        _reading(settings, study, "score_reading", way, passes, 1, tflops)
        for way in asked.read_alone
    ]
    if asked.parts:
        target = asked.target_bytes / (asked.context_bytes + asked.target_bytes)
        passes = 1.0 + len(asked.evictions) * len(asked.rates) * target
        found.append(
            _reading(settings, study, "score_evictions", "full", passes, asked.parts, tflops)
        )
    return found


def _reading(
    settings: Workflow, study: str, rule: str, way: str, passes: float, jobs: int,
    tflops: float | None,
) -> Work:  # fmt: skip
    """Return the jobs that score a way in so many passes over each window."""
    asked, reader = settings.frontier[study], reader_of(settings.frontier[study], way)
    if reader in settings.models:
        item, n = settings.models[reader], model_parameters(settings, reader)
        tokenizer, requested = settings.tokenizer_of_model(reader), model_mem_mb
    else:
        item, n = settings.runs[reader], run_parameters(settings, reader)
        tokenizer, requested = settings.tokenizer_of_run(reader), training_mem_mb
    own = settings.devices(item) if asked.gpu is None else asked.gpu
    seconds = memory = None
    if n is not None:
        window = (asked.context_bytes + asked.target_bytes) / bytes_per_token(
            settings, tokenizer or "bytes"
        )
        positions = asked.n_windows / jobs * window * passes
        seconds = START_S + 2 * n * positions / flops_per_s(min(1, own), tflops)
        memory = PROCESS_MB + 8 * n // 10**6
    name = f"{study}, {way}" if rule == "score_reading" else study
    return Work(rule, name, jobs, seconds, memory, requested(settings, reader, 1))
