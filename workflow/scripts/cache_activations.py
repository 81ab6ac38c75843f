"""Run a model over one shard of its contexts and write the outputs of its modules."""

from pathlib import Path
from typing import Any

from terse import job
from terse.activations.origin import origin_attributes
from terse.activations.shard import cache_shard
from terse.config.methods import method_of
from terse.machine.owner import Owner
from terse.models.loading import load_model
from terse.settings.activations import Activations
from terse.training.method import Inputs


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
    base_folder: Path | None = None,
) -> None:
    """Write one shard of activations; base_folder: for a model that needs its base."""
    settings = Activations.model_validate(capture)
    with Owner(state_root / name / shard_path.stem, what=str(shard_path)) as owner:
        cache_shard(
            _loaded(model, model_folder, base_folder, device),
            chunks_path,
            shard_path,
            settings=settings,
            shard=shard,
            n_shards=n_shards,
            attributes=origin_attributes(name, model, model_folder, settings.corpus),
            confirm=owner.check,
        )
        owner.forget()


def _loaded(model: dict[str, Any], folder: Path, base: Path | None, device: str) -> Any:
    if base is not None:
        method = method_of(model["run"], Inputs(base=base))
        return method.measured(folder, device)
    keys = ("dtype", "device_map", "trust_remote_code", "kind", "random_weights")
    loading = {key: model[key] for key in keys if key in model}
    return load_model(folder, device=device, **loading)


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
            state_root=job.root("state", snakemake.output.shard) / "activations",
            device=job.device(snakemake),
            base_folder=job.needed_base(snakemake, snakemake.params.model.get("base_step")),
        )
