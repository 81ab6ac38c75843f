"""What a shard says about where its activations come from."""

from pathlib import Path
from typing import Any

from terse.hub.download import weights_identity
from terse.models.quantisation import quantisation_of


def origin_attributes(name: str, model: dict[str, Any], folder: Path, corpus: str) -> dict:
    """Return the attributes of a model's shards: names, revision, weights, corpus.

    Args:
        name: the model's name in the config.
        model: how it is loaded; `random_weights` is the seed of weights that nobody trained.
        folder: its weights. If they were quantised, the attributes say how.
        corpus: the name of the corpus that its contexts are from.
    """
    quantisation = quantisation_of(folder)
    return {
        "model": name,
        "origin": model["model"],
        "revision": model["revision"],
        **_weights(model, folder),
        **({"quantisation": quantisation} if quantisation else {}),
        "corpus": corpus,
    }


def _weights(model: dict[str, Any], folder: Path) -> dict[str, Any]:
    identity = weights_identity(folder)
    if (seed := model.get("random_weights")) is None:
        return {"weights": identity}
    words = f"random (seed {seed}), of the architecture of {identity}"
    return {"weights": words, "random_weights": seed}
