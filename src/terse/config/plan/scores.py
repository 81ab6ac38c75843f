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
    """Return the job of each way of a study: the whole windows once, and then at each rate."""
    return [_reading(settings, study, way, tflops) for way in settings.frontier[study].all_ways]


def _reading(settings: Workflow, study: str, way: str, tflops: float | None) -> Work:
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
        positions = asked.n_windows * window * (1 + len(asked.rates))
        seconds = START_S + 2 * n * positions / flops_per_s(min(1, own), tflops)
        memory = PROCESS_MB + 8 * n // 10**6
    name = f"{study}, {way}"
    return Work("score_reading", name, 1, seconds, memory, requested(settings, reader, 1))
