#!/bin/bash
# Both stages on a Slurm cluster. SIGTERM comes two minutes before the time is up, or with a preemption: the run saves and
# ends with 143, the job goes back into the queue, and --resume takes it up bit for bit. Whatever else ends it (wrong
# input, a crash, no memory) ends the job with the run's own code: it would fail again. Submit: sbatch slurm.sh
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

srun bash -c "exec python -m relevancy.train.launch --config_file $CONFIG \
  --num_machines $SLURM_NNODES --num_processes $((SLURM_NNODES * 8)) \
  --machine_rank \$SLURM_NODEID --main_process_ip $HEAD --main_process_port 29500 \
  -m relevancy.cli train both --preset $PRESET --out $OUT $RESUME --workers 6 --report-to tensorboard \
  --align-data $DATA/blip_laion_cc_sbu_558k.json --align-images $DATA/llava_pretrain \
  --finetune-data $DATA/llava_v1_5_mix665k.json --finetune-images $DATA/finetune" &
RUN=$!
trap : TERM  # the run hears of it by itself
wait $RUN
CODE=$?
while kill -0 $RUN 2>/dev/null; do  # a signal has interrupted the wait, not the run
  wait $RUN
  CODE=$?
done
if [ $CODE -eq 143 ] && [ -e "$OUT/configuration.json" ] && [ ! -e "$OUT/model" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $CODE
