"""What the house asks of a method: one spec per method, in one piece and without torch."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from terse.settings.run import Run

S = TypeVar("S", bound=Run)

# Keys that change how a run is carried out but not what it results in.
CONDUCT_KEYS = frozenset({"gpu", "nodes", "save_interval", "mlflow_batch_interval", "threads"})


class MethodSpec(Generic[S]):
    """A method as the configuration, the rules and the report see it.

    A method subclasses it in its `spec.py`, sets `settings` and `implementation`, overrides what
    is different for it, and registers one object of it (see `terse.config.methods`). The questions
    take the settings of one run. What a training or an evaluation asks is in
    `terse.training.method.Method` instead. Every job parses the configuration, so a spec imports
    no torch, pandas or numpy; what needs them is named as "module:name" and imported by the job.
    """

    # The keys of a run of this method. Their `method` key is a Literal: the method's name.
    settings: type[S]
    # "module:class", a `terse.training.method.Method`.
    implementation: str
    # Raised when a change of the method's code changes the trained weights.
    stage_version: int = 1

    # Whether it publishes a whole language model, which others can start from and measure.
    is_language_model: bool = True
    # Methods whose runs it can start from although they are no whole language models.
    starts_from: Sequence[str] = ()
    # Whether the model that it publishes can be loaded only together with its base.
    needs_base: bool = False
    # Whether its text is bytes: its tokenizer is of that kind.
    reads_bytes: bool = False

    # Keys that change how a run is carried out only: no result depends on them.
    conduct_keys: frozenset[str] = CONDUCT_KEYS
    # Keys that only the evaluation reads: a change of them scores a trained run again.
    evaluation_keys: frozenset[str] = frozenset()

    # "module:function" that draws the figures of its runs (see `terse.figures.study`), no torch.
    figures: str | None = None
    # A caption for each of its figures and tables, by name.
    captions: Mapping[str, str] = {}

    @property
    def name(self) -> str:
        """The value of `method` in the configuration."""
        return self.settings.model_fields["method"].default

    def result_params(self, run: S) -> dict[str, Any]:
        """Return the settings that determine a run's results, as plain JSON."""
        decisive = run.model_dump(mode="json", exclude=set(self.conduct_keys))
        return {**decisive, "stage_version": self.stage_version}

    def weight_params(self, run: S) -> dict[str, Any]:
        """Return the settings that determine the trained weights, as plain JSON."""
        params = self.result_params(run)
        return {key: value for key, value in params.items() if key not in self.evaluation_keys}

    def non_weight_params(self, run: S) -> dict[str, Any]:
        """Return the settings that a training may read although they do not change the weights.

        Such as how often it saves its state; as plain JSON.
        """
        return run.model_dump(mode="json", include=set(self.conduct_keys | self.evaluation_keys))

    def settings_from(self, params: Mapping[str, Any]) -> S:
        """Return the settings that `result_params` or `weight_params` were made of."""
        return self.settings.model_validate(
            {key: value for key, value in params.items() if key != "stage_version"}
        )

    def one_process(self, run: S) -> bool:
        """Return whether all devices serve one process, which spreads its model over them."""
        return False

    def n_parameters(self, run: S, vocab_size: int) -> int | None:
        """Return the trained model's number of parameters, None where only its base knows."""
        return None

    def depth(self, run: S) -> int | None:
        """Return the number of blocks of the trained model, None where only its base knows."""
        return None

    def context_length(self, run: S) -> int | None:
        """Return how many tokens the trained model can read, None where only its base knows."""
        return None

    def tokens_per_row(self, run: S) -> int | None:
        """Return how many tokens a training row costs, None where the settings do not tell."""
        return None

    def encoder(self, run: S) -> str | None:
        """Return the "module:function" that makes the codes a run trains on; None: it reads text.

        The function takes the folder of the base, the tokens file, the file to write, and by
        keyword `device`, `batch_size` and `train_rows` (see below).
        """
        return None

    def train_rows(self, run: S) -> int | None:
        """Return how many rows of the training split are read and encoded; None: all."""
        return None

    def measurement(self, run: S) -> dict[str, Any]:
        """Return the keys of `activations` that are different for the trained model.

        Empty for a language model, whose hidden states are measured as any other's.
        """
        return {}

    def lm_eval_adapter(self, run: S) -> str | None:
        """Return the "module:function" that gives lm-eval a model of the method.

        From (folder, device, batch_size) and, where it `needs_base`, `base`, the folder of that.
        None: a whole language model, which needs none, or one that lm-eval cannot ask. Raises
        TerseError where a text has no likelihood for a reason in the settings.
        """
        return None

    def compared_with(self, run: S) -> dict[str, str]:
        """Return the runs of other methods that the report shows with this one, by their key."""
        return {}

    def drop_unread(
        self, config: dict[str, Any], blocks: Sequence[dict[str, Any]]
    ) -> dict[str, str]:
        """Drop what an imported file sets although its run would not read it.

        config: the imported overlay. blocks: the run's keys, and those that are swept. Returns a
        note on each key that was dropped.
        """
        return {}
