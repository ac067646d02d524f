#!/bin/sh
# Train on two processes: on two GPUs if there are any, else on the CPU. Needs the shards of a workspace:
#
#     sh examples/two_processes.sh data/blog [OPTION…]
#
# A step has the batches of both. Ctrl-C saves the current step; the same command continues, also with another number
# of processes.
set -eu
workspace=$1
shift
exec torchrun --standalone --nproc-per-node 2 -m pipeline train --name two --parallel ddp \
    --dim 128 --depth 4 --heads 4 --dim-head 32 --batch-size 8 --steps 1000 --workspace "$workspace" "$@"
