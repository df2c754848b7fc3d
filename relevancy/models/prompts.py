"""Question -> the text that the model was trained to see, with nothing in it that the user could have injected."""

import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from transformers import AddedToken, FuyuProcessor, PaliGemmaProcessor, PreTrainedTokenizerBase

from relevancy.data.fields import IMAGE
from relevancy.errors import RelevancyError, shortened
from relevancy.models.checkpoints import first_line
from relevancy.models.conversation import ChatTurn, Conversation, Moving, to_messages

START_OF_TURN, END_OF_TURN = "<start_of_turn>", "<end_of_turn>"
_PROBE = "quail"  # a word that no chat template says by itself
_PLACEHOLDERS = (
    "image_token",
    "boi_token",
    "image_placeholder_token",
)  # what a processor may call its mark of a picture

Wording = Callable[[Conversation], str]


def tokenizer_of(processor: Any) -> PreTrainedTokenizerBase:
    """A processor's tokenizer; a tokenizer is its own."""
    tokenizer: PreTrainedTokenizerBase = getattr(processor, "tokenizer", processor)
    return tokenizer


def with_turns(tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase:
    """A decoder's tokenizer with the control tokens of Gemma's turns and `<image>` where it lacks them.

    Raises RelevancyError for one that no dialogue can be written with; name: for messages.
    """
    missing = [token for token in (IMAGE, START_OF_TURN, END_OF_TURN) if token not in tokenizer.get_vocab()]
    if missing:  # a decoder that is no Gemma learns Gemma's turns
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
    if tokenizer.bos_token is None or not tokenizer.is_fast:
        raise RelevancyError(f"{name}: its tokenizer has no <bos>, or no fast version that tells offsets")
    if tokenizer.eos_token is None:
        raise RelevancyError(f"{name}: its tokenizer has no <eos>, so nothing ends an answer or fills a batch: set one")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def control_tokens(processor: Any) -> re.Pattern[str]:
    """Every string that this processor reads as something other than text, longest first."""
    tokenizer = tokenizer_of(processor)
    found = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    found |= set(tokenizer.all_special_tokens)
    # LLaVA-Gemma's <image> is an added token that is not "special", and a processor may have placeholders of its own.
    found |= {str(getattr(processor, name, None) or "") for name in (*_PLACEHOLDERS, "eoi_token", "video_token")}
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


def wording_for(processor: Any, *, gemma: bool) -> Wording:
    """How this processor's model wants a conversation with its pictures to be worded, found out once.

    The processor's own chat template, else the tokenizer's, each with a picture as a part of the message or, where the
    template knows only text (as Gemma's does), as `<image>` and a newline in its place. Without a template Gemma's
    turns for a LLaVA-Gemma (`gemma`), for any other model the pictures and the question alone, and for a tokenizer the
    text as it is. Raises where there is a template that cannot say one question, with its picture.
    """
    image = str(getattr(processor, "image_token", None) or "<image>")  # some have an object that holds the string
    marks = {image} | {str(getattr(processor, name, None) or image) for name in _PLACEHOLDERS}
    tokenizer = tokenizer_of(processor)
    for owner in (processor, tokenizer):
        if template := _template_of(owner):
            return _by_own_template(owner, template, image, marks, pictured=tokenizer is not processor)
    if isinstance(processor, PaliGemmaProcessor) or tokenizer is processor:  # the former adds `<bos>` and newlines
        return partial(_in_one_turn, form="{pictures}{text}", image=image)
    if hasattr(processor, "num_query_tokens") or isinstance(processor, FuyuProcessor):  # pictures come before the text
        return partial(_in_one_turn, form="{text}", image=image)
    if gemma:
        return partial(_by_gemma_turns, image=f"{image}\n", bos=tokenizer.bos_token or "")
    return partial(_in_one_turn, form="{pictures}{text}\n", image=f"{image}\n")


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


def _by_own_template(owner: Any, template: str, image: str, marks: Collection[str], *, pictured: bool) -> Wording:
    """The template's wording with a picture as a part of the message, else as text; raises where neither works."""
    reason = "it does not say the picture and the question once each"
    asked = (ChatTurn("user", (None, _PROBE) if pictured else (_PROBE,)),)
    for parts in (True, False) if pictured else (False,):
        wording = partial(_by_template, owner, template, parts=parts, image=image)
        try:
            said = wording(asked)
            understood = not parts or _takes_parts(owner, template, said)
        except Exception as error:  # a template is a program of others: it may raise whatever it likes
            reason = first_line(error)
            continue
        if understood and said.count(_PROBE) == 1:
            times = max(map(said.count, marks))
            if times == pictured:
                return partial(_checked_wording, wording, owner=type(owner).__name__, marks=marks)
            reason = f"it says the picture {times} times"
            if times:
                break
    raise RelevancyError(
        f"the chat template of {type(owner).__name__} cannot word a question with its picture ({reason}): mend it, or "
        "set chat_template to None for the plain wording"
    )


def _takes_parts(owner: Any, template: str, said: str) -> bool:
    """Whether a template that said this understands a message in parts: the picture leaves a trace."""
    without = _by_template(owner, template, (ChatTurn("user", (_PROBE,)),), parts=True, image="")
    printed_as_list = f"'{_PROBE}'" in said
    return said != without and not printed_as_list


def _checked_wording(wording: Wording, conversation: Conversation, *, owner: str, marks: Collection[str]) -> str:
    """A template's wording in which all texts and pictures are there; raises RelevancyError where one lacks."""
    try:
        said = wording(conversation)
    except Exception as error:
        raise RelevancyError(
            f"the chat template of {owner} does not take this conversation ({first_line(error)}): leave out what it "
            "does not know, such as a system message"
        ) from error
    place, pictures = 0, sum(turn.pictures for turn in conversation)
    for text in (part.strip() for turn in conversation for part in turn.texts):
        found = said.find(text, place)
        if found < 0:
            raise RelevancyError(
                f"the chat template of {owner} leaves out what was said, or changes its order: {shortened(text)!r}"
            )
        place = found + len(text)
    if (times := max(map(said.count, marks))) != pictures:
        raise RelevancyError(f"the chat template of {owner} says {times} pictures where there are {pictures}")
    return said


def _by_template(owner: Any, template: str, conversation: Conversation, *, parts: bool, image: str) -> str:
    messages = (
        to_messages(conversation)
        if parts
        else [{"role": turn.role, "content": _with_marks(turn, f"{image}\n")} for turn in conversation]
    )
    return owner.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True)


def _with_marks(turn: ChatTurn, image: str) -> str:
    """A turn as text, with this in each picture's place, and nothing in a video's."""
    return "".join(image if part is None else part for part in turn.parts if not isinstance(part, Moving))


def _by_gemma_turns(conversation: Conversation, *, image: str, bos: str) -> str:
    names = {"user": "user", "assistant": "model"}
    unknown = [turn.role for turn in conversation if turn.role not in names]
    if unknown:
        raise RelevancyError(f"Gemma's turns have no {unknown[0]} message: put its words before the first question")
    said = [f"<start_of_turn>{names[turn.role]}\n{_with_marks(turn, image)}{END_OF_TURN}\n" for turn in conversation]
    return f"{bos}{''.join(said)}<start_of_turn>model\n"


def _in_one_turn(conversation: Conversation, *, form: str, image: str) -> str:
    """Pictures, and then the text; raises RelevancyError for more turns than one."""
    if len(conversation) > 1:
        raise RelevancyError("this model has no chat template, so it takes one question and no further messages")
    (turn,) = conversation
    return form.format(pictures=image * turn.pictures, text=turn.text)
