"""Question -> the text that the model was trained to see, with nothing in it that the user could have injected."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from relevancy.errors import RelevancyError

END_OF_TURN = "<end_of_turn>"
_PROBE = "quail"  # a word that no chat template says by itself

Wording = Callable[[str], str]


def control_tokens(processor: ProcessorMixin) -> re.Pattern[str]:
    """Every string that this processor reads as something other than text, longest first."""
    tokenizer = processor.tokenizer
    found = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    found |= set(tokenizer.all_special_tokens)
    # LLaVA-Gemma's <image> is an added token that is not "special", and a processor may have placeholders of its own.
    found |= {getattr(processor, name, None) or "" for name in ("image_token", "boi_token", "eoi_token", "video_token")}
    longest_first = sorted((token for token in found if len(token.strip()) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def neutralize(question: str, controls: re.Pattern[str]) -> tuple[str, tuple[str, ...]]:
    """The question with every control token spelled as plain text, and the tokens that were found.

    A space after the first character is what makes it text: `<image>` becomes `< image>`.
    """
    found: dict[str, None] = {}
    while matches := controls.findall(question):
        found.update(dict.fromkeys(matches))
        question = controls.sub(lambda match: f"{match[0][0]} {match[0][1:]}", question)
    return question, tuple(found)


def wording_for(processor: ProcessorMixin, *, gemma: bool) -> Wording:
    """How this processor's model wants a question with its picture to be worded, found out once.

    The processor's own chat template, else the tokenizer's, each with the picture as a part of the message or, where
    the template knows only text (as Gemma's does), as `<image>` and a newline before the question. Without a template
    Gemma's turns for a LLaVA-Gemma (`gemma`), for any other model the picture and the question alone.
    """
    image = getattr(processor, "image_token", None) or "<image>"
    bos = processor.tokenizer.bos_token or ""
    for owner in (processor, processor.tokenizer):
        if not getattr(owner, "chat_template", None):
            continue
        as_parts = partial(_by_template, owner, parts=True, image=image)
        as_text = partial(_by_template, owner, parts=False, image=image)
        if _places_picture(owner):
            return as_parts
        if _says_once(as_text, image):
            return as_text
    if gemma:
        return partial(_by_gemma_turns, image=image, bos=bos)
    return partial(_plainly, image=image)


def one_bos(text: str, tokenizer: PreTrainedTokenizerBase, *, gemma: bool) -> tuple[str, bool]:
    """The text, and whether the tokenizer shall add special tokens, so that the ids start with exactly one `<bos>`.

    A template may write it and a tokenizer may add it; Gemma models fail without any, whatever their files say.
    """
    bos = tokenizer.bos_token
    if not bos:
        return text, True
    while text.startswith(bos + bos):
        text = text.removeprefix(bos)
    if gemma and not text.startswith(bos):
        text = bos + text
    return text, not text.startswith(bos)


def checked(question: str) -> str:
    """The question without surrounding blanks; raises where nothing is asked, or bytes that are no text."""
    if not question.strip():
        raise RelevancyError("the question is empty: ask something about the picture")
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise RelevancyError("the question is not valid text: give it in UTF-8") from error
    return question.strip()


def _by_template(owner: Any, question: str, *, parts: bool, image: str) -> str:
    content: str | list[dict[str, str]] = f"{image}\n{question}"
    if parts:
        content = [{"type": "image"}, {"type": "text", "text": question}]
    return _rendered(owner, [{"role": "user", "content": content}])


def _rendered(owner: Any, turns: Sequence[Mapping[str, Any]]) -> str:
    return owner.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True)


def _by_gemma_turns(question: str, *, image: str, bos: str) -> str:
    return f"{bos}<start_of_turn>user\n{image}\n{question}{END_OF_TURN}\n<start_of_turn>model\n"


def _plainly(question: str, *, image: str) -> str:
    return f"{image}\n{question}\n"


def _places_picture(owner: Any) -> bool:
    """Whether the template understands a message in parts: the picture leaves a trace, the text stands there once."""
    words = {"type": "text", "text": _PROBE}
    try:
        with_picture = _rendered(owner, [{"role": "user", "content": [{"type": "image"}, words]}])
        without = _rendered(owner, [{"role": "user", "content": [words]}])
    except (TemplateError, TypeError):
        return False
    printed_as_list = f"'{_PROBE}'" in with_picture
    return with_picture.count(_PROBE) == 1 and with_picture != without and not printed_as_list


def _says_once(wording: Wording, image: str) -> bool:
    try:
        text = wording(_PROBE)
    except (TemplateError, TypeError):
        return False
    return text.count(_PROBE) == 1 and text.count(image) == 1
