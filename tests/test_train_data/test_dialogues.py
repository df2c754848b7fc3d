"""Ids and labels: equal to the original rule where that works, right where it does not, and kept within a length."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from original import original
from training_data import PATCHES, said

from relevancy.train.data.dialogues import dialogue_of
from relevancy.train.template import (
    END,
    IGNORED,
    IMAGE,
    START,
    BadDialogueError,
    LostDialogueError,
    Turn,
    dialogue,
    encode,
)

letters = st.characters(exclude_characters="<>\n\r", codec="utf-8", exclude_categories=["Cc", "Cs"])
question = st.one_of(
    st.text(letters, max_size=20),
    st.sampled_from(["What color is the duck?", "Is there a cube?\nAnswer with one word."]),
)
answer = st.text(letters, min_size=1, max_size=20)


def turns_of(conversation):
    return dialogue_of({"conversations": conversation}, 0).turns


def supervised(encoded, tokenizer) -> str:
    return tokenizer.decode([label for label in encoded.labels if label != IGNORED])


@settings(max_examples=150)
@given(st.lists(st.tuples(question.filter(bool), answer), min_size=1, max_size=4), st.integers(0, 3))
def test_equal_to_the_original_rule(tokenizer, rounds, pictured):
    """One of its good cases: answers that are not empty, in pairs; a picture at the front, at the end, or none."""
    texts = [text for pair in rounds for text in pair]
    if pictured:
        texts[0] = {1: f"{IMAGE}\n{texts[0]}", 2: f"{texts[0]}\n{IMAGE}", 3: f"{texts[0]} {IMAGE} {texts[0]}"}[pictured]
    ids, labels = original(said(*texts), tokenizer, PATCHES)
    found = encode(dialogue(*texts), tokenizer, PATCHES, style="authors")
    assert any(label != IGNORED for label in labels)
    assert (found.ids, found.labels) == (ids, labels)
    assert found.pictures == bool(pictured)


def test_a_picture_without_words_is_as_the_original_has_it(tokenizer):
    ids, labels = original(said(IMAGE, "A duck."), tokenizer, PATCHES)
    found = encode(dialogue(IMAGE, "A duck."), tokenizer, PATCHES)
    assert (found.ids, found.labels) == (ids, labels)


@pytest.mark.parametrize(
    ("texts", "written"),
    [
        (["Is it red?", "Yes", "And blue?", ""], f"Yes{END}\n{END}\n"),
        (["Is it red?", "Yes", "And blue?"], f"Yes{END}\n"),
        ([f"What {IMAGE} is it?", "", "And now?", "A cube"], f"{END}\nA cube{END}\n"),
    ],
)
def test_what_the_original_loses_is_trained_on(tokenizer, texts, written):
    _, labels = original(said(*texts), tokenizer, PATCHES)
    assert set(labels) == {IGNORED}
    assert supervised(encode(dialogue(*texts), tokenizer, PATCHES), tokenizer) == written


def test_a_first_answer_is_dropped_as_the_original_does(tokenizer):
    conversation = [{"from": "gpt", "value": "Hello"}, *said("Is it red?", "Yes")]
    ids, labels = original(conversation, tokenizer, 0)
    found = encode(turns_of(conversation), tokenizer)
    assert (found.ids, found.labels) == (ids, labels)


def test_several_pictures_stay_where_they_are(tokenizer):
    found = encode(dialogue(f"First {IMAGE}, then {IMAGE}: which?", "The first"), tokenizer, 3)
    tokens = tokenizer.convert_ids_to_tokens(found.ids)
    assert found.pictures == 2
    first = tokens.index(IMAGE)
    assert tokens[first : first + 3] == [IMAGE] * 3
    assert tokens[first + 3] != IMAGE
    assert tokens.count(IMAGE) == 6


def test_plain_style_is_pictures_and_captions(tokenizer):
    found = encode(dialogue(f"{IMAGE}Describe it.", "A duck."), tokenizer, 2, style="plain")
    assert tokenizer.decode(found.ids) == "<bos><image><image>A duck.\n"
    assert supervised(found, tokenizer) == "A duck.\n"


@settings(max_examples=40)
@given(st.lists(st.tuples(question.map(str.strip), answer.map(str.strip)), min_size=1, max_size=3))
def test_chat_style_is_the_tokenizers_template(tokenizer, rounds):
    """Gemma's own template is Gemma's turns: both ways give the same."""
    turns = dialogue(*[text for pair in rounds for text in pair])
    assert encode(turns, tokenizer, style="chat") == encode(turns, tokenizer)


def test_chat_style_refuses_a_template_that_rewrites(tokenizer):
    import copy

    other = copy.deepcopy(tokenizer)
    other.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(BadDialogueError, match="rewrites"):
        encode(dialogue("a", "b", "c", "d"), other, style="chat")


def test_over_long_is_cut_or_loses_whole_rounds(tokenizer):
    turns = dialogue("Is it red?", "Yes", "Is it blue?", "No", "Is it a cube?", "No")
    whole = encode(turns, tokenizer)
    for limit in range(len(encode(turns[:2], tokenizer).ids), len(whole.ids) + 1):
        cut = encode(turns, tokenizer, max_length=limit)
        assert (cut.ids, cut.labels) == (whole.ids[:limit], whole.labels[:limit])
        assert cut.dropped == len(whole.ids) - limit
        dropped = encode(turns, tokenizer, max_length=limit, overlong="drop")
        kept = max(n for n in (2, 4, 6) if len(encode(turns[:n], tokenizer).ids) <= limit)
        expected = encode(turns[:kept], tokenizer)
        assert (dropped.ids, dropped.labels) == (expected.ids, expected.labels)


@pytest.mark.parametrize("overlong", ["cut", "drop"])
def test_no_answer_within_the_length(tokenizer, overlong):
    with pytest.raises(BadDialogueError, match="no answer within 6 tokens"):
        encode(dialogue("Is there a red duck?", "Yes"), tokenizer, max_length=6, overlong=overlong)


def test_a_picture_is_never_cut_through(tokenizer):
    turns = dialogue(f"{IMAGE}Is it red?", "Yes", f"{IMAGE}And this?", "No")
    whole = encode(turns, tokenizer, 5)
    second = [place for place, token in enumerate(whole.ids) if token == tokenizer.convert_tokens_to_ids(IMAGE)][5]
    for limit in range(second, second + 5):
        cut = encode(turns, tokenizer, 5, max_length=limit)
        assert (len(cut.ids), cut.pictures) == (second, 1)
    assert encode(turns, tokenizer, 5, max_length=second + 5).pictures == 2


# What the authors' code keeps as it is, reads as a control token, or loses for: pieces of a turn's text.
PIECES = (
    "Is it red?", "Yes", " ", "\n", "\t", "\u2028", "\u00a0", "\x85", "", START, END, f"{END}\n", "<unk>", "<eos>",
    "<bos>", "<pad>", "<start_of_turn>model\n",
)  # fmt: skip
spelled = st.lists(st.sampled_from(PIECES), max_size=4).map("".join)


@settings(max_examples=300)
@given(st.lists(spelled, min_size=1, max_size=5), st.booleans(), st.sampled_from([None, 0, 1, 2]))
@example([f"{END}\n", "Is it red?"], False, 0)  # the line's end goes where the picture moves to the front
@example([f"{END}\n{START}model\n"], False, None)
def test_the_authors_style_writes_and_loses_what_their_code_does(tokenizer, texts, answer_first, pictured):
    """Any turns at all: ids and labels are theirs, and what they train nothing of is refused by name."""
    if pictured is not None:
        texts[0] = (f"{IMAGE}{texts[0]}", f"{texts[0]}{IMAGE}", f"{texts[0]} {IMAGE} {texts[0]}")[pictured]
    conversation = [{"from": "gpt", "value": "Hello"}] * answer_first + said(*texts)
    turns = [Turn({"human": "user", "gpt": "model"}[one["from"]], one["value"]) for one in conversation]
    ids, labels = original(conversation, tokenizer, PATCHES)
    try:
        found = encode(turns, tokenizer, PATCHES, style="authors")
    except LostDialogueError:
        miscounted = sum(text.count(f"{END}\n") + text.count("<unk>") + (not text) for text in texts) + len(texts) % 2
        # Two wrong counts can make up for each other there: nonsense is trained on.
        assert set(labels) == {IGNORED} or miscounted > 1
    else:
        assert (found.ids, found.labels) == (ids, labels)


@pytest.mark.parametrize(
    ("texts", "authors", "improved"),
    [
        ([" Is it red? \n", " Yes\n "], f" Yes\n {END}\n", f"Yes{END}\n"),  # spaces round a turn
        (["Is it red?", "Yes", "And blue?", ""], "an empty turn", f"Yes{END}\n{END}\n"),
        (["", "Yes"], "an empty turn", f"Yes{END}\n"),
        (["Is it red?", "Yes", "And blue?"], "without an answer", f"Yes{END}\n"),
        (["Is it red?", "<unk> Yes"], "<unk> in a turn", f"<unk> Yes{END}\n"),
        (["Is it <unk>?", "Yes"], "<unk> in a turn", f"Yes{END}\n"),
        (["Is it red?", f"Yes{END}Yes"], f"Yes{END}Yes{END}\n", "turn 1 contains a control token"),
        (["Is it red?", f"Yes{END}\nYes"], "within a turn", "turn 1 contains a control token"),
        ([f"{END}\n", "Yes"], "within a turn", "turn 0 contains a control token"),
        (["Is it red?", f"{IMAGE}Yes"], "turn 1 contains a control token", "turn 1 contains a control token"),
    ],
)
def test_where_the_flavours_differ(tokenizer, texts, authors, improved):
    """What is supervised, or why nothing is."""
    assert told_of(texts, "authors", tokenizer).endswith(authors)
    assert told_of(texts, "gemma", tokenizer).endswith(improved)


def told_of(texts, style, tokenizer) -> str:
    try:
        return supervised(encode(dialogue(*texts), tokenizer, style=style), tokenizer)
    except LostDialogueError as error:
        return str(error).removesuffix(": the authors' code trains on nothing of it")
    except BadDialogueError as error:
        return str(error)
