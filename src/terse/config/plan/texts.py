"""What collecting, tokenising, cutting and encoding the texts of a workflow takes."""

from collections.abc import Sequence
from pathlib import Path

from terse.config.plan.sizes import bytes_per_token, text_of
from terse.config.plan.work import (
    LIGHT_START_S,
    PROCESS_MB,
    START_S,
    TOKENIZER_START_S,
    Work,
    flops_per_s,
)
from terse.config.resources import run_parameters, training_mem_mb
from terse.config.workflow import Workflow

# Bytes of text per second and process, see docs/speed.md#scale.
_COLLECTED, _HTML, _LEARNT, _TOKENISED, _CUT = 25e6, 4e5, 2e6, 1.2e6, 5e7
_LIGHT_MB, _TOKENIZER_MB = 150, 400
_COLLECT_MB, _CHUNK_MB, _TOKENIZE_MB = 4000, 4000, 8000  # what rules/corpora.smk requests


def of_texts(
    settings: Workflow,
    models: Sequence[str],
    runs: Sequence[str],
    studies: Sequence[str],
    folder: Path,
    tflops: float | None,
) -> list[Work]:
    """Return the jobs that make the texts which runs, measurements and studies read."""
    pairs = [(settings.runs[run].corpus, settings.tokenizer_of_run(run)) for run in runs]
    pairs += [settings.text_of_model(model) for model in models]
    known = dict.fromkeys((c, t) for c, t in pairs if c is not None and t is not None)
    corpora = [corpus for corpus, _ in known]
    corpora += [settings.frontier[study].corpus for study in studies]
    trained = dict.fromkeys(t for _, t in known if t in settings.tokenizers)
    corpora += [c for t in trained if (c := settings.tokenizers[t].corpus) is not None]
    found = [_collecting(settings, corpus, folder) for corpus in dict.fromkeys(corpora)]
    found += [_learning(settings, tokenizer, folder) for tokenizer in trained]
    found += [_tokenising(settings, *pair, folder) for pair in known]
    found += [_cutting(settings, model, folder) for model in models]
    encoders = [run for run in runs if settings.encoder(run) is not None]
    return found + [_encoding(settings, run, folder, tflops) for run in encoders]


def _collecting(settings: Workflow, corpus: str, folder: Path) -> Work:
    size = text_of(settings, corpus, folder).bytes
    speed = _HTML if settings.corpora[corpus].source == "python-docs" else _COLLECTED
    seconds = None if size is None else LIGHT_START_S + size / speed
    return Work("collect_corpus", corpus, 1, seconds, _LIGHT_MB, _COLLECT_MB)


def _learning(settings: Workflow, tokenizer: str, folder: Path) -> Work:
    asked, seconds = settings.tokenizers[tokenizer], None
    if asked.corpus is None:
        seconds = TOKENIZER_START_S
    elif (size := text_of(settings, asked.corpus, folder).bytes) is not None:
        seconds = TOKENIZER_START_S + size / _LEARNT
    return Work("train_tokenizer", tokenizer, 1, seconds, _TOKENIZER_MB, _TOKENIZE_MB)


def _tokenising(settings: Workflow, corpus: str, tokenizer: str, folder: Path) -> Work:
    size, name = text_of(settings, corpus, folder).bytes, f"{corpus}, {tokenizer}"
    seconds = None
    if size is not None:
        seconds = TOKENIZER_START_S + size / _TOKENISED / settings.n_data_procs
    return Work("tokenize_corpus", name, 1, seconds, _TOKENIZER_MB, _TOKENIZE_MB)


def _cutting(settings: Workflow, model: str, folder: Path) -> Work:
    corpus, tokenizer = settings.text_of_model(model)
    size = text_of(settings, corpus, folder).bytes
    tokens = None if size is None else size / bytes_per_token(settings, tokenizer)
    seconds = None if tokens is None else LIGHT_START_S + tokens / _CUT
    return Work("chunk_corpus", model, 1, seconds, _LIGHT_MB, _CHUNK_MB)


def _encoding(settings: Workflow, run: str, folder: Path, tflops: float | None) -> Work:
    """Return the job that encodes a run's training and validation text with its base."""
    chosen, seconds, base, n = settings.runs[run], None, settings.base_run(run), None
    if base is not None and chosen.corpus is not None:
        text = text_of(settings, chosen.corpus, folder)
        n = run_parameters(settings, base)
        row = settings.spec(base).tokens_per_row(settings.runs[base])
        if n is not None and row is not None and text.bytes is not None:
            read = text.bytes - (text.held_out or 0)
            limit = settings.spec(run).train_rows(chosen)
            encoded = (text.held_out or 0) + (read if limit is None else min(read, limit * row))
            seconds = START_S + 2 * n * encoded / flops_per_s(settings.devices(chosen), tflops)
    memory = PROCESS_MB + (0 if n is None else 8 * n // 10**6)
    return Work("encode_corpus", run, 1, seconds, memory, training_mem_mb(settings, run, 1))
