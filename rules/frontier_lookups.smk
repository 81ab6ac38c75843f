"""What each way of a frontier needs. No jobs."""

from types import SimpleNamespace

from terse.config.ways import reader_of, reading_of_run, training_corpora


def reader(study, way):
    """Return the model or run that reads in a way."""
    return reader_of(settings.frontier[study], way)


def reading_inputs(study, way):
    """Return the named inputs of a reader: its folder, and what its run's method reads."""
    name = reader(study, way)
    inputs = {"model": lm_eval_folder(name)}
    if reading_run(study, way) is not None:
        inputs |= run_inputs(SimpleNamespace(run=way))
    return inputs


def reading_run(study, way):
    """Return the settings of a run that reads in its method's own way, None for others."""
    own = reading_of_run(settings, settings.frontier[study], way)
    return None if own is None else settings.result_params(way)


def reading_loading(study, way):
    """Return how a complete language model is loaded; other methods load their own."""
    name = reader(study, way)
    return settings.models[name].loading() if name in settings.models else {}


def reading_base_step(study, way):
    """Return the kept step of the base of a run that reads in its own way."""
    return None if reading_run(study, way) is None else settings.base_step(way)


def reading_devices(study, way):
    """Return how many devices a reading requests."""
    own = settings.frontier[study].gpu
    devices = settings.devices(lm_eval_item(reader(study, way))) if own is None else own
    return min(1, devices)


def texts_that_trained(study, way):
    """Return the documents of other corpora that a reader was trained on."""
    corpora = training_corpora(settings, settings.frontier[study], way)
    return [documents_of(corpus) for corpus in corpora]


def readings_of(study):
    """Return the tables of a study's ways that are a job each."""
    ways = settings.frontier[study].read_alone
    return [f"results/frontier/{study}/readings/{way}.csv" for way in ways]


def evictions_of(study):
    """Return the tables of a study's evictions, one for each part of the windows."""
    parts = range(settings.frontier[study].parts)
    return [f"results/frontier/{study}/evictions/{part}.csv" for part in parts]


def ways_of_all():
    """Return all ways of all studies."""
    return {way for study in settings.frontier.values() for way in study.all_ways}


def frontier_targets():
    """Return what `all` makes from the selected studies."""
    files = ("frontier.svg", "frontier.html")
    return [
        f"results/frontier/{s}/{f}" for s in settings.select.frontier for f in files
    ]
