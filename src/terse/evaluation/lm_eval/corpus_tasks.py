"""Small tasks for lm-eval, made of the validation documents of a corpus: no network is needed.

`corpus_cloze`: which of four passages follows a context; the others are from other documents.
`corpus_bytes`: the likelihood of passages, as bits per byte.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from terse.artifacts import atomic_folder
from terse.corpora.documents import split_texts
from terse.errors import TerseError

N_CHOICES, N_QUESTIONS = 4, 200
CONTEXT, PASSAGE = 160, 60  # characters
CLOZE = {
    "task": "corpus_cloze",
    "output_type": "multiple_choice",
    "doc_to_text": "{{context}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "target_delimiter": "",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
    ],
}
BYTES = {
    "task": "corpus_bytes",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": "bits_per_byte"}],
}


def make_corpus_tasks(documents: Path, folder: Path, *, seed: int = 0) -> None:
    """Write both tasks into a folder: YAML for the library, JSON lines with the questions.

    Raises TerseError where the validation split has fewer than four documents that are long enough.
    """
    texts = [text for text in split_texts(documents, "validation") if len(text) >= 2 * CONTEXT]
    if len(texts) < N_CHOICES:
        raise TerseError(
            f"{documents} has {len(texts)} validation documents of {2 * CONTEXT} characters; a "
            f"cloze task needs {N_CHOICES}"
        )
    rows = list(_questions(texts, np.random.default_rng(seed)))
    passages = [{"text": text[: 2 * CONTEXT]} for text in texts[:N_QUESTIONS]]
    with atomic_folder(folder) as partial:
        for task, content in ((CLOZE, rows), (BYTES, passages)):
            name = task["task"]
            lines = "".join(json.dumps(row) + "\n" for row in content)
            (partial / f"{name}.jsonl").write_text(lines, encoding="utf-8")
            block = {**task, **_data(folder / f"{name}.jsonl"), "metadata": {"version": 1}}
            (partial / f"{name}.yaml").write_text(yaml.safe_dump(block), encoding="utf-8")


def _data(path: Path) -> dict[str, Any]:
    files = {"data_files": {"test": str(path)}}  # as given: the workflow's folder may move
    return {"dataset_path": "json", "dataset_kwargs": files, "test_split": "test"}


def _questions(texts: list[str], draw: np.random.Generator) -> Iterator[dict[str, Any]]:
    for number in range(N_QUESTIONS):
        own = number % len(texts)
        others = draw.choice(len(texts) - 1, N_CHOICES - 1, replace=False)
        start = int(draw.integers(len(texts[own]) - CONTEXT - PASSAGE + 1))
        choices = [texts[own][start + CONTEXT : start + CONTEXT + PASSAGE]]
        for other in others:
            text = texts[other + (other >= own)]
            place = int(draw.integers(len(text) - PASSAGE + 1))
            choices.append(text[place : place + PASSAGE])
        order = draw.permutation(N_CHOICES)
        yield {
            "context": texts[own][start : start + CONTEXT],
            "choices": [choices[i] for i in order],
            "answer": int(np.flatnonzero(order == 0)[0]),
        }
