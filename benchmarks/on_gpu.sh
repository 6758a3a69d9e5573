#!/bin/sh
# All that is to be known of a GPU in one call, some five minutes: whether students are trained and answer right there,
# and how fast, beside TRL, which is to be installed with liger-kernel in the same Python. PAIRS: prompt and completion
# as JSON lines, some thousand; MODEL: a student's folder, or smollm2-135m-instruct. What fails leaves the rest.
#
#   sh benchmarks/on_gpu.sh PAIRS MODEL 2>&1 | tee on_gpu.log
set -u
pairs=$1
model=$2
nvidia-smi
tests="gpu train refill transformers_backend families kd dev_answers checkpoints four_bit"
timeout 150 python -m pytest -q -m "gpu or not slow" $(for name in $tests; do echo tests/test_$name.py; done)
timeout 180 python benchmarks/training.py --here --pairs "$pairs" --model "$model" --examples 1024 --batch 128 --passes 2 \
  --rounds 2 --ways ours ours_compiled ours_packed trl trl_packed
timeout 120 python benchmarks/inference.py --model "$model" --questions 4096 --batch-size 4096 --rounds 2 --ways "own sdpa"
timeout 60 python benchmarks/inference.py --model "$model" --questions 1024 --batch-size 1024 --rounds 1 --ways "static 32"
