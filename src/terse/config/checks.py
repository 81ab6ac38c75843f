"""Checks between the parts of a configuration: names exist, sizes and kinds fit.

Each check raises TerseError with the key, the given value and the allowed ones.
"""

import importlib.util
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from terse.config.methods import spec_of
from terse.corpora.named import SENTENCE_END
from terse.errors import TerseError, unknown_name
from terse.settings.activations import Activations
from terse.settings.run import Run

if TYPE_CHECKING:  # it calls this module
    from terse.config.workflow import Workflow


def check(workflow: "Workflow") -> None:
    """Raise TerseError for the first violation."""
    _check_tracking(workflow.tracking)
    _check_tokenizers(workflow)
    for name, model in workflow.models.items():
        _require(f"models.{name}.run", "run", model.run, workflow.runs)
        others = workflow.models.keys() - {name}
        _require(f"models.{name}.base", "model", model.base, others)
    _check_runs(workflow)
    for name in workflow.models:
        _check_model(workflow, name)
    for name in workflow.select.runs:
        _require("select.runs", "run", name, workflow.names_of_runs())
    for name in workflow.select.ids:
        _require("select.ids", "model", name, workflow.models)
    _check_harness(workflow)


def _require(where: str, kind: str, name: str | None, allowed: Iterable[str]) -> None:
    """Refuse a name that is not in `allowed`; None passes."""
    if name is not None and name not in (known := set(allowed)):
        raise TerseError(f"{where}: {unknown_name(kind, name, known)}")


def _check_tracking(tracking: str) -> None:
    if tracking != "none" and importlib.util.find_spec(tracking) is None:
        raise TerseError(f"tracking: {tracking} is not installed: .venv/bin/pip install {tracking}")
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    is_folder = uri.startswith((".", "/", "file:"))
    allowed = os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1")
    if tracking == "mlflow" and is_folder and not allowed:
        raise TerseError(
            f"tracking: mlflow no longer writes to a folder, and MLFLOW_TRACKING_URI is {uri}; "
            "allowed: sqlite:///..., a server's address, or MLFLOW_ALLOW_FILE_STORE=true as well"
        )


def _check_tokenizers(workflow: "Workflow") -> None:
    for name, tokenizer in workflow.tokenizers.items():
        _require(f"tokenizers.{name}.corpus", "corpus", tokenizer.corpus, workflow.corpora)
        if name in workflow.models:
            raise TerseError(f"tokenizers.{name}: a model has this name too; rename one")


def _check_runs(workflow: "Workflow") -> None:
    for name in workflow.runs:
        _check_run(workflow, name)
    for name in workflow.runs:
        _check_no_cycle(workflow, name)
    for name in workflow.runs:  # bases are known by now
        _check_positions(workflow, name)
        _check_depth(workflow, name)
        _check_settings_of_base(workflow, name)
        _check_compared(workflow, name)


def _check_run(workflow: "Workflow", name: str) -> None:
    run, bases = workflow.runs[name], {*workflow.runs, *workflow.models}
    _require(f"runs.{name}.corpus", "corpus", run.corpus, workflow.corpora)
    _require(f"runs.{name}.tokenizer", "tokenizer", run.tokenizer, workflow.tokenizers)
    _require(f"runs.{name}.base", "run or model", run.base, bases)
    _check_base(workflow, name)
    _check_bytes(workflow, f"runs.{name}.tokenizer", run, run.tokenizer)
    if run.corpus is not None:
        _check_held_out(workflow, f"runs.{name}.corpus", run.corpus)
        _check_steps(workflow, f"runs.{name}.corpus", run, run.corpus)
    try:
        run.share(workflow.n_processes(name))
    except TerseError as error:
        raise TerseError(f"runs.{name}: {error}") from None


def _check_base(workflow: "Workflow", name: str) -> None:
    run, base = workflow.runs[name], workflow.base_run(name)
    allowed = spec_of(run).starts_from
    if base in workflow.runs and workflow.runs[base].method in allowed:
        return
    if run.base is not None and allowed:
        raise TerseError(
            f"runs.{name}.base: {run.base} is not a run of a method that {run.method} can start "
            f"from; allowed: runs of {', '.join(allowed)}"
        )
    _check_language_model(workflow, f"runs.{name}.base", base)


def _check_no_cycle(workflow: "Workflow", name: str) -> None:
    chain = [name]
    while (base := workflow.base_run(chain[-1])) is not None:
        chain.append(base)
        if base in chain[:-1]:
            raise TerseError(f"runs.{name}.base: a cycle: {' -> '.join(chain)}")


def _check_positions(workflow: "Workflow", name: str) -> None:
    """Refuse rows that are longer than the context of any run in the chain of bases."""
    base = workflow.base_run(name)
    while base is not None:
        limit = workflow.spec(base).context_length(workflow.runs[base])
        for key, n in workflow.spec(name).row_length(workflow.runs[name]).items():
            if limit is not None and n > limit:
                raise TerseError(
                    f"runs.{name}.{key}: rows of {n} tokens; its base {base} has {limit} "
                    "positions, allowed: up to that"
                )
        base = workflow.base_run(base)


def _check_depth(workflow: "Workflow", name: str) -> None:
    """Refuse hidden states that the base lacks, where a run in the chain of bases has its depth."""
    base = workflow.base_run(name)
    while base is not None:
        depth = workflow.spec(base).depth(workflow.runs[base])
        for key, layer in workflow.spec(name).hidden_states(workflow.runs[name]).items():
            if depth is not None and not -depth - 1 <= layer <= depth:
                raise TerseError(
                    f"runs.{name}.{key}: {layer}; its base {base} has {depth} blocks, allowed: "
                    f"{-depth - 1}..{depth}"
                )
        base = workflow.base_run(base)


def _check_settings_of_base(workflow: "Workflow", name: str) -> None:
    if (base := workflow.base_run(name)) is None:
        return
    try:
        workflow.spec(name).check_base(workflow.runs[name], workflow.runs[base])
    except TerseError as error:
        raise TerseError(f"runs.{name}: {error}; its base is {base}") from None


def _check_compared(workflow: "Workflow", name: str) -> None:
    run = workflow.runs[name]
    for key, other in spec_of(run).compared_with(run).items():
        where = f"runs.{name}.{key}"
        _require(where, "run", other, workflow.runs)
        _check_language_model(workflow, where, other)
        _check_bytes(workflow, where, run, workflow.tokenizer_of_run(other))


def _check_bytes(workflow: "Workflow", where: str, run: Run, name: str | None) -> None:
    tokenizer = workflow.tokenizers.get(name or "")
    if spec_of(run).reads_bytes and tokenizer is not None and tokenizer.kind != "bytes":
        raise TerseError(
            f"{where}: {run.method} reads bytes, but {name} is of kind {tokenizer.kind}; give a "
            "tokenizer of kind bytes"
        )


def _check_language_model(workflow: "Workflow", where: str, run: str | None) -> None:
    if run in workflow.runs and not workflow.spec(run).is_language_model:
        raise TerseError(
            f"{where}: {run} of method {workflow.runs[run].method} is not a complete language "
            "model; its report has its own measurements"
        )


def _check_held_out(workflow: "Workflow", where: str, corpus: str) -> None:
    if workflow.corpora[corpus].validation_fraction == 0:
        raise TerseError(
            f"{where}: corpus {corpus} holds no documents out for validation; set its "
            "validation_fraction above 0"
        )


def _check_steps(workflow: "Workflow", where: str, run: Run, corpus: str) -> None:
    if not spec_of(run).reads_steps or workflow.corpora[corpus].step_pattern is not None:
        return
    ours = f"{corpus}-sentences"
    named = f", or take {ours}" if ours in workflow.corpora else ""
    raise TerseError(
        f"{where}: {run.method} reads documents as steps, and corpus {corpus} has none; give it a "
        f"separator or a separator_pattern such as {SENTENCE_END!r}{named}"
    )


def _check_model(workflow: "Workflow", name: str) -> None:
    run = workflow.models[name].run
    _check_random_weights(workflow, name)
    if run is not None:
        _check_step(workflow, name, run)
        if not workflow.is_measurable(name):
            _check_unmeasured(workflow, name, run)
            return
    if workflow.activations is not None:
        _check_measure(workflow, name)
    elif name in workflow.select.ids:
        raise TerseError("activations: the block is missing, and select.ids needs it")


def _check_unmeasured(workflow: "Workflow", name: str, run: str) -> None:
    """Refuse a model that can't be measured, unless lm-eval can score it and it only does that."""
    if not workflow.can_be_scored(name) or name in workflow.select.ids:
        _check_language_model(workflow, f"models.{name}.run", run)


def _check_random_weights(workflow: "Workflow", name: str) -> None:
    """Refuse random weights where a model's own weights would be taken instead."""
    if not workflow.models[name].random_weights:
        return
    where = f"models.{name}.random_weights"
    if (run := workflow.part_of_base(name)) is not None:
        raise TerseError(
            f"{where}: run {run} (method {workflow.runs[run].method}) is only a part of a model; "
            "allowed for whole models"
        )
    users = [f"runs.{key}" for key, run in workflow.runs.items() if run.base == name]
    users += [f"models.{key}" for key, model in workflow.models.items() if model.base == name]
    if users:
        raise TerseError(f"{users[0]}.base: {name} has random weights; allowed: a trained model")


def _check_step(workflow: "Workflow", name: str, run: str) -> None:
    step, kept = workflow.models[name].step, workflow.runs[run].checkpoint_steps
    if step is not None and not workflow.runs[run].keeps(step):
        raise TerseError(
            f"models.{name}.step: runs.{run} keeps no step {step}; "
            f"its checkpoint_steps: {', '.join(map(str, kept))}"
        )


def _check_measure(workflow: "Workflow", name: str) -> None:
    measure, model = workflow.measure(name), workflow.models[name]

    def where(key: str) -> str:
        own = key in model.activations
        return f"models.{name}.activations.{key}" if own else f"activations.{key}"

    _require(where("corpus"), "corpus", measure.corpus, workflow.corpora)
    if measure.documents == "validation":
        _check_held_out(workflow, where("documents"), measure.corpus)
    if model.kind == "encoder" and (measure.save_loss or measure.save_entropy):
        raise TerseError(
            f"models.{name}.activations: an encoder has no loss: set save_loss and "
            "save_entropy to false"
        )
    _check_vectors(workflow, name, measure)
    longest = workflow.context_length(name)
    if longest is not None and measure.ctx_len > longest:
        raise TerseError(
            f"{where('ctx_len')}: {measure.ctx_len} tokens; model {name} was trained on rows "
            f"of {longest}, allowed: up to that"
        )
    depth = workflow.depth(name)
    if depth is not None and (layer := _beyond(measure, depth)) is not None:
        raise TerseError(
            f"{where('layer_idx_list')}: model {name} has no layer {layer}; "
            f"allowed: {-depth}..{depth - 1}"
        )


def _check_vectors(workflow: "Workflow", name: str, measure: Activations) -> None:
    """Refuse settings that don't apply to a model that turns a context into vectors."""
    model, decided = workflow.models[name], workflow.decided_measurement(name)
    if not decided:
        return
    if given := sorted(model.model_fields_set & {"kind", "dtype", "device_map"}):
        raise TerseError(f"models.{name}.{given[0]}: run {model.run} determines how it is loaded")
    if measure.cloud == "context":
        raise TerseError(
            f"models.{name}.activations.cloud: the vectors of one context are too few; "
            "allowed: last_token, means"
        )
    if given := sorted(set(model.activations) & (decided.keys() - {"cloud", "ctx_len"})):
        raise TerseError(
            f"models.{name}.activations.{given[0]}: run {model.run} is measured by its vectors; "
            f"always {decided[given[0]]} there"
        )


def _beyond(measure: Activations, depth: int) -> int | None:
    """Return the first requested layer that a model of `depth` blocks lacks."""
    for item in measure.layer_idx_list if measure.layer_idx_list != "all" else []:
        for end in [item] if isinstance(item, int) else map(int, item.split("-")):
            if not -depth <= end < depth:
                return end
    return None


def _check_harness(workflow: "Workflow") -> None:
    if workflow.harness is not None:
        _require("harness.corpus", "corpus", workflow.harness.corpus, workflow.corpora)
    for name in workflow.scored_by_lm_eval():
        _require("select.harness", "model or run", name, {*workflow.runs, *workflow.models})
        if workflow.harness is None:
            raise TerseError("harness: the block is missing, and select.harness needs it")
        workflow.harness_adapter(name)
