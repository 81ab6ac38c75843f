#!/usr/bin/env bash
# One would guess that SLURM's plugin for Snakemake talks to SLURM when a run uses it.
# Snakemake imports every installed executor plugin whenever it starts, and that of SLURM runs
# `scontrol show config` while it is imported, to word the help of one of its options. So
# `snakemake --version`, a dry run, a run on this machine and each job's own start of Snakemake on its
# node ask the controller once each and wait for its answer, at most ten seconds where there is none.
# Why it matters here: a workflow of ten thousand jobs asks a controller that others share at least
# that many times more, and where SLURM is installed but out of reach every command is ten seconds
# slower. terse's tests put an `scontrol` that fails at once in its place (tests/conftest.py).
#
# PYTHON=... uses an environment that has the packages instead of installing them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    PYTHON="$folder/venv/bin/python"
    "$PYTHON" -m pip install --quiet snakemake==9.27.1 snakemake-executor-plugin-slurm==2.8.0
fi

# An scontrol that notes how it was called, and knows no cluster.
mkdir "$folder/bin"
cat >"$folder/bin/scontrol" <<END
#!/bin/sh
echo "scontrol \$*" >>"$folder/calls"
exit 1
END
chmod +x "$folder/bin/scontrol"
export PATH="$folder/bin:$PATH"
cat >"$folder/Snakefile" <<'END'
rule one:
    output: "one.txt"
    shell: "touch {output}"
END
cd "$folder"
touch calls

"$PYTHON" -c 'from importlib.metadata import version as v
print(*(f"{name} {v(name)}" for name in ("snakemake", "snakemake-executor-plugin-slurm")), sep="\n")'
asked() { # print what a command asks the controller for
    : >calls
    "$PYTHON" -m snakemake "$@" >output 2>&1
    echo "snakemake $*: $(sort calls | uniq -c | xargs)"
    [ -s calls ]
}
status=0
for words in "--version" "-n one.txt" "-c1 one.txt"; do
    # shellcheck disable=SC2086
    asked $words || status=1
done
exit $status
