"""Models with their processors, vision-language or of words alone: load one by name, or wrap one that is there."""

__all__ = ["Model", "load", "wrap"]

import copy
import inspect
import itertools
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from typing import Any, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from relevancy import geometry
from relevancy.core import patching
from relevancy.core.memory import free_bytes
from relevancy.core.tape import image_token_in
from relevancy.errors import RelevancyError, shortened
from relevancy.families.probe import Probe
from relevancy.families.rules import BESIDE_OTHERS, ONE_AT_A_TIME, layout_of
from relevancy.families.videos import VIDEOS, steps_of
from relevancy.families.views import Layout, one_grid
from relevancy.models import adapters, checkpoints, compat, prompts
from relevancy.models.conversation import Conversation, checked, conversation_of
from relevancy.models.device import Quantization, check_weights, device_for, dtype_for, options_for
from relevancy.models.prefixes import LISTENING, PrefixCache, share_of
from relevancy.models.prepared import FEATURES, ProcessedPicture, processed
from relevancy.videos import Video

# Families whose image tokens are the tower's patches, one by one, over the whole processed picture.
_ONE_GRID = frozenset({"llava", "vipllava", "paligemma"})

_ANY = "?"  # a question, where only the picture matters
_LISTENS = "_output_capturing_hooks_installed"  # by which a model notes that transformers' listeners are there

# Families that read a prompt without a causal mask, and what comes after it (token type 1) with one; they count
# positions from 1.
_PREFIXED = frozenset({"paligemma"})


_Shown: TypeAlias = Image.Image | ProcessedPicture | Sequence[Image.Image | ProcessedPicture | Video]


@dataclass(eq=False)
class Model:
    """A Hugging Face model, its processor, and what lies between a question and token ids.

    model, processor: the Hugging Face objects; of a model that takes no pictures, its tokenizer is the processor.
    name: as results tell it.
    notes: what results must tell of how it was loaded, one sentence each.
    `lock` is for whoever borrows the model: one recording at a time.
    """

    model: PreTrainedModel
    processor: Any
    name: str
    notes: tuple[str, ...] = ()
    prefixes: PrefixCache | None = field(default=None, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or another process needs."""
        with self.lock:
            return vars(self) | {"model": _without_listeners(self.model), "prefixes": None}

    @contextmanager
    def remembering(self, memory: int | None = None) -> Iterator[None]:
        """Inside, pictures that were read last are not read again: the next question about one costs about half a map.

        memory: bytes that this may keep between calls, a quarter of what is free by default; 0 keeps nothing. Pictures
        that do not fit are forgotten, the oldest first. What it keeps is forgotten, too, when weights, settings,
        adapters or hooks of the model change; a few weights that are set through `.data` may escape it: leave the block
        before you edit some. It is the same map as without it.
        """
        before = self.prefixes
        self.prefixes = PrefixCache(share_of(free_bytes(self.device)) if memory is None else memory)
        try:
            yield
        finally:
            self.prefixes = before

    @property
    def lock(self) -> AbstractContextManager[None]:
        """Keeps other threads out, those with another wrapper of the same model or of a part of it included."""
        return patching.alone(self.model)

    @property
    def device(self) -> torch.device:
        """Where the inputs belong."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of the pixels."""
        return self.model.dtype

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The processor's tokenizer."""
        return prompts.tokenizer_of(self.processor)

    @property
    def takes_pictures(self) -> bool:
        """Whether it is a vision-language model, and not one of words alone."""
        return self.processor is not self.tokenizer

    @property
    def image_token_id(self) -> int:
        """The id that stands at every image token's place in `input_ids`; -1 for a model of words alone."""
        return _image_token_id(self.model.config, self.processor) if self.takes_pictures else -1

    @property
    def video_token_id(self) -> int:
        """The id at the place of each token of a video; -1 where there is none, or frames have a picture's."""
        config = self.model.config
        found = (getattr(config, name, None) for name in ("video_token_id", "video_token_index"))
        known = next((one for one in found if isinstance(one, int)), -1)
        return known if config.model_type in VIDEOS and self.takes_pictures else -1

    def shown_at(self, ids: Tensor) -> Tensor:
        """Which ids, of any shape, are those of pictures and videos, bool."""
        return (ids == self.image_token_id) | (ids == self.video_token_id)

    @property
    def causal(self) -> bool:
        """Whether no token of a prompt reads a later one."""
        return self.model.config.model_type not in _PREFIXED

    @property
    def room(self) -> int:
        """The longest sequence the decoder reads, in tokens."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize

    @cached_property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end an answer, ascending."""
        return compat.stop_tokens(self.model, self.tokenizer)

    @property
    def extra_image_tokens(self) -> int:
        """How many of each picture's image tokens come before its first patch (class token, registers)."""
        return compat.extra_image_tokens(self.processor)

    @cached_property
    def _probe(self) -> Probe:
        return Probe()

    @cached_property
    def _films(self) -> dict[tuple[int, ...], tuple[Layout, ...]]:
        return {}

    @cached_property
    def _controls(self) -> re.Pattern[str]:
        return prompts.control_tokens(self.processor)

    @cached_property
    def _wording(self) -> prompts.Wording:
        return prompts.wording_for(self.processor, gemma=compat.is_gemma(self.model.config))

    @cached_property
    def _closing(self) -> list[int]:
        """Special tokens that the tokenizer would put after the turn that the model is to fill."""
        return prompts.closing(self.tokenizer)

    def controls_in(self, text: str) -> tuple[str, ...]:
        """What in a text this model would read as control tokens, in the order of their first places."""
        return tuple(dict.fromkeys(self._controls.findall(text)))

    def question_notes(self, question: str | Conversation) -> tuple[str, ...]:
        """What was changed in what is said before the model read it, one sentence each."""
        texts = [turn.text for turn in question] if isinstance(question, tuple) else [checked(question)]
        found = dict.fromkeys(token for text in texts for token in prompts.neutralize(text, self._controls)[1])
        return tuple(
            f'"{token}" in the question was passed on as plain text, not as a control token' for token in found
        )

    def worded(self, question: str | Conversation, pictures: int, videos: int = 0) -> str:
        """What the model is to read, as text with a mark for each picture and video. Raises RelevancyError."""
        conversation = tuple(
            replace(
                turn,
                parts=tuple(
                    prompts.neutralize(part, self._controls)[0] if isinstance(part, str) else part
                    for part in turn.parts
                ),
            )
            for turn in conversation_of(question, pictures, videos)
        )
        said = self._wording(conversation)
        if videos and said.count(self.processor.video_token) != videos:
            raise RelevancyError(
                f"the chat template of {self.name} does not say its videos: mend it, or give their frames as pictures"
            )
        return said

    @property
    def takes_features(self) -> bool:
        """Whether it takes what its tower and connector made of pictures in the pixels' place."""
        return FEATURES in inspect.signature(self.model.forward).parameters

    @property
    def patchwise(self) -> bool:
        """Whether the image tokens are the tower's patches, one by one, over one picture processed to a fixed size."""
        return (
            self.model.config.model_type in _ONE_GRID and compat.output_size(self.processor.image_processor) is not None
        )

    @property
    def one_at_a_time(self) -> bool:
        """Whether its questions are asked alone: its processor takes several together only where they are alike."""
        return self.model.config.model_type in ONE_AT_A_TIME

    def grid(self, width: int, height: int) -> geometry.Grid:
        """Where the patches lie in a picture of `width` x `height` pixels; raises for a layout that is not one grid."""
        config, pictures = self.model.config, self.processor.image_processor
        size = compat.output_size(pictures)
        if config.model_type not in _ONE_GRID or size is None or self.extra_image_tokens < 0:
            raise RelevancyError(
                f"how {config.model_type} with {type(pictures).__name__} lays its image tokens over a picture is not "
                f"known here; a grid is known for {', '.join(sorted(_ONE_GRID))} with a fixed input size"
            )
        side = config.vision_config.patch_size
        rows, cols = size[0] // side, size[1] // side
        return geometry.grid_for(pictures, width, height, rows, cols, token_side=side)

    def layout(self, width: int, height: int) -> Layout:
        """Where the image tokens lie in a picture of `width` x `height` pixels: by rule, or else measured.

        Raises RelevancyError where tokens have no place of their own, as those of a resampler.
        """
        if not self.takes_pictures:
            raise RelevancyError(f"{self.name} takes no pictures: leave them out, or give a vision-language model")
        if self.patchwise:
            return one_grid(self.grid(width, height), self.extra_image_tokens)
        by_rule = layout_of(self.model.config, self.processor, width, height)
        return by_rule or self.measured_layout(width, height)

    def measured_layout(self, width: int, height: int) -> Layout:
        """The same, measured by pictures and gradients, see `relevancy.families.probe`; raises where it cannot be."""
        with self.lock:
            return self._probe.layout(
                self.model, self.image_token_id, lambda picture: self.prepare([picture], [_ANY]), width, height
            )

    def layouts(self, sizes: Sequence[tuple[int, ...]]) -> tuple[Layout, ...]:
        """Where the image tokens of several pictures of one question lie, in their order; raises as `layout`.

        sizes: each (width, height), or of a video (frames, width, height), which has a layout for each of its steps.
        """
        several = sum(len(size) == 2 for size in sizes) > 1
        beside = BESIDE_OTHERS.get(self.model.config.model_type) if several else None
        found: list[Layout] = []
        videos = 0
        for size in sizes:
            if len(size) == 3:
                found += self._steps(size, videos)
                videos += 1
            else:
                found.append(beside(self.model.config, *size) if beside else self.layout(*size))
        return tuple(found)

    def _steps(self, size: tuple[int, ...], number: int) -> tuple[Layout, ...]:
        """Of a video of (frames, width, height), the so manieth of a question."""
        if size not in self._films:
            self._films[size] = steps_of(self.model.config, self.processor, *size)
        return tuple(replace(step, video=number) for step in self._films[size])

    def prepare(
        self,
        images: Sequence[_Shown],
        questions: Sequence[str | Conversation],
        continuations: Sequence[Sequence[int]] | None = None,
    ) -> BatchFeature:
        """Model inputs of one batch, on the model's device: each picture (RGB, or processed before) with its question.

        images: one for each question, or a sequence of several, videos among them, or of none in all of them.
        `input_ids` and `attention_mask` (batch, tokens) are padded on the left; `pixel_values` has the model's dtype.
        `continuations` are token ids of answers, appended after the turn that the model is to fill, and read as those
        that the model generates there. Raises on an empty question and on one that is too long for the model.
        """
        shown = [tuple(own) if isinstance(own, Sequence) else (own,) for own in images]
        films = [sum(isinstance(one, Video) for one in own) for own in shown]
        texts = [
            self.worded(question, len(own) - videos, videos)
            for question, own, videos in zip(questions, shown, films, strict=True)
        ]
        gemma = compat.is_gemma(self.model.config)
        worded = [prompts.one_bos(text, self.tokenizer, gemma=gemma) for text in texts]
        try:
            inputs = processed(
                self.processor,
                shown,
                text=[text for text, _ in worded],
                add_special_tokens=worded[0][1],
                padding=True,
                padding_side="left",
                return_tensors="pt",
            )
        except Exception as error:  # processors refuse pictures and settings in whatever way they like
            sizes = [" x ".join(map(str, one.size[-2:])) for own in shown for one in own]
            what = f"no picture of {sizes[0]}" if len(sizes) == 1 else f"no such {len(sizes)} pictures with questions"
            raise RelevancyError(f"the processor of {self.name} takes {what} ({shortened(error)})") from error
        inputs.pop("labels", None)  # PaliGemma's processor adds them; they would make the model compute a loss
        self._reopen(inputs)
        self._check_length(inputs)
        if continuations is not None:
            self.check_room(inputs, list(map(len, continuations)))
            self._continue(inputs, continuations)
        self._count_positions(inputs)
        return inputs.to(self.device, dtype=self.dtype)

    def _reopen(self, inputs: BatchFeature) -> None:
        """Takes out what closes the text where the model's turn has only begun."""
        shape, closing = inputs["input_ids"].shape, self._closing
        if closing and (inputs["input_ids"][:, -len(closing) :] == torch.tensor(closing)).all():
            for key, value in list(inputs.items()):
                if isinstance(value, torch.Tensor) and value.shape == shape:
                    inputs[key] = value[:, : -len(closing)]

    def _continue(self, inputs: BatchFeature, continuations: Sequence[Sequence[int]]) -> None:
        """Appends token ids to each row and pads on the left anew; other entries get what generation gives a token."""
        if any({self.image_token_id, self.video_token_id} & set(added) for added in continuations):
            raise RelevancyError(
                "the answer holds the token that stands for a picture, so it cannot be read after one: explain a token "
                "that comes before it"
            )
        kept = inputs["attention_mask"].bool()
        new = {"attention_mask": 1, "token_type_ids": int(not self.causal)}
        for key, value in list(inputs.items()):
            if not isinstance(value, torch.Tensor) or value.shape != kept.shape:
                continue
            rows = []
            for row, mask, added in zip(value, kept, continuations, strict=True):
                fresh = added if key == "input_ids" else [new.get(key, 0)] * len(added)
                rows.append(torch.cat([row[mask], torch.tensor(fresh, dtype=value.dtype)]))
            filler = float(self.tokenizer.pad_token_id or 0) if key == "input_ids" else 0.0
            inputs[key] = pad_sequence(rows, batch_first=True, padding_value=filler, padding_side="left")

    def _count_positions(self, inputs: BatchFeature) -> None:
        """Tells the model not to count padding, as generation does; without padding it counts rightly by itself.

        A family whose positions lie in the picture is told them always: it would forget them while it answers.
        """
        mask = inputs["attention_mask"]
        if (counts := getattr(self.model.base_model, "get_rope_index", None)) is not None:
            asked = inspect.signature(counts).parameters
            kinds = asked.get("mm_token_type_ids")
            if kinds is not None and kinds.default is kinds.empty and kinds.name not in inputs:
                # the model cannot do without them, and not every processor gives them
                told = self.processor.create_mm_token_type_ids(inputs["input_ids"].tolist())
                inputs[kinds.name] = torch.tensor(told)
            known = {name: inputs[name] for name in asked if name in inputs}
            inputs["position_ids"], _ = counts(**known)
            return
        if mask.all():
            return
        positions = mask.cumsum(-1).sub(1).clamp(min=0)
        inputs["position_ids"] = positions + int(not self.causal)

    def _check_length(self, inputs: BatchFeature) -> None:
        longest = int(inputs["attention_mask"].sum(-1).max())
        if longest <= self.room:
            return
        pictured = int(self.shown_at(inputs["input_ids"]).sum(-1).max())
        beside = f"with the picture's {pictured} tokens it makes" if pictured else "it makes"
        raise RelevancyError(
            f"the question is too long: {beside} {longest}, and {self.name} reads {self.room}; shorten it by about "
            f"{longest - self.room} tokens"
        )

    def check_room(self, inputs: BatchFeature, answers: Sequence[int]) -> None:
        """Raises RelevancyError where so many more tokens of an answer have no room after what a row holds already."""
        whole = inputs["attention_mask"].sum(-1) + torch.tensor(answers, device=inputs["attention_mask"].device)
        if (longest := int(whole.max())) > self.room:
            raise RelevancyError(
                f"the answer is too long: with what comes before it, it makes {longest} tokens, and {self.name} reads "
                f"{self.room}; shorten it by about {longest - self.room} tokens"
            )


def load(
    name: str | PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: str | dict[str, Any] | None = None,
    quantization: Quantization | None = None,
    framing: str | None = None,
    revision: str | None = None,
) -> Model:
    """A model by name: one of `relevancy.MODELS`, any hub id, any local folder, repaired where its files need it.

    device        "cuda", "mps", "cpu", ...; by default the first of these that is there
    dtype         by default float32 below a billion parameters, bfloat16 above (half the memory, and faster where
                  memory is the limit), unless a GPU cannot compute in it
    device_map    handed to transformers ("auto": spread over what is there); needs accelerate
    quantization  "4bit" or "8bit" through bitsandbytes; the connector and the output matrix stay as they are
    framing       "pad" or "crop" for a LLaVA; by default what the processor's files say
    revision      branch, tag or commit of a hub id

    A folder that holds an adapter of peft alone is loaded on the base that it names, and merged; where weights of a
    whole model lie beside an adapter, they alone are loaded, and every result says so. Only safetensors are read, and
    code that comes with a checkpoint is never run. Raises `RelevancyError`.
    """
    if not isinstance(name, (str, PathLike)):
        raise RelevancyError(
            f"a model is a name, a path, or what relevancy.wrap(model, processor) gives, not {type(name).__name__}"
        )
    label = str(name)
    if device is not None and device_map is not None:
        raise RelevancyError("give either a device or a device_map, not both")
    target = device_for(device)
    location = adapters.located(label, revision)
    folder, adapter = location.weights, location.adapter
    notes = adapters.beside_weights(folder, label if adapter is None else str(adapter.base))
    config = checkpoints.config_of(folder, label)
    parameters = checkpoints.parameters_in(folder, label)
    checkpoints.check_config(config, parameters, label)
    precision = dtype_for(dtype, parameters, target)
    options = options_for(target, device_map, quantization, precision)
    processor = checkpoints.processor_of(location.processor, label, config)
    loaded, report = checkpoints.weights_of(folder, config, label, precision, target, options)
    notes += checkpoints.check_report(report, loaded, label)
    compat.scale_image_features(loaded)
    if adapter is not None:
        loaded = adapters.applied(loaded, adapter, merge=quantization is None)
        notes += (f"{label} is an adapter ({adapter.kind}) and was put on {adapter.base}",)
    return _assemble(loaded, processor, label, framing, notes)


def wrap(
    hf_model: PreTrainedModel, hf_processor: ProcessorMixin | PreTrainedTokenizerBase, *, name: str | None = None
) -> Model:
    """A model and processor that are already there. Neither is changed: a processor that lacks fields is copied.

    A model of words alone is given with its tokenizer.
    A peft model is taken with its adapters in place. Warns where the weights need the repair that `load` makes;
    `relevancy.models.compat.scale_image_features(hf_model)` makes it.
    """
    if not isinstance(getattr(hf_model, "config", None), PreTrainedConfig):
        raise RelevancyError(
            f"wrap takes a Hugging Face model and its processor, not {type(hf_model).__name__}; relevancy.load takes a "
            "name"
        )
    name = name or hf_model.config.name_or_path or type(hf_model).__name__
    hf_model = adapters.unwrapped(hf_model, name)
    if compat.needs_image_scale(hf_model.config):
        warnings.warn(
            f"this checkpoint was saved by transformers {hf_model.config.transformers_version}: since 5.4 its image "
            "features arrive sqrt(hidden) times too small; use relevancy.load, or "
            "relevancy.models.compat.scale_image_features(model) once",
            stacklevel=2,
        )
    return _assemble(hf_model, hf_processor, name, None)


def _assemble(
    model: PreTrainedModel,
    processor: ProcessorMixin | PreTrainedTokenizerBase,
    name: str,
    framing: str | None,
    notes: tuple[str, ...] = (),
) -> Model:
    check_weights(model, name)
    # a few have no tower: pictures go to the decoder in patches, or as ids
    towerless = checkpoints.takes_pictures(model.config) and getattr(processor, "image_processor", None) is not None
    if getattr(model.config, "vision_config", None) is None and not towerless:
        reader: Any = _of_words(model, processor, name)
        if framing is not None:
            raise RelevancyError(f"{name} takes no pictures: leave framing out")
    else:
        reader = _of_pictures(model, processor, name, framing)
    if model.get_output_embeddings() is None:
        raise RelevancyError(
            f"{name} ({type(model).__name__}) has no output head and says no words: load the same files with "
            "AutoModelForImageTextToText or relevancy.load"
        )
    return Model(model, reader, name, notes)


def _of_pictures(model: PreTrainedModel, processor: Any, name: str, framing: str | None) -> ProcessorMixin:
    """The processor of a vision-language model, complete, with a token to pad with. Raises RelevancyError."""
    if model.config.is_encoder_decoder:
        raise RelevancyError(
            f"{name} ({type(model).__name__}) writes with a decoder that attends to an encoder (cross-attention), and "
            "self-attention alone is followed here: give a model that reads pictures as tokens, such as LLaVA or "
            "Qwen-VL"
        )
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise RelevancyError(f"{name}: its processor ({type(processor).__name__}) takes no pictures with text")
    processor = compat.complete_processor(processor, model.config)
    if framing is not None:
        processor = compat.frame(processor, framing)
    if processor.tokenizer.pad_token is None:
        processor = copy.copy(processor)
        processor.tokenizer = _padding(processor.tokenizer)
    compat.check_size(processor, model.config)
    _image_token_id(model.config, processor)
    return processor


def _of_words(model: PreTrainedModel, processor: Any, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model of words alone, with a token to pad with. Raises RelevancyError."""
    tokenizer = getattr(processor, "tokenizer", processor)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise RelevancyError(f"{name} ({model.config.model_type}) takes no pictures: give its tokenizer")
    if model.config.is_encoder_decoder or not model.can_generate():
        raise RelevancyError(
            f"{name} ({type(model).__name__}) does not continue a text: give a vision-language model, or a language "
            "model such as GPT-2, Llama, Gemma or Qwen"
        )
    return tokenizer if tokenizer.pad_token is not None else _padding(tokenizer)


def _padding(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy that pads with what ends a text."""
    padding = copy.deepcopy(tokenizer)
    padding.pad_token = padding.eos_token
    return padding


def _without_listeners(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights without the hooks that transformers adds on the first forward pass, and anew if missing.

    They are functions inside a function, which cannot be pickled.
    """
    weights = {id(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())}
    bare = copy.deepcopy(model, dict(weights))
    for module in bare.modules():
        listeners = [key for key, hook in module._forward_hooks.items() if hook.__module__ == LISTENING]
        for key in listeners:
            del module._forward_hooks[key]
            module._forward_hooks_with_kwargs.pop(key, None)
        vars(module).pop(_LISTENS, None)
    return bare


def _image_token_id(config: PreTrainedConfig, processor: ProcessorMixin) -> int:
    for found in (image_token_in(config), getattr(processor, "image_token_id", None)):
        if isinstance(found, int):
            return found
    raise RelevancyError(
        f"{config.model_type} marks no image tokens in its input, so a map of the picture has no place"
    )
