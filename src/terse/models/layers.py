"""Where a model's blocks, embedding and unembedding are, by the structure of its module tree."""

from torch import nn


def layer_list(model: nn.Module) -> tuple[str, nn.ModuleList] | None:
    """Return the path and the list of the blocks; None if there is no list of modules.

    It is the list with the most parameters among those with the config's number of layers, in the
    part of the model that reads text; a list inside another list's items (experts, heads) is
    ignored.
    """
    found = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module)
    ]
    found = [item for item in found if not _inside_another(item[0], [path for path, _ in found])]
    found = [item for item in found if item[1] in _text_part(model)] or found
    found = [item for item in found if len(item[1]) == _n_layers(model)] or found
    return max(found, key=lambda item: _size(item[1]), default=None)


def block_path(model: nn.Module) -> str | None:
    """Return the path of a block, with {layer} for its index."""
    found = layer_list(model)
    return f"{found[0]}.{{layer}}" if found else None


def embedding_path(model: nn.Module, getter: str) -> str | None:
    """Return the path of what `get_input_embeddings` or `get_output_embeddings` returns."""
    try:
        module = getattr(model, getter)()
    except (AttributeError, NotImplementedError):
        return None
    return next((name for name, other in model.named_modules() if other is module), None)


def find_module(model: nn.Module, path: str) -> nn.Module | None:
    """Return the module at a dotted path; None if there is none."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _text_part(model: nn.Module) -> set[nn.Module]:
    """Return the modules of the text decoder, in a model that also takes images or audio."""
    vision = ("vision", "image", "audio", "visual")  # where `get_decoder` returns the whole model
    try:
        decoder = model.get_decoder()  # pyright: ignore[reportCallIssue]
    except (AttributeError, NotImplementedError, TypeError):
        return set()
    if not isinstance(decoder, nn.Module):
        return set()
    return {m for path, m in decoder.named_modules() if not any(word in path for word in vision)}


def _inside_another(path: str, lists: list[str]) -> bool:
    return any(path.startswith(f"{other}.") for other in lists)


def _n_layers(model: nn.Module) -> int | None:
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "get_text_config"):
        return None
    return getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
