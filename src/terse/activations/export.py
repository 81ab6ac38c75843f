"""A cache in ID_scaling's layout, for people who have readers for it."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from terse.activations import cache
from terse.activations.cache import Cache, Rows
from terse.activations.table import kind_of
from terse.artifacts import atomic_folder
from terse.dimension.tidy_files import read_ids
from terse.errors import TerseError

BLOCK_BYTES = 64 * 2**20


def export_id_scaling(
    folder: str | Path, out: str | Path, *, ids: pd.DataFrame | None = None
) -> None:
    """Write `cache_{module}.h5`, `creloss.h5`, `entropy.h5` and `metadata.csv` to a new folder.

    A module's file holds `/activations` (n, T, D), `/mean_activations` (n, D) and
    `/ID/{estimator}` (n,), if the cache has them; bfloat16 becomes float32. For a cloud of all
    contexts, `/ID/{estimator}` is (1,), and `/last_token_activations` (n, D) are its points.

    Args:
        folder: the shards of one model.
        out: the folder to create; an existing one is replaced once the new one is complete.
        ids: one model's table of dimensions (columns row, module, layer, estimator, id); None
            takes those in the cache.

    Raises:
        TerseError: the cache is incomplete, or the table does not fit it.
    """
    with cache.open(folder) as source, atomic_folder(Path(out)) as target:
        for module in source.modules:
            with h5py.File(target / f"cache_{module}.h5", "w") as file:
                _export_module(source, module, file)
                for name, values in _ids_of(source, module, ids).items():
                    file.require_group("ID").create_dataset(name, data=values)
        for name, rows in (("creloss", source.loss), ("entropy", source.entropy)):
            if rows is not None:
                with h5py.File(target / f"{name}.h5", "w") as file:
                    _copy(rows, file, name)
        source.rows.to_csv(target / "metadata.csv", index=False)


def read_table(path: Path) -> pd.DataFrame:
    """Return the columns that are exported of a table of dimensions, Parquet or CSV."""
    columns = ["row", "module", "layer", "estimator", "id"]
    if path.suffix == ".parquet":
        return read_ids(path, columns)
    return pd.read_csv(path, usecols=columns)


def _export_module(source: Cache, module: str, file: h5py.File) -> None:
    if module in source.activations:
        _copy(source.activations[module], file, "activations")
    if module in source.means:
        _copy(source.means[module], file, "mean_activations")
    if module in source.last_tokens:
        _copy(source.last_tokens[module], file, "last_token_activations")


def _copy(rows: Rows, file: h5py.File, name: str) -> None:
    target = file.create_dataset(name, rows.shape, rows.dtype)
    row_bytes = int(np.prod(rows.shape[1:])) * rows.dtype.itemsize
    step = max(1, BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, len(rows), step):
        target[start : start + step] = rows[start : start + step]


def _ids_of(source: Cache, module: str, ids: pd.DataFrame | None) -> dict[str, np.ndarray]:
    """Return estimator -> (n,) float64 for one module."""
    if ids is None:
        return {name: rows[module][:] for name, rows in source.ids.items()}
    layer = source.modules[module]["layer"]
    of_layer = ids["layer"].isna() if layer is None else ids["layer"] == layer
    found: dict[str, np.ndarray] = {}
    of_module = ids.loc[(ids["module"] == kind_of(module, layer)) & of_layer]
    for name, part in of_module.groupby("estimator", observed=True):
        by_row = part.set_index("row")["id"].sort_index()
        one_cloud = len(by_row) == 1 and bool(by_row.index.isna().all())  # of all contexts
        if not one_cloud and by_row.index.tolist() != list(range(source.n_rows)):
            raise TerseError(
                f"the table of ids does not have one row per context for {module}, {name}: "
                f"the cache has {source.n_rows} contexts"
            )
        found[str(name)] = by_row.to_numpy(np.float64)
    return found
