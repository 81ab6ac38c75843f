"""The version of each stage; raise it when a change of code changes results."""

STAGE_VERSIONS = {
    "collect_corpus": 1,
    "download_model": 1,
    "train_tokenizer": 2,
    "tokenize_corpus": 1,
    "chunk_corpus": 1,
    "cache_activations": 2,
    "export_activations": 1,
    "estimate_dimensions": 2,
    "decimate_cloud": 1,
    "encode_corpus": 1,
    "evaluate_run": 2,
    "make_corpus_tasks": 2,
    "run_lm_eval": 2,
    "tabulate_lm_eval": 1,
    "plot_run": 1,
    "plot_dimensions": 3,
    "compare_dimensions": 1,
    "plot_study": 2,
    "tabulate_results": 1,
}
