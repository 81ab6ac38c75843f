"""Run a model over one shard of its contexts and write what its modules put out."""

from pathlib import Path
from typing import Any

from terse import job
from terse.activations.shard import cache_shard
from terse.config.activations import Activations
from terse.models.download import weights_identity
from terse.models.loading import load_model
from terse.owner import Owner


def cache_activations(
    *,
    name: str,
    model: dict[str, Any],
    capture: dict[str, Any],
    model_folder: Path,
    chunks_path: Path,
    shard_path: Path,
    shard: int,
    n_shards: int,
    state_root: Path,
    device: str,
) -> None:
    """Write one shard of activations."""
    settings = Activations.model_validate(capture)
    loading = {key: model[key] for key in ("dtype", "device_map", "trust_remote_code", "kind")}
    with Owner(state_root / name / shard_path.stem, what=str(shard_path)) as owner:
        cache_shard(
            load_model(model_folder, device=device, **loading),
            chunks_path,
            shard_path,
            settings=settings,
            shard=shard,
            n_shards=n_shards,
            attributes={
                "model": name,
                "origin": model["model"],
                "revision": model["revision"],
                "weights": weights_identity(model_folder),
                "corpus": settings.corpus,
            },
            confirm=owner.check,
        )
        owner.forget()


if __name__ == "__main__":
    with job.logged(snakemake):
        cache_activations(
            name=snakemake.wildcards.model,
            model=snakemake.params.model,
            capture=snakemake.params.capture,
            model_folder=job.weights_of(snakemake.input.model, snakemake.params.model["step"]),
            chunks_path=Path(snakemake.input.chunks),
            shard_path=Path(snakemake.output.shard),
            shard=int(snakemake.wildcards.shard),
            n_shards=snakemake.params.n_shards,
            state_root=Path("state/activations"),
            device=job.device(snakemake),
        )
