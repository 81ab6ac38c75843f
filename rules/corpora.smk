"""From a source of text to contexts of equal length."""


# The hub needs a network, which login nodes have and compute nodes don't.
localrules:
    collect_corpus,


rule collect_corpus:
    """Read a corpus' documents, split them, and fix their order and fingerprint."""
    input:
        files=lambda w: local_files(w.corpus),
    output:
        documents="cache/documents/{corpus}.parquet",
        record="cache/documents/{corpus}.run.json",
    log:
        "logs/collect_corpus/{corpus}.log",
    benchmark:
        "logs/collect_corpus/{corpus}.benchmark.tsv"
    priority: 100  # everything else waits for text
    threads: settings.n_data_procs
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        corpus=lambda w: settings.corpora[w.corpus].params(),
        stage=stage("collect_corpus"),
    script:
        "../workflow/scripts/collect_corpus.py"


rule train_tokenizer:
    """Train a byte-level BPE tokenizer on a corpus' training documents; bytes need none."""
    input:
        documents=lambda w: documents_of(settings.tokenizers[w.tokenizer].corpus),
    output:
        tokenizer="cache/tokenizers/{tokenizer}/tokenizer.json",
        config="cache/tokenizers/{tokenizer}/tokenizer_config.json",
        record="cache/tokenizers/{tokenizer}/run.json",
    log:
        "logs/train_tokenizer/{tokenizer}.log",
    benchmark:
        "logs/train_tokenizer/{tokenizer}.benchmark.tsv"
    priority: 100  # everything else waits for text
    threads: 2
    resources:
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime=lambda w, attempt: 240 * attempt,
    params:
        tokenizer=lambda w: settings.tokenizers[w.tokenizer].model_dump(mode="json"),
        stage=stage("train_tokenizer"),
    script:
        "../workflow/scripts/train_tokenizer.py"


rule tokenize_corpus:
    """Turn the documents of a corpus into tokens."""
    input:
        documents="cache/documents/{corpus}.parquet",
        tokenizer=lambda w: tokenizer_files(w.tokenizer),
    output:
        tokens="cache/tokens/{corpus}/{tokenizer}.h5",
    log:
        "logs/tokenize_corpus/{corpus}.{tokenizer}.log",
    benchmark:
        "logs/tokenize_corpus/{corpus}.{tokenizer}.benchmark.tsv"
    priority: 100  # everything else waits for text
    threads: settings.n_data_procs
    resources:
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime=lambda w, attempt: 480 * attempt,
    params:
        trust_remote_code=lambda w: runs_remote_code(w.tokenizer),
        stage=stage("tokenize_corpus"),
    script:
        "../workflow/scripts/tokenize_corpus.py"


rule chunk_corpus:
    """Cut the contexts on which a model is measured."""
    input:
        tokens=lambda w: "cache/tokens/{}/{}.h5".format(
            *settings.text_of_model(w.model)
        ),
    output:
        chunks="cache/chunks/{model}.h5",
    log:
        "logs/chunk_corpus/{model}.log",
    benchmark:
        "logs/chunk_corpus/{model}.benchmark.tsv"
    priority: 10  # a pretrained model takes the longest: it begins early
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=lambda w, attempt: 60 * attempt,
    params:
        chunking=lambda w: settings.measure(w.model).block(Chunking),
        stage=stage("chunk_corpus"),
    script:
        "../workflow/scripts/chunk_corpus.py"
