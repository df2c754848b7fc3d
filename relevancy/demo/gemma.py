"""`demo-gemma`: the pair's tower before Google's Gemma 3 270M, which learns to see by a connector and adapters."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import gelu
from transformers import LlavaForConditionalGeneration, PreTrainedModel, PreTrainedTokenizerBase

from relevancy.atomic_io import whole, write_whole
from relevancy.demo.build import autocast_pays, claim, fast, silent, teach
from relevancy.demo.card import NOTICE, gemma_card
from relevancy.demo.dialogues import Mix, caption, look_and_answer_variously
from relevancy.demo.evaluation import accuracy
from relevancy.demo.language import build_processor
from relevancy.demo.layout import COLORS, DISTRACTORS, GROUNDS, KINDS, SUPPORTS
from relevancy.demo.plan import Lesson, told
from relevancy.demo.pool import Pool, draw_pool
from relevancy.demo.tower import PATCH, SIDE, SIZE, features_of
from relevancy.demo.wordings import never_heard
from relevancy.models import bases
from relevancy.models.bases import Base
from relevancy.models.model import load
from relevancy.train.composition import compose
from relevancy.train.lora import adapt, require_peft
from relevancy.train.losses import CHUNK
from relevancy.train.stages import ADAPTER, Stage, parameters_of, part_of
from relevancy.train.trainer import Progress

logger = logging.getLogger(__name__)

NAME = "demo-gemma"
TOWER = "demo-large"
LONGEST = 320  # tokens of a dialogue
STANDS = {"water": "floating", "land": "standing", "rock": "standing", "sky": "flying"}
NEAR, LOUD = 0.5, 0.7  # of the words for stand and side beside kind and color; of all of them beside a word's length
SPREAD = 2.0  # of what the connector's first layer gives its activation at the start
SAVE_EVERY = 25  # steps; on two cores a step takes most of a minute
RIDGE = 1e-3  # of the variance of each random feature


MANY_WAYS = Mix(captions=0.06, twice=0.3, lettered=0.0, reworded=0.4, sentences=0.15)
MORE_LETTERS = Mix(captions=0.03, twice=0.45, lettered=0.5, reworded=0.35, sentences=0.12)
MOST_LETTERS = Mix(captions=0.02, twice=0.35, lettered=0.75, reworded=0.35, sentences=0.12)
TAUGHT = (  # with connector and adapters: rate, what is asked, and whether the rate falls to nothing
    ("finetune", 5e-4, MANY_WAYS, False),
    ("letters", 5e-4, MOST_LETTERS, False),
    ("settle", 4e-4, MORE_LETTERS, True),
)


@dataclass(frozen=True)
class GemmaPlan:
    """Everything that is decided before the training starts.

    check_scenes: held out, of which `control_scenes` are asked about in other words and beside another picture, too.
    pictures: from which the start is found. rank: of the adapters. lessons: the stages, and what is said in each.
    """

    scenes: int
    check_scenes: int
    control_scenes: int
    pictures: int
    rank: int
    lessons: Sequence[Lesson]


def _lessons(first: int, *steps: int, batch: int) -> tuple[Lesson, ...]:
    """Steps of each stage: of that with the connector alone, and of those in `TAUGHT`."""
    steady = Stage(
        "align", ("connector",), first, batch, 8e-4, warmup=0.5, schedule="constant_with_warmup", beta2=0.98,
        save_every=SAVE_EVERY, loss_chunk=CHUNK,
    )  # fmt: skip
    both = replace(steady, trains=("connector", "decoder"), warmup=0.05)
    lessons = [Lesson(steady, caption)]
    for number, (name, rate, mix, falls) in zip(steps, TAUGHT, strict=True):
        stage = replace(both, name=name, steps=number, learning_rate=rate)
        stage = replace(stage, schedule="cosine") if falls else stage
        lessons.append(Lesson(stage, partial(look_and_answer_variously, mix=mix)))
    return tuple(lessons)


FULL_GEMMA = GemmaPlan(20_000, 2000, 500, pictures=1500, rank=32, lessons=_lessons(30, 150, 420, 360, batch=64))
QUICK_GEMMA = GemmaPlan(20, 2, 2, pictures=20, rank=2, lessons=_lessons(2, 2, 2, 2, batch=2))


def build_gemma(out: Path, *, seed: int = 0, progress: Progress | None = None, quick: bool = False) -> Path:
    """Train `demo-gemma` on the base that is named or installed; returns the folder, `out/demo-gemma`.

    Stopped and called again with the same `out`, it goes on where it was. `quick` runs every step in miniature.
    Raises RelevancyError where there is no base, or no peft, or where `out` holds stages of another plan or seed.
    """
    require_peft()
    plan, report = (QUICK_GEMMA if quick else FULL_GEMMA), progress or silent
    decoder, tokenizer = bases.opened(NAME)
    base = Base.of(decoder, bases.name())
    stages = Path(out) / "stages"
    claim(stages / f"{NAME}.json", told(plan) | {"seed": seed})
    first = 1 + seed * plan.scenes
    pool = draw_pool(range(first, first + plan.scenes), SIZE, SIDE, progress=partial(report, "scenes"))
    tower = load(TOWER, device="cpu", dtype="float32").model.model.vision_tower
    features = features_of(tower, pool.pixels, partial(report, "features"))
    model = _with_eyes(decoder, tower, tokenizer, seed)
    start(model, tokenizer, pool, features[: plan.pictures, 1:])
    adapt(model, plan.rank, plan.rank, seed)
    widen(model)
    if autocast_pays():
        for part in (model.model.language_model, model.lm_head):
            _halve(part)
    for lesson in plan.lessons:
        teach(model, NAME, fast(lesson), features, tokenizer, pool, stages, seed, report, LONGEST)
    folder = Path(out) / NAME
    ship(folder, model, trained_of(model), base, tokenizer)
    dialogues = sum(lesson.stage.steps * lesson.stage.batch for lesson in plan.lessons)
    describe_gemma(folder, plan.check_scenes, plan.control_scenes, dialogues, report)
    return folder


def _with_eyes(
    decoder: PreTrainedModel, tower: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int
) -> LlavaForConditionalGeneration:
    """The tower and the decoder, which gets a row for `<image>`, as one LLaVA with a fresh connector."""
    decoder.resize_token_embeddings(max(len(tokenizer), decoder.config.vocab_size), mean_resizing=False)
    model = compose(tower, decoder.config, tokenizer, decoder=decoder, seed=seed)
    config: Any = model.config
    config.dtype = config.text_config.dtype = config.vision_config.dtype = torch.float32
    return model


def _halve(part: nn.Module) -> None:
    """What does not train in bfloat16, adapters as they are."""
    for name, parameter in part.named_parameters():
        if ADAPTER not in name:
            parameter.data = parameter.data.bfloat16()


@torch.no_grad()
def widen(model: nn.Module) -> None:
    """Draw the adapters' first matrices so that what they give is as large as what they are given."""
    for name, parameter in model.named_parameters():
        if f"{ADAPTER}A" in name:
            parameter.normal_(std=parameter.shape[1] ** -0.5)


@torch.no_grad()
def start(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, pool: Pool, features: Tensor
) -> float:
    """Let each patch say the words for what it shows, before the first step. Returns the share that stays unexplained.

    The first layer is drawn wide, so that it gives random features; the second is their least-squares fit to the sum of
    the words' embeddings: kind, color, stand and side where there is an object, else the ground. features: of the
    pool's first pictures, (pictures, patches, width).
    """
    connector = model.model.multi_modal_projector
    flat = features.float().flatten(0, 1)
    first = connector.linear_1
    middle = flat.mean(0)
    size = SPREAD / ((flat - middle).std() * first.weight.shape[1] ** 0.5 * first.weight.std())
    first.weight.mul_(size)
    first.bias.copy_(-first.weight @ middle)
    given = gelu(first(flat))
    wanted = _words(model, tokenizer, pool, len(features))
    known = torch.cat([given, torch.ones(len(given), 1)], 1).double()
    penalty = RIDGE * len(known) * torch.cat([given.var(0), torch.zeros(1)]).double()
    found = torch.linalg.solve(known.T @ known + penalty.diag(), known.T @ wanted.double()).float()
    connector.linear_2.weight.copy_(found[:-1].T)
    connector.linear_2.bias.copy_(found[-1])
    missed = (given @ found[:-1] + found[-1] - wanted).square().sum()
    share = float(missed / (wanted - wanted.mean(0)).square().sum())
    logger.info("start: %.1f %% of what the patches' words say stays unexplained", 100 * share)
    return share


def _words(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, pool: Pool, count: int) -> Tensor:
    """What each patch of the pool's first pictures is to say, (pictures * patches, width)."""
    embed = model.get_input_embeddings()

    def word(text: str) -> Tensor:
        return embed(torch.tensor(tokenizer.encode(f" {text}", add_special_tokens=False))).float().mean(0)

    def words(*texts: str) -> Tensor:
        return torch.stack([word(text) for text in texts])

    shown = {name: torch.from_numpy(values[:count]).long().flatten() for name, values in pool.labels.items()}
    nothing = torch.zeros_like(word(KINDS[0]))[None]
    kind = torch.cat([nothing, words(*KINDS, *DISTRACTORS)])
    color = torch.cat([nothing, words(*COLORS)])
    stand = torch.cat([nothing, words(*(STANDS[name] for name in SUPPORTS))])
    left = torch.arange(SIDE**2).repeat(count) % SIDE < SIDE // 2
    side = torch.where(left[:, None], word("left"), word("right"))
    of_object = kind[shown["kind"]] + color[shown["color"]] + NEAR * (stand[shown["support"]] + side)
    return torch.where((shown["kind"] > 0)[:, None], LOUD * of_object, words(*GROUNDS)[shown["ground"]])


def trained_of(model: nn.Module) -> dict[str, Tensor]:
    """What of a model with adapters is not the base's, by name: tower, connector, adapters."""
    return {
        name.replace(".default", ""): parameter.detach()
        for name, parameter in model.named_parameters()
        if part_of(name) in ("tower", "connector") or ADAPTER in name
    }


def ship(
    folder: Path,
    model: LlavaForConditionalGeneration,
    trained: Mapping[str, Tensor],
    base: Base,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Write a model's folder without its decoder: of `model` only the configs, of the tokenizer nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole(folder) as part:
        part.mkdir()
        save_file({name: weight.half().contiguous() for name, weight in trained.items()}, part / bases.TRAINED)
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(part)
        model.generation_config.save_pretrained(part)
        with tempfile.TemporaryDirectory() as scratch:
            build_processor(tokenizer, SIZE, PATCH).save_pretrained(scratch)
            for name in ("processor_config.json", "chat_template.jinja"):
                copyfile(Path(scratch) / name, part / name)
        base.write(part)
        (part / "NOTICE").write_text(NOTICE)


def describe_gemma(folder: Path, scenes: int, controls: int, dialogues: int, report: Progress = silent) -> None:
    """Measure a model on held-out scenes, on `controls` of them in words it was never asked in, and write its card."""
    model = load(folder)
    own = accuracy(model, scenes=scenes, progress=partial(report, f"{NAME} accuracy"))
    blind = accuracy(model, scenes=controls, picture="other", progress=partial(report, f"{NAME} blind control"))
    unheard = accuracy(model, scenes=controls, wording=never_heard, progress=partial(report, f"{NAME} other words"))
    stored = load_file(folder / bases.TRAINED)
    adapters = {name: weight for name, weight in stored.items() if ADAPTER in name}
    sizes = parameters_of(model.model) | {"adapters": sum(weight.numel() for weight in adapters.values())}
    rank = min(min(weight.shape) for weight in adapters.values())
    base = Base.named_in(folder, NAME).name
    text = gemma_card(base, sizes, own, blind, unheard, rank=rank, dialogues=dialogues)
    write_whole(folder / "README.md", text)
