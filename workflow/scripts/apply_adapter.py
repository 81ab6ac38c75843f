"""Merge a PEFT adapter into the weights of its base, or store it with them."""

from pathlib import Path
from typing import Literal

from terse import job
from terse.artifacts import atomic_folder, write_json
from terse.hub.download import weights_identity
from terse.models.adapters import attach, copy_texts, put_together
from terse.models.loading import load_model
from terse.models.quantisation import quantisation_of
from terse.provenance import record


def apply_adapter(
    *,
    adapter: Path,
    base: Path,
    folder: Path,
    merge: bool,
    kind: Literal["causal-lm", "encoder"],
    trust_remote_code: bool,
) -> None:
    """Publish base and adapter as one model; merged in float32, so nothing is rounded twice."""
    model = load_model(base, kind=kind, trust_remote_code=trust_remote_code)
    merged = attach(model, adapter, merge=merge)  # a misfit shows here, not in a later job
    with atomic_folder(folder) as partial:
        if merge:
            merged.save_pretrained(partial)
            copy_texts(base, partial, but="config.json")
            copy_texts(adapter, partial, but="config.json")
        else:
            put_together(adapter, base, partial)
        made_of = record(
            settings={"merge": merge, "kind": kind, "trust_remote_code": trust_remote_code},
            inputs={"base": weights_identity(base), "adapter": weights_identity(adapter)},
            device="cpu",
            weights={"quantisation": quantisation_of(base)},
        )
        write_json(partial / "run.json", made_of)


if __name__ == "__main__":
    with job.logged(snakemake):
        apply_adapter(
            adapter=Path(snakemake.input.adapter),
            base=Path(snakemake.input.base),
            folder=Path(snakemake.output.model),
            merge=snakemake.params.merge,
            kind=snakemake.params.kind,
            trust_remote_code=snakemake.params.trust_remote_code,
        )
