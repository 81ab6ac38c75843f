"""A model of the hub in a local folder: only what is needed, and never half of it."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers

from terse.artifacts import publish_folder, write_json
from terse.errors import TerseError
from terse.hub.errors import hub_errors
from terse.provenance import digest_file

logger = logging.getLogger(__name__)

MARKER = "download.json"  # stands in the folder once all of it is there and checked
WEIGHTS = ("*.safetensors", "*.bin")  # in order of preference
CODE = "*.py"
WANTED = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.spm")
UNWANTED = (
    "*/*",  # other precisions and formats, original checkpoints, training state
    ".*",
    "training_args.*",
    "optimizer.*",
    "scheduler.*",
    "adapter_*",
    "consolidated*",
    "flax_model*",
    "tf_model*",
    "README*",
    "LICENSE*",
)
BLOCK = 1 << 20  # bytes hashed at a time


def download_model(
    hub_id: str,
    revision: str,
    folder: Path,
    *,
    token: str | None = None,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Fetch a model and its tokenizer into `folder`, going on where a broken transfer ended.

    Safetensors are taken where there are any, else .bin files; the model's own code only with
    trust_remote_code. token: for gated models; HF_TOKEN if None. Sizes and digests are checked.
    Returns what the marker download.json says: {"hub_id", "revision", "commit", "files": {name:
    bytes}}. Raises TerseError for: no network, a gated model, no such revision or repository,
    a repository without weights, a transfer that broke, a disk too small.
    """
    folder = Path(folder)
    with hub_errors("model", hub_id, revision):
        info = HfApi(token=token).model_info(hub_id, revision=revision, files_metadata=True)
        commit = info.sha or revision
        files = needed_files(hub_id, info.siblings or [], trust_remote_code)
        marker = {"hub_id": hub_id, "revision": revision, "commit": commit, "files": sizes(files)}
        found = read_marker(folder)
        if found == marker:
            return marker
        if found is None and folder.is_dir() and any(folder.iterdir()):
            raise TerseError(f"{folder} holds files that are no whole download; move it away")
        # Not the job's output, so what is there outlives a job that fails.
        staging = folder.with_name(f".{folder.name}.download-{commit[:12]}")
        staging.mkdir(parents=True, exist_ok=True)
        check_space(hub_id, files, staging)
        for file in files:
            fetch_file(hub_id, commit, file, staging, token)
    write_json(staging / MARKER, marker)
    publish_folder(staging, folder)
    return marker


def weights_identity(folder: Path) -> str:
    """Return which weights lie in a folder: hub id and commit, or the SHA-256 of the files."""
    marker = read_marker(folder)
    return f"{marker['hub_id']}@{marker['commit']}" if marker else digest_file(folder)


def check_space(hub_id: str, files: list[RepoSibling], folder: Path) -> None:
    """Raise TerseError if what is missing of a model does not fit on the disk."""
    have = sum(path.stat().st_size for path in folder.iterdir())
    missing = sum(sizes(files).values()) - have
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise TerseError(
            f"model {hub_id} needs {missing / 1e9:.1f} GB more and {folder} has {free / 1e9:.1f} GB"
        )


def read_marker(folder: Path) -> dict[str, Any] | None:
    """Return what was downloaded into a folder, None if it is not whole."""
    path = folder / MARKER
    if not path.is_file():
        return None
    marker = json.loads(path.read_text())
    whole = all(
        (folder / name).is_file() and (folder / name).stat().st_size == size
        for name, size in marker["files"].items()
    )
    return marker if whole else None


def needed_files(
    hub_id: str, siblings: Iterable[RepoSibling], trust_remote_code: bool
) -> list[RepoSibling]:
    """Return the files of a repository that loading its model and tokenizer reads."""
    wanted = (*WANTED, CODE) if trust_remote_code else WANTED
    files = [file for file in siblings if not fits(file.rfilename, UNWANTED)]
    weights = next(
        (found for kind in WEIGHTS if (found := [f for f in files if fits(f.rfilename, [kind])])),
        None,
    )
    if weights is None:
        raise TerseError(f"model {hub_id} has no weights that can be read (safetensors or .bin)")
    others = [file for file in files if fits(file.rfilename, wanted)]
    if weights[0].rfilename.endswith(".safetensors"):
        others = [file for file in others if not file.rfilename.endswith(".bin.index.json")]
    return sorted([*others, *weights], key=lambda file: file.rfilename)


def fits(name: str, globs: Iterable[str]) -> bool:
    """Return whether a name fits one of some globs."""
    return any(fnmatchcase(name, glob) for glob in globs)


def sizes(files: Iterable[RepoSibling]) -> dict[str, int]:
    """Return the size in bytes of each file by name."""
    return {file.rfilename: file.size or 0 for file in files}


def fetch_file(
    hub_id: str, commit: str, file: RepoSibling, folder: Path, token: str | None
) -> None:
    """Download a file unless it is there; what a broken transfer left is gone on from.

    The hub's own client deletes what it had when a transfer breaks, so that the last gigabyte
    would cost all of them again.
    """
    path = folder / file.rfilename
    if path.is_file() and is_right(path, file):
        return
    partial = folder / f"{file.rfilename}.part"
    size = file.size or 0
    url = hf_hub_url(hub_id, file.rfilename, revision=commit, endpoint=constants.ENDPOINT)
    headers = {**build_hf_headers(token=token), "Accept-Encoding": "identity"}
    have = partial.stat().st_size if partial.exists() else 0
    if have > size:
        partial.unlink()
        have = 0
    if have:
        logger.info("%s: going on at %d of %d bytes", file.rfilename, have, size)
    with partial.open("r+b" if have else "wb") as stream:
        stream.seek(have)
        http_get(url, stream, resume_size=have, headers=headers, expected_size=size)
    if not is_right(partial, file):
        partial.unlink()
        raise TerseError(f"{file.rfilename} of model {hub_id} arrived damaged; run this again")
    partial.replace(path)


def is_right(path: Path, file: RepoSibling) -> bool:
    """Return whether a local file has the size and digest that the hub says it has."""
    size = path.stat().st_size
    if size != file.size:
        return False
    if file.lfs is not None:
        return digest(path, hashlib.sha256()) == file.lfs.sha256
    # Not LFS: the hub knows a file by its git blob id.
    return digest(path, hashlib.sha1(b"blob %d\0" % size)) == file.blob_id


def digest(path: Path, algorithm: Any) -> str:
    """Return the hexadecimal digest of what `algorithm` has seen and a file's bytes."""
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            algorithm.update(block)
    return algorithm.hexdigest()
