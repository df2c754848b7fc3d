"""Sizes and stages of the embedded pair: what `build` does, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import GemmaConfig, GemmaTokenizer

from relevancy.train.stages import Stage


@dataclass(frozen=True)
class Decoder:
    """A Gemma decoder in miniature and the stages that teach it: to read, to be aligned, to look and answer."""

    width: int
    layers: int
    heads: int
    head_size: int
    inner: int
    language: Stage
    align: Stage
    openly: Stage
    finetune: Stage

    def config(self, tokenizer: GemmaTokenizer) -> GemmaConfig:
        """One key and value head, as Gemma 2B has it."""
        return GemmaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=1,
            head_dim=self.head_size,
            max_position_embeddings=1024,
            initializer_range=self.width**-0.5,  # Gemma's 0.02 is made for a width of thousands: here it stalls
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before the build starts."""

    scenes: int  # drawn for training
    check_scenes: int  # held out, drawn to measure accuracy
    tower: Stage
    decoders: Mapping[str, Decoder]


def _decoder(width: int, layers: int, heads: int, steps: tuple[int, int, int, int], batch: int, rate: float) -> Decoder:
    language, align, openly, finetune = steps
    both = ("connector", "decoder")
    return Decoder(
        width=width,
        layers=layers,
        heads=heads,
        head_size=32,
        inner=3 * width,
        language=Stage("language", ("decoder",), language, batch, rate, weight_decay=0.01, beta2=0.98),
        align=Stage("align", ("connector",), align, batch, rate, beta2=0.98),
        openly=Stage(
            "openly", both, openly, batch, rate, schedule="constant_with_warmup", weight_decay=0.01, beta2=0.98
        ),
        finetune=Stage("finetune", both, finetune, batch, rate, weight_decay=0.01, beta2=0.98),
    )


FULL = Plan(
    scenes=20_000,
    check_scenes=500,
    tower=Stage("tower", ("tower",), steps=1600, batch=64, learning_rate=1e-3, warmup=0.05, weight_decay=0.05),
    decoders={
        "demo-large": _decoder(192, 4, 6, steps=(200, 60, 500, 1450), batch=32, rate=1.5e-3),
        "demo-small": _decoder(96, 3, 4, steps=(200, 60, 400, 500), batch=32, rate=2e-3),
    },
)
QUICK = Plan(  # a few minutes, to see that everything works; the models stay near chance
    scenes=250,
    check_scenes=5,
    tower=Stage("tower", ("tower",), steps=20, batch=16, learning_rate=1e-3),
    decoders={
        "demo-large": _decoder(48, 2, 2, steps=(4, 4, 4, 8), batch=4, rate=1e-3),
        "demo-small": _decoder(32, 2, 2, steps=(4, 4, 4, 8), batch=4, rate=1e-3),
    },
)
