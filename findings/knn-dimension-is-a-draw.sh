#!/usr/bin/env bash
# One would guess that the random state of scikit-dimension's KNN changes its estimate by a unit or two.
# On one cloud of 500 points in 20 dimensions it gives anything from 2 to 20.
# Why it matters here: one call is one random number. terse takes the median of 25 draws, gives their
# spread, and flags the estimate as unstable (src/terse/dimension/rare.py).
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
from skdim.id import KNN

points = np.random.default_rng(0).standard_normal((500, 20))
draws = [float(KNN(random_state=seed).fit_transform(points)) for seed in range(25)]
print('scikit-dimension', version('scikit-dimension'))
print('dimension of 500 points of a 20-dimensional Gaussian, 25 random states:')
print(*sorted(draws))
sys.exit(0 if min(draws) <= 3 and max(draws) == 20 else 1)
EOF
