"""Make `.venv` from `requirements.lock`. Uses only the standard library: nothing else exists yet.

Called by the Makefile as `python3 -I src/terse/launch/install.py`; does nothing if `.venv` is up
to date.
"""

import fcntl
import hashlib
import platform
import subprocess
import sys
import venv
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]
_VENV = _ROOT / ".venv"
_OLDEST, _NEWEST = (3, 11), (3, 13)


def main() -> int:
    """Install what the lock file names, once; return the exit status."""
    if not _OLDEST <= sys.version_info[:2] <= _NEWEST:
        return _fail(
            f"Python {sys.version_info[0]}.{sys.version_info[1]} was given; 3.11 to 3.13 work: "
            "make run PYTHON=python3.12"
        )
    with (_ROOT / ".terse-install.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another installation is running here; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        return _install()


def _install() -> int:
    stamp, wanted = _VENV / "installed", _digest()
    if stamp.exists() and stamp.read_text() == wanted:
        return 0
    print("installing into .venv (once, takes a few minutes)", flush=True)
    if not (_VENV / "bin" / "pip").exists() or not _has_this_python():
        try:
            venv.create(_VENV, with_pip=True, clear=True)
        except (subprocess.CalledProcessError, OSError) as error:
            return _fail(
                f"{sys.executable} -m venv .venv failed ({error}); on Debian and Ubuntu: "
                "apt install python3-venv"
            )
    pip = [str(_VENV / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    for words in (["-r", "requirements.lock"], ["--no-deps", "-e", "."]):
        if (status := subprocess.run([*pip, *words], cwd=_ROOT).returncode) != 0:
            return _fail(f"pip install {' '.join(words)} failed (see above)", status)
    stamp.write_text(wanted)
    return 0


def _has_this_python() -> bool:
    """Return whether the environment was made with the running Python."""
    config = _VENV / "pyvenv.cfg"
    lines = config.read_text().splitlines() if config.exists() else []
    return f"version = {platform.python_version()}" in lines


def _digest() -> str:
    files = ("requirements.lock", "pyproject.toml")
    content = b"".join((_ROOT / name).read_bytes() for name in files)
    return hashlib.sha256(content + sys.version.encode()).hexdigest()


def _fail(sentence: str, status: int = 1) -> int:
    print(f"install: {sentence}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
