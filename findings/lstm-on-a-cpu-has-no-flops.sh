#!/usr/bin/env bash
# One would guess that torch's FlopCounterMode counts the products of an LSTM as it counts those of a
# linear layer. On a CPU it counts 0 for it without a warning: the whole layer is one operator
# (mkldnn_rnn_layer), for which the counter has no formula.
# Why it matters here: what a model costs is reported in FLOPs, and a model with a recurrent part
# would look cheaper than it is. terse counts recurrences from their shapes.
#
# PYTHON=... uses an environment that has the packages instead of installing them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    PYTHON="$folder/venv/bin/python"
    "$PYTHON" -m pip install --quiet torch==2.13.0 numpy==2.4.6
fi
"$PYTHON" - <<'EOF'
import sys

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

D, T = 64, 10


def counted(layer: nn.Module) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(torch.randn(1, T, D))
    return counter.get_total_flops()


lstm, linear = counted(nn.LSTM(D, D, batch_first=True)), counted(nn.Linear(D, 4 * D))
print(f"torch {torch.__version__}")
print(f"LSTM of width {D}, {T} tokens: {lstm} FLOPs; its products need {2 * T * 8 * D * D}")
print(f"linear layer {D} x {4 * D}, {T} tokens: {linear} FLOPs")
sys.exit(0 if lstm == 0 and linear == 2 * T * 4 * D * D else 1)
EOF
