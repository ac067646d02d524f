#!/bin/sh
# Train in two processes, on two GPUs or else on the CPU. Needs a workspace with shards:
#
#     sh examples/two_processes.sh data/blog [OPTION…]
#
# Each step trains on the batches of both. Ctrl-C saves the current step; the same command continues, even with a
# different number of processes.
set -eu
workspace=$1
shift
exec torchrun --standalone --nproc-per-node 2 -m pipeline train --name two --parallel ddp \
    --dim 128 --depth 4 --heads 4 --dim-head 32 --batch-size 8 --steps 1000 --workspace "$workspace" "$@"
