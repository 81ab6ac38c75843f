"""The whole configuration: libraries of named things, and what `all` makes from them."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from terse.config.adapters import LANGUAGE_MODEL, adapter_of
from terse.config.checks import check
from terse.config.messages import lines
from terse.config.methods import methods
from terse.config.ways import settle
from terse.errors import TerseError, unknown_name
from terse.settings.activations import Activations
from terse.settings.corpora import Corpus, Tokenizer
from terse.settings.frontier import Frontier
from terse.settings.harness import Harness
from terse.settings.method_spec import MethodSpec
from terse.settings.models import Model
from terse.settings.roots import Roots
from terse.settings.run import Run
from terse.settings.select import Select
from terse.settings.strict import Name, Strict


def _by_method(raw: Any) -> Any:
    """Return a run's settings in the class of its method."""
    if not isinstance(raw, dict):
        raise ValueError(f"must be a block of keys; given: {raw!r}")
    known = methods()
    if "method" not in raw:
        raise ValueError(f"method is missing; allowed: {', '.join(sorted(known))}")
    if not isinstance(raw["method"], str) or raw["method"] not in known:
        raise ValueError(str(unknown_name("method", str(raw["method"]), known)))
    return known[raw["method"]].settings.model_validate(raw)


RunOfMethod = Annotated[SerializeAsAny[Run], BeforeValidator(_by_method)]


class Workflow(Strict):
    """The configuration of one workflow, checked as a whole."""

    roots: Roots = Field(
        Roots(),  # pyright: ignore[reportCallIssue]
        description="where the three folders are really stored",
    )
    gpu: int = Field(0, ge=0, description="devices of each job that can use them; profiles set it")
    compute: Literal["cuda", "cpu"] = Field(
        "cuda", description="where a job with devices computes; cpu rehearses a GPU cluster"
    )
    deterministic: bool = Field(True, description="deterministic algorithms also on CUDA")
    n_data_procs: int = Field(1, ge=1, description="processes that tokenise")
    tracking: Literal["none", "mlflow", "wandb", "tensorboard"] = Field(
        "none", description="where trainings log metrics; mlflow writes results/mlflow.db"
    )
    corpora: dict[Name, Corpus] = Field({}, description="texts, by name")
    tokenizers: dict[Name, Tokenizer] = Field({}, description="tokenizers trained here, by name")
    runs: dict[Name, RunOfMethod] = Field({}, description="trainings, by name")
    models: dict[Name, Model] = Field({}, description="models that can be measured, by name")
    unreachable: dict[Name, str] = Field(
        {}, description="models that could not be fetched, and why: `all` leaves them out"
    )
    activations: Activations | None = Field(None, description="what is measured in each model")
    harness: Harness | None = Field(None, description="lm-eval's tasks and settings")
    frontier: dict[Name, Frontier] = Field(
        {}, description="studies of what is lost when a context is shortened, by name"
    )
    select: Select = Field(
        Select(),  # pyright: ignore[reportCallIssue]
        description="what `all` makes",
    )

    # The runs that each run with a sweep expands to; `terse.config.load` passes them as context.
    _sweeps: dict[str, list[str]] = PrivateAttr(default_factory=dict)
    # What was decided for each model: a plan asks for every shard.
    _measures: dict[str, tuple[tuple[Any, ...], Activations]] = PrivateAttr(default_factory=dict)

    step_of_revision: ClassVar[re.Pattern[str]] = re.compile(r"step-?(\d+)")

    @model_validator(mode="after")
    def _holds_together(self, info: ValidationInfo) -> "Workflow":
        self._sweeps.update((info.context or {}).get("sweeps", {}))
        check(self)
        return settle(self)

    def names_of_runs(self) -> set[str]:
        """Return the names that a selection may use: runs, and sweeps for all of their runs."""
        return {*self.runs, *self._sweeps}

    def runs_of(self, name: str) -> list[str]:
        """Return the runs of a sweep; of anything else the name itself."""
        return [name] if name in self.models else self._sweeps.get(name, [name])

    def selected_runs(self) -> list[str]:
        """Return the selected runs, sweeps expanded, without repetition."""
        names = (m for name in self.select.runs for m in self._sweeps.get(name, [name]))
        return list(dict.fromkeys(names))

    def scored_by_lm_eval(self) -> list[str]:
        """Return the models and runs of the harness table, sweeps expanded, without repetition."""
        selected = {*self.selected_runs(), *self.select.ids}
        also = [] if self.harness is None else self.harness.if_selected
        of_also = (run for name in also for run in self.runs_of(name) if run in selected)
        names = [*(run for name in self.select.harness for run in self.runs_of(name)), *of_also]
        return list(dict.fromkeys(names))

    def spec(self, run: str) -> MethodSpec[Any]:
        """Return the spec of a run's method."""
        return methods()[self.runs[run].method]

    def result_params(self, run: str) -> dict[str, Any]:
        """Return the settings that determine a run's results, as plain JSON."""
        return self.spec(run).result_params(self.runs[run])

    def weight_params(self, run: str) -> dict[str, Any]:
        """Return the settings that determine a run's trained weights, as plain JSON."""
        return self.spec(run).weight_params(self.runs[run])

    def non_weight_params(self, run: str) -> dict[str, Any]:
        """Return the settings that a run's training may read but that don't change the weights."""
        return self.spec(run).non_weight_params(self.runs[run])

    def encoder(self, run: str) -> str | None:
        """Return the "module:function" that makes a run's codes, None if it trains on text."""
        return self.spec(run).encoder(self.runs[run])

    def compared_with(self, run: str) -> list[str]:
        """Return the runs of other methods that the report shows with a run."""
        return list(self.spec(run).compared_with(self.runs[run]).values())

    def devices(self, item: Run | Model) -> int:
        """Return how many devices per node a run or model requests."""
        return self.gpu if item.gpu is None else item.gpu

    def threads_of_training(self, run: str) -> int:
        """Return how many cores per node a training requests."""
        return self.runs[run].threads * max(1, self.devices(self.runs[run]))

    def n_processes(self, run: str) -> int:
        """Return how many processes train a run: one per device, at least one on each node."""
        devices = 1 if self._in_one_process(run) else max(1, self.devices(self.runs[run]))
        return devices * self.runs[run].nodes

    def devices_of_evaluation(self, run: str) -> int:
        """Return how many devices a run's evaluation requests: one, unless the model is spread."""
        devices = self.devices(self.runs[run])
        return devices if self._in_one_process(run) else min(1, devices)

    def _in_one_process(self, run: str) -> bool:
        return self.spec(run).one_process(self.runs[run])

    def base_run(self, run: str) -> str | None:
        """Return the run whose weights a run starts from, None if there is none."""
        base = self.runs[run].base
        if base is None or base in self.runs:
            return base
        return self.models[base].run

    def n_dependents(self, run: str) -> int:
        """Return how many runs and models start from a run, directly or by way of others."""
        own = [name for name in self.runs if self.base_run(name) == run]
        models = sum(model.run == run for model in self.models.values())
        return models + sum(1 + self.n_dependents(name) for name in own)

    def base_step(self, run: str) -> int | None:
        """Return the kept step that a run starts from, None for a whole model."""
        base = self.runs[run].base
        return None if base is None or base in self.runs else self.models[base].step

    def depth(self, model: str) -> int | None:
        """Return a model's number of blocks if the configuration determines it."""
        return self._from_scratch(model, "depth")

    def context_length(self, model: str) -> int | None:
        """Return how many tokens a model can read if the configuration determines it."""
        return self._from_scratch(model, "context_length")

    def _from_scratch(self, model: str, name: str) -> int | None:
        """Ask a model's run, else the run that it starts from, and so on."""
        run = self.models[model].run
        while run is not None:
            if (known := getattr(self.spec(run), name)(self.runs[run])) is not None:
                return known
            run = self.base_run(run)
        return None

    def measure(self, model: str) -> Activations:
        """Return the activations block with the overrides of a model's method and of the model.

        Raises TerseError with the key and the nearest valid one if they are invalid.
        """
        of = (self.activations, self.models, self.runs)  # a copy with others shares what is known
        known = self._measures.get(model)
        if known is None or any(a is not b for a, b in zip(known[0], of, strict=True)):
            known = self._measures[model] = (of, self._decided(model))
        return known[1]

    def _decided(self, model: str) -> Activations:
        if self.activations is None:
            raise TerseError(f"activations: the block is missing, and model {model} needs it")
        if not self.is_measurable(model):
            raise TerseError(
                f"models.{model}: run {self.models[model].run} is not a complete language model, "
                "so its dimensions can't be measured; its report has its own measurements"
            )
        own = self.decided_measurement(model) | self.models[model].activations
        raw = self.activations.model_dump(mode="json") | own
        try:
            return Activations.model_validate(raw)
        except ValidationError as error:
            raise TerseError(lines(error, ("models", model, "activations"))[0]) from None

    def is_measurable(self, model: str) -> bool:
        """Return whether a model has hidden states, or vectors of a text, to measure."""
        run = self.models[model].run
        whole = run is None or self.spec(run).is_language_model
        return whole or bool(self.decided_measurement(model))

    def can_be_scored(self, name: str) -> bool:
        """Return whether lm-eval can score a model or run."""
        try:
            self.harness_adapter(name)
        except TerseError:
            return False
        return True

    def decided_measurement(self, model: str) -> dict[str, Any]:
        """Return the keys of `activations` that the method of a model's run decides."""
        run = self.models[model].run
        return {} if run is None else self.spec(run).measurement(self.runs[run])

    def tokenizer_of_run(self, run: str) -> str | None:
        """Return the name of a run's tokenizer: its own, or that of the base it starts from."""
        settings = self.runs[run]
        if settings.tokenizer is not None or settings.base is None:
            return settings.tokenizer
        if settings.base in self.runs:
            return self.tokenizer_of_run(settings.base)
        return self.tokenizer_of_model(settings.base)

    def tokenizer_of_model(self, model: str) -> str | None:
        """Return the name of a model's tokenizer: for an external model that of `fetched_as`."""
        run = self.models[model].run
        return self.fetched_as(model) if run is None else self.tokenizer_of_run(run)

    def fetched_as(self, model: str) -> str:
        """Return the first model of the same source: its files and tokens serve all of them."""
        source = self.models[model].source()
        return next(name for name, other in self.models.items() if other.source() == source)

    def text_of_model(self, model: str) -> tuple[str, str]:
        """Return the corpus and the tokenizer of the contexts that a model is measured on."""
        tokenizer = self.tokenizer_of_model(model)
        if tokenizer is None:
            raise TerseError(f"models.{model}: it reads no text, so it has no contexts")
        return self.measure(model).corpus, tokenizer

    def loading_of_model(self, model: str) -> dict[str, Any]:
        """Return what determines a model's weights and how they are loaded, as plain JSON."""
        settings, step = self.models[model], self.training_step(model)
        loading = settings.loading() | {
            "model": settings.hub or settings.run or settings.path or settings.package,
            "revision": settings.revision if settings.run is None else f"step-{step}",
            "step": settings.step,
        }
        if settings.random_weights:
            loading["revision"] = f"random-{settings.weights_seed}"
        if (run := self.part_of_base(model)) is not None:
            loading |= {"run": self.result_params(run), "base_step": self.base_step(run)}
        return loading

    def part_of_base(self, model: str) -> str | None:
        """Return a model's run if it can be loaded only with its base, else None."""
        return self.part(self.models[model].run)

    def part(self, run: str | None) -> str | None:
        """Return a run if its model can be loaded only with its base, else None."""
        return run if run is not None and self.spec(run).needs_base else None

    def harness_adapter(self, name: str) -> str:
        """Return the "module:function" that makes lm-eval's model from a model or run.

        Raises TerseError for what lm-eval can't score.
        """
        run = self.models[name].run if name in self.models else name
        if run is None:
            return LANGUAGE_MODEL
        if self.spec(run).is_language_model and self.tokenizer_of_run(run) is None:
            raise TerseError(f"select.harness: {name} reads no text, so lm-eval can't score it")
        return adapter_of(name, self.runs[run], is_model=name in self.models)

    def families(self) -> dict[str, list[str]]:
        """Return the models that can be measured, by family."""
        members: dict[str, list[str]] = {}
        for model in filter(self.is_measurable, self.models):
            members.setdefault(self.family(model), []).append(model)
        return members

    def family(self, model: str) -> str:
        """Return the name of the figures that a model is drawn in; each cloud has its own."""
        settings = self.models[model]
        if settings.family is not None or settings.run is None:
            return settings.family or model
        unmeasured = self.activations is None or not self.is_measurable(model)
        cloud = "context" if unmeasured else self.measure(model).cloud
        return settings.run + ("" if cloud == "context" else f"-{cloud.replace('_', '-')}")

    def training_step(self, model: str) -> int | None:
        """Return the training step of a model's weights, None if unknown or if they are random."""
        settings = self.models[model]
        if settings.random_weights:
            return None
        if settings.run is not None:  # the last one of epochs is not known here
            return self.runs[settings.run].max_steps if settings.step is None else settings.step
        match = self.step_of_revision.fullmatch(settings.revision)
        return int(match[1]) if match else None
