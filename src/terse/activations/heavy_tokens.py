"""Which tokens are heavy, from the stored norms: attention sinks and other massive activations.

Sun et al. 2024, https://arxiv.org/abs/2402.17762.
"""

import json
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from terse.activations.cache import Cache
from terse.activations.table import kind_of
from terse.dimension.sinks import MOST, NORM_MULTIPLE

COLUMNS = [
    "model", "revision", "corpus", "row", "document", "chunk", "position", "token_id", "token",
    "n_alike", "module", "layer", "norm_over_median", "last_layer", "n_layers", "heaviest",
    "heaviest_layer",
]  # fmt: skip
_BATCH_BYTES = 256 * 2**20


def heavy_token_table(cache: Cache, text_of: Callable[[int], str]) -> pd.DataFrame:
    """Return one row per heavy token of each context and kind of module, `block` first.

    Columns: `COLUMNS`. n_alike counts how often the token occurs in all contexts, those at their
    start apart from the others. layer is the first one after which the token is heavy, missing
    outside the blocks, and norm_over_median its norm there, about the mean of the tokens that are
    not heavy; last_layer and n_layers say where else it is heavy; heaviest is the largest of these
    norms, at heaviest_layer. Of a context, the heaviest token comes first.

    Args:
        cache: the cache of one model.
        text_of: the text of a token id.

    Returns:
        The table; an empty one where each context is kept as a single point.
    """
    if not cache.norms:
        return pd.DataFrame(columns=pd.Index(COLUMNS))
    kinds = sorted(_kinds(cache).items(), key=lambda item: item[0] != "block")
    parts = [part for kind, places in kinds for part in _of_kind(cache, kind, places)]
    table = pd.concat(parts, ignore_index=True)
    texts = {token: visible(text_of(token)) for token in sorted(set(table["token_id"]))}
    about = {name: cache.attributes[name] for name in ("model", "revision", "corpus")}
    contexts = cache.rows[["document", "chunk"]]
    table = table.join(contexts, on="row").assign(
        token=table["token_id"].map(texts.__getitem__), **about
    )
    layers = dict.fromkeys(("layer", "last_layer", "heaviest_layer"), "Int64")
    table["n_alike"] = _n_alike(cache.tokens[:], table)
    return table.astype(layers).loc[:, COLUMNS]


def _n_alike(tokens: np.ndarray, table: pd.DataFrame) -> np.ndarray:
    """Return how often the tokens of a table occur in tokens (n, T), at the start or elsewhere."""
    size = int(tokens.max()) + 1
    first = np.bincount(tokens[:, 0], minlength=size)
    later = np.bincount(tokens[:, 1:].ravel(), minlength=size)
    ids = table["token_id"].to_numpy()
    return np.where(table["position"] == 0, first[ids], later[ids])


def visible(text: str) -> str:
    r"""Return a text with line ends and other control characters written out (`\n`)."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def is_heavy(norms: np.ndarray) -> np.ndarray:
    """Return which tokens are heavy, bool, of norms over the median (..., T).

    None in a context where they would be more than an eighth.
    """
    heavy = norms > NORM_MULTIPLE
    return heavy & (heavy.sum(-1, keepdims=True) <= MOST * norms.shape[-1])


def _kinds(cache: Cache) -> dict[str, list[tuple[int | None, str]]]:
    """Return the layers and modules of each kind, in order."""
    kinds: dict[str, list[tuple[int | None, str]]] = {}
    for module, about in cache.modules.items():
        if module in cache.norms:
            kind = kind_of(module, about["layer"])
            kinds.setdefault(kind, []).append((about["layer"], module))
    return {kind: sorted(places, key=lambda place: place[0] or 0) for kind, places in kinds.items()}


def _of_kind(
    cache: Cache, kind: str, places: list[tuple[int | None, str]]
) -> Iterator[pd.DataFrame]:
    """Yield the heavy tokens of one kind of module, a batch of contexts at a time."""
    layers = np.array([np.nan if layer is None else layer for layer, _ in places])
    n_tokens = cache.tokens.shape[1]
    size = max(1, _BATCH_BYTES // (8 * len(places) * n_tokens))
    for start in range(0, cache.n_rows, size):
        part = slice(start, start + size)
        norms = np.stack([cache.norms[module][part] for _, module in places])  # (L, b, T)
        heavy = is_heavy(norms)
        row, position = np.nonzero(heavy.any(axis=0))
        norms, heavy = norms[:, row, position], heavy[:, row, position]  # (L, m)
        only = np.where(heavy, norms, 0)
        first, most = heavy.argmax(0), only.argmax(0)
        last = len(places) - 1 - heavy[::-1].argmax(0)
        each = np.arange(len(row))
        found = pd.DataFrame(
            {
                "row": row + start,
                "position": position,
                "token_id": cache.tokens[part][row, position],
                "module": kind,
                "layer": layers[first],
                "norm_over_median": norms[first, each],
                "last_layer": layers[last],
                "n_layers": heavy.sum(0),
                "heaviest": only[most, each],
                "heaviest_layer": layers[most],
            }
        )
        yield found.sort_values(["row", "heaviest"], ascending=[True, False])
