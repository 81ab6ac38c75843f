"""A flat `hyperparameters.json`: lists are ranges to sweep, lists in `combos` advance together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_origin

from terse.config.methods import methods
from terse.corpora.named import NAMED
from terse.errors import TerseError, unknown_name
from terse.importer.overlay import Overlay, name_of
from terse.settings.run import Run

# Datasets by their old names; others keep theirs if it is a named corpus.
DATASETS = {"wikitext": "wikitext-103", "glue": "glue-mrpc-pairs", "mrpc": "glue-mrpc-pairs"}
# A chain of sentences needs at least three: the premises of RTE are short passages.
OF_METHOD = {"blotching": {"glue": "glue-rte", "mrpc": "glue-mrpc"}}
# A scored or validated corpus may be as large as openwebtext; what a file leaves open is bounded.
BOUNDS = {"max_val_loops": 50, "eval_windows": 2000}
STAND_IN = "base"  # the model that the default configuration trains


def fits(given: dict[str, Any]) -> bool:
    """Return whether a map of keys is flat and one of the methods knows some of them."""
    combos = given.get("combos")
    keys = {*given, *(combos if isinstance(combos, dict) else ())}
    return any(keys & own for own in _own_keys().values())


def convert(given: dict[str, Any], path: Path, _load_base_from: str | None = None) -> Overlay:
    """Return the overlay of a flat file of hyperparameters.

    Raises TerseError if it fits no known method or has values out of range.
    """
    given = dict(given)
    combos = given.pop("combos", {})
    if not isinstance(combos, dict) or not all(isinstance(v, list) for v in combos.values()):
        raise TerseError(f"{path}: combos: must be a map of keys with lists of equal length")
    spec = methods()[_method_of({**given, **combos})]
    overlay = Overlay(path.name)
    for key in [key for key in combos if key in given]:
        overlay.notes[key] = f"swept by combos; {given.pop(key)!r} outside them is dropped"
    name = name_of(str(given.pop("exp_name", path.stem)))
    overlay.notes["exp_name"] = f"the run's name, {name}"
    run: dict[str, Any] = {"method": spec.name}
    overlay.config = {"runs": {name: run}, "select": {"runs": [name], "ids": []}}
    testing = bool(given.pop("testing", False))
    sweep: dict[str, Any] = {}
    for key, value in given.items():
        _place(overlay, spec.settings, run, sweep, key, value)
    zipped: dict[str, Any] = {}
    for key, values in combos.items():
        _place(overlay, spec.settings, run, zipped, key, values)
    _bound(overlay, spec.settings, run, sweep, zipped)
    overlay.notes |= spec.drop_unread(overlay.config, (run, sweep, zipped))
    if testing:
        _stand_in(overlay, run, sweep, zipped)
    if zipped:
        sweep["zip"] = zipped
    if sweep:
        run["sweep"] = sweep
    overlay.check_runs()
    return overlay


def _bound(overlay: Overlay, settings: type[Run], *blocks: dict[str, Any]) -> None:
    """Bound how much a validation and the evaluation read, where the file does not."""
    given = {key for block in blocks for key in block}
    for key, most in BOUNDS.items():
        if key in settings.model_fields and key not in given:
            blocks[0][key] = most
            overlay.notes[key] = f"not given: {most}; null reads everything"


def _method_of(given: dict[str, Any]) -> str:
    """Return the method with the most keys of the file, shared keys aside."""
    counts = {method: len(keys & set(given)) for method, keys in _own_keys().items()}
    return max(counts, key=lambda method: counts[method])


def _own_keys() -> dict[str, set[str]]:
    return {
        name: (set(spec.settings.model_fields) | set(spec.settings.aliases)) - _shared()
        for name, spec in methods().items()
    }


def _shared() -> set[str]:
    known = set(Run.model_fields) | set(Run.aliases)
    return known | set(SPECIAL)


def _place(
    overlay: Overlay,
    settings: type[Run],
    run: dict[str, Any],
    sweep: dict[str, Any],
    key: str,
    value: Any,
) -> None:
    """Put a key where it belongs: into the run, its sweep, the rest of the overlay, the notes."""
    if key in SPECIAL and value is not None:
        special = SPECIAL[key](overlay, value, run["method"])
        for place, found in special.items():
            today = settings.aliases.get(place, place)
            (sweep if isinstance(found, list) else run)[today] = found
    elif key not in {*settings.model_fields, *settings.aliases, *SPECIAL}:
        error = unknown_name("key", key, [*settings.model_fields, *SPECIAL], settings.aliases)
        overlay.unknown[key] = str(error).partition(" allowed:")[0].rstrip(";")
    elif value is not None:
        today = settings.aliases.get(key, key)
        if today != key:
            overlay.notes[key] = f"is called {today} here"
        (sweep if _is_range(settings, today, value) else run)[today] = value


def _is_range(settings: type[Run], key: str, value: Any) -> bool:
    """Return whether a value is a list of values to try; for a key with lists, a list of lists."""
    if not isinstance(value, list):
        return False
    kind = settings.model_fields[key].annotation
    takes_lists = any(get_origin(one) is list for one in (kind, *get_args(kind)))
    return not takes_lists or any(isinstance(item, list) for item in value)


def _each(value: Any, function: Callable[[Any], Any]) -> Any:
    return [function(item) for item in value] if isinstance(value, list) else function(value)


def _save_root(overlay: Overlay, value: Any, _method: str) -> dict[str, Any]:
    overlay.roots["results"] = ("save_root", str(value))
    return {}


def _data_root(overlay: Overlay, value: Any, _method: str) -> dict[str, Any]:
    overlay.roots["cache"] = ("data_root", str(value))
    return {}


def _data_procs(overlay: Overlay, value: Any, _method: str) -> dict[str, Any]:
    overlay.config["n_data_procs"] = value
    overlay.notes["n_data_procs"] = "a top-level key of the workflow"
    return {}


def _defined(overlay: Overlay, library: str, hub_id: str, entry: dict[str, Any]) -> str:
    """Define something on the hub under the last part of its id and return that name."""
    name = name_of(hub_id.rpartition("/")[2])
    if overlay.config.setdefault(library, {}).setdefault(name, entry) != entry:
        raise TerseError(f"two {library} would be called {name!r}: import them one by one")
    return name


def _model_string(overlay: Overlay, value: Any, _method: str) -> dict[str, Any]:
    def named(model: str) -> str:
        if model == STAND_IN:
            return model
        return _defined(overlay, "models", model, {"hub": model})

    overlay.notes["model_string"] = "base, and an entry under models for a model on the hub"
    return {"base": _each(value, named)}


def _dataset(overlay: Overlay, value: Any, method: str) -> dict[str, Any]:
    def named(dataset: str) -> str:
        name = (DATASETS | OF_METHOD.get(method, {})).get(dataset, dataset)
        if name in NAMED:
            return name
        return _defined(overlay, "corpora", dataset, {"source": "hub", "path": dataset})

    overlay.notes["dataset"] = "corpus"
    return {"corpus": _each(value, named)}


def _dtype(_overlay: Overlay, value: Any, _method: str) -> dict[str, Any]:
    return {"torch_dtype": _each(value, lambda dtype: str(dtype).removeprefix("torch."))}


def _multi_gpu(overlay: Overlay, value: Any, _method: str) -> dict[str, Any]:
    overlay.notes["multi_gpu"] = (
        "set gpu in the run to the number of devices" if value else "off is the default here too"
    )
    return {}


def _patience(_overlay: Overlay, value: Any, _method: str) -> dict[str, Any]:
    return {"lr_schedule": "plateau", "patience": value}


SPECIAL: dict[str, Callable[[Overlay, Any, str], dict[str, Any]]] = {
    "save_root": _save_root,
    "data_root": _data_root,
    "n_data_procs": _data_procs,
    "model_string": _model_string,
    "dataset": _dataset,
    "torch_dtype": _dtype,
    "multi_gpu": _multi_gpu,
    "patience": _patience,
}


def _stand_in(overlay: Overlay, run: dict[str, Any], *swept: dict[str, Any]) -> None:
    """Use the small model that the workflow trains itself, on its own corpus."""
    for block in swept:
        block.pop("base", None)
        block.pop("corpus", None)
    run |= {"base": STAND_IN, "corpus": "python-docs"}
    overlay.config.pop("models", None)
    overlay.config.pop("corpora", None)
    overlay.notes["testing"] = f"the stand-in is the default configuration's {STAND_IN}"
