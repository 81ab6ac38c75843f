"""What the workflow needs to know about a method: one spec per method, without torch."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from terse.settings.run import Run

S = TypeVar("S", bound=Run)

# Keys that change how a run is carried out but not its results.
# (`checkpoint_interval` is read into `checkpoint_steps`, which does.)
CONDUCT_KEYS = frozenset(
    {"gpu", "nodes", "save_interval", "mlflow_batch_interval", "threads", "checkpoint_interval"}
)


class MethodSpec(Generic[S]):
    """A method as the configuration, the rules and the report see it.

    A method subclasses it in its `spec.py`, sets `settings` and `implementation`, overrides what
    differs, and registers one object of it (see `terse.config.methods`). Its functions take the
    settings of one run. What a training or an evaluation needs is in
    `terse.training.method.Method` instead. Every job parses the configuration, so a spec imports
    no torch, pandas or numpy; what needs them is named as "module:name" and imported by the job.
    """

    # The settings class of a run of this method. Its `method` key is a Literal: the method's name.
    settings: type[S]
    # "module:class", a `terse.training.method.Method`.
    implementation: str
    # Raise it when a change to the method's code changes the trained weights.
    stage_version: int = 1

    # Whether it publishes a complete language model, which others can start from and measure.
    is_language_model: bool = True
    # Methods whose runs it can start from although those are not complete language models.
    starts_from: Sequence[str] = ()
    # Whether the model that it publishes can be loaded only together with its base.
    needs_base: bool = False
    # Whether its text is bytes: its tokenizer is of kind bytes.
    reads_bytes: bool = False
    # Whether it reads a text step by step, so that the text's corpus needs a separator.
    reads_steps: bool = False

    # Keys that only change how a run is carried out: no result depends on them.
    conduct_keys: frozenset[str] = CONDUCT_KEYS
    # Keys that only the evaluation reads: a change of them scores a trained run again.
    evaluation_keys: frozenset[str] = frozenset()

    # The names of its models in lm-eval's own command, each with the "module:class" of an LM whose
    # constructor takes `pretrained`, the folder of a trained run, and what else it needs.
    lm_eval_models: Mapping[str, str] = {}

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
        if run.epochs is None:
            del decisive["epochs"]  # so that this key changes no run without it
        else:
            decisive["checkpoint_interval"] = run.checkpoint_interval
        return {**decisive, "stage_version": self.stage_version}

    def weight_params(self, run: S) -> dict[str, Any]:
        """Return the settings that determine the trained weights, as plain JSON."""
        params = self.result_params(run)
        return {key: value for key, value in params.items() if key not in self.evaluation_keys}

    def non_weight_params(self, run: S) -> dict[str, Any]:
        """Return the settings that a training may read although they do not change the weights.

        An example is how often it saves its state. Plain JSON.
        """
        return run.model_dump(mode="json", include=set(self.conduct_keys | self.evaluation_keys))

    def settings_from(self, params: Mapping[str, Any]) -> S:
        """Return the settings that `result_params` or `weight_params` were made from."""
        return self.settings.model_validate(
            {key: value for key, value in params.items() if key != "stage_version"}
        )

    def one_process(self, run: S) -> bool:
        """Return whether all devices serve one process, which spreads its model over them."""
        return False

    def n_parameters(self, run: S, vocab_size: int) -> int | None:
        """Return the trained model's number of parameters, None if it depends on the base."""
        return None

    def depth(self, run: S) -> int | None:
        """Return the number of blocks of the trained model, None if it depends on the base."""
        return None

    def context_length(self, run: S) -> int | None:
        """Return how many tokens the trained model can read, None if it depends on the base."""
        return None

    def row_length(self, run: S) -> dict[str, int]:
        """Return the tokens that the base must be able to read at a time, by the key to lower.

        Empty if the run has no base, or the settings don't determine it.
        """
        return {}

    def hidden_states(self, run: S) -> dict[str, int]:
        """Return the hidden states of the base that are read, 0 the embeddings, by settings key."""
        return {}

    def check_base(self, run: S, base: Run) -> None:
        """Raise TerseError if a run can't start from a run with these settings."""

    def tokens_per_row(self, run: S) -> int | None:
        """Return how many tokens a training row costs, None if the settings don't determine it."""
        return None

    def evaluated_positions(self, run: S, tokens: int, documents: int) -> int | None:
        """Return about how many positions an evaluation computes, None if nothing tells.

        tokens, documents: of the corpus' validation split, 0 for a run without a corpus. Used to
        estimate how long the evaluation takes (`terse plan`), never to limit it.
        """
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
        """Return the keys of `activations` that differ for the trained model.

        Empty for a language model, whose hidden states are measured like any other's.
        """
        return {}

    def lm_eval_adapter(self, run: S) -> str | None:
        """Return the "module:function" that makes a model of the method for lm-eval.

        The function takes (folder, device, batch_size) and, where the method `needs_base`, the
        folder `base`. None: a complete language model, which needs no adapter, or a model that
        lm-eval can't score. Raises TerseError if a setting leaves a text without a likelihood.
        """
        return None

    def reading(self, run: S) -> str | None:
        """Return the "module:function" that makes the run's way of reading contexts in a frontier.

        The function takes the method, the loaded model and its device, and returns a
        `terse.evaluation.frontier.reading.Reading`. None: a complete language model, which reads
        all of a context. Raises TerseError if a setting leaves a text without a likelihood.
        """
        return None

    def compared_with(self, run: S) -> dict[str, str]:
        """Return the runs of other methods that the report shows with this one, by settings key."""
        return {}

    def drop_unread(
        self, config: dict[str, Any], blocks: Sequence[dict[str, Any]]
    ) -> dict[str, str]:
        """Drop the keys of an imported file that its run would not read.

        config: the imported overlay. blocks: the run's keys, and the swept ones. Returns a note
        for each dropped key.
        """
        return {}
