"""Tables of intrinsic dimensions as the workflow makes them, small."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from terse.figures.style import save


@pytest.fixture
def ids_table() -> Callable[..., pd.DataFrame]:
    """Return a function that makes the table of one model: contexts x modules x estimators."""

    def make(
        model: str = "base",
        *,
        n_layers: int = 3,
        kinds: tuple[str, ...] = ("attn", "mlp", "block"),
        outside: tuple[str, ...] = ("norm",),
        estimators: tuple[str, ...] = ("mle", "mle_inv"),
        n_documents: int = 6,
        seed: int = 0,
    ) -> pd.DataFrame:
        random = np.random.default_rng(seed)
        modules = [(kind, layer) for layer in range(n_layers) for kind in kinds]
        modules += [(kind, pd.NA) for kind in outside]
        loss = random.uniform(2, 6, (n_documents, 2))
        rows: list[dict[str, Any]] = [
            {
                "model": model, "revision": "main", "corpus": "c", "row": 2 * d + chunk,
                "document": f"d{d}", "chunk": chunk, "module": kind, "layer": layer,
                "estimator": estimator, "id": 10 + random.normal() + loss[d, chunk],
                "n_eff": 64, "n_dup": 0, "flags": "", "loss_nats": loss[d, chunk],
            }
            for kind, layer in modules
            for estimator in estimators
            for d in range(n_documents)
            for chunk in range(2)
        ]  # fmt: skip
        table = pd.DataFrame(rows).astype({"layer": "Int64"})
        return table.assign(id_without_sinks=table["id"], n_heavy=0, first_share=np.nan)

    return make


@pytest.fixture
def texts(tmp_path: Path) -> Callable[[Figure], list[str]]:
    """Return a function that saves a figure as SVG and gives back the words in it."""

    def read(figure: Figure) -> list[str]:
        path = tmp_path / "figure.svg"
        with mpl.rc_context({"svg.fonttype": "none"}):
            save(figure, [path])
        root = ElementTree.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        found = root.iter("{http://www.w3.org/2000/svg}text")
        return ["".join(item.itertext()).strip() for item in found]

    return read
