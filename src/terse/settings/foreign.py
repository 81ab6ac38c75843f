"""Keys of the five systems that have another name or place here: what to write instead."""

_ROOT = "roots of the workflow (terse import --roots moves them)"

COUNTERPARTS: dict[str, str] = {
    # ID_scaling
    "session_name": "the name of the model under models: results/ids/{name}.csv",
    "session_path": f"roots.results, one of the {_ROOT}",
    "model_config": "a model under models",
    "dataset_config": "a corpus under corpora, and activations",
    "cacheing_config": "activations",
    "filter_and_chunk_config": "activations",
    "use_accelerator": "the profile: profiles/gpu or slurm; device_map: auto spreads one model",
    "multiprocessing": "n_data_procs, the processes that tokenise; snakemake --cores for jobs",
    "multiprocessing_num_cpus": "n_data_procs, the processes that tokenise",
    "verbose": "always: progress is in the log of each job, logs/",
    "dataset_name": "corpus",
    "dataset_subset": "dataset_subset of the corpus, under corpora",
    # context compression, semantic blotching, token forgetting
    "exp_name": "the name of the run under runs",
    "save_root": f"roots.results, one of the {_ROOT}",
    "data_root": f"roots.cache, one of the {_ROOT}",
    "multi_gpu": "gpu, the number of devices",
    "testing": "base: base, the small model of the default configuration",
    "combos": "zip, inside sweep",
    # hierarchical autoencoder
    "run_name": "the name of the run under runs",
    "project_name": "the tracker's experiment: MLFLOW_EXPERIMENT_NAME in the environment",
    "checkpoint_dir": "results/runs/{run}/checkpoints; the state to resume from: roots.state",
    "resume_from_checkpoint": "nothing: the same command resumes from the saved state",
    "save_base_components_path": "results/runs/{run}/model, which a second stage names as base",
    "load_base_from": "base, the run of the first stage",
    "entropy_load_path": "base, the run whose entropy LM is used, with freeze_entropy",
    "device": "the profile: profiles/cpu, gpu, slurm",
    "num_workers": "threads",
    "text_column_name": "text_column of the corpus, under corpora",
    "dataset_train_split": "split of the corpus, under corpora",
}
