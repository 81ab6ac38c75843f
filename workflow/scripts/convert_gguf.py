"""Dequantise a GGUF file into a folder in the Hugging Face format, once."""

import json
from pathlib import Path
from typing import Any

from terse import job
from terse.artifacts import atomic_folder, write_json
from terse.hub.packages import check_digest
from terse.models.gguf import convert_gguf as convert
from terse.provenance import digest_file, record


def convert_gguf(*, source: dict[str, Any], gguf: Path, folder: Path) -> None:
    """Publish the model with its tokenizer and a record of what it was made from."""
    digest = digest_file(gguf)
    check_digest(str(gguf), digest, source.get("sha256"))
    fetched = gguf.with_name("source.json")  # if a rule has fetched the file
    about = json.loads(fetched.read_text()) if "path" not in source else {"path": source["path"]}
    with atomic_folder(folder) as partial:
        weights = convert(gguf, partial)
        licence = about.get("licence") or weights["licence"]
        more = {"source": about, "licence": licence, "weights": weights}
        made_of = record(settings=source, inputs={"gguf": digest}, device="cpu", **more)
        write_json(partial / "run.json", made_of)


if __name__ == "__main__":
    with job.logged(snakemake):
        convert_gguf(
            source=snakemake.params.source,
            gguf=Path(snakemake.input.gguf),
            folder=Path(snakemake.output.model),
        )
