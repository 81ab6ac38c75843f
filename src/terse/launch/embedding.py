"""The workflow inside another folder, another workflow, or with options that it does not have."""

import sys
from pathlib import Path
from typing import Any

from terse.config import end_with
from terse.errors import TerseError


def packaged(workflow: Any, name: str) -> str:
    """Return the path of a file below the folder of the Snakefile that is being read.

    Not of the folder that Snakemake works in (`--directory`), nor of a workflow that has this one
    as a module.
    """
    return str(workflow.current_basedir.join(name).get_path_or_uri(secret_free=True))


def own_folder(workflow: Any) -> Path:
    """Return the folder of the three roots: where Snakemake works, with a module's `prefix:`."""
    prefix = getattr(workflow.modifier.path_modifier, "prefix", None)
    return Path.cwd() / (prefix or "")


def until_trainings(words: list[str]) -> None:
    """Exit with the target that does what `--until train_model` on this command line asks for.

    Trainings start from trainings, and Snakemake never starts a job of a rule that it runs until if
    it depends on another job of that rule: it ends with "Out of jobs ready to be started".
    """
    reading = False
    for word in words:
        option, _, value = word.partition("=")
        reading = option in ("--until", "-U") if word.startswith("-") else reading
        if reading and "train_model" in (word, value):
            end_with(
                TerseError(
                    "--until train_model: Snakemake can't stop at a rule whose jobs depend on each "
                    "other, as trainings from trainings do; the target trainings is the same: "
                    "snakemake trainings"
                )
            )


def has_no_environments(workflow: Any, words: list[str]) -> None:
    """Say why `--software-deployment-method conda` changes nothing, and what `--lint` advises."""
    methods = [str(one).rpartition(".")[2].lower() for one in _deployment(workflow)]
    asked = [f"--sdm {one} changes nothing" for one in methods if one in ("conda", "apptainer")]
    if "--lint" in words:
        asked.append("--lint's advice of an environment for each rule does not apply")
    for what in asked:
        print(
            f"terse: {what}: no rule has an environment of its own, since all of them run code of "
            "the package terse; its environment is the one that Snakemake runs in, made from "
            "requirements.lock by `make setup`",
            file=sys.stderr,
        )


def _deployment(workflow: Any) -> Any:
    settings = workflow.deployment_settings
    return () if settings is None else settings.deployment_method
