"""What a run would take, without weights: parameters, what trains, memory, steps, operations. Nothing is allocated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import LlavaForConditionalGeneration, PreTrainedConfig

from relevancy.errors import RelevancyError
from relevancy.train.composition import joined_config, padded_rows
from relevancy.train.flops import Load, Sizes, operations, sizes_of
from relevancy.train.lora import adapt
from relevancy.train.parts import check_connector, check_size, config_of, tower_tokens
from relevancy.train.presets import Preset
from relevancy.train.shapes import SHAPES
from relevancy.train.stages import Stage, check_longest, freeze, parameters_of, states_of
from relevancy.train.trainer import shares

# Sequences of LLaVA's published data, and what a mean one holds besides its picture (an estimate).
SAMPLES = {"align": 558_128, "finetune": 665_298}
WORDS = {"align": 45, "finetune": 200}


@dataclass(frozen=True)
class StagePlan:
    """One stage as it would run on each of `processes` devices. Memory in bytes."""

    stage: str
    trainable: int
    samples: int
    steps: int
    micro: int
    accumulate: int
    weights: int
    gradients: int
    optimizer: int
    activations: int  # an estimate
    checkpoint: int
    operations: float  # of the whole stage, all devices together

    @property
    def memory(self) -> int:
        """Bytes on each device, where nothing is sharded."""
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class RunPlan:
    """A preset's shapes, and its stages."""

    preset: Preset
    parameters: dict[str, int]  # by part
    vocabulary: int  # rows of the embedding
    image_tokens: int
    stages: tuple[StagePlan, ...]

    @property
    def total(self) -> int:
        """Parameters of the whole model."""
        return sum(self.parameters.values())


def plan(preset: Preset, *, samples: dict[str, int] | None = None, processes: int = 1) -> RunPlan:
    """The plan of every stage of a preset; `samples` says how many sequences the user's data has, by stage."""
    language, vision = config_of(preset.language, "language"), config_of(preset.vision, "vision")
    check_size(vision, preset)
    check_connector(preset, language, vision)
    in_tower, handed = tower_tokens(vision, preset.image_size)
    needed = language.vocab_size + (preset.language in SHAPES)  # <image>, which Gemma's own vocabulary lacks
    language.vocab_size = padded_rows(language.vocab_size, needed, preset.vocabulary_multiple)
    config = joined_config(language, vision, language.vocab_size - 1, preset.feature_layer)
    parameters = parameters_of(hollow(config))
    counts = SAMPLES | (samples or {})
    stages = tuple(
        _stage(stage, preset, config, (in_tower, handed), counts[stage.name], processes) for stage in preset.stages()
    )
    return RunPlan(preset, parameters, language.vocab_size, handed, stages)


def hollow(config: PreTrainedConfig) -> LlavaForConditionalGeneration:
    """A model of a config without weights, on the meta device."""
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)  # type: ignore[arg-type]
    model.tie_weights()
    return model


def steps_of(stage: Stage, samples: int) -> int:
    """Optimizer steps of a stage over so many sequences; of each pass, what does not fill a last batch is left out.

    Raises RelevancyError where they fill none.
    """
    steps = stage.steps or int(stage.epochs * (samples // stage.batch))
    if samples < stage.batch or not steps:
        raise RelevancyError(
            f"stage {stage.name}: {samples:,} samples in {stage.epochs:g} passes are too few for a batch of "
            f"{stage.batch}: --set {stage.name}.batch=... or epochs"
        )
    return steps


def _stage(
    stage: Stage,
    preset: Preset,
    config: PreTrainedConfig,
    tokens: tuple[int, int],
    samples: int,
    processes: int,
) -> StagePlan:
    micro, accumulate = shares(stage, processes)
    check_longest(stage.max_tokens, tokens[1])
    model = hollow(config)
    if preset.lora_rank and "decoder" in stage.trains:
        adapt(model, preset.lora_rank, preset.lora_alpha, preset.seed)
    sizes = sizes_of(model, config, *tokens)
    trainable = sum(freeze(model, stage).values())
    frozen = sum(parameters_of(model).values()) - trainable
    length = min(sizes.image_tokens + WORDS[stage.name], stage.max_tokens)
    steps = steps_of(stage, samples)
    whole = _load(stage.batch, length, WORDS[stage.name] // 2)
    states = states_of(model, stage.optimizer)
    return StagePlan(
        stage=stage.name,
        trainable=trainable,
        samples=samples,
        steps=steps,
        micro=micro,
        accumulate=accumulate,
        weights=4 * trainable + (2 if stage.half_frozen else 4) * frozen,
        gradients=4 * trainable,
        optimizer=states,
        activations=_activations(stage, config, sizes, _load(micro, stage.max_tokens, WORDS[stage.name] // 2))
        + (2 * trainable if stage.bf16 else 0),
        checkpoint=4 * trainable + states,
        operations=operations(whole, sizes, stage) * steps,
    )


def _load(sequences: int, length: int, supervised: int) -> Load:
    return Load(sequences, sequences * length, sequences * length**2, sequences * supervised, sequences)


def _activations(stage: Stage, config: PreTrainedConfig, sizes: Sizes, load: Load) -> int:
    """Bytes kept for the backward pass at the longest sequences: an estimate to within a factor of two.

    Autocast's bfloat16 copy of the weights that train comes on top.

    Per token and layer of a Gemma, in bfloat16: about eight vectors of the hidden width, four of the heads', three of
    the inner width; with checkpointing one vector per layer, and one layer's whole. Logits: bfloat16, and float32 with
    their gradient.
    """
    text = config.get_text_config()
    number = 2 if stage.bf16 else 4
    layer = number * (8 * text.hidden_size + 4 * sizes.width + 3 * text.intermediate_size)
    kept = number * text.hidden_size * sizes.layers + layer if stage.gradient_checkpointing else layer * sizes.layers
    judged = min(stage.loss_chunk, load.tokens) if stage.loss_chunk else load.tokens
    return load.tokens * kept + judged * text.vocab_size * (number + 8)
