"""The lm-eval tasks that selected models are scored on."""

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

    @property
    def needs_network(self) -> bool:
        """Whether the library fetches the data of a task."""
        return any(t not in CORPUS_TASKS and not t.endswith((".yaml", ".yml")) for t in self.tasks)
