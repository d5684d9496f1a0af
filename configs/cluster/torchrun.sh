#!/usr/bin/env bash
# One or many nodes by torchrun: run this on every node, with the same NODES, MASTER and PORT and its own RANK.
#
#   configs/cluster/torchrun.sh --config omni.yaml --data.root /data                                  # one node
#   NODES=4 RANK=0 MASTER=node0 configs/cluster/torchrun.sh --config omni.yaml --data.root /data      # on node0
#   NODES=4 RANK=1 MASTER=node0 configs/cluster/torchrun.sh --config omni.yaml --data.root /data      # on node1 ...
#
# What follows is for `cli.py fit`. All nodes need the repository, the data and the run folder at the same paths.
# A second start with the same RUN goes on where the first was stopped, on any number of GPUs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

NODES=${NODES:-1}
RANK=${RANK:-0}
MASTER=${MASTER:-localhost}
PORT=${PORT:-29500}
GPUS=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}   # of this node; give it where there is no nvidia-smi
RUN=${RUN:-runs/$(basename "$PWD")/cluster}

# Threads of each process for decoding beside the loader workers; torchrun's own default is 1.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
# A rank that fails ends the others instead of leaving them waiting.
export TORCH_NCCL_ASYNC_ERROR_HANDLING=1

resume=()
[[ -f $RUN/checkpoints/last.ckpt ]] && resume=(--ckpt_path "$RUN/checkpoints/last.ckpt")

exec torchrun --nnodes "$NODES" --node_rank "$RANK" --nproc_per_node "$GPUS" \
    --master_addr "$MASTER" --master_port "$PORT" \
    cli.py fit --trainer.devices "$GPUS" --trainer.num_nodes "$NODES" --run.folder "$RUN" "${resume[@]}" "$@"
