"""What `all` makes, and which runs and models share figures. No jobs."""


def run_targets():
    """Return what `all` makes from the selected runs."""
    files = ["evaluation.csv", "loss.svg"]
    selected = settings.selected_runs()
    drawn = dict.fromkeys(
        settings.runs[run].method for run in selected if settings.spec(run).figures
    )
    of_runs = [f"results/runs/{run}/{file}" for run in selected for file in files]
    return of_runs + [f"results/studies/{method}" for method in drawn]


def training_targets():
    """Return the weights of the selected runs and of the selected models' runs."""
    of_models = (settings.models[model].run for model in settings.select.ids)
    names = [*settings.selected_runs(), *(run for run in of_models if run)]
    return [f"results/runs/{run}/model" for run in dict.fromkeys(names)]


def lm_eval_targets():
    """Return what `all` makes from the models that lm-eval scores."""
    return ["results/tables/harness.html"] if settings.scored_by_lm_eval() else []


def study_runs(method):
    """Return the selected runs of a method; all its runs if none is selected."""
    members = [name for name, run in settings.runs.items() if run.method == method]
    return [run for run in settings.selected_runs() if run in members] or members


def compared_runs(method):
    """Return the runs of other methods that a study shows with its own."""
    others = (settings.compared_with(run) for run in study_runs(method))
    return list(dict.fromkeys(name for names in others for name in names))


def dimension_targets():
    """Return what `all` makes from the selected models."""
    files = [f"results/ids/{model}.csv" for model in settings.select.ids]
    for family in dict.fromkeys(map(settings.family, settings.select.ids)):
        members = [m for m in settings.select.ids if settings.family(m) == family]
        files += [
            f"results/figures/{family}/id-{figure}.svg"
            for figure in figures_of(members)
        ]
        if per_context(members):
            tables = f"results/tables/{family}"
            files += [f"{tables}/differences.html", f"{tables}/heavy-tokens.html"]
    return files


def figures_of(models):
    """Return the figures of some models; by-window needs the hidden states of every token."""
    steps = {settings.training_step(m) for m in models} - {None}
    has_scales = all(
        any(name.startswith("gride") for name in settings.measure(m).save_IDs_list)
        for m in models
    )
    has_tokens = all(settings.measure(m).save_cache_tensors for m in models)
    figures = ["by-layer", "against-loss" if per_context(models) else "by-size"]
    if per_context(models) and has_tokens:
        figures.append("by-window")
    if len(steps) > 1:
        figures.append("by-step")
    if has_scales:
        figures.append("by-scale")
    return figures


def per_context(models):
    """Return whether the dimensions of these models are per context."""
    return all(settings.measure(m).cloud == "context" for m in models)


def place_of_family(wildcards):
    """Return where the report shows a family: pretrained models before those trained here."""
    trained = any(settings.models[m].run for m in family_members(wildcards))
    return f"{'trained here' if trained else 'pretrained'}: {wildcards.family}"


def family_members(wildcards):
    """Return the selected models of a family, by training step; all if none is selected."""
    members = settings.families()[wildcards.family]
    chosen = [m for m in members if m in settings.select.ids] or members
    return sorted(chosen, key=place_in_training)


def place_in_training(model):
    """Return where a model's weights lie in its training; the end of epochs is not counted yet."""
    step, run = settings.training_step(model), settings.models[model].run
    return float("inf") if step is None and run is not None else step or 0
