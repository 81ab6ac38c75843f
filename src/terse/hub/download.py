"""A model from the hub in a local folder: only the needed files, and only when complete."""

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
from terse.errors import TerseError, unknown_name
from terse.hub.errors import hub_errors
from terse.provenance import digest_file

logger = logging.getLogger(__name__)

MARKER = "download.json"  # in the folder once it is complete and checked
WEIGHTS = ("*.safetensors", "*.bin")  # in order of preference
CODE = "*.py"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
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
    adapter: bool = False,
) -> dict[str, Any]:
    """Fetch a model and its tokenizer into `folder`, resuming a broken transfer.

    Safetensors are preferred to .bin files; the model's own code is fetched only with
    trust_remote_code. adapter: fetch the PEFT adapter of the repository instead of a model.
    token: for gated models; HF_TOKEN if None. Sizes and digests are checked.
    Returns the content of the marker download.json: {"hub_id", "revision", "commit", "files":
    {name: bytes}}. Raises TerseError for: no network, a gated model, no such revision or
    repository, a repository without weights, a broken transfer, a full disk.
    """
    folder = Path(folder)
    with hub_errors("model", hub_id, revision):
        info = HfApi(token=token).model_info(hub_id, revision=revision, files_metadata=True)
        commit = info.sha or revision
        siblings = info.siblings or []
        files = (
            adapter_files(hub_id, siblings)
            if adapter
            else needed_files(hub_id, siblings, trust_remote_code)
        )
        marker = {"hub_id": hub_id, "revision": revision, "commit": commit, "files": sizes(files)}
        found = read_marker(folder)
        if found == marker:
            return marker
        if found is None and folder.is_dir() and any(folder.iterdir()):
            raise TerseError(f"{folder} holds files of no complete download; move it away")
        # Not the job's output, so its files outlive a job that fails.
        staging = folder.with_name(f".{folder.name}.download-{commit[:12]}")
        staging.mkdir(parents=True, exist_ok=True)
        check_space(hub_id, files, staging)
        for file in files:
            fetch_file(hub_id, commit, file, staging, token)
    write_json(staging / MARKER, marker)
    publish_folder(staging, folder)
    return marker


def download_file(
    hub_id: str, revision: str, name: str, target: Path, *, token: str | None = None
) -> dict[str, Any]:
    """Fetch one large file of a repository to `target`, resuming a broken transfer.

    Returns {"hub_id", "revision", "commit", "file", "licence"}; the licence is None if the
    repository states none. Raises TerseError as `download_model` does, and for a name that is not
    in the repository.
    """
    target = Path(target)
    with hub_errors("model", hub_id, revision):
        info = HfApi(token=token).model_info(hub_id, revision=revision, files_metadata=True)
        commit, siblings = info.sha or revision, info.siblings or []
        file = next((file for file in siblings if file.rfilename == name), None)
        if file is None:
            alike = [f.rfilename for f in siblings if f.rfilename.endswith(Path(name).suffix)]
            raise unknown_name(f"file of model {hub_id}", name, alike)
        staging = target.parent.with_name(f".{target.parent.name}.download-{commit[:12]}")
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        check_space(hub_id, [file], staging)
        fetch_file(hub_id, commit, file, staging, token)
    target.parent.mkdir(parents=True, exist_ok=True)
    (staging / name).replace(target)
    shutil.rmtree(staging)
    licence = getattr(info.card_data, "license", None)
    return {"hub_id": hub_id, "revision": revision, "commit": commit, "file": name,
            "licence": licence}  # fmt: skip


def weights_identity(folder: Path) -> str:
    """Return the identity of the weights in a folder.

    Hub id and commit, the inputs that a rule made them from, or the SHA-256 of the files.
    """
    if marker := read_marker(folder):
        return f"{marker['hub_id']}@{marker['commit']}"
    if (record := folder / "run.json").is_file():
        inputs = json.loads(record.read_text())["inputs"]
        return " + ".join(f"{name} {identity}" for name, identity in inputs.items())
    return digest_file(folder)


def check_space(hub_id: str, files: list[RepoSibling], folder: Path) -> None:
    """Raise TerseError if the missing part of a model does not fit on the disk."""
    have = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    missing = sum(sizes(files).values()) - have
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise TerseError(
            f"model {hub_id} needs {missing / 1e9:.1f} GB more and {folder} has {free / 1e9:.1f} GB"
        )


def read_marker(folder: Path) -> dict[str, Any] | None:
    """Return the marker of a folder's download, None if it is incomplete."""
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
    siblings = list(siblings)
    files = [file for file in siblings if not fits(file.rfilename, UNWANTED)]
    weights = next(
        (found for kind in WEIGHTS if (found := [f for f in files if fits(f.rfilename, [kind])])),
        None,
    )
    if weights is None and any(f.rfilename == ADAPTER_CONFIG for f in siblings):
        raise TerseError(
            f"model {hub_id} is a PEFT adapter: set base to the name of the model here that it is "
            f"for (its {ADAPTER_CONFIG} names it)"
        )
    if weights is None:
        raise TerseError(f"model {hub_id} has no readable weights (safetensors or .bin)")
    others = [file for file in files if fits(file.rfilename, wanted)]
    if weights[0].rfilename.endswith(".safetensors"):
        others = [file for file in others if not file.rfilename.endswith(".bin.index.json")]
    return sorted([*others, *weights], key=lambda file: file.rfilename)


def adapter_files(hub_id: str, siblings: Iterable[RepoSibling]) -> list[RepoSibling]:
    """Return the files of a repository that loading its PEFT adapter reads."""
    files = {file.rfilename: file for file in siblings}
    weights = next((name for name in ADAPTER_WEIGHTS if name in files), None)
    if ADAPTER_CONFIG not in files or weights is None:
        raise TerseError(
            f"model {hub_id} has no PEFT adapter ({ADAPTER_CONFIG}, {ADAPTER_WEIGHTS[0]}); "
            "remove base to load it as a whole model"
        )
    others = [n for n in files if fits(n, WANTED) and not fits(n, UNWANTED) and n != "config.json"]
    return [files[name] for name in sorted([ADAPTER_CONFIG, weights, *others])]


def fits(name: str, globs: Iterable[str]) -> bool:
    """Return whether a name matches one of the globs."""
    return any(fnmatchcase(name, glob) for glob in globs)


def sizes(files: Iterable[RepoSibling]) -> dict[str, int]:
    """Return the size in bytes of each file by name."""
    return {file.rfilename: file.size or 0 for file in files}


def fetch_file(
    hub_id: str, commit: str, file: RepoSibling, folder: Path, token: str | None
) -> None:
    """Download a file unless it exists; a broken transfer is resumed.

    The hub's own client deletes the partial file when a transfer breaks, so that losing the last
    gigabyte would cost all of them again.
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
        logger.info("%s: resuming at %d of %d bytes", file.rfilename, have, size)
    with partial.open("r+b" if have else "wb") as stream:
        stream.seek(have)
        http_get(url, stream, resume_size=have, headers=headers, expected_size=size)
    if not is_right(partial, file):
        partial.unlink()
        raise TerseError(f"{file.rfilename} of model {hub_id} arrived damaged; run this again")
    partial.replace(path)


def is_right(path: Path, file: RepoSibling) -> bool:
    """Return whether a local file has the size and digest that the hub states."""
    size = path.stat().st_size
    if size != file.size:
        return False
    if file.lfs is not None:
        return digest(path, hashlib.sha256()) == file.lfs.sha256
    # Not LFS: the hub knows a file by its git blob id.
    return digest(path, hashlib.sha1(b"blob %d\0" % size)) == file.blob_id


def digest(path: Path, algorithm: Any) -> str:
    """Return the hexadecimal digest after adding a file's bytes to `algorithm`."""
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            algorithm.update(block)
    return algorithm.hexdigest()
