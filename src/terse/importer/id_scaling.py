"""ID_scaling's `default_config`: what is measured in one model, on one corpus."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from terse.config.messages import lines
from terse.corpora.named import NAMED
from terse.errors import TerseError
from terse.importer.overlay import Overlay, name_of
from terse.settings.activations import Activations
from terse.settings.foreign import COUNTERPARTS

OWN = {"cacheing_config", "filter_and_chunk_config", "dataset_config", "model_config"}
# Where its own names of models and datasets are found.
MODELS = {"llama-7b": "meta-llama/Llama-2-7b-hf"}
ORGANISATIONS = {"pythia": "EleutherAI/", "gpt-neo": "EleutherAI/", "opt-": "facebook/"}
DATASETS = {
    "pile_uncopyrighted_parquet_test": "pile-test",
    "pile_uncopyrighted_parquet_val": "pile-val",
    "pile_uncopyrighted_parquet": "pile",
}
ONE_FILE = {"pile-test", "pile-val"}  # of which file 0 is everything
ELSEWHERE = {
    "session_name", "verbose", "multiprocessing", "use_accelerator", "dataset_name",
    "dataset_subset",
}  # fmt: skip


def fits(given: dict[str, Any]) -> bool:
    """Return whether a map of keys is a `default_config`."""
    return bool((OWN - {"dataset_config"}) & given.keys()) or isinstance(
        given.get("dataset_config"), dict
    )


def convert(given: dict[str, Any], path: Path, _load_base_from: str | None = None) -> Overlay:
    """Return the overlay of a `default_config`: a corpus, a model and what is measured in it.

    Raises TerseError if its values are out of range.
    """
    overlay = Overlay(path.name)
    flat = _flat(given)
    name = name_of(str(flat.get("session_name") or path.stem))
    measured: dict[str, Any] = {"documents": "all"}
    model: dict[str, Any] = {"activations": measured}
    for key, value in flat.items():
        _place(overlay, model, measured, key, value)
    corpus = _corpus(overlay, flat)
    if corpus is not None:
        measured["corpus"] = corpus
    if "hub" not in model and "path" not in model:
        raise TerseError(f"{path}: it names no model: give model_config.model_name")
    overlay.config |= {"models": {name: model}, "select": {"runs": [], "ids": [name]}}
    overlay.notes["session_name"] = f"the model's name, {name}: results/ids/{name}.csv"
    _check(name, measured)
    return overlay


def _flat(given: dict[str, Any]) -> dict[str, Any]:
    """Return all keys of nested blocks in one map."""
    flat: dict[str, Any] = {}
    for key, value in given.items():
        flat |= _flat(value) if key in OWN and isinstance(value, dict) else {key: value}
    return flat


def _place(
    overlay: Overlay, model: dict[str, Any], measured: dict[str, Any], key: str, value: Any
) -> None:
    """Put a key into the model, what is measured, the notes, or the unknown ones."""
    if key == "model_name":
        model |= _origin(str(value))
        overlay.notes[key] = " ".join(f"{k}: {v}" for k, v in _origin(str(value)).items())
    elif key == "model_checkpoint":
        if value not in (None, "main") and "path" not in model:
            model["revision"] = str(value)
        overlay.notes[key] = "revision; main is the default"
    elif key == "session_path":
        overlay.roots["results"] = (key, str(value))
    elif key == "multiprocessing_num_cpus":
        overlay.config["n_data_procs"] = value
        overlay.notes[key] = COUNTERPARTS[key]
    elif key in ELSEWHERE:
        overlay.notes[key] = COUNTERPARTS[key]
        if key == "use_accelerator" and value:
            model["device_map"] = "auto"
    elif key in Activations.model_fields:
        if value is not None:
            measured[key] = str(value) if key == "save_fp" else value
    else:
        overlay.unknown[key] = "no key of this name is known here or there"


def _origin(name: str) -> dict[str, str]:
    """Return where a model is, by its name there: a folder, or an id on the hub."""
    if name.startswith(("/", "./", "~")):
        return {"path": name}
    where = next((org for start, org in ORGANISATIONS.items() if name.startswith(start)), "")
    return {"hub": MODELS.get(name, where + name)}


def _corpus(overlay: Overlay, flat: dict[str, Any]) -> str | None:
    """Return the name of the corpus; one that is read in part, or is not named, is defined."""
    given, subset = flat.get("dataset_name"), flat.get("dataset_subset")
    if given is None:
        return None
    known = DATASETS.get(str(given), str(given))
    entry = NAMED.get(known, {"source": "hub", "path": str(given)})
    is_whole = subset in (None, []) or (subset in (0, [0]) and known in ONE_FILE)
    part = {} if is_whole else {"dataset_subset": subset}
    if known in NAMED and not part:
        return known
    name = name_of(known.rpartition("/")[2] + ("-part" if known in NAMED else ""))
    overlay.config.setdefault("corpora", {})[name] = entry | part
    return name


def _check(name: str, measured: dict[str, Any]) -> None:
    try:
        Activations.model_validate({"corpus": "any", **measured})
    except ValidationError as error:
        raise TerseError("; ".join(lines(error, ("models", name, "activations")))) from None
