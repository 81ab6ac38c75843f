#!/usr/bin/env bash
# One would guess that a second import of transformers reads compiled bytecode only.
# It opens more than a thousand of its own source files, one for each model's modules, every time.
# Why it matters here: every job of a workflow imports it; on a cluster's shared file system this is
# what a short job waits for. terse imports it only in jobs that need a model.
#
# PYTHON=... uses an environment that has the packages instead of installing them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    PYTHON="$folder/venv/bin/python"
    "$PYTHON" -m pip install --quiet transformers==5.23.0
fi
"$PYTHON" - <<'EOF'
import os
import subprocess
import sys

CODE = '''
import sys
opened = []
def seen(event, arguments):
    if event == "open" and "/transformers/" in str(arguments[0]):
        opened.append(str(arguments[0]))
sys.addaudithook(seen)
import transformers
print(transformers.__version__, sum(p.endswith(".py") for p in opened),
      sum(p.endswith(".pyc") for p in opened))
'''
quiet = {**os.environ, 'TRANSFORMERS_VERBOSITY': 'error'}
for _ in range(2):  # the first compiles
    run = subprocess.run([sys.executable, '-c', CODE], env=quiet, stdout=subprocess.PIPE, check=True)
version, sources, compiled = run.stdout.decode().split()
print(f'transformers {version}: opened on the second import: {sources} sources, {compiled} compiled')
sys.exit(0 if int(sources) > 1000 else 1)
EOF
