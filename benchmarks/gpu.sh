#!/usr/bin/env bash
# Everything that needs a GPU, planned for less than ten minutes on one: the tests, the prediction
# of a run's cost, the benchmarks and a timed run. Results go to benchmarks/results/cuda.csv and .md.
#
#   benchmarks/gpu.sh                                   on a GPU
#   DEVICE=cpu RESULTS=/tmp/results benchmarks/gpu.sh   a rehearsal of the same steps, on small cases
#
# SECONDS_FOR_BENCHMARKS (330) bounds the benchmarks, of which the most important come first.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
device=${DEVICE:-cuda}
results=${RESULTS:-benchmarks/results}
seconds=${SECONDS_FOR_BENCHMARKS:-330}
outputs=$(mktemp -d)
trap 'rm -rf "$outputs"' EXIT

step() { echo "== $(date +%T) $*"; "$@"; }

if [[ $device == cuda* ]]; then
    "$python" -c 'import torch; assert torch.cuda.is_available(), "there is no CUDA device here"'
fi
PNDM_TEST_DEVICE=$device step "$python" -m pytest -m "slow or not slow" -k "cuda or gpu or card" \
    tests/test_gpu.py tests/runs/test_network.py tests/test_sampling.py \
    tests/evaluation/test_statistics.py
step "$python" -m pndm.cost samples=50000 solver=plms steps=50 "device=$device" seconds=5
step "$python" -m benchmarks.run throughput layouts overhead shares precision \
    --device "$device" --pairs 3 --seconds "$seconds" --results "$results"
step "$python" run.py samples=1797 "device=$device" "outputs=$outputs" wandb.mode=disabled
echo "== $(date +%T) done: $results"
