"""How a result was made: code, versions, device, inputs."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "terse", "torch", "transformers", "accelerate", "tokenizers", "datasets", "numpy", "h5py",
    "pandas", "scikit-dimension", "snakemake",
)  # fmt: skip
# The libraries that determine how a training resumes from its state.
TRAINING_PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "numpy")

_CHECKOUT = Path(__file__).parents[2]


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the installed version of each package, and of Python."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state(folder: Path = _CHECKOUT) -> dict[str, Any]:
    """Return the commit of a checkout (by default that of this code) and whether it is modified.

    Both are None without git.
    """

    def git(*words: str) -> str | None:
        try:
            run = subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return run.stdout.strip() if run.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    status = git("status", "--porcelain")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def digest_json(content: Any) -> str:
    """Return the SHA-256 of a JSON value, keys sorted."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's relative names and contents."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    # Snakemake's files in a folder record when it was made, not what it contains.
    files = sorted(f for f in path.rglob("*") if f.is_file() and not f.name.startswith("."))
    return digest_json({str(f.relative_to(path)): digest_file(f) for f in files})


def record(
    *,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    device: str,
    **more: Any,
) -> dict[str, Any]:
    """Return the content of a `run.json`.

    `inputs` maps each input's name to its digest; `more` holds what the job itself measured.
    """
    return {
        "settings": dict(settings),
        "seed": settings.get("seed"),
        "git": git_state(),
        "versions": versions(),
        "device": device,
        "inputs": dict(inputs),
        **more,
    }
