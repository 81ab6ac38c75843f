"""What reads in each way of a frontier, and the checks of its names and sizes."""

import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from terse.config.methods import method_of, spec_of
from terse.errors import TerseError, unknown_name
from terse.settings.frontier import READINGS, Frontier, own_ways

if TYPE_CHECKING:  # it calls this module
    from terse.config.workflow import Workflow
    from terse.evaluation.frontier.reading import Reading
    from terse.training.method import Inputs


@cache
def known_ways() -> frozenset[str]:
    """Return the names of our ways and those of installed packages."""
    return frozenset({*own_ways(), *(entry.name for entry in entry_points(group=READINGS))})


def reader_of(study: Frontier, way: str) -> str:
    """Return the model or run that predicts a way's targets: the study's, or the way itself."""
    return study.reader if way in known_ways() else way


def run_of(workflow: "Workflow", name: str) -> str | None:
    """Return the run of a name: of that run, or of the model that names one."""
    return workflow.models[name].run if name in workflow.models else name


def reading_of_run(workflow: "Workflow", study: Frontier, way: str) -> str | None:
    """Return the "module:function" of the reading of a way that is a run, None for others."""
    if way in known_ways() or way in workflow.models:
        return None
    return workflow.spec(way).reading(workflow.runs[way])


def make_reading(
    way: str,
    folder: Path,
    *,
    run: Mapping[str, Any] | None,
    inputs: "Inputs",
    loading: Mapping[str, Any],
    estimators: Sequence[str] = (),
    seed: int,
    device: str,
) -> "Reading":
    """Load the reader of a way from its folder, and return the way. Imports torch.

    run: the params of a run that reads in its method's own way, with the files that it needs as
    inputs. Other readers are complete language models, loaded as `loading` says; one that is
    itself the way reads everything. estimators: of the dimension of what is held. seed: of random
    choices.
    """
    reading = _load_reading(way, folder, run, inputs, loading, seed, device)
    reading.measure(estimators)
    return reading


def _load_reading(
    way: str,
    folder: Path,
    run: Mapping[str, Any] | None,
    inputs: "Inputs",
    loading: Mapping[str, Any],
    seed: int,
    device: str,
) -> "Reading":
    if run is not None:
        method = method_of(run, inputs)
        made = pkgutil.resolve_name(str(spec_of(method.settings).reading(method.settings)))
        return made(method, method.load(folder), device)
    from terse.corpora.tokenizers import load_tokenizer
    from terse.evaluation.frontier.reader import CausalReader
    from terse.evaluation.frontier.ways import reading_of
    from terse.models.loading import load_model

    lm = load_model(folder, device=device, **loading)
    tokenizer = load_tokenizer(folder, bool(loading.get("trust_remote_code")))
    return reading_of(way if way in known_ways() else "full", CausalReader(lm, tokenizer), seed)


def training_corpora(workflow: "Workflow", study: Frontier, way: str) -> list[str]:
    """Return the corpora other than the study's own whose text trained a way's reader.

    The study's own is split: the windows are from its validation documents.
    """
    found, run = [], run_of(workflow, reader_of(study, way))
    while run is not None:
        corpus = workflow.runs[run].corpus
        found += [corpus] if corpus not in (None, study.corpus) else []
        run = workflow.base_run(run)
    return list(dict.fromkeys(found))


def check_frontier(workflow: "Workflow", name: str) -> None:
    """Raise TerseError for the first fault of a study."""
    study, where = workflow.frontier[name], f"frontier.{name}"
    if study.corpus not in workflow.corpora:
        error = unknown_name("corpus", study.corpus, workflow.corpora)
        raise TerseError(f"{where}.corpus: {error}")
    if workflow.corpora[study.corpus].validation_fraction == 0:
        raise TerseError(
            f"{where}.corpus: {study.corpus} holds no documents out for validation; set its "
            "validation_fraction above 0"
        )
    readers = {*workflow.models, *workflow.runs}
    if study.reader not in readers:
        raise TerseError(f"{where}.reader: {unknown_name('model or run', study.reader, readers)}")
    _check_reader(workflow, study, f"{where}.reader", study.reader)
    for way in study.ways:
        _check_way(workflow, study, f"{where}.ways", way)


def _check_way(workflow: "Workflow", study: Frontier, where: str, way: str) -> None:
    ours, readers = known_ways(), {*workflow.models, *workflow.runs}
    if way not in ours | readers:
        raise TerseError(f"{where}: {unknown_name('way', way, ours | readers)}")
    if way in ours & readers:
        raise TerseError(f"{where}: {way} is a way and also a run or model: rename the latter")
    if way in ours:
        return
    try:
        own = reading_of_run(workflow, study, way)
    except TerseError as error:
        raise TerseError(f"{where}: {way}: {error}; leave it out of these ways") from None
    if own is None:
        return _check_reader(workflow, study, where, way)
    if spec_of(workflow.runs[way]).reads_steps:
        _check_steps(workflow, study, where, way)
    _check_length(workflow, study, where, way)


def _check_reader(workflow: "Workflow", study: Frontier, where: str, name: str) -> None:
    """Refuse what is no causal language model of text with a cache, or is too short."""
    if name in workflow.models and workflow.models[name].kind == "encoder":
        raise TerseError(f"{where}: {name} is an encoder, which predicts no text")
    run = run_of(workflow, name)
    if run is None:
        return
    if not workflow.spec(run).is_language_model:
        raise TerseError(
            f"{where}: {name} of method {workflow.runs[run].method} is no complete language model, "
            "so it has no cache of keys and values to shorten and no reading of its own"
        )
    if workflow.tokenizer_of_run(run) is None:
        raise TerseError(f"{where}: {name} reads no text")
    _check_length(workflow, study, where, name)


def _check_steps(workflow: "Workflow", study: Frontier, where: str, way: str) -> None:
    if workflow.corpora[study.corpus].step_pattern is None:
        raise TerseError(
            f"{where}: {way} leaves out steps of a text, but corpus {study.corpus} has none: set "
            "its separator_pattern"
        )


def _check_length(workflow: "Workflow", study: Frontier, where: str, name: str) -> None:
    """Refuse windows longer than the positions of a reader of bytes.

    How many tokens others need is known only to their jobs, which refuse likewise.
    """
    for run in _with_bases(workflow, run_of(workflow, name)):
        tokenizer = workflow.tokenizers.get(workflow.tokenizer_of_run(run) or "")
        limit = workflow.spec(run).context_length(workflow.runs[run])
        if tokenizer is None or tokenizer.kind != "bytes" or limit is None:
            continue
        size = study.context_bytes + study.target_bytes
        if size > limit:
            raise TerseError(
                f"{where}: windows of {study.context_bytes} + {study.target_bytes} bytes are "
                f"longer than the {limit} positions of {name}; lower context_bytes"
            )


def _with_bases(workflow: "Workflow", run: str | None) -> Iterator[str]:
    while run is not None:
        yield run
        run = workflow.base_run(run)
