"""Models from local folders in the Hugging Face format."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    PreTrainedModel,
)

from terse.errors import TerseError, unknown_name
from terse.models.adapters import BASE, attach, holds_adapter, is_adapter, without_adapter
from terse.models.layers import layer_list
from terse.models.probes import position_limits, sees_the_future, stated_positions

log = logging.getLogger(__name__)

Kind = Literal["causal-lm", "encoder"]
DTYPES: dict[str, torch.dtype | str] = {
    "auto": "auto",
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
CLASSES: dict[str, tuple[Any, ...]] = {  # of several, the first that knows the config
    "causal-lm": (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM),
    "encoder": (AutoModel,),
}
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
    random_weights: int | None = None,
) -> PreTrainedModel:
    """Load a model for measuring: eval mode, no gradients, nothing fetched from the hub.

    Args:
        folder: a local folder in the Hugging Face format (config.json and weights); or an
            adapter's folder, with its base in the subfolder `base`.
        dtype: "float32", "float16", "bfloat16", or "auto" for the saved one.
        device: where the weights go; ignored when `device_map` is given.
        device_map: "auto" spreads the layers over the job's devices (model parallel).
        trust_remote_code: run Python files that the folder ships.
        kind: "causal-lm", or "encoder" (no loss, no entropy).
        attn_implementation: "sdpa", "eager", ...; None is transformers' own choice.
        random_weights: take the architecture only, and draw its weights by its own initialisation
            from this seed; None takes the saved ones.

    Raises:
        TerseError: the folder is missing, incomplete or of another architecture.
    """
    folder = Path(folder)
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    if kind not in CLASSES:
        raise unknown_name("kind of model", kind, CLASSES)
    if is_adapter(folder) and (folder / BASE).is_dir():
        if random_weights is not None:
            raise TerseError(f"{folder} is an adapter with its base: it has no random weights")
        base = load_model(
            folder / BASE, dtype=dtype, device=device, device_map=device_map,
            trust_remote_code=trust_remote_code, kind=kind,
            attn_implementation=attn_implementation,
        )  # fmt: skip
        return attach(base, folder, merge=False)
    check_folder(folder)
    own = {"device_map": device_map, "attn_implementation": attn_implementation}
    options: dict[str, Any] = {
        "dtype": DTYPES[dtype],
        "trust_remote_code": trust_remote_code,
        "local_files_only": True,
        **{key: value for key, value in own.items() if value is not None},
    }
    if holds_adapter(folder):
        log.warning("%s: the adapter next to the model is not applied", folder)
    with without_adapter(folder) as plain:
        model = _made(plain, folder, kind, options, random_weights)
    if device_map is None:
        model.to(torch.device(device))  # pyright: ignore[reportArgumentType]
    model.eval().requires_grad_(False)
    if kind == "causal-lm":
        _check_causal(model, folder)
    return model


def _check_causal(model: PreTrainedModel, folder: Path) -> None:
    """Refuse a model whose predictions depend on later tokens, by a short forward pass."""
    try:
        future = sees_the_future(model)
    except Exception as error:  # any class, since the model's code may come with its weights
        raise TerseError(
            f"the model in {folder} loads as {type(model).__name__} in {model.dtype}, but a short "
            f"pass fails ({one_line(error)}): try dtype: auto or bfloat16, or another device"
        ) from error
    if future:
        raise TerseError(
            f"{type(model).__name__} in {folder} is not a causal language model: its logits "
            "change with later tokens, so its loss would be meaningless; set kind: encoder (with "
            "save_loss and save_entropy: false) for this model"
        )


def check_folder(folder: Path) -> None:
    """Raise a TerseError that names what a model's folder lacks."""
    if folder.is_file():
        raise TerseError(f"{folder} is a file; a model is a folder, or a file that ends in .gguf")
    if not folder.is_dir():
        raise TerseError(f"no model in {folder}: the folder does not exist")
    if is_adapter(folder):
        raise TerseError(
            f"{folder} holds an adapter and no model: its base must be in {folder / BASE}"
        )
    if not (folder / "config.json").is_file():
        raise TerseError(f"no model in {folder}: it has no config.json")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise TerseError(f"{folder}/config.json is not JSON ({error}): is it complete?") from error
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
                    f"{folder / name} is not an index of weights: is it complete?"
                ) from error
            return sorted(shard for shard in shards if not (folder / shard).is_file())
    if any((folder / name).is_file() for name in SINGLE_FILES):
        return []
    return [" or ".join(SINGLE_FILES)]


def _made(
    plain: Path, folder: Path, kind: Kind, options: dict[str, Any], seed: int | None
) -> PreTrainedModel:
    """Load the model in `plain`, or draw its weights from a seed; errors name `folder`."""

    def saved(auto: Any) -> tuple[Any, dict[str, Any]]:
        return auto.from_pretrained(plain, output_loading_info=True, **options)

    def drawn(auto: Any) -> tuple[Any, dict[str, Any]]:
        return _drawn(auto, plain, options, seed or 0), {}

    try:
        model, info = _by_first_class(kind, saved if seed is None else drawn)
    except Exception as error:
        # No class holds them all: configs raise huggingface_hub's StrictDataclassError, weights
        # SafetensorError or UnpicklingError, architectures KeyError or AssertionError.
        if "custom code" in str(error):
            raise TerseError(
                f"the model in {folder} ships its own code: read it, then set "
                "trust_remote_code: true for this model"
            ) from error
        if isinstance(error, ImportError) or "pip install" in str(error):
            raise TerseError(
                f"the model in {folder} needs a package that is not installed: {one_line(error)}"
            ) from error
        if "Unrecognized configuration class" in str(error):
            raise TerseError(
                f"transformers {transformers.__version__} has no {kind} for the architecture of "
                f"{folder}/config.json, nor a vision-language model"
            ) from error
        raise TerseError(f"cannot load the {kind} in {folder}: {one_line(error)}") from error
    check_loaded(folder, kind, info)
    _check_layers(folder, model, info)
    return model


def _by_first_class(kind: Kind, make: Callable[[Any], tuple[Any, dict]]) -> tuple[Any, dict]:
    """Make a model by the first of the kind's classes that knows the architecture."""
    for auto in CLASSES[kind][:-1]:
        try:
            return make(auto)
        except ValueError as error:
            if "Unrecognized configuration class" not in str(error):
                raise
    return make(CLASSES[kind][-1])


def _drawn(auto: Any, plain: Path, options: dict[str, Any], seed: int) -> Any:
    """Return a model of the folder's architecture with fresh weights; other draws stay as ever."""
    trusted = {"trust_remote_code": options["trust_remote_code"]}
    config = AutoConfig.from_pretrained(plain, local_files_only=True, **trusted)
    dtype = options["dtype"]
    if dtype == "auto":
        dtype = getattr(config, "dtype", None) or torch.float32
    how = {key: value for key, value in options.items() if key == "attn_implementation"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return auto.from_config(config, dtype=dtype, **trusted, **how)


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return an error's text on one line, cut between words; its type if the text is empty."""
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, (OSError, ValueError, RuntimeError, ImportError)):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= limit else text[:limit].rpartition(" ")[0] + " ..."


def _check_layers(folder: Path, model: PreTrainedModel, info: dict[str, Any]) -> None:
    """Refuse weights with more layers than the config states; transformers would drop them."""
    found = layer_list(model)
    if found is None:
        return
    path, n = re.escape(found[0].rpartition(".")[2]), len(found[1])
    for key in sorted(info.get("unexpected_keys", ())):
        layer = re.search(rf"(?:^|\.){path}\.(\d+)\.", key)
        if layer and int(layer[1]) >= n:
            raise TerseError(
                f"{folder}: config.json says {n} layers, but the weights have more, e.g. {key!r}: "
                f"set num_hidden_layers in config.json, or fetch the config of these weights"
            )


def check_loaded(folder: Path, kind: Kind, info: dict[str, Any]) -> None:
    """Refuse missing weights, which transformers would initialise at random without an error."""
    missing = sorted(info.get("missing_keys", ()))
    poolers = [key for key in missing if kind == "encoder" and key.startswith("pooler.")]
    fresh = [key for key in missing if key not in poolers]
    if fresh == ["lm_head.weight"]:
        raise TerseError(
            f"the weights in {folder} have no LM head: set kind: encoder, or use weights with one"
        )
    if fresh:
        raise TerseError(
            f"the weights in {folder} lack {len(fresh)} tensors of this {kind}, e.g. {fresh[0]!r}: "
            "they are for another architecture or incomplete"
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
    """Return how many positions the model allows; None if nothing sets a limit.

    That is the minimum of what its config states and of its position tables' usable rows (some
    models leave the first rows unused; RoBERTa uses 512 of 514).
    """
    limits = stated_positions(model.config.get_text_config(decoder=True))
    return min([*limits, *position_limits(model)], default=None)


def dtype_of(model: nn.Module) -> str:
    """Return the number format that a model computes in, such as "bfloat16".

    Experts are chosen by rounded scores, so a mixture may route otherwise in another format.
    """
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return str(getattr(model, "dtype", first.dtype)).removeprefix("torch.")


def check_length(model: PreTrainedModel, n: int, what: str, remedy: str) -> None:
    """Raise TerseError, with a remedy, if `what` of n tokens is longer than a base reads."""
    limit = max_context(model)
    if limit is not None and n > limit:
        raise TerseError(
            f"{what} of {n} tokens are longer than the {limit} positions of the base; {remedy}"
        )
