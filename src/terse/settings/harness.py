"""The lm-eval tasks that selected models are scored on."""

from typing import Any

from pydantic import Field, model_validator

from terse.settings.strict import Name, Strict

# Tasks that are made from a corpus' validation documents, without a network.
CORPUS_TASKS = ("corpus_cloze", "corpus_bytes")


class Harness(Strict):
    """Tasks of the lm-eval library, by name or from local files, and how they are run."""

    tasks: list[str] = Field(
        list(CORPUS_TASKS),
        min_length=1,
        description="names that lm-eval knows, corpus_cloze and corpus_bytes, or YAML files",
    )
    corpus: Name | None = Field(None, description="corpus that corpus_cloze and corpus_bytes use")
    if_selected: list[Name] = Field(
        [],
        description="models or runs that `all` scores where select.ids or select.runs names them",
    )
    num_fewshot: int | None = Field(
        None, ge=0, description="examples before each question; null: the task's default"
    )
    limit: int | None = Field(None, gt=0, description="questions of each task; null: all")
    batch_size: int = Field(8, gt=0, description="requests at a time")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of examples and intervals")

    @model_validator(mode="after")
    def _corpus_for_its_tasks(self) -> "Harness":
        if self.corpus is None and (own := set(self.tasks) & set(CORPUS_TASKS)):
            raise ValueError(f"corpus is missing: {sorted(own)[0]} is made from one")
        return self

    def params(self) -> dict[str, Any]:
        """Return the settings that determine a model's scores, as plain JSON."""
        return self.model_dump(mode="json", exclude={"if_selected"})

    @property
    def fetched(self) -> list[str]:
        """The tasks whose data the library may have to download: all but those from a corpus."""
        return [task for task in self.tasks if task not in CORPUS_TASKS]

    @property
    def from_corpus(self) -> bool:
        """Whether a task is made from the corpus."""
        return bool(set(self.tasks) & set(CORPUS_TASKS))

    @property
    def uses_library(self) -> bool:
        """Whether a task is one of the library's own, which are found in its index."""
        return any(not task.endswith((".yaml", ".yml")) for task in self.fetched)
