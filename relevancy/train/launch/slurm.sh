#!/bin/bash
# Both stages on a Slurm cluster. SIGTERM comes two minutes before the time is up: the run saves and ends with 143, the
# job goes back into the queue, and --resume takes it up bit for bit. Submit: sbatch slurm.sh
#SBATCH --job-name=llava-gemma
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -u
: "${PRESET:=llava-gemma-2b-clip}" "${OUT:=runs/$PRESET}" "${CONFIG:=launch/fsdp2.yaml}" "${DATA:=data}"
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
RESUME=$([ -e "$OUT/configuration.json" ] && echo --resume || true)

srun bash -c "exec accelerate launch --config_file $CONFIG \
  --num_machines $SLURM_NNODES --num_processes $((SLURM_NNODES * 8)) \
  --machine_rank \$SLURM_NODEID --main_process_ip $HEAD --main_process_port 29500 \
  -m relevancy.cli train both --preset $PRESET --out $OUT $RESUME --workers 6 --report-to tensorboard \
  --align-data $DATA/blip_laion_cc_sbu_558k.json --align-images $DATA/llava_pretrain \
  --finetune-data $DATA/llava_v1_5_mix665k.json --finetune-images $DATA/finetune" &
RUN=$!
trap 'wait $RUN' TERM
wait $RUN
CODE=$?
if [ $CODE -ne 0 ] && [ -e "$OUT/configuration.json" ] && [ ! -e "$OUT/model" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $CODE
