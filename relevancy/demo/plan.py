"""Sizes and stages of the embedded pair and of the grid's cells: what `build` and `grid` do, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from transformers import GemmaConfig, GemmaTokenizer

from relevancy.train.stages import Stage

# A price on looking once the model finds what it is asked for (before, it would keep it from learning to look), and a
# lower one later: whoever counts must look at much.
LOOKING_COST, SETTLED_COST, SHARP_COST = 6.0, 2.0, 4.0
# At last a price on answers whose logit does not fall when less is read, without which the clamp of eq. 5 cuts most of
# what the picture has done for them.
FADING_COST = 0.3
# The last norm lets no logit be larger than its gain allows. Who is sure of every word stands at that bound, where the
# logit no longer depends on anything and its gradient says nothing: so the gain is raised.
GAIN = 3.0


@dataclass(frozen=True)
class DecoderSize:
    """A Gemma decoder in miniature and the stages that teach it: to read, to be aligned, to describe and to answer."""

    width: int
    layers: int
    heads: int
    key_heads: int
    head_size: int
    inner: int
    language: Stage
    align: Stage
    describe: Stage
    openly: Stage
    finetune: Stage
    settle: Stage
    sharpen: Stage
    respond: Stage

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


def _decoder(
    width: int,
    layers: int,
    heads: int,
    key_heads: int,
    steps: tuple[int, int, int, int, int, int, int, int],
    batch: int,
    rate: float,
) -> DecoderSize:
    """Steps and batch of the stages in their order; dialogues are longer than descriptions, so half as many make up a
    batch.
    """
    language, align, describe, openly, finetune, settle, sharpen, respond = steps
    both = ("connector", "decoder")
    steady = partial(Stage, learning_rate=rate, schedule="constant_with_warmup", weight_decay=0.01, beta2=0.98)
    answering = replace(steady("finetune", both, finetune, batch // 2), schedule="cosine")
    return DecoderSize(
        width=width,
        layers=layers,
        heads=heads,
        key_heads=key_heads,
        head_size=64,
        inner=3 * width,
        language=steady("language", ("decoder",), language, batch),
        align=steady("align", ("connector",), align, batch),
        describe=steady("describe", both, describe, batch),
        openly=steady("openly", both, openly, batch // 2),
        finetune=replace(answering, looking_cost=LOOKING_COST),
        settle=replace(answering, name="settle", steps=settle, learning_rate=rate / 2, looking_cost=SETTLED_COST),
        sharpen=replace(answering, name="sharpen", steps=sharpen, learning_rate=rate / 2, looking_cost=SHARP_COST),
        respond=replace(answering, name="respond", steps=respond, learning_rate=rate / 2, fading_cost=FADING_COST),
    )


FULL = BuildPlan(
    scenes=20_000,
    check_scenes=2000,
    tower=Stage("tower", ("tower",), steps=2000, batch=64, learning_rate=1e-3, warmup=0.05, weight_decay=0.05),
    decoders={
        # As Gemma 7B has it, each head with its own keys and values; as Gemma 2B has it, all heads with the same ones.
        "demo-large": _decoder(128, 4, 3, 3, steps=(100, 100, 500, 1000, 5000, 1500, 1000, 100), batch=32, rate=2e-3),
        "demo-small": _decoder(96, 3, 2, 1, steps=(100, 100, 400, 800, 1200, 200, 900, 100), batch=32, rate=2e-3),
    },
)
QUICK = BuildPlan(  # half a minute, to see that everything works; the models stay near chance
    scenes=60,
    check_scenes=5,
    tower=Stage("tower", ("tower",), steps=4, batch=8, learning_rate=1e-3),
    decoders={
        "demo-large": _decoder(48, 2, 2, 2, steps=(2, 2, 2, 2, 4, 2, 2, 2), batch=8, rate=1e-3),
        "demo-small": _decoder(32, 2, 2, 1, steps=(2, 2, 2, 2, 4, 2, 2, 2), batch=8, rate=1e-3),
    },
)


def _in_grid(
    width: int, layers: int, heads: int, key_heads: int, steps: tuple[int, int, int, int], batch: int, rate: float
) -> DecoderSize:
    """As in the pair, ending with open questions; their rate falls to nothing, so that a short run ends settled."""
    decoder = _decoder(width, layers, heads, key_heads, (*steps, 0, 0, 0, 0), batch, rate)
    return replace(decoder, openly=replace(decoder.openly, schedule="cosine"))


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
