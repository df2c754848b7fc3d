#!/bin/bash
# LLaVA-Gemma on eight Gaudi 2, in an environment of its own: optimum-habana pins an older transformers than relevancy
# takes, so the authors' code trains and relevancy converts. Not run by this project (no Gaudi at hand): the settings are
# those of the authors' scripts for Gaudi (LLaVA-Gemma/scripts/v1_5 of IntelLabs/multimodal_cognitive_ai).
#
#   python -m venv gaudi && gaudi/bin/pip install optimum-habana deepspeed   # on a machine with Habana's drivers
#   CODE=multimodal_cognitive_ai/LLaVA-Gemma DATA=data OUT=runs/gaudi bash gaudi.sh
#   relevancy train convert runs/gaudi/finetune --out runs/gaudi/model
set -euo pipefail
: "${CODE:?folder of the code, LLaVA-Gemma}" "${DATA:?folder of the data}" "${OUT:=runs/gaudi}"
: "${LANGUAGE:=google/gemma-2b-it}" "${VISION:=openai/clip-vit-large-patch14-336}" "${HPUS:=8}"
case "$LANGUAGE" in *7b*) FIRST=8 SECOND=1 ;; *) FIRST=16 SECOND=2 ;; esac

export PYTHONPATH="$CODE" PT_HPU_MAX_COMPOUND_OP_SIZE=1000 PT_HPU_POOL_MEM_ACQUIRE_PERC=100

train() {
  deepspeed "$CODE/llava/train/train_mem.py" --deepspeed "$CODE/scripts/zero2_gaudi.json" \
    --model_name_or_path "$LANGUAGE" --version gemma --vision_tower "$VISION" --mm_projector_type mlp2x_gelu \
    --mm_vision_select_layer -2 --mm_use_im_start_end False --mm_use_im_patch_token False --bf16 True \
    --num_train_epochs 1 --weight_decay 0. --warmup_ratio 0.03 --lr_scheduler_type cosine --model_max_length 2048 \
    --evaluation_strategy no --save_strategy steps --save_steps 500 --logging_steps 1 --lazy_preprocess True \
    --dataloader_num_workers 8 --use_habana --use_lazy_mode --distribution_strategy fast_ddp \
    --gaudi_config "$CODE/scripts/gaudi_config.json" "$@"
}

train --tune_mm_mlp_adapter True --data_path "$DATA/blip_laion_cc_sbu_558k.json" --image_folder "$DATA/llava_pretrain" \
  --output_dir "$OUT/align" --per_device_train_batch_size "$FIRST" \
  --gradient_accumulation_steps $((256 / HPUS / FIRST)) --learning_rate 1e-3 --gradient_checkpointing True
train --pretrain_mm_mlp_adapter "$OUT/align/mm_projector.bin" --image_aspect_ratio pad --group_by_modality_length True \
  --data_path "$DATA/llava_v1_5_mix665k.json" --image_folder "$DATA/finetune" \
  --output_dir "$OUT/finetune" --per_device_train_batch_size "$SECOND" \
  --gradient_accumulation_steps $((128 / HPUS / SECOND)) --learning_rate 2e-5 --gradient_checkpointing False
