"""The modules that each key names: `block`, `attn`, `mixer`, `mlp`, `norm`, `emb`, `unemb`, paths.

`block`, `emb` and `unemb` follow from the module tree, the others from watching a forward pass
(terms.py), so that unknown architectures work too.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from terse.errors import TerseError, unknown_name
from terse.models.layers import block_path, embedding_path, find_module, layer_list
from terse.models.proof import residual_errors
from terse.models.rows import Rows
from terse.models.terms import ROLES, Anatomy, Term, look_at, require, require_blocks

FROM_THE_PASS = (*ROLES, "norm")
LAST = -1  # of the calls of a module that runs several times


@dataclass(frozen=True)
class Part:
    """A module whose output, times a constant, is one summand of what a key names.

    Attributes:
        module: the module.
        term: its path, its constant, and which of its calls is meant (LAST, or an index from 0).
        runs: how often it runs in a pass; the last run counts.
    """

    module: nn.Module
    term: Term
    runs: int = 1


@dataclass(frozen=True)
class ModuleRef:
    """What is captured under one key: a module's output, or a sum of several.

    Attributes:
        key: "{key}-l{layer}", or the bare key of a module outside the layers.
        path: dotted path in the model; for a sum, the added paths.
        layer: index from 0; None outside the layers.
        module: the module itself; for a sum, the first.
        parts: the summands; empty: the module's unchanged output.
        block: the block that it runs in, where a module may run in several.
        runs: how often the module runs in a pass; the last run counts.
        stream: index and axis of one of several residual streams; None if there is only one.
        carried: for a sum, the block's input with its constants (1 and 0 in most models).
        rows: which rows of its output are the tokens', where it is not (B, T, D).
        error: for a sum, the relative error of the layer's sums against what the block adds.
    """

    key: str
    path: str
    layer: int | None
    module: nn.Module
    parts: tuple[Part, ...] = ()
    block: nn.Module | None = None
    runs: int = 1
    call: int = LAST
    stream: tuple[int, int] | None = None
    carried: Term | None = None
    rows: Rows | None = None
    error: float | None = None

    @property
    def summands(self) -> tuple[Part, ...]:
        """The parts; a single one where the module's own output is captured."""
        whole = Part(self.module, Term(self.path, self.call), self.runs)
        return self.parts or (whole,)


def module_paths(model: nn.Module, mapping: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return key -> dotted path, with {layer} in the paths of modules inside a layer.

    Args:
        model: any transformer whose layers are an `nn.ModuleList`.
        mapping: paths that add to or replace those of `block`, `emb` and `unemb`.
    """
    derived = {
        "block": block_path(model),
        "emb": embedding_path(model, "get_input_embeddings"),
        "unemb": embedding_path(model, "get_output_embeddings"),
    }
    for key, path in (mapping or {}).items():
        _check_path(model, key, path)
    return {key: path for key, path in derived.items() if path is not None} | dict(mapping or {})


def n_layers(model: nn.Module, mapping: Mapping[str, str] | None = None) -> int:
    """Return how many layers (blocks) the model has."""
    block = module_paths(model, mapping).get("block")
    if block is None:
        raise TerseError(
            f"found no list of layers in {type(model).__name__}: give module_name_mapping a path "
            "for 'block', with {layer} where the index goes"
        )
    layer = 0
    while find_module(model, block.format(layer=layer)) is not None:
        layer += 1
    return layer


def select_modules(
    model: nn.Module,
    layers: Sequence[int | str] | str,
    inblock_keys: Sequence[str],
    outblock_keys: Sequence[str],
    mapping: Mapping[str, str] | None = None,
    tokens: Tensor | None = None,
) -> dict[str, ModuleRef]:
    """Return the modules to capture by key, in the order of the layers.

    Args:
        model: a transformer in eval mode; it runs a few short passes.
        layers: "all", or a list of indices (-1 is the last layer) and ranges such as "0-5". Of
            "all", a key takes the layers that have it.
        inblock_keys: keys looked up in each of the layers ("mlp", "attn", "block", ...).
        outblock_keys: keys outside the layers ("emb", "norm", "unemb", ...).
        mapping: see `module_paths`; "path#0" is the first of several runs of a module.
        tokens: (1, T), part of a context on which the sums are checked. The sums are found on
            tokens that depend only on the model, so that all shards find the same. None: check on
            such tokens too.

    Raises:
        TerseError: a layer out of range, a key or path that matches no module or no term, or
            sums that do not add up.
    """
    paths = module_paths(model, mapping)
    for key in inblock_keys:
        _check_key(key, paths, in_block=True)
    for key in outblock_keys:
        _check_key(key, paths, in_block=False)
    chosen = layer_indices(layers, n_layers(model, mapping)) if inblock_keys else []
    seen = None
    if inblock_keys or "norm" in set(outblock_keys) - set(paths):
        seen = look_at(model)
    refs: list[ModuleRef] = []
    if inblock_keys and seen is not None:
        if "block" in set(inblock_keys) - set(mapping or {}):
            require_blocks(seen, model)
        refs += _in_blocks(model, chosen, layers == "all", inblock_keys, paths, seen)
        refs = _checked(model, refs, seen, tokens)
    refs += [_outside(model, key, paths, seen) for key in outblock_keys]
    if not refs:
        raise TerseError(
            "no module is selected: give layer_idx_list and module_inblock_keys, or "
            "module_outblock_keys"
        )
    rows = seen.rows if seen is not None else None
    return {ref.key: replace(ref, rows=rows) for ref in refs}


def _in_blocks(
    model: nn.Module,
    chosen: list[int],
    every: bool,
    keys: Sequence[str],
    paths: Mapping[str, str],
    seen: Anatomy,
) -> list[ModuleRef]:
    having = {
        key: _layers_with(model, key, paths, seen, chosen, every)
        for key in keys
    }  # fmt: skip
    return [
        ref
        for i in chosen
        for key in keys
        if i in having[key]
        for ref in _refs_of(model, key, i, paths, seen)
    ]


def _layers_with(
    model: nn.Module,
    key: str,
    paths: Mapping[str, str],
    seen: Anatomy,
    chosen: list[int],
    every: bool,
) -> list[int]:
    """Return which of the chosen layers have the key; if chosen by index, all of them must."""
    if key not in paths:
        having = require(seen, model, key, chosen)
    else:
        having = _layers_with_path(model, paths[key], chosen[-1] + 1, seen)
    lacking = [i for i in chosen if i not in having]
    if not having or (lacking and not every):
        path = paths.get(key, "").partition("#")[0].format(layer=lacking[0])
        if path and find_module(model, path) is None:
            raise _no_module(model, key, path)
        has = " does not run on text alone, so it" if path else ""
        raise TerseError(
            f"layer {lacking[0]} of {type(model).__name__}{has} has no {key!r}; layers that have "
            f"one: {', '.join(map(str, having))} (layer_idx_list: all takes these)"
        )
    return having


def _layers_with_path(model: nn.Module, path: str, n: int, seen: Anatomy) -> list[int]:
    """Return the layers below n that have a module and run (some run for images only)."""
    path = path.partition("#")[0]
    there = [i for i in range(n) if find_module(model, path.format(layer=i)) is not None]
    return [i for i in there if i in seen.layers or not seen.layers]


def _refs_of(
    model: nn.Module, key: str, layer: int, paths: Mapping[str, str], seen: Anatomy
) -> list[ModuleRef]:
    name = f"{key}-l{layer}"
    block = find_module(model, paths["block"].format(layer=layer)) if "block" in paths else None
    if key in paths:
        ref = _by_path(model, name, paths[key].format(layer=layer), layer, seen)
        return _by_stream(ref, key, seen) if key == "block" else [ref]
    terms = seen.layers[layer].roles[key]
    parts = tuple(
        Part(model.get_submodule(term.path), term, seen.layers[layer].n_runs) for term in terms
    )
    path = " + ".join(term.path for term in terms)
    carried = seen.layers[layer].steps[-1].carried
    return [ModuleRef(name, path, layer, parts[0].module, parts, block, carried=carried)]


def _by_path(
    model: nn.Module, name: str, path: str, layer: int | None, seen: Anatomy | None
) -> ModuleRef:
    path, _, call = path.partition("#")
    module = find_module(model, path)
    if module is None:
        raise _no_module(model, name, path)
    runs = max(1, seen.runs[path]) if seen else 1
    if call and not call.isdigit():
        raise TerseError(f"module {name}: {path}#{call} is not a run; allowed: #0, #1, ...")
    return ModuleRef(name, path, layer, module, runs=runs, call=int(call) if call else LAST)


def _by_stream(ref: ModuleRef, key: str, seen: Anatomy) -> list[ModuleRef]:
    """Return a block's refs, one for each of its residual streams."""
    layer = seen.layers.get(ref.layer if ref.layer is not None else -1)
    if layer is None or layer.streams is None:
        return [ref]
    n, axis = layer.streams
    return [replace(ref, key=f"{key}.stream{j}-l{ref.layer}", stream=(j, axis)) for j in range(n)]


def _outside(
    model: nn.Module, key: str, paths: Mapping[str, str], seen: Anatomy | None
) -> ModuleRef:
    if key in paths:
        return _by_path(model, key, paths[key], None, seen)
    assert seen is not None
    if seen.norm is None:
        raise TerseError(
            f"{type(model).__name__} has no final norm: set module_outblock_keys: [] for this model"
        )
    return _by_path(model, key, seen.norm, None, seen)


def _checked(
    model: nn.Module, refs: list[ModuleRef], seen: Anatomy, tokens: Tensor | None
) -> list[ModuleRef]:
    """Return the refs with the error of their sums; raise if a sum is not what the block adds."""
    layers = {ref.layer for ref in refs if ref.parts and ref.layer is not None}
    if not layers:
        return refs
    errors = residual_errors(model, seen, sorted(layers), tokens)
    return [
        replace(ref, error=errors[ref.layer]) if ref.parts and ref.layer is not None else ref
        for ref in refs
    ]


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
        if key not in FROM_THE_PASS:
            raise unknown_name("module key", key, {*paths, *FROM_THE_PASS})
        inside = key in ROLES
    else:
        inside = "{layer}" in paths[key]
    if inside != in_block:
        right = "module_outblock_keys" if in_block else "module_inblock_keys"
        raise TerseError(f"module key {key!r} ({paths.get(key, key)}) belongs in {right}")


def _check_path(model: nn.Module, key: str, path: str) -> None:
    """Raise if a path matches no module of any layer."""
    found = layer_list(model)
    try:
        full = [
            path.partition("#")[0].format(layer=i) for i in range(len(found[1]) if found else 1)
        ]
    except (KeyError, IndexError, ValueError) as error:
        raise TerseError(
            f"path {path!r} of module key {key!r} may contain {{layer}} but no other braces"
        ) from error
    if all(find_module(model, each) is None for each in full):
        raise _no_module(model, key, full[0])


def _no_module(model: nn.Module, key: str, path: str) -> TerseError:
    names = [name for name, _ in model.named_modules() if name]
    near = difflib.get_close_matches(path, names, n=3, cutoff=0.4)
    return TerseError(
        f"module key {key!r}: {type(model).__name__} has no module {path!r}; "
        f"near matches: {', '.join(near) or 'none'}"
    )
