#!/usr/bin/env bash
# One would guess that a Snakemake job of the highest priority starts as soon as it can: if it needs
# two threads of two, after the jobs that run now, while no other job starts.
# Snakemake fills each core as soon as it is free with any job that fits. A job of one thread always
# fits, so the one of two threads starts after all of them, whatever its priority and with either
# scheduler: here the last of fourteen, twelve of which nothing depends on.
# Why it matters here: on two cores the tokenizer's training (two threads), for which half of the
# workflow waits, began when nothing else was left. The default's small trainings and its tokenizer
# therefore have one thread each (config/config.yaml, profiles/cpu), so that `priority` decides.
#
# PYTHON=... uses an environment that has the package instead of installing it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    PYTHON="$folder/venv/bin/python"
    "$PYTHON" -m pip install --quiet snakemake==9.27.1
fi

# `wide` is ready after a second; the short jobs take 1.0 to 1.8 s, so that two never end together.
cat >"$folder/Snakefile" <<'END'
rule all:
    input: [f"short-{i}" for i in range(12)], "wide"
rule first:
    output: "first"
    priority: 100
    shell: "echo first >>started; sleep 1; touch {output}"
rule short:
    output: "short-{i}"
    params: seconds=lambda w: 1 + 0.17 * (int(w.i) % 5) + 0.01 * int(w.i)
    shell: "echo short >>started; sleep {params.seconds}; touch {output}"
rule wide:
    input: "first"
    output: "wide"
    priority: 100
    threads: 2
    shell: "echo wide >>started; touch {output}"
END
cd "$folder"

"$PYTHON" -c 'from importlib.metadata import version as v; print("snakemake", v("snakemake"))'
status=0
for scheduler in greedy ilp; do
    rm -f started first short-* wide
    "$PYTHON" -m snakemake --cores 2 --scheduler "$scheduler" >output 2>&1
    echo "$scheduler: $(paste -sd ' ' started)"
    [ "$(tail -n 1 started)" = wide ] && [ "$(wc -l <started)" = 14 ] || status=1
done
exit $status
