"""Train a run of any method, or resume it from its saved state."""

from pathlib import Path
from typing import Any

from terse import job
from terse.config.methods import method_of
from terse.machine.processes import n_processes, rank
from terse.machine.signals import StopSignal
from terse.provenance import TRAINING_PACKAGES, digest_file, digest_json, record, versions
from terse.training.longer import explain_start, note_finished
from terse.training.method import Inputs
from terse.training.train import Conduct, Outputs, train


def train_model(
    *,
    run: dict[str, Any],
    non_weight: dict[str, Any] | None = None,
    inputs: Inputs,
    outputs: Outputs,
    state_root: Path,
    conduct: Conduct,
    signal: StopSignal,
) -> None:
    """Publish the trained weights, the kept ones, the history and a record.

    run: the settings that determine the weights. non_weight: the rest, such as how often it saves.
    """
    digests = {name: digest_file(path) for name, path in vars(inputs).items() if path is not None}
    device = f"{conduct.device} ({'deterministic' if conduct.deterministic else 'free'})"
    # All that determines the weights but the number of threads, which changes their last bits only:
    # with other settings or another device, no run resumes it.
    about = {"inputs": digests, "device": device, "n_processes": conduct.n_processes}
    state = digest_json([run, about, versions(TRAINING_PACKAGES)])[:16]
    method = method_of(run | (non_weight or {}), inputs)
    finished = state_root / f"{conduct.name}.finished.json"
    if conduct.rank == 0:
        explain_start(finished, state_root / conduct.name / state, run, method.settings)
    train(
        method,
        state_folder=state_root / conduct.name / state,
        outputs=outputs,
        record=record(settings=run | {"max_steps": method.settings.n_steps}, **about),
        conduct=conduct,
        signal=signal,
    )
    if conduct.rank == 0:
        note_finished(finished, run, method.settings.n_steps)


if __name__ == "__main__":
    with job.logged(snakemake):
        settings, device = job.settings(snakemake), job.device(snakemake)
        if (processes := settings.n_processes(snakemake.wildcards.run)) > 1:
            job.spread(snakemake, processes)
        train_model(
            run=snakemake.params.run,
            non_weight=settings.non_weight_params(snakemake.wildcards.run),
            inputs=job.run_inputs(snakemake, Inputs),
            outputs=Outputs(
                model=Path(snakemake.output.model),
                checkpoints=Path(snakemake.output.checkpoints),
                history=Path(snakemake.output.history),
                record=Path(snakemake.output.record),
            ),
            state_root=job.root("state", snakemake.output.history) / "train",
            conduct=Conduct(
                name=snakemake.wildcards.run,
                device=device,
                tracking=settings.tracking,
                deterministic=settings.deterministic,
                results=job.root("results", snakemake.output.history),
                save_interval=settings.runs[snakemake.wildcards.run].save_interval,
                rank=rank(),
                n_processes=n_processes(),
            ),
            signal=StopSignal().install(),
        )
