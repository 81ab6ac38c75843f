"""The whole configuration: libraries of named things, and what `all` makes of them."""

import importlib.util
import re
from functools import cached_property
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
from terse.config.messages import lines
from terse.config.methods import METHODS
from terse.errors import TerseError, unknown_name
from terse.settings.activations import Activations
from terse.settings.corpora import Corpus, Tokenizer
from terse.settings.harness import Harness
from terse.settings.models import Model
from terse.settings.roots import Roots
from terse.settings.run import Run
from terse.settings.select import Select
from terse.settings.strict import Name, Strict


def _by_method(raw: Any) -> Any:
    """Return a run's settings in the class of its method."""
    if not isinstance(raw, dict):
        raise ValueError(f"a block of keys is needed; given: {raw!r}")
    if "method" not in raw:
        raise ValueError(f"method is missing; allowed: {', '.join(sorted(METHODS))}")
    if not isinstance(raw["method"], str) or raw["method"] not in METHODS:
        raise ValueError(str(unknown_name("method", str(raw["method"]), METHODS)))
    return METHODS[raw["method"]].model_validate(raw)


RunOfMethod = Annotated[SerializeAsAny[Run], BeforeValidator(_by_method)]


class Workflow(Strict):
    """The configuration of one workflow, checked as a whole."""

    roots: Roots = Field(
        Roots(),  # pyright: ignore[reportCallIssue]
        description="where the three folders really lie",
    )
    gpu: int = Field(0, ge=0, description="devices of a job that can use one; profiles set it")
    compute: Literal["cuda", "cpu"] = Field(
        "cuda", description="what computes in a job with devices; cpu rehearses a GPU cluster"
    )
    deterministic: bool = Field(True, description="deterministic algorithms on CUDA as well")
    n_data_procs: int = Field(1, ge=1, description="processes that tokenise")
    tracking: Literal["none", "mlflow", "wandb", "tensorboard"] = Field(
        "none", description="where trainings report to; mlflow writes results/mlflow.db"
    )
    corpora: dict[Name, Corpus] = Field({}, description="texts, by name")
    tokenizers: dict[Name, Tokenizer] = Field({}, description="tokenizers trained here, by name")
    runs: dict[Name, RunOfMethod] = Field({}, description="trainings, by name")
    models: dict[Name, Model] = Field({}, description="models that can be measured, by name")
    unreachable: dict[Name, str] = Field(
        {}, description="models that could not be fetched, and why: `all` leaves them out"
    )
    activations: Activations | None = Field(None, description="what is measured of each model")
    harness: Harness | None = Field(None, description="what lm-eval asks of models")
    select: Select = Field(
        Select(),  # pyright: ignore[reportCallIssue]
        description="what `all` makes",
    )

    # The runs that each run with a sweep stands for; `terse.config.load` gives them as context.
    _sweeps: dict[str, list[str]] = PrivateAttr(default_factory=dict)

    step_of_revision: ClassVar[re.Pattern[str]] = re.compile(r"step-?(\d+)")

    @model_validator(mode="after")
    def _references_exist(self, info: ValidationInfo) -> "Workflow":
        self._sweeps.update((info.context or {}).get("sweeps", {}))
        self._check_tracking()
        self._check_tokenizers()
        for name, model in self.models.items():
            self._require(f"models.{name}.run", "run", model.run, self.runs)
            self._require(f"models.{name}.base", "model", model.base, self.models.keys() - {name})
        self._check_runs()
        self._check_models()
        for name in self.select.runs:
            self._require("select.runs", "run", name, {*self.runs, *self._sweeps})
        for name in self.select.ids:
            self._require("select.ids", "model", name, self.models)
        self._check_harness()
        return self

    @staticmethod
    def _require(where: str, kind: str, name: str | None, allowed: Any) -> None:
        if name is not None and name not in allowed:
            raise TerseError(f"{where}: {unknown_name(kind, name, allowed)}")

    def _check_tracking(self) -> None:
        if self.tracking != "none" and importlib.util.find_spec(self.tracking) is None:
            raise TerseError(
                f"tracking: {self.tracking} is not installed: .venv/bin/pip install {self.tracking}"
            )

    def _check_tokenizers(self) -> None:
        for name, tokenizer in self.tokenizers.items():
            self._require(f"tokenizers.{name}.corpus", "corpus", tokenizer.corpus, self.corpora)
            if name in self.models:
                raise TerseError(f"tokenizers.{name}: a model has this name too; rename one")

    def _check_runs(self) -> None:
        for name, run in self.runs.items():
            self._require(f"runs.{name}.corpus", "corpus", run.corpus, self.corpora)
            self._require(f"runs.{name}.tokenizer", "tokenizer", run.tokenizer, self.tokenizers)
            self._require(f"runs.{name}.base", "run or model", run.base, self._bases)
            self._check_base(name, run)
            self._check_bytes(f"runs.{name}.tokenizer", run, run.tokenizer)
            if run.corpus is not None:
                self._check_held_out(f"runs.{name}.corpus", run.corpus)
            try:
                run.share(self.n_processes(name))
            except TerseError as error:
                raise TerseError(f"runs.{name}: {error}") from None
        for name in self.runs:
            chain = [name]
            while (base := self.base_run(chain[-1])) is not None:
                chain.append(base)
                if base in chain[:-1]:
                    raise TerseError(f"runs.{name}.base: a cycle: {' -> '.join(chain)}")
        for name, run in self.runs.items():
            for other in run.compared_with():  # bases are known by now
                self._require(f"runs.{name}.baseline", "run", other, self.runs)
                self._check_language_model(f"runs.{name}.baseline", other)
                self._check_bytes(f"runs.{name}.baseline", run, self.tokenizer_of_run(other))

    def _check_base(self, name: str, run: Run) -> None:
        base = self.base_run(name)
        method = self.runs[base].method if base in self.runs else None
        if method in run.bases:
            return
        if run.base is not None and run.bases:
            raise TerseError(
                f"runs.{name}.base: {run.base} is no run of a method that {run.method} goes on "
                f"from; allowed: runs of {', '.join(run.bases)}"
            )
        self._check_language_model(f"runs.{name}.base", base)

    def _check_bytes(self, where: str, run: Run, name: str | None) -> None:
        tokenizer = self.tokenizers.get(name or "")
        if run.reads_bytes and tokenizer is not None and tokenizer.kind != "bytes":
            raise TerseError(
                f"{where}: {run.method} reads bytes, {name} is of kind {tokenizer.kind}; give a "
                "tokenizer of kind bytes"
            )

    def _check_models(self) -> None:
        for name, model in self.models.items():
            if model.run is not None:
                if not self.runs[model.run].measurement():
                    self._check_language_model(f"models.{name}.run", model.run)
                self._check_step(name, model)
            if self.activations is None and name in self.select.ids:
                raise TerseError("activations: the block is missing, and select.ids needs it")
            if self.activations is not None:
                self._check_measure(name)

    def _check_harness(self) -> None:
        if self.harness is not None:
            self._require("harness.corpus", "corpus", self.harness.corpus, self.corpora)
        for name in self.select.harness:
            self._require("select.harness", "model or run", name, self._bases)
            if self.harness is None:
                raise TerseError("harness: the block is missing, and select.harness needs it")
            self.harness_adapter(name)

    def harness_adapter(self, name: str) -> str:
        """Return the "module:function" that gives lm-eval a model or run.

        Raises TerseError for what lm-eval cannot ask.
        """
        run = self.models[name].run if name in self.models else name
        if run is None:
            return LANGUAGE_MODEL
        if self.runs[run].is_language_model and self.tokenizer_of_run(run) is None:
            raise TerseError(f"select.harness: {name} reads no text that lm-eval could ask it")
        return adapter_of(name, self.runs[run], is_model=name in self.models)

    def _check_language_model(self, where: str, run: str | None) -> None:
        if run in self.runs and not self.runs[run].is_language_model:
            raise TerseError(
                f"{where}: {run} of method {self.runs[run].method} is no whole language model; its "
                "report has its own measurements"
            )

    def _check_held_out(self, where: str, corpus: str) -> None:
        if self.corpora[corpus].validation_fraction == 0:
            raise TerseError(
                f"{where}: corpus {corpus} holds no documents out for validation; set its "
                "validation_fraction above 0"
            )

    def _check_step(self, name: str, model: Model) -> None:
        kept = self.runs[str(model.run)].checkpoint_steps
        if model.step is not None and model.step not in kept:
            raise TerseError(
                f"models.{name}.step: runs.{model.run} keeps no step {model.step}; "
                f"its checkpoint_steps: {', '.join(map(str, kept))}"
            )

    def _check_measure(self, name: str) -> None:
        measure = self.measure(name)

        def where(key: str) -> str:
            own = key in self.models[name].activations
            return f"models.{name}.activations.{key}" if own else f"activations.{key}"

        self._require(where("corpus"), "corpus", measure.corpus, self.corpora)
        if measure.documents == "validation":
            self._check_held_out(where("documents"), measure.corpus)
        if self.models[name].kind == "encoder" and (measure.save_loss or measure.save_entropy):
            raise TerseError(
                f"models.{name}.activations: an encoder has no loss: set save_loss and "
                "save_entropy to false"
            )
        self._check_vectors(name, measure)
        longest = self.context_length(name)
        if longest is not None and measure.ctx_len > longest:
            raise TerseError(
                f"{where('ctx_len')}: {measure.ctx_len} tokens; model {name} was trained on rows "
                f"of {longest}, allowed: up to that"
            )
        depth = self.depth(name)
        if depth is not None and (layer := _beyond(measure, depth)) is not None:
            raise TerseError(
                f"{where('layer_idx_list')}: model {name} has no layer {layer}; "
                f"allowed: {-depth}..{depth - 1}"
            )

    def _check_vectors(self, name: str, measure: Activations) -> None:
        """Refuse what does not hold for a model that makes vectors of a context."""
        model = self.models[name]
        decided = self.runs[model.run].measurement() if model.run is not None else {}
        if not decided:
            return
        if given := sorted(model.model_fields_set & {"kind", "dtype", "device_map"}):
            raise TerseError(f"models.{name}.{given[0]}: run {model.run} says how it is loaded")
        if measure.cloud == "context":
            raise TerseError(
                f"models.{name}.activations.cloud: the vectors of one context are too few; "
                "allowed: last_token, means"
            )
        if given := sorted(set(model.activations) & (decided.keys() - {"cloud", "ctx_len"})):
            raise TerseError(
                f"models.{name}.activations.{given[0]}: what is measured of run {model.run} are "
                f"its vectors; always {decided[given[0]]} there"
            )

    @cached_property
    def _bases(self) -> set[str]:
        return {*self.runs, *self.models}

    def devices(self, item: Run | Model) -> int:
        """Return how many devices a run or model asks for on a node."""
        return self.gpu if item.gpu is None else item.gpu

    def threads_of_training(self, run: str) -> int:
        """Return the cores that a training asks for on a node."""
        return self.runs[run].threads * max(1, self.devices(self.runs[run]))

    def n_processes(self, run: str) -> int:
        """Return how many processes train a run: one per device, one on each node at least."""
        devices = 1 if self.runs[run].one_process() else max(1, self.devices(self.runs[run]))
        return devices * self.runs[run].nodes

    def devices_of_evaluation(self, run: str) -> int:
        """Return how many devices the evaluation of a run asks for: one, but for a spread model."""
        devices = self.devices(self.runs[run])
        return devices if self.runs[run].one_process() else min(1, devices)

    def base_run(self, run: str) -> str | None:
        """Return the run whose weights a run starts from, None where there is none."""
        base = self.runs[run].base
        if base is None or base in self.runs:
            return base
        return self.models[base].run

    def base_step(self, run: str) -> int | None:
        """Return the kept step that a run starts from, None for a whole model."""
        base = self.runs[run].base
        return None if base is None or base in self.runs else self.models[base].step

    def depth(self, model: str) -> int | None:
        """Return a model's number of blocks where the configuration knows it."""
        return self._from_scratch(model, "depth")

    def context_length(self, model: str) -> int | None:
        """Return how many tokens a model can read, where the configuration knows it."""
        return self._from_scratch(model, "context_length")

    def _from_scratch(self, model: str, name: str) -> int | None:
        """Ask a model's run, else the run that it starts from, and so on."""
        run = self.models[model].run
        while run is not None:
            if (known := getattr(self.runs[run], name)()) is not None:
                return known
            run = self.base_run(run)
        return None

    def measure(self, model: str) -> Activations:
        """Return the activations block with the overrides of a model's method and its own.

        Raises TerseError with the place and the nearest valid key where they do not fit.
        """
        if self.activations is None:
            raise TerseError(f"activations: the block is missing, and model {model} needs it")
        chosen = self.models[model]
        own = {} if chosen.run is None else self.runs[chosen.run].measurement()
        raw = self.activations.model_dump(mode="json") | own | chosen.activations
        try:
            return Activations.model_validate(raw)
        except ValidationError as error:
            raise TerseError(lines(error, ("models", model, "activations"))[0]) from None

    def tokenizer_of_run(self, run: str) -> str | None:
        """Return the name of a run's tokenizer: its own, or that of the base it starts from."""
        settings = self.runs[run]
        if settings.tokenizer is not None or settings.base is None:
            return settings.tokenizer
        if settings.base in self.runs:
            return self.tokenizer_of_run(settings.base)
        return self.tokenizer_of_model(settings.base)

    def tokenizer_of_model(self, model: str) -> str | None:
        """Return the name of a model's tokenizer; one from outside has its own, by its name."""
        run = self.models[model].run
        return model if run is None else self.tokenizer_of_run(run)

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
        if (run := self.part_of_base(model)) is not None:
            loading |= {"run": self.runs[run].params(), "base_step": self.base_step(run)}
        return loading

    def part_of_base(self, model: str) -> str | None:
        """Return a model's run if what it publishes needs its base beside it, else None."""
        return self.part(self.models[model].run)

    def part(self, run: str | None) -> str | None:
        """Return a run if what it publishes needs its base beside it, else None."""
        if run is None or self.runs[run].is_language_model or not self.runs[run].needs_base:
            return None
        return run

    def families(self) -> list[str]:
        """Return the names of all families, without repetition."""
        return list(dict.fromkeys(self.family(model) for model in self.models))

    def family(self, model: str) -> str:
        """Return the name of the figures that a model is drawn into; other clouds have others."""
        settings = self.models[model]
        if settings.family is not None or settings.run is None:
            return settings.family or model
        cloud = "context" if self.activations is None else self.measure(model).cloud
        return settings.run + ("" if cloud == "context" else f"-{cloud.replace('_', '-')}")

    def training_step(self, model: str) -> int | None:
        """Return the training step that a model's weights are from, where it is known."""
        settings = self.models[model]
        if settings.run is not None:
            return self.runs[settings.run].max_steps if settings.step is None else settings.step
        match = self.step_of_revision.fullmatch(settings.revision)
        return int(match[1]) if match else None

    def selected_runs(self) -> list[str]:
        """Return the selected runs, sweeps expanded, without repetition."""
        names = (m for name in self.select.runs for m in self._sweeps.get(name, [name]))
        return list(dict.fromkeys(names))


def _beyond(measure: Activations, depth: int) -> int | None:
    """Return the first layer that is asked for and that a model of `depth` blocks lacks."""
    for item in measure.layer_idx_list if measure.layer_idx_list != "all" else []:
        for end in [item] if isinstance(item, int) else map(int, item.split("-")):
            if not -depth <= end < depth:
                return end
    return None
