#!/usr/bin/env bash
# Everything that needs a GPU, planned for less than ten minutes on one: the benchmarks, the
# prediction of a run's cost, a timed run, and the tests. A step that fails is told at the end, and
# the next one begins. Results go to benchmarks/results/cuda.csv and .md.
#
#   benchmarks/gpu.sh                                   on a GPU
#   DEVICE=cpu RESULTS=/tmp/results benchmarks/gpu.sh   a rehearsal of the same steps, on small cases
#
# SECONDS_FOR_BENCHMARKS (270) bounds the benchmarks, of which the most important come first.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
device=${DEVICE:-cuda}
results=${RESULTS:-benchmarks/results}
seconds=${SECONDS_FOR_BENCHMARKS:-270}
outputs=$(mktemp -d)
trap 'rm -rf "$outputs"' EXIT
failed=()

step() {
    echo "== $(date +%T) $*"
    "$@" || failed+=("$*")
}

if [[ $device == cuda* ]]; then
    "$python" -c 'import torch; assert torch.cuda.is_available(), "no CUDA device here"' || exit 1
fi
step "$python" -m benchmarks.run throughput layouts overhead shares precision \
    --device "$device" --pairs 3 --seconds "$seconds" --results "$results"
step "$python" -m pndm.cost samples=50000 solver=plms steps=50 "device=$device" seconds=5
step "$python" run.py samples=1797 "device=$device" "outputs=$outputs" wandb.mode=disabled
step env "PNDM_TEST_DEVICE=$device" "$python" -m pytest -m "slow or not slow" \
    -k "cuda or gpu or graphics" tests/test_gpu.py tests/runs/test_network.py \
    tests/test_sampling.py tests/evaluation/test_statistics.py
echo "== $(date +%T) done, ${#failed[@]} failed, results in $results"
((${#failed[@]} == 0)) || { printf 'failed: %s\n' "${failed[@]}"; exit 1; }
