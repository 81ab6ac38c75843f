"""The lm-eval library on any model of the workflow."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from terse.corpora.tokenizers import load_tokenizer
from terse.errors import TerseError, unknown_name
from terse.evaluation.lm_eval.pairs import joined, spaces_moved
from terse.hub.errors import hub_errors
from terse.models.generation import plain_generation
from terse.models.loading import load_model, max_context
from terse.settings.harness import CORPUS_TASKS, Harness

_HFLM: Any = HFLM  # its decorator hides its methods and parameters


class PlainLM(_HFLM):
    """The library's own model, which splits pairs where the methods' adapters split them."""

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return (log-likelihood in nats, whether greedy decoding gives it) of continuations."""
        begun: list[Instance] = []
        for request in requests:
            context, text = spaces_moved(*map(str, request.args))
            joined(self._alone, context, text)  # refuses a continuation without tokens
            begun.append(replace(request, arguments=(context, text)))
        return super().loglikelihood(begun, disable_tqdm)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        first, whole = joined(self._alone, context, continuation)
        alone, added = self._alone(context), self.tok_encode(context)
        start = added[:1] if added[1 : 1 + len(alone)] == alone else []  # BOS, if it is added
        return [*start, *whole[:first]], whole[first:]

    def _alone(self, text: str) -> list[int]:
        return self.tok_encode(text, add_special_tokens=False)


def language_model(folder: Path, *, device: str, batch_size: int, **loading: Any) -> LM:
    """Return a causal LM in a local folder as the library's model; `loading`: see `load_model`."""
    model = load_model(folder, device=device, **loading)
    model.generation_config = plain_generation(model)  # the task sets the options
    tokenizer = load_tokenizer(folder, bool(loading.get("trust_remote_code")))
    tokenizer.split_special_tokens = True  # their names are plain text, as in a corpus
    return PlainLM(
        pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=max_context(model)
    )


def run_tasks(model: LM, settings: Harness, corpus_tasks: Path | None) -> pd.DataFrame:
    """Return a row for each metric of each task: task, metric, filter, value, stderr, n.

    corpus_tasks: the folder of `make_corpus_tasks`. Raises TerseError for an unknown task.
    """
    manager, names = _tasks(settings, settings.tasks, corpus_tasks)
    evaluate: Any = simple_evaluate  # the same
    found = evaluate(
        model, tasks=list(names), task_manager=manager, num_fewshot=settings.num_fewshot,
        limit=settings.limit, batch_size=settings.batch_size, log_samples=False,
        bootstrap_iters=1000, random_seed=settings.seed, numpy_random_seed=settings.seed,
        torch_random_seed=settings.seed, fewshot_random_seed=settings.seed,
    )  # fmt: skip
    if found is None:
        raise TerseError("lm-eval gave no results")
    return results_table(dict(found))


def download_tasks(settings: Harness, folder: Path) -> None:
    """Download the data of all tasks that are not made from a corpus into the library's cache.

    folder: of that cache; `use_data` has to be called with it before anything is read. Raises
    TerseError for an unknown task, or data that can't be downloaded.
    """
    use_data(folder)
    manager, names = _tasks(settings, settings.fetched, None)
    for name in names:
        with hub_errors("dataset of task", name, "main"):
            manager.load([name])


def use_data(folder: Path) -> None:
    """Let the library read tasks' data from a folder, where `download_tasks` put them."""
    from datasets import config

    os.environ["HF_DATASETS_CACHE"] = str(folder.resolve())
    config.HF_DATASETS_CACHE = folder.resolve()


def _tasks(
    settings: Harness, tasks: list[str], corpus_tasks: Path | None
) -> tuple[TaskManager, list[str]]:
    """Return what loads tasks, and their names; TerseError for one that is unknown."""
    files = [Path(task) for task in tasks if task.endswith((".yaml", ".yml"))]
    if missing := [file for file in files if not file.is_file()]:
        raise TerseError(f"no task file {missing[0]}")
    folders = {str(file.parent) for file in files} | ({str(corpus_tasks)} - {"None"})
    manager = TaskManager(include_path=sorted(folders), include_defaults=settings.uses_library)
    names = [Path(t).stem if t.endswith((".yaml", ".yml")) else t for t in tasks]
    if unknown := [name for name in names if name not in manager.all_tasks]:
        known = [*manager.all_tasks, *CORPUS_TASKS]
        raise unknown_name("task", unknown[0], known)
    return manager, names


def results_table(found: dict[str, Any]) -> pd.DataFrame:
    """Return the library's results as a tidy table."""
    rows = []
    for task, block in found["results"].items():
        n = found.get("n-samples", {}).get(task, {}).get("effective")
        for key, value in block.items():
            metric, _, kind = key.partition(",")
            if not kind or metric.endswith("_stderr"):
                continue
            if isinstance(value, float) and not math.isfinite(value):
                raise TerseError(f"lm-eval's {metric} of task {task} is {value}")
            error = block.get(f"{metric}_stderr,{kind}", math.nan)
            stderr = error if isinstance(error, float) else math.nan
            rows.append(
                {
                    "task": task, "metric": metric, "filter": kind, "value": value,
                    "stderr": stderr, "n": n,
                }
            )  # fmt: skip
    return pd.DataFrame(rows, columns=["task", "metric", "filter", "value", "stderr", "n"])
