#!/usr/bin/env bash
# One would guess that one repeated point among 500 moves an estimate of dimension by less than a percent.
# scikit-dimension's MiND_ML answers exactly 1 for it, without a word.
# Why it matters here: equal hidden states are common (a repeated token after the embedding layer).
# terse leaves repeated points out and counts them (n_dup).
#
# PYTHON=... uses an environment that has the packages instead of installing them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    PYTHON="$folder/venv/bin/python"
    "$PYTHON" -m pip install --quiet scikit-dimension==0.5.0 numpy==2.4.6
fi
"$PYTHON" - <<'EOF'
import sys
from importlib.metadata import version

import numpy as np
from skdim.id import MiND_ML, TwoNN

random = np.random.default_rng(0)
points = random.standard_normal((500, 8)) @ random.standard_normal((8, 20))
repeated = np.concatenate([points, points[:1]])
print('scikit-dimension', version('scikit-dimension'))
found = {}
for estimator in (MiND_ML(k=20, D=20), TwoNN()):
    pair = [float(estimator.fit(cloud).dimension_) for cloud in (points, repeated)]
    found[type(estimator).__name__] = pair
    print(f'{type(estimator).__name__}: {pair[0]:.3f}; with one point twice: {pair[1]:.3f}')
(before, after), (plain, other) = found['MiND_ML'], found['TwoNN']
sys.exit(0 if before > 6 and after == 1 and abs(other / plain - 1) < 0.02 else 1)
EOF
