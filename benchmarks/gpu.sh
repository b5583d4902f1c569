#!/usr/bin/env bash
# Everything that needs a GPU, in under ten minutes on one: the tests, the benchmarks,
# and a timed run. Results go to benchmarks/results/cuda.csv and .md.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}

"$python" -c 'import torch; assert torch.cuda.is_available(), "there is no CUDA device here"'
"$python" -m pytest -m "slow or not slow" tests/runs/test_network.py tests/test_sampling.py \
    -k "cuda or gpu"
"$python" -m pndm.cost samples=50000 solver=plms steps=50 device=cuda
"$python" -m benchmarks.run --device cuda --pairs 5
"$python" run.py samples=1797 device=cuda outputs="$(mktemp -d)" wandb.mode=disabled
