"""A package with its own method, as a wheel that pip installs."""

import subprocess
import sys
import zipfile
from pathlib import Path

# Which byte follows which: a table of logits, trained on random bytes with a pattern.
METHOD = """
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn
from terse.training.method import Method

from bigram_terse.spec import SPEC, BigramSettings


class Bigram(Method[BigramSettings]):
    spec = SPEC

    def build(self) -> nn.Module:
        return nn.Embedding(self.settings.n_symbols, self.settings.n_symbols)

    def _rows(self, n: int) -> list[dict[str, torch.Tensor]]:
        starts = range(n)
        return [{"labels": (torch.arange(9) + s) % self.settings.n_symbols} for s in starts]

    def training_rows(self) -> Any:
        return self._rows(40)

    def validation_rows(self) -> Any:
        return self._rows(4)

    def loss(self, model, batch, n_targets):
        ids = batch["labels"]
        logits = model(ids[:, :-1]).flatten(0, 1)
        nats = nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum")
        return nats / n_targets, {}

    def evaluate(self, model: nn.Module, device: str) -> list[Any]:
        return []

    def save(self, model: nn.Module, folder) -> None:
        torch.save(model.state_dict(), folder / "table.pt")
"""
SPEC = """
from typing import Literal

from pydantic import Field
from terse.settings.method_spec import MethodSpec
from terse.settings.run import Run


class BigramSettings(Run):
    method: Literal["bigram"] = Field("bigram", description="this method")
    n_symbols: int = Field(7, gt=1, description="symbols, which follow one another")


class BigramSpec(MethodSpec[BigramSettings]):
    settings = BigramSettings
    implementation = "bigram_terse.method:Bigram"


SPEC = BigramSpec()
"""


def install(folder: Path, *, name: str = "bigram", spec: str = SPEC) -> Path:
    """Install the package `bigram-terse` into a new folder; return the folder for PYTHONPATH.

    name: of the method that it registers. spec: the text of its spec.py.
    """
    info = "bigram_terse-1.0.dist-info"
    files = {
        "bigram_terse/__init__.py": "",
        "bigram_terse/spec.py": spec,
        "bigram_terse/method.py": METHOD,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: bigram-terse\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[terse.methods]\n{name} = bigram_terse.spec:SPEC\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in files)
    wheel = folder / "bigram_terse-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    target = folder / "site"
    words = ["install", "--no-deps", "--no-index", "--quiet", "--target", str(target), str(wheel)]
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *words],
        check=True,
        timeout=300,
    )
    return target
