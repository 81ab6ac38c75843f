"""Models from local folders in the Hugging Face format."""

import json
import logging
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from terse.errors import TerseError, unknown_name
from terse.models.adapters import BASE, attach, holds_adapter, is_adapter, without_adapter

log = logging.getLogger(__name__)

Kind = Literal["causal-lm", "encoder"]
DTYPES: dict[str, torch.dtype | str] = {
    "auto": "auto",
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
CLASSES: dict[str, Any] = {"causal-lm": AutoModelForCausalLM, "encoder": AutoModel}
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def load_model(
    folder: str | Path,
    *,
    dtype: str = "float32",
    device: str | torch.device = "cpu",
    device_map: str | dict[str, Any] | None = None,
    trust_remote_code: bool = False,
    kind: Kind = "causal-lm",
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """Load a model for measuring: eval mode, no gradients, nothing fetched from the hub.

    Args:
        folder: a local folder in the Hugging Face format (config.json and weights); or of an
            adapter, with its base in the folder `base` inside.
        dtype: "float32", "float16", "bfloat16", or "auto" for the one it was saved in.
        device: where the weights go; ignored when `device_map` is given.
        device_map: "auto" spreads the layers over the job's devices (model parallel).
        trust_remote_code: run Python files that the folder ships.
        kind: "causal-lm", or "encoder" (no loss, no entropy).
        attn_implementation: "sdpa", "eager", ...; None is transformers' own choice.

    Raises:
        TerseError: the folder is missing, half-written or of another architecture.
    """
    folder = Path(folder)
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    if kind not in CLASSES:
        raise unknown_name("kind of model", kind, CLASSES)
    if is_adapter(folder) and (folder / BASE).is_dir():
        base = load_model(
            folder / BASE,
            dtype=dtype,
            device=device,
            device_map=device_map,
            trust_remote_code=trust_remote_code,
            kind=kind,
            attn_implementation=attn_implementation,
        )
        return attach(base, folder, merge=False)
    check_folder(folder)
    options: dict[str, Any] = {
        "dtype": DTYPES[dtype],
        "trust_remote_code": trust_remote_code,
        "local_files_only": True,
    }
    if device_map is not None:
        options["device_map"] = device_map
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    if holds_adapter(folder):
        log.warning("%s: the adapter beside the model is not applied", folder)
    with without_adapter(folder) as plain:
        model = _from_pretrained(plain, folder, kind, options)
    if device_map is None:
        model.to(torch.device(device))  # pyright: ignore[reportArgumentType]
    return model.eval().requires_grad_(False)


def check_folder(folder: Path) -> None:
    """Raise a TerseError that names what a model's folder lacks."""
    if folder.is_file():
        raise TerseError(f"{folder} is a file; a model is a folder, or a file that ends in .gguf")
    if not folder.is_dir():
        raise TerseError(f"no model in {folder}: the folder does not exist")
    if is_adapter(folder):
        raise TerseError(
            f"{folder} holds an adapter and no model: its base must lie in {folder / BASE}"
        )
    if not (folder / "config.json").is_file():
        raise TerseError(f"no model in {folder}: it has no config.json")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise TerseError(f"{folder}/config.json is not JSON ({error}): is it whole?") from error
    if missing := _missing_weights(folder):
        raise TerseError(f"the model in {folder} is incomplete: no {', '.join(missing)}")


def _missing_weights(folder: Path) -> list[str]:
    for name in INDEX_FILES:
        if (folder / name).is_file():
            try:
                shards = set(
                    json.loads((folder / name).read_text(encoding="utf-8"))["weight_map"].values()
                )
            except (ValueError, KeyError) as error:
                raise TerseError(
                    f"{folder / name} is not an index of weights: is it whole?"
                ) from error
            return sorted(shard for shard in shards if not (folder / shard).is_file())
    if any((folder / name).is_file() for name in SINGLE_FILES):
        return []
    return [" or ".join(SINGLE_FILES)]


def _from_pretrained(
    plain: Path, folder: Path, kind: Kind, options: dict[str, Any]
) -> PreTrainedModel:
    """Load what lies in `plain`; errors speak of `folder`."""
    try:
        model, info = CLASSES[kind].from_pretrained(plain, output_loading_info=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if "custom code" in str(error):
            raise TerseError(
                f"the model in {folder} ships code of its own: read it, then set "
                "trust_remote_code: true for this model"
            ) from error
        reason = " ".join(str(error).split())[:300]
        raise TerseError(f"cannot load the {kind} in {folder}: {reason}") from error
    check_loaded(folder, kind, info)
    return model


def check_loaded(folder: Path, kind: Kind, info: dict[str, Any]) -> None:
    """Refuse weights that transformers would have drawn at random without an error."""
    missing = sorted(info.get("missing_keys", ()))
    poolers = [key for key in missing if kind == "encoder" and key.startswith("pooler.")]
    fresh = [key for key in missing if key not in poolers]
    if fresh == ["lm_head.weight"]:
        raise TerseError(
            f"the weights in {folder} have no LM head: set kind: encoder, or take those with one"
        )
    if fresh:
        raise TerseError(
            f"the weights in {folder} lack {len(fresh)} tensors of this {kind}, e.g. {fresh[0]!r}: "
            "they are of another architecture or incomplete"
        )
    if mismatched := info.get("mismatched_keys"):
        raise TerseError(
            f"{folder}: config.json and the weights disagree on {next(iter(mismatched))}"
        )
    if poolers:
        log.warning("%s has no pooler; its output is random and is not measured", folder)
    if unexpected := sorted(info.get("unexpected_keys", ())):
        log.info("%s: %d tensors not used, e.g. %s", folder, len(unexpected), unexpected[0])


def max_context(model: PreTrainedModel) -> int | None:
    """Return how many positions the model's config allows; None where it sets no limit."""
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    return int(limit) if limit else None


def check_length(model: PreTrainedModel, n: int, what: str, remedy: str) -> None:
    """Raise TerseError, with a remedy, where `what` of n tokens is longer than a base reads."""
    limit = max_context(model)
    if limit is not None and n > limit:
        raise TerseError(
            f"{what} of {n} tokens are longer than the {limit} positions of the base; {remedy}"
        )
