"""Sizes and stages of the embedded pair and of the grid's cells: what `build` and `grid` do, as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from transformers import GemmaConfig, GemmaTokenizer

from relevancy.demo.dialogues import (
    Mix,
    Talk,
    caption,
    look_and_answer,
    look_and_answer_openly,
    look_and_choose,
    look_closely_and_answer,
    read_and_answer,
)
from relevancy.train.stages import Stage

# A price on looking once the larger model finds what it is asked for (before, it would keep it from learning to look),
# and a lower one later: whoever counts must look at much. The smaller one never learns letters under such a price.
LOOKING_COST, SETTLED_COST, SHARP_COST = 6.0, 2.0, 4.0
# At last a price on answers whose logit does not fall when less is read, without which the clamp of eq. 5 cuts most of
# what the picture has done for them; and then a lower one, for the answers that the first has cost.
FADING_COST, EASED_COST = 0.3, 0.08
# The smaller one pays both at last: by then it knows the letters, and its heads rest on patches.
RESTING_COST, RESTING_FADING_COST = 5.0, 0.2
# The last norm lets no logit be larger than its gain allows. Who is sure of every word stands at that bound, where the
# logit no longer depends on anything and its gradient says nothing: so the gain is raised.
GAIN = 3.0


@dataclass(frozen=True)
class Lesson:
    """A stage, and what is said in it. gain: what the last norm's gain is multiplied by before it."""

    stage: Stage
    talk: Talk
    gain: float = 1.0


@dataclass(frozen=True)
class DecoderSize:
    """A Gemma decoder in miniature and what teaches it: to read, to be aligned, to describe, to answer openly.

    language: without pictures. answering: what comes after these, in its order.
    """

    width: int
    layers: int
    heads: int
    key_heads: int
    head_size: int
    inner: int
    language: Lesson
    align: Lesson
    describe: Lesson
    openly: Lesson
    answering: tuple[Lesson, ...] = ()

    def config(self, tokenizer: GemmaTokenizer) -> GemmaConfig:
        """Gemma's own configuration class, in these sizes."""
        return GemmaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            head_dim=self.head_size,
            max_position_embeddings=1024,
            initializer_range=self.width**-0.5,  # Gemma's 0.02 is made for a width of thousands: here it stalls
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )


@dataclass(frozen=True)
class BuildPlan:
    """Everything that is decided before the build starts."""

    scenes: int  # drawn for training
    check_scenes: int  # held out, drawn to measure accuracy
    tower: Stage
    decoders: Mapping[str, DecoderSize]

    def told(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        return told(self)


def told(plan: Any) -> dict[str, Any]:
    """All of a plan as JSON takes it; what is said in a lesson by its name, and in what shares."""

    def named(talk: Any) -> Any:
        if isinstance(talk, partial):
            return {talk.func.__name__: talk.keywords}
        return asdict(talk) if isinstance(talk, Mix) else talk.__name__

    found: dict[str, Any] = json.loads(json.dumps(asdict(plan), default=named))
    return found


def _decoder(
    width: int,
    layers: int,
    heads: int,
    key_heads: int,
    steps: tuple[int, int, int, int],
    batch: int,
    rate: float,
    answering: tuple[Lesson, ...] = (),
) -> DecoderSize:
    """Steps and batch of the first stages in their order; dialogues are longer than descriptions, so half as many make
    up a batch.
    """
    language, align, describe, openly = steps
    both = ("connector", "decoder")
    steady = partial(Stage, learning_rate=rate, schedule="constant_with_warmup", weight_decay=0.01, beta2=0.98)
    return DecoderSize(
        width=width,
        layers=layers,
        heads=heads,
        key_heads=key_heads,
        head_size=64,
        inner=3 * width,
        language=Lesson(steady("language", ("decoder",), language, batch), read_and_answer),
        align=Lesson(steady("align", ("connector",), align, batch), caption),
        describe=Lesson(steady("describe", both, describe, batch), caption),
        openly=Lesson(steady("openly", both, openly, batch // 2), look_and_answer_openly),
        answering=answering,
    )


def _large(
    finetune: int, settle: int, sharpen: int, respond: int, ease: int, batch: int, rate: float
) -> tuple[Lesson, ...]:
    """From "finetune" on attention to the picture has a price, before "sharpen" the gain is raised."""
    stage = partial(_answering, batch=batch)
    return (
        Lesson(stage("finetune", finetune, rate=rate, looking=LOOKING_COST), look_and_answer),
        Lesson(stage("settle", settle, rate=rate / 2, looking=SETTLED_COST), look_and_answer),
        Lesson(stage("sharpen", sharpen, rate=rate / 2, looking=SHARP_COST), look_closely_and_answer, GAIN),
        Lesson(stage("respond", respond, rate=rate / 2, fading=FADING_COST), look_and_answer),
        Lesson(stage("ease", ease, rate=rate / 2, fading=EASED_COST), look_and_answer),
    )


def _small(finetune: int, choose: int, respond: int, settle: int, batch: int, rate: float) -> tuple[Lesson, ...]:
    """Letters have a stage of their own, under no price. What they lead heads to rest on, "settle" takes back."""
    stage = partial(_answering, batch=batch)
    return (
        Lesson(stage("finetune", finetune, rate=rate), look_and_answer),
        Lesson(stage("choose", choose, rate=rate), look_and_choose),
        Lesson(stage("respond", respond, rate=0.75 * rate, fading=FADING_COST), look_and_choose, GAIN),
        Lesson(
            stage("settle", settle, rate=0.6 * rate, looking=RESTING_COST, fading=RESTING_FADING_COST), look_and_choose
        ),
    )


def _answering(name: str, steps: int, *, batch: int, rate: float, looking: float = 0.0, fading: float = 0.0) -> Stage:
    return Stage(
        name,
        ("connector", "decoder"),
        steps,
        batch,
        rate,
        weight_decay=0.01,
        beta2=0.98,
        looking_cost=looking,
        fading_cost=fading,
    )


FULL = BuildPlan(
    scenes=20_000,
    check_scenes=2000,
    tower=Stage("tower", ("tower",), steps=2000, batch=64, learning_rate=1e-3, warmup=0.05, weight_decay=0.05),
    decoders={
        # As Gemma 7B has it, each head with its own keys and values; as Gemma 2B has it, all heads with the same ones.
        "demo-large": _decoder(
            128, 4, 3, 3, (100, 100, 500, 1000), 32, 2e-3, _large(5000, 1500, 1000, 500, 400, batch=16, rate=2e-3)
        ),
        "demo-small": _decoder(
            96, 4, 2, 1, (100, 100, 400, 800), 32, 2e-3, _small(600, 1400, 500, 300, batch=16, rate=2e-3)
        ),
    },
)
QUICK = BuildPlan(  # half a minute, to see that everything works; the models stay near chance
    scenes=60,
    check_scenes=5,
    tower=Stage("tower", ("tower",), steps=4, batch=8, learning_rate=1e-3),
    decoders={
        "demo-large": _decoder(48, 2, 2, 2, (2, 2, 2, 2), 8, 1e-3, _large(4, 2, 2, 2, 2, batch=4, rate=1e-3)),
        "demo-small": _decoder(32, 2, 2, 1, (2, 2, 2, 2), 8, 1e-3, _small(4, 2, 2, 2, batch=4, rate=1e-3)),
    },
)


def _in_grid(
    width: int, layers: int, heads: int, key_heads: int, steps: tuple[int, int, int, int], batch: int, rate: float
) -> DecoderSize:
    """As in the pair, ending with open questions; their rate falls to nothing, so that a short run ends settled."""
    decoder = _decoder(width, layers, heads, key_heads, steps, batch, rate)
    settled = replace(decoder.openly.stage, schedule="cosine")
    return replace(decoder, openly=replace(decoder.openly, stage=settled))


GRID = BuildPlan(
    scenes=4000,
    check_scenes=300,
    tower=Stage("tower", ("tower",), steps=600, batch=32, learning_rate=1e-3, warmup=0.05, weight_decay=0.05),
    decoders={
        "small": _in_grid(64, 2, 2, 1, steps=(60, 60, 200, 500), batch=32, rate=2e-3),
        "large": _in_grid(96, 3, 2, 1, steps=(60, 60, 200, 500), batch=32, rate=2e-3),
    },
)
QUICK_GRID = BuildPlan(  # to see that everything works
    scenes=60,
    check_scenes=8,
    tower=Stage("tower", ("tower",), steps=2, batch=8, learning_rate=1e-3),
    decoders={
        "small": _in_grid(32, 2, 2, 1, steps=(2, 2, 2, 2), batch=8, rate=1e-3),
        "large": _in_grid(48, 2, 2, 1, steps=(2, 2, 2, 2), batch=8, rate=1e-3),
    },
)
