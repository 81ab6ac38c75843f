"""Models that can be measured: trained here, on the hub, or in a local folder."""

from typing import Any, Literal

from pydantic import Field, model_validator

from terse.settings.strict import Name, Strict


class Model(Strict):
    """Exactly one of `run`, `hub` and `path`, and how it is loaded and measured."""

    run: Name | None = Field(None, description="a run of this workflow")
    step: int | None = Field(None, ge=0, description="a step of the run's checkpoint_steps")
    hub: str | None = Field(None, description="a model's id on the Hugging Face hub")
    revision: str = Field("main", description="branch, tag or commit on the hub")
    path: str | None = Field(None, description="a local folder in the Hugging Face format")
    kind: Literal["causal-lm", "encoder"] = Field(
        "causal-lm", description="an encoder has no loss and no entropy"
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "float32", description="of the weights and the pass; auto: as saved"
    )
    device_map: Literal["auto"] | None = Field(None, description="spread over the job's devices")
    trust_remote_code: bool = Field(False, description="run code that the model ships")
    family: Name | None = Field(None, description="models drawn into one figure; default: the run")
    gpu: int | None = Field(None, ge=0, description="devices of its jobs; null: the workflow's gpu")
    activations: dict[str, Any] = Field({}, description="overrides of the activations block")

    aliases = {"model_name": "hub", "model_checkpoint": "revision"}

    @model_validator(mode="after")
    def _one_origin(self) -> "Model":
        origins = [key for key in ("run", "hub", "path") if getattr(self, key) is not None]
        if len(origins) != 1:
            raise ValueError(f"give exactly one of run, hub, path; given: {origins or 'none'}")
        if self.step is not None and self.run is None:
            raise ValueError("step goes with run; a checkpoint on the hub is a revision")
        if given := sorted(self.model_fields_set & self._only_elsewhere(origins[0])):
            raise ValueError(f"{given[0]} does not go with {origins[0]}")
        return self

    @staticmethod
    def _only_elsewhere(origin: str) -> set[str]:
        """Return the keys that would say nothing of a model of this origin."""
        return {"run": {"revision", "trust_remote_code"}, "path": {"revision"}}.get(origin, set())

    def loading(self) -> dict[str, Any]:
        """Return how the model is loaded, as plain JSON."""
        return self.model_dump(
            mode="json", include={"kind", "dtype", "device_map", "trust_remote_code"}
        )
