"""PEFT adapters: a base's weights and what was trained on top of them."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from terse.errors import TerseError

CONFIG, BASE = "adapter_config.json", "base"
# What peft raises for a config, weights or layers that its kind of adapter does not take.
UNFIT = (
    OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ImportError,
    SafetensorError,
)  # fmt: skip
_WEIGHTS = ("model*.safetensors*", "pytorch_model*.bin*")
_TEXT = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.spm")
_NOT_TEXT = {CONFIG, "download.json", "run.json"}


def holds_adapter(folder: Path) -> bool:
    """Return whether a folder holds a PEFT adapter, alone or next to a whole model."""
    return (folder / CONFIG).is_file()


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds a PEFT adapter and no weights of a whole model."""
    return holds_adapter(folder) and not any(any(folder.glob(glob)) for glob in _WEIGHTS)


@contextmanager
def without_adapter(folder: Path) -> Iterator[Path]:
    """Yield a view of a folder without the adapter next to its model.

    transformers would silently apply it to the model.
    """
    if not holds_adapter(folder):
        yield folder
        return
    with TemporaryDirectory() as view:
        for item in folder.iterdir():
            if not item.name.startswith("adapter_"):
                (Path(view) / item.name).symlink_to(item.absolute())
        yield Path(view)


def attach(model: PreTrainedModel, folder: Path, *, merge: bool) -> PreTrainedModel:
    """Return a base with the adapter of a folder, merged into its weights or separate.

    Raises TerseError for an adapter that is incomplete, for another model, a prompt, or to be
    merged into quantised weights.
    """
    try:
        from peft import PeftConfig, PeftModel
    except ImportError as error:
        raise TerseError("an adapter needs the package peft: pip install peft") from error
    try:
        config = PeftConfig.from_pretrained(str(folder))
        _check_kind(config, folder)
        peft = PeftModel(model, config)
        result = peft.load_adapter(str(folder), "default", torch_device=_device(model))
    except UNFIT as error:
        raise TerseError(
            f"the adapter in {folder} does not fit its base: {_line(error)}"
        ) from error
    _check_complete(result, folder)
    if not merge:
        return _plain(peft.get_base_model())
    if getattr(model, "is_quantized", False):
        raise TerseError(
            f"the base of the adapter in {folder} is quantised, so their sum would be rounded "
            "again: set adapter: separate, or base to the model at full precision"
        )
    return _merged(peft, folder)


def _check_kind(config: Any, folder: Path) -> None:
    if config.is_prompt_learning:
        raise TerseError(
            f"the adapter in {folder} is a {config.peft_type.value.lower().replace('_', ' ')}: it "
            "adds positions, not weights, and can't be measured as a model"
        )


def _check_complete(result: Any, folder: Path) -> None:
    """Refuse an adapter if parts of it would have no effect."""
    missing = [key for key in result.missing_keys if ".default" in key]
    if keys := sorted(missing or result.unexpected_keys):
        verb = "lacks" if missing else "has, beyond what its base takes,"
        raise TerseError(
            f"the adapter in {folder} is for another model or incomplete: it {verb} {len(keys)} "
            f"tensors, such as {keys[0]!r}"
        )


@torch.no_grad()
def _merged(peft: Any, folder: Path) -> PreTrainedModel:
    try:
        _untie(peft.get_base_model())
        return _plain(peft.merge_and_unload(safe_merge=True))
    except UNFIT as error:  # kinds of adapters that cannot be merged, broken numbers
        raise TerseError(
            f"the adapter in {folder} cannot be merged ({_line(error)}); set adapter: separate"
        ) from error


def _untie(model: PreTrainedModel) -> None:
    """Give an adapted head its own weights where it shares them with the embeddings.

    Unmerged, an adapter of either leaves the other alone. peft 0.21 merges it into the shared
    weights, which changes both, and merges two of them twice.
    """
    ends: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    inner: list[Any] = [getattr(end, "base_layer", end) for end in ends]
    adapted = any(a is not b for a, b in zip(ends, inner, strict=True))
    if not adapted or None in ends or inner[0].weight is not inner[1].weight:
        return
    inner[1].weight = torch.nn.Parameter(inner[1].weight.detach().clone(), requires_grad=False)
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False


def _plain(model: Any) -> PreTrainedModel:
    return model.eval().requires_grad_(False)


def _device(model: PreTrainedModel) -> str:
    return str(model.device)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def put_together(adapter: Path, base: Path, folder: Path) -> None:
    """Make a folder from which `load_model` loads base and adapter unmerged."""
    for item in adapter.glob("adapter_*"):
        shutil.copy(item, folder / item.name)
    shutil.copytree(base, folder / BASE, copy_function=_linked, ignore=shutil.ignore_patterns(".*"))
    copy_texts(base, folder)
    copy_texts(adapter, folder)


def copy_texts(source: Path, folder: Path, *, but: str = "") -> None:
    """Copy a model's tokenizer and configuration (except one file), but no weights."""
    for glob in _TEXT:
        for item in source.glob(glob):
            if item.name not in {*_NOT_TEXT, but} and not item.name.endswith(".index.json"):
                shutil.copy(item, folder / item.name)


def _linked(source: str, target: str) -> None:
    """Hard-link a file if the file system can, else copy it."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy(source, target)
