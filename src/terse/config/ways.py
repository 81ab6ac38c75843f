"""What reads in each way of a frontier, and the checks of its names and sizes."""

import logging
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from terse.config.methods import method_of, spec_of
from terse.errors import TerseError, unknown_name
from terse.settings.frontier import READINGS, Frontier, own_ways
from terse.settings.strict import OPTIONAL

if TYPE_CHECKING:  # it calls this module
    from terse.config.workflow import Workflow
    from terse.evaluation.frontier.reader import CausalReader
    from terse.evaluation.frontier.reading import Reading
    from terse.training.method import Inputs

logger = logging.getLogger(__name__)

_READER, _WAY = "model or run", "way"  # kinds of names


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
    seed: int,
    device: str,
) -> "Reading":
    """Load the reader of a way from its folder, and return the way. Imports torch.

    run: the params of a run that reads in its method's own way, with the files that it needs as
    inputs. Other readers are complete language models, loaded as `loading` says; one that is
    itself the way reads everything. seed: of random choices.
    """
    if run is not None:
        method = method_of(run, inputs)
        made = pkgutil.resolve_name(str(spec_of(method.settings).reading(method.settings)))
        return made(method, method.load(folder), device)
    from terse.evaluation.frontier.ways import reading_of

    reader = load_reader(folder, loading, device)
    return reading_of(way if way in known_ways() else "full", reader, seed)


def load_reader(folder: Path, loading: Mapping[str, Any], device: str) -> "CausalReader":
    """Return a complete language model that reads, with its tokenizer. Imports torch.

    loading: how it is loaded (`terse.models.loading.load_model`).
    """
    from terse.corpora.tokenizers import load_tokenizer
    from terse.evaluation.frontier.reader import CausalReader
    from terse.models.loading import load_model

    lm = load_model(folder, device=device, **loading)
    return CausalReader(lm, load_tokenizer(folder, bool(loading.get("trust_remote_code"))))


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


def settle(workflow: "Workflow") -> "Workflow":
    """Return a checked configuration with its studies as they are made.

    A sweep among the ways stands for its runs. A way, or the reader of a study, whose name ends in
    `?` and that is missing or can't read is left out with a warning. Raises TerseError for the
    first fault of anything else.
    """
    found = {name: _settled(workflow, name) for name in workflow.frontier}
    studies = {name: study for name, study in found.items() if study is not None}
    drawn = [
        name for entry in workflow.select.frontier for name in _drawn(workflow, studies, entry)
    ]
    select = workflow.select.model_copy(update={"frontier": list(dict.fromkeys(drawn))})
    return workflow.model_copy(update={"frontier": studies, "select": select})


def _settled(workflow: "Workflow", name: str) -> Frontier | None:
    """Return a study with the ways that it has; None if it is left out."""
    study, where = workflow.frontier[name], f"frontier.{name}.reader"
    reader, optional = _name(study.reader)
    study = study.model_copy(update={"reader": reader})
    readers = {*workflow.models, *workflow.runs}
    check = partial(_check_reader, workflow, study, reader)
    if not _exists(where, _READER, reader, optional, readers):
        return None
    if not _fits(where, _READER, reader, optional, check):
        return None
    _check_corpus(workflow, study, f"frontier.{name}.corpus")
    ways = [way for entry in study.ways for way in _ways_of(workflow, study, name, entry)]
    return study.model_copy(update={"ways": list(dict.fromkeys(ways))})


def _ways_of(workflow: "Workflow", study: Frontier, name: str, entry: str) -> list[str]:
    """Return the ways that an entry stands for."""
    where, (given, optional) = f"frontier.{name}.ways", _name(entry)
    known = {*workflow.models, *workflow.runs} | known_ways()
    return [
        way
        for way in workflow.runs_of(given)
        if _exists(where, _WAY, way, optional, known)
        and _fits(where, _WAY, way, optional, partial(_check_way, workflow, study, way))
    ]


def _name(entry: str) -> tuple[str, bool]:
    """Return a name without its mark, and whether it has one."""
    return entry.removesuffix(OPTIONAL), entry.endswith(OPTIONAL)


def _exists(where: str, kind: str, name: str, optional: bool, known: AbstractSet[str]) -> bool:
    """Return whether a name is known, with a warning if not; one that is not optional has to be."""
    if name not in known and not optional:
        raise TerseError(f"{where}: {unknown_name(kind, name, known)}")
    if name not in known:
        _leave_out(where, kind, name, f"no run or model is called {name}")
    return name in known


def _fits(where: str, kind: str, name: str, optional: bool, check: Callable[[], None]) -> bool:
    """Return whether a check passes, likewise."""
    try:
        check()
    except TerseError as error:
        if not optional:
            hint = "; or leave it out of these ways" if kind == _WAY else ""
            raise TerseError(f"{where}: {name}: {error}{hint}") from None
        _leave_out(where, kind, name, str(error))
        return False
    return True


def _leave_out(where: str, kind: str, name: str, reason: str) -> None:
    what = name if kind == _WAY else "the study"
    logger.warning("%s: %s is left out: %s", where, what, reason)


def _drawn(workflow: "Workflow", studies: Mapping[str, Frontier], entry: str) -> list[str]:
    """Return the study of an entry of `select.frontier`; nothing if `all` leaves it out."""
    name, optional = _name(entry)
    if name not in studies:
        if optional:
            return []
        raise TerseError(f"select.frontier: {unknown_name('study', name, studies)}")
    study, selected = studies[name], {*workflow.selected_runs(), *workflow.select.ids}
    readers = {reader_of(study, way) for way in study.all_ways}
    return [name] if not optional or readers <= selected else []


def _check_corpus(workflow: "Workflow", study: Frontier, where: str) -> None:
    if study.corpus not in workflow.corpora:
        error = unknown_name("corpus", study.corpus, workflow.corpora)
        raise TerseError(f"{where}: {error}")
    if workflow.corpora[study.corpus].validation_fraction == 0:
        raise TerseError(
            f"{where}: {study.corpus} holds no documents out for validation; set its "
            "validation_fraction above 0"
        )


def _check_way(workflow: "Workflow", study: Frontier, way: str) -> None:
    """Refuse a run or model that can't read the windows of a study."""
    readers = {*workflow.models, *workflow.runs}
    if way in known_ways() & readers:
        raise TerseError("a way and also a run or model have this name: rename the latter")
    if way not in readers:
        return
    if reading_of_run(workflow, study, way) is None:
        return _check_reader(workflow, study, way)
    if spec_of(workflow.runs[way]).reads_steps:
        _check_steps(workflow, study)
    _check_length(workflow, study, way)


def _check_reader(workflow: "Workflow", study: Frontier, name: str) -> None:
    """Refuse what is no causal language model of text with a cache, or is too short."""
    if name in workflow.models and workflow.models[name].kind == "encoder":
        raise TerseError("an encoder predicts no text")
    run = run_of(workflow, name)
    if run is None:
        return
    if not workflow.spec(run).is_language_model:
        raise TerseError(
            f"a run of method {workflow.runs[run].method} is no complete language model, so it has "
            "no cache of keys and values to shorten and no reading of its own"
        )
    if workflow.tokenizer_of_run(run) is None:
        raise TerseError("it reads no text")
    _check_length(workflow, study, name)


def _check_steps(workflow: "Workflow", study: Frontier) -> None:
    if workflow.corpora[study.corpus].step_pattern is None:
        raise TerseError(
            f"it leaves out steps of a text, but corpus {study.corpus} has none: set its "
            "separator_pattern"
        )


def _check_length(workflow: "Workflow", study: Frontier, name: str) -> None:
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
                f"windows of {study.context_bytes} + {study.target_bytes} bytes are longer than "
                f"its {limit} positions; lower context_bytes"
            )


def _with_bases(workflow: "Workflow", run: str | None) -> Iterator[str]:
    while run is not None:
        yield run
        run = workflow.base_run(run)
