"""Question -> the text that the model was trained to see, with nothing in it that the user could have injected."""

import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from transformers import PaliGemmaProcessor, PreTrainedTokenizerBase, ProcessorMixin

from relevancy.errors import RelevancyError

END_OF_TURN = "<end_of_turn>"
_PROBE = "quail"  # a word that no chat template says by itself
_PLACEHOLDERS = (
    "image_token",
    "boi_token",
    "image_placeholder_token",
)  # what a processor may call its mark of a picture

Wording = Callable[[str], str]


def control_tokens(processor: ProcessorMixin) -> re.Pattern[str]:
    """Every string that this processor reads as something other than text, longest first."""
    tokenizer = processor.tokenizer
    found = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    found |= set(tokenizer.all_special_tokens)
    # LLaVA-Gemma's <image> is an added token that is not "special", and a processor may have placeholders of its own.
    found |= {getattr(processor, name, None) or "" for name in (*_PLACEHOLDERS, "eoi_token", "video_token")}
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
    Gemma's turns for a LLaVA-Gemma (`gemma`), for any other model the picture and the question alone. Raises where
    there is a template that cannot say one picture and one question.
    """
    image = getattr(processor, "image_token", None) or "<image>"
    marks = {image} | {getattr(processor, name, None) or image for name in _PLACEHOLDERS}
    for owner in (processor, processor.tokenizer):
        if template := _template_of(owner):
            return _by_own_template(owner, template, image, marks)
    if isinstance(processor, PaliGemmaProcessor):  # it writes `<bos>` and the newlines itself
        return partial(_bare, image=image)
    if gemma:
        return partial(_by_gemma_turns, image=image, bos=processor.tokenizer.bos_token or "")
    return partial(_plainly, image=image)


def closing(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the special tokens that a tokenizer puts after a text by itself."""
    bare, whole = (tokenizer.encode(_PROBE, add_special_tokens=adds) for adds in (False, True))
    ends = (place + len(bare) for place in range(len(whole)) if whole[place : place + len(bare)] == bare)
    return whole[next(ends, len(whole)) :]


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
    """The question without surrounding blanks; raises where nothing is asked, or it is no text."""
    if not isinstance(question, str):
        raise RelevancyError(
            f"the question must be text, not {type(question).__name__}: give its words alone, without chat messages "
            "around them"
        )
    if not question.strip():
        raise RelevancyError("the question is empty: ask something about the picture")
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise RelevancyError("the question is not valid text: give it in UTF-8") from error
    return question.strip()


def _template_of(owner: Any) -> str | None:
    """The owner's chat template; of several with names, the one named default."""
    templates = getattr(owner, "chat_template", None)
    if not isinstance(templates, Mapping):
        return templates
    if templates and "default" not in templates:
        raise RelevancyError(
            f"the chat templates of {type(owner).__name__} are named {', '.join(templates)}, and none of them default: "
            "set its chat_template to the one to use"
        )
    return templates.get("default")


def _by_own_template(owner: Any, template: str, image: str, marks: Collection[str]) -> Wording:
    """The template's wording with the picture as a part of the message, else as text; raises where neither works."""
    reason = "it does not say the picture and the question once each"
    for parts in (True, False):
        wording = partial(_by_template, owner, template, parts=parts, image=image)
        try:
            said = wording(_PROBE)
            understood = not parts or _takes_parts(owner, template, said)
        except Exception as error:  # a template is a program of others: it may raise whatever it likes
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            continue
        if understood and said.count(_PROBE) == 1:
            times = max(map(said.count, marks))
            if times == 1:
                return wording
            reason = f"it says the picture {times} times"
            if times:
                break
    raise RelevancyError(
        f"the chat template of {type(owner).__name__} cannot word a question with its picture ({reason}): mend it, or "
        "set chat_template to None for the plain wording"
    )


def _takes_parts(owner: Any, template: str, said: str) -> bool:
    """Whether a template that said this understands a message in parts: the picture leaves a trace."""
    without = _rendered(owner, template, [{"type": "text", "text": _PROBE}])
    printed_as_list = f"'{_PROBE}'" in said
    return said != without and not printed_as_list


def _by_template(owner: Any, template: str, question: str, *, parts: bool, image: str) -> str:
    content: str | list[dict[str, str]] = f"{image}\n{question}"
    if parts:
        content = [{"type": "image"}, {"type": "text", "text": question}]
    return _rendered(owner, template, content)


def _rendered(owner: Any, template: str, content: str | list[dict[str, str]]) -> str:
    asked = [{"role": "user", "content": content}]
    return owner.apply_chat_template(asked, chat_template=template, tokenize=False, add_generation_prompt=True)


def _by_gemma_turns(question: str, *, image: str, bos: str) -> str:
    return f"{bos}<start_of_turn>user\n{image}\n{question}{END_OF_TURN}\n<start_of_turn>model\n"


def _plainly(question: str, *, image: str) -> str:
    return f"{image}\n{question}\n"


def _bare(question: str, *, image: str) -> str:
    return f"{image}{question}"
