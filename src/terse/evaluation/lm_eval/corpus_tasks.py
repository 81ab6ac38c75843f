"""Small tasks for lm-eval, made from the validation documents of a corpus, without a network.

`corpus_cloze`: which of four passages follows a context; the others are from other documents. All
four begin with a word, on their own line: a tokenizer knows which letters usually follow each
other, so a passage that continued its context directly would merge with it into fewer tokens and
win without any model.
`corpus_bytes`: the likelihood of passages, as bits per byte.
"""

import json
import re
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
JOIN = "\n"
BETWEEN_WORDS = re.compile(r"(?<=\S)\s+(?=\w)")
BETWEEN_LETTERS = re.compile(r"(?<=\w)(?=\w)")  # in scripts without spaces
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
    """Write both tasks to a folder: YAML for the library, JSON lines with the questions.

    Raises TerseError if the validation split has fewer than four documents that are long enough.
    """
    texts = [text for text in split_texts(documents, "validation") if len(text) >= 2 * CONTEXT]
    whole = [text for text in texts if next(_cuts(text), None)]
    if len(whole) < N_CHOICES:
        raise TerseError(
            f"{documents} has {len(whole)} validation documents of {2 * CONTEXT} characters with "
            f"words in the middle; a cloze task needs {N_CHOICES}"
        )
    rows = list(_questions(whole, np.random.default_rng(seed)))
    passages = [{"text": text[: 2 * CONTEXT]} for text in texts[:N_QUESTIONS]]
    with atomic_folder(folder) as partial:
        for task, content, version in ((CLOZE, rows, 2), (BYTES, passages, 1)):
            name = task["task"]
            lines = "".join(json.dumps(row) + "\n" for row in content)
            (partial / f"{name}.jsonl").write_text(lines, encoding="utf-8")
            metadata = {"metadata": {"version": version}}
            block = {**task, **_data(folder / f"{name}.jsonl"), **metadata}
            (partial / f"{name}.yaml").write_text(yaml.safe_dump(block), encoding="utf-8")


def _data(path: Path) -> dict[str, Any]:
    files = {"data_files": {"test": str(path)}}  # as given: the workflow's folder may be moved
    return {"dataset_path": "json", "dataset_kwargs": files, "test_split": "test"}


def _cuts(text: str) -> Iterator[tuple[int, int]]:
    """Yield where a context can end and a passage begin, with enough text on both sides."""
    for between in (BETWEEN_WORDS, BETWEEN_LETTERS):
        found = False
        for match in between.finditer(text, CONTEXT, len(text) - PASSAGE + 1):
            found = True
            yield match.span()
        if found:
            return


def _questions(texts: list[str], draw: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Yield questions from texts that can be cut.

    The right passage and the wrong ones are drawn in the same way, so only the context
    distinguishes them.
    """
    for _ in range(N_QUESTIONS):
        chosen = [texts[i] for i in draw.choice(len(texts), N_CHOICES, replace=False)]
        places = [_drawn(text, draw) for text in chosen]
        passages = [text[b : b + PASSAGE] for text, (_, b) in zip(chosen, places, strict=True)]
        end = places[0][0]
        order = draw.permutation(N_CHOICES)
        yield {
            "context": chosen[0][end - CONTEXT : end],
            "choices": [JOIN + passages[i] for i in order],
            "answer": int(np.flatnonzero(order == 0)[0]),
        }


def _drawn(text: str, draw: np.random.Generator) -> tuple[int, int]:
    cuts = list(_cuts(text))
    return cuts[draw.integers(len(cuts))]
