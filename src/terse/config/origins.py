"""How an external model becomes a local folder in the Hugging Face format."""

import json
from pathlib import Path

from terse.config.workflow import Workflow
from terse.errors import TerseError
from terse.settings.models import Model
from terse.settings.paths import checked_name

ADAPTER = "adapter_config.json"
_WHOLE = ("model*.safetensors*", "pytorch_model*.bin*")


def model_folder(settings: Workflow, name: str) -> str:
    """Return the folder with a model's weights, or with those of all its run's steps.

    Raises TerseError if `path` does not exist, or holds both a model and an adapter.
    """
    model = settings.models[name]
    if model.run is not None:
        return f"results/runs/{model.run}/" + ("model" if model.step is None else "checkpoints")
    lies_there = model.path is not None and not model.is_gguf and not is_adapter(settings, name)
    if lies_there:
        return _usable(name, str(model.path))
    return f"cache/models/{settings.fetched_as(name)}"


def is_adapter(settings: Workflow, name: str) -> bool:
    """Return whether a model is an adapter for a base.

    Raises TerseError if a whole model is in the same folder and `adapter` does not say which one
    is meant.
    """
    model = settings.models[name]
    if model.adapter == "ignored" or model.is_gguf or model.run is not None:
        return False
    if model.adapter is not None or model.base is not None:
        return True
    if model.path is None or not (Path(model.path) / ADAPTER).is_file():
        return False
    if any(any(Path(model.path).glob(pattern)) for pattern in _WHOLE):
        raise TerseError(
            f"models.{name}.path: {model.path} holds a whole model and an adapter; set "
            "adapter: merged or adapter: ignored"
        )
    return True


def adapter_folder(settings: Workflow, name: str) -> str:
    """Return the folder of an adapter's files. Raises TerseError if there are none."""
    model = settings.models[name]
    if model.path is None:
        return f"cache/adapters/{name}"
    if not (Path(model.path) / ADAPTER).is_file():
        raise TerseError(f"models.{name}.path: not an adapter: {model.path} has no {ADAPTER}")
    return _usable(name, model.path)


def adapter_base(settings: Workflow, name: str) -> str:
    """Return the folder of the model that an adapter is for.

    Raises TerseError if the adapter does not name one that exists here.
    """
    model = settings.models[name]
    if model.base is not None:
        return _base_of_config(settings, name, model.base)
    folder = Path(adapter_folder(settings, name))
    if (folder / "config.json").is_file():  # a whole model in the same folder
        return str(folder)
    named = _named_base(name, folder / ADAPTER)
    if Path(named).is_dir():
        return _usable(name, named)
    raise TerseError(
        f"models.{name}: the adapter in {folder} is for {named!r}, which is not a folder here: "
        f"add that model under models ({{hub: {named}}}, for instance) and give its name as base"
    )


def _base_of_config(settings: Workflow, name: str, base: str) -> str:
    chain = [name, base]
    while (base_of := settings.models[chain[-1]].base) is not None:
        if base_of in chain:
            raise TerseError(f"models.{name}.base: a cycle: {' -> '.join([*chain, base_of])}")
        chain.append(base_of)
    if settings.models[base].step is not None:
        raise TerseError(
            f"models.{name}.base: {base} is one step of a run; allowed: whole models, such as "
            "a run's last step"
        )
    return model_folder(settings, base)


def _named_base(name: str, path: Path) -> str:
    try:
        named = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise TerseError(
            f"models.{name}: {path} does not name a base (base_model_name_or_path): is it "
            "complete? Otherwise set base to the name of a model here"
        ) from error
    return str(named)


def gguf_file(settings: Workflow, name: str) -> str:
    """Return the GGUF file that a model is made from. Raises TerseError if it does not exist."""
    path = settings.models[name].path
    if path is None:
        return f"cache/gguf/{name}/model.gguf"
    if not Path(path).is_file():
        raise TerseError(f"models.{name}.path: there is no file {path}")
    return _usable(name, path)


def _usable(model: str, path: str) -> str:
    """Return a model's path.

    Raises TerseError if it does not exist and is not made here, or if Snakemake can't handle its
    name.
    """
    usable = checked_name(path, f"models.{model}: the path")
    if not Path(usable).exists() and not usable.startswith(("results/", "cache/")):
        raise TerseError(f"models.{model}.path: there is no folder {usable}")
    return usable


def of_kind(settings: Workflow, kind: str) -> list[str]:
    """Return the models of a kind: hub, gguf, fetched-gguf, or adapter, which any folder may be."""
    return [name for name, model in settings.models.items() if kind in _kinds(model)]


def _kinds(model: Model) -> set[str]:
    if model.run is not None:
        return set()
    if model.is_gguf:
        return {"gguf"} | ({"fetched-gguf"} if model.path is None else set())
    if model.base is not None or model.path is not None:
        return {"adapter"}
    return {"hub"}
