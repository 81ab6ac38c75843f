"""What `all` still makes when a model could not be fetched without a network."""

from terse.config.workflow import Workflow
from terse.settings.select import Select


def within_reach(settings: Workflow) -> Workflow:
    """Return the settings with everything that needs an unreachable model deselected."""
    if not settings.unreachable:
        return settings
    chosen = settings.select
    kept = {
        "runs": [run for run in settings.selected_runs() if not _run_is_out(settings, run)],
        "ids": [model for model in chosen.ids if not _model_is_out(settings, model)],
        "harness": [name for name in chosen.harness if not _is_out(settings, name)],
        "frontier": [name for name in chosen.frontier if not _study_is_out(settings, name)],
    }
    return settings.model_copy(update={"select": Select.model_validate(kept)})


def _is_out(settings: Workflow, name: str | None) -> bool:
    if name in settings.runs:
        return _run_is_out(settings, name)
    return name in settings.models and _model_is_out(settings, name)


def _study_is_out(settings: Workflow, name: str) -> bool:
    study = settings.frontier[name]
    return any(_is_out(settings, other) for other in (study.reader, *study.ways))


def _model_is_out(settings: Workflow, name: str) -> bool:
    model = settings.models[name]
    fetched = {name, settings.fetched_as(name)}
    return not fetched.isdisjoint(settings.unreachable) or any(
        _is_out(settings, other) for other in (model.run, model.base)
    )


def _run_is_out(settings: Workflow, name: str) -> bool:
    run = settings.runs[name]
    return any(_is_out(settings, other) for other in (run.base, *settings.compared_with(name)))
