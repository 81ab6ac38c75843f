"""Which module is the mlp, the attention and the block of a layer, whatever the architecture.

The paths are derived by looking at the module tree, so that an architecture that nobody has
heard of yet works too, as long as its layers are a list and its parts have one of the usual names.
`mlp` and `attn` are what the sublayer adds to the residual stream: where a module adds the residual
itself (BLOOM, MPT, BERT), its last linear map stands for it.
"""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from terse.errors import TerseError, unknown_name

ATTENTION_NAMES = ("self_attn", "self_attention", "attn", "attention")
MLP_NAMES = ("mlp", "ffn", "feed_forward", "block_sparse_moe", "fc2")
NORM_NAMES = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "final_norm", "norm_f")
LAST_LINEARS = ("dense", "dense_4h_to_h", "out_proj", "down_proj")


@dataclass(frozen=True)
class ModuleRef:
    """One module of a model and the key that its activations go by.

    Attributes:
        key: "{key}-l{layer}", or the bare key of a module outside the layers.
        path: dotted path in the model.
        layer: index from 0; None outside the layers.
        module: the module itself.
    """

    key: str
    path: str
    layer: int | None
    module: nn.Module


def module_paths(model: nn.Module, mapping: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return key -> dotted path, with {layer} in the paths of modules inside a layer.

    Args:
        model: any transformer whose layers are an `nn.ModuleList`.
        mapping: paths that are added to, or replace, the derived ones.
    """
    paths = {**_derived_paths(model), **(mapping or {})}
    for key, path in (mapping or {}).items():
        _check_path(model, key, path)
    return paths


def n_layers(model: nn.Module, mapping: Mapping[str, str] | None = None) -> int:
    """Return how many layers (blocks) the model has."""
    block = module_paths(model, mapping).get("block")
    if block is None:
        raise TerseError(
            f"found no list of layers in {type(model).__name__}: give module_name_mapping a path "
            "for 'block', with {layer} where the index goes"
        )
    layer = 0
    while _find(model, block.format(layer=layer)) is not None:
        layer += 1
    return layer


def select_modules(
    model: nn.Module,
    layers: Sequence[int | str] | str,
    inblock_keys: Sequence[str],
    outblock_keys: Sequence[str],
    mapping: Mapping[str, str] | None = None,
) -> dict[str, ModuleRef]:
    """Return the modules to capture by key, in the order of the layers.

    Args:
        layers: "all", or a list of indices (-1 is the last layer) and ranges such as "0-5".
        inblock_keys: keys looked up in each of the layers ("mlp", "attn", "block", ...).
        outblock_keys: keys outside the layers ("emb", "norm", "unemb", ...).
        mapping: see `module_paths`.

    Raises:
        TerseError: a layer out of range, or a key or path that matches no module.
    """
    paths = module_paths(model, mapping)
    for key in inblock_keys:
        _check_key(key, paths, in_block=True)
    for key in outblock_keys:
        _check_key(key, paths, in_block=False)
    chosen = layer_indices(layers, n_layers(model, mapping)) if inblock_keys else []
    refs = [_ref(model, f"{key}-l{i}", paths[key], i) for i in chosen for key in inblock_keys]
    refs += [_ref(model, key, paths[key], None) for key in outblock_keys]
    if not refs:
        raise TerseError(
            "no module is selected: give layer_idx_list and module_inblock_keys, or "
            "module_outblock_keys"
        )
    return {ref.key: ref for ref in refs}


def layer_indices(layers: Sequence[int | str] | str, n: int) -> list[int]:
    """Return the indices, 0 to n-1, that a list of layers means: sorted, each once."""
    if layers == "all":
        return list(range(n))
    if isinstance(layers, str):
        layers = [layers]
    chosen: set[int] = set()
    for item in layers:
        chosen.update(_indices_of(item, n))
    return sorted(chosen)


def _indices_of(item: int | str, n: int) -> range:
    allowed = f"the model has layers 0 to {n - 1} (or -{n} to -1)"
    if isinstance(item, int):
        if not -n <= item < n:
            raise TerseError(f"there is no layer {item}: {allowed}")
        return range(item % n, item % n + 1)
    first, dash, last = item.partition("-")
    if not (dash and first.isdigit() and last.isdigit()):
        raise TerseError(f"not a layer: {item!r}; allowed: an index, 'all', a range such as '0-5'")
    if not int(first) <= int(last) < n:
        raise TerseError(f"there is no range of layers {item!r}: {allowed}")
    return range(int(first), int(last) + 1)


def _check_key(key: str, paths: Mapping[str, str], *, in_block: bool) -> None:
    if key not in paths:
        raise unknown_name("module key", key, paths)
    if ("{layer}" in paths[key]) != in_block:
        right = "module_outblock_keys" if in_block else "module_inblock_keys"
        raise TerseError(f"module key {key!r} ({paths[key]}) belongs in {right}")


def _ref(model: nn.Module, key: str, path: str, layer: int | None) -> ModuleRef:
    full = path.format(layer=layer)
    module = _find(model, full)
    if module is None:
        raise _no_module(model, key, full)
    return ModuleRef(key, full, layer, module)


def _check_path(model: nn.Module, key: str, path: str) -> None:
    try:
        full = path.format(layer=0)
    except (KeyError, IndexError, ValueError) as error:
        raise TerseError(
            f"path {path!r} of module key {key!r} may hold {{layer}} and no other braces"
        ) from error
    if _find(model, full) is None:
        raise _no_module(model, key, full)


def _no_module(model: nn.Module, key: str, path: str) -> TerseError:
    names = [name for name, _ in model.named_modules() if name]
    near = difflib.get_close_matches(path, names, n=3, cutoff=0.4)
    return TerseError(
        f"module key {key!r}: {type(model).__name__} has no module {path!r}; "
        f"near matches: {', '.join(near) or 'none'}"
    )


def _find(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _derived_paths(model: nn.Module) -> dict[str, str]:
    paths: dict[str, str | None] = {}
    if (found := _layer_list(model)) is not None:
        list_path, blocks = found
        block = f"{list_path}.{{layer}}"
        paths["block"] = block
        for key, inner in (("mlp", _mlp(blocks[0])), ("attn", _attention(blocks[0]))):
            paths[key] = f"{block}.{inner}" if inner else None
        paths["norm"] = _final_norm(model, list_path)
    paths["emb"] = _embedding_path(model, "get_input_embeddings")
    paths["unemb"] = _embedding_path(model, "get_output_embeddings")
    return {key: path for key, path in paths.items() if path is not None}


def _layer_list(model: nn.Module) -> tuple[str, nn.ModuleList] | None:
    """Return the list with the most parameters among those as long as the config says."""
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and _attention(module[0])
    ]
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "get_text_config"):
        n = getattr(config.get_text_config(), "num_hidden_layers", None)
        lists = [item for item in lists if len(item[1]) == n] or lists
    return max(lists, key=lambda item: _size(item[1]), default=None)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _attention(block: nn.Module) -> str | None:
    name = _first_child(block, ATTENTION_NAMES)
    if name is None:
        return None
    if _find(block, f"{name}.output.dense") is not None:  # BERT: output adds and normalises
        return f"{name}.output.dense"
    return _before_residual(block, name)


def _mlp(block: nn.Module) -> str | None:
    if _find(block, "intermediate") is not None and _find(block, "output.dense") is not None:
        return "output.dense"
    name = _first_child(block, MLP_NAMES)
    return _before_residual(block, name) if name else None


def _before_residual(block: nn.Module, name: str) -> str:
    """Return the path of the last linear map where the module adds the residual itself."""
    module = block.get_submodule(name)
    if "residual" not in inspect.signature(module.forward).parameters:
        return name
    inner = _first_child(module, LAST_LINEARS)
    return f"{name}.{inner}" if inner else name


def _first_child(module: nn.Module, names: Sequence[str]) -> str | None:
    children = dict(module.named_children())
    return next((name for name in names if name in children), None)


def _final_norm(model: nn.Module, list_path: str) -> str | None:
    parent = list_path.rpartition(".")[0]
    name = _first_child(model.get_submodule(parent), NORM_NAMES)
    return ".".join(part for part in (parent, name) if part) if name else None


def _embedding_path(model: nn.Module, getter: str) -> str | None:
    if not hasattr(model, getter):
        return None
    try:
        module = getattr(model, getter)()
    except NotImplementedError:
        return None
    return next((name for name, other in model.named_modules() if other is module), None)
