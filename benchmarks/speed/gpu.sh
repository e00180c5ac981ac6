#!/usr/bin/env bash
# Everything that is to be measured on a GPU, in under 8 minutes: bash benchmarks/speed/gpu.sh [options of gpu.py]
#
# Needs python3 with torch. What else radpo needs and the machine lacks is found in $PACKAGES, a folder that
# `pip install --target` filled; radpo itself is this checkout, whose radpo.egg-info (`pip install -e .`) is to be there.
# Writes gpu.json to $OUT, or to reports/gpu.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH="$PWD${PACKAGES:+:$PACKAGES}${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec timeout 480 "${PYTHON:-python3}" benchmarks/speed/gpu.py --out "${OUT:-reports/gpu}" "$@"
