#!/usr/bin/env bash
# Eight GPUs of one node, ten minutes: does what a long run does, under every strategy, and stops at the first error.
#
#   configs/cluster/smoke_8_gpus.sh /folder/of/Qwen2.5-Omni-7B [NUMBER_OF_GPUS]
#
# Mini AV-UIE is written if it is not there, so no data set is needed; the checkpoint is the real one (its folder).
# Not run on GPUs yet: none were at hand. It was tried on two CPU processes with a tiny checkpoint
# (`cli.py model tiny --out tiny`): CPU=1 STRATEGIES="ddp fsdp2" configs/cluster/smoke_8_gpus.sh tiny 2
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

CHECKPOINT=${1:?folder of the checkpoint}
GPUS=${2:-8}
OUT=${OUT:-runs/smoke}
STRATEGIES=${STRATEGIES:-ddp fsdp2 fsdp2_offload}
ACCELERATOR=$([[ ${CPU:-0} == 1 ]] && echo cpu || echo gpu)

mkdir -p "$OUT"
[[ -d $OUT/mini ]] || python cli.py data mini --root "$OUT/mini" --clips 60
shared=(--config omni.yaml --data.root "$OUT/mini" --model.init_args.pretrained "$CHECKPOINT"
    --trainer.accelerator "$ACCELERATOR" --trainer.devices "$GPUS" --data.batch_size 1
    --data.num_workers 2 --data.val_generate_per_dataset 1 --data.length_window 8
    --trainer.log_every_n_steps 2 --model.init_args.max_new_tokens 8 --trainer.limit_val_batches 2)

for strategy in $STRATEGIES; do
    run=$OUT/$strategy
    rm -rf "$run"
    echo "== $strategy: six steps, validation, checkpoint"
    python cli.py fit "${shared[@]}" --trainer.strategy "$strategy" --trainer.max_steps 6 \
        --trainer.val_check_interval 3 --run.folder "$run"
    echo "== $strategy: resumed, four steps more"
    python cli.py fit "${shared[@]}" --trainer.strategy "$strategy" --trainer.max_steps 10 \
        --trainer.val_check_interval 2 --run.folder "$run" --ckpt_path "$run/checkpoints/last.ckpt"
    ls -l "$run/checkpoints" "$run/adapter"
done
echo "== on half of the processes: the same checkpoint, no sample of the epoch lost or repeated"
python cli.py fit "${shared[@]}" --trainer.devices $((GPUS / 2)) --trainer.strategy auto --trainer.max_steps 12 \
    --trainer.val_check_interval 2 --run.folder "$run" --ckpt_path "$run/checkpoints/last.ckpt"
echo "all strategies ran, resumed and were read on another number of GPUs"
