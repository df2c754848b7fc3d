"""Which token of an answer each kind of target names."""

import numpy as np
import pytest
import tiny
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from relevancy.core.targets import Choice, choose, gives_several, needs_answer, parsed, shown
from relevancy.errors import RelevancyError

TOKENIZER = tiny.gemma_tokenizer()


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def named(target: str | int, text: str) -> list[str]:
    """The tokens, as text, that a target names in an answer."""
    answer = ids(text)
    choices = choose(parsed(target), answer, TOKENIZER)
    assert all(choice.id == answer[choice.position] for choice in choices if choice.contrast_id is None)
    return [shown(TOKENIZER, choice.id) for choice in choices]


def test_first_is_the_first_token_whatever_it_says():
    assert choose("first", ids("(b) No"), TOKENIZER) == [Choice(0, ids("(b) No")[0])]
    assert named("first", "(b) No")[0].startswith("(")


@pytest.mark.parametrize("opening", ["(", '"', "“", "\n", "\n\n", " ", "...", "'", '("'])
def test_first_relevant_skips_what_carries_no_answer(opening):
    answer = [*ids(opening), *ids("No"), *ids(", it stands")]
    (choice,) = choose("first-relevant", answer, TOKENIZER)
    assert choice.position == len(ids(opening))
    assert shown(TOKENIZER, choice.id).strip() == shown(TOKENIZER, ids("No")[0])


def test_first_relevant_of_an_option_is_its_letter():
    answer = [TOKENIZER.convert_tokens_to_ids(token) for token in ("(", "b", ")", "▁")] + ids("No")
    (choice,) = choose("first-relevant", answer, TOKENIZER)
    assert (choice.position, shown(TOKENIZER, choice.id)) == (1, "b")


def test_first_relevant_of_nothing_but_signs_is_the_first_token():
    assert choose("first-relevant", ids("?!"), TOKENIZER)[0].position == 0


def test_all_names_every_token_in_order():
    answer = ids("The dog stands left.")
    assert choose("all", answer, TOKENIZER) == [Choice(index, token) for index, token in enumerate(answer)]


@given(st.integers(-12, 12))
def test_a_position_counts_from_either_end(position):
    answer = ids("red, green or blue")
    if -len(answer) <= position < len(answer):
        assert choose(position, answer, TOKENIZER) == [Choice(position % len(answer), answer[position])]
        assert choose(parsed(str(position)), answer, TOKENIZER) == choose(position, answer, TOKENIZER)
    else:
        with pytest.raises(RelevancyError, match=f"{len(answer)} tokens, 0 to {len(answer) - 1}: there is no"):
            choose(position, answer, TOKENIZER)


def test_a_string_names_the_token_with_which_it_begins():
    answer = ids("The dog stands left.")
    assert choose("dog", answer, TOKENIZER)[0].position == len(ids("The"))  # with its space
    assert choose("stands", answer, TOKENIZER)[0].position == len(ids("The dog"))
    inside = choose("og stands", answer, TOKENIZER)[0]  # begins inside a token: that token
    assert "o" in shown(TOKENIZER, inside.id)


@pytest.mark.parametrize(
    ("span", "expected"),
    [("1:3", (1, 3)), (":2", (0, 2)), ("2:", (2, 5)), (":", (0, 5)), ("-2:", (3, 5)), ("0:5", (0, 5)),
     (" 1:-1 ", (1, 4)), ("4:5", (4, 5)), ("answer", (0, 5))],
)  # fmt: skip
def test_a_span_is_a_slice_of_the_answer(span, expected):
    answer = [90, 91, 92, 93, 94]
    first, stop = expected
    (choice,) = choose(parsed(span), answer, TOKENIZER)
    assert choice == Choice(first, answer[first], span=tuple(answer[first:stop]))
    assert (choice.length, choice.last) == (stop - first, stop - 1)
    each = choose(parsed(f"each:{span.strip()}"), answer, TOKENIZER)
    assert each == [Choice(place, answer[place]) for place in range(first, stop)]
    assert gives_several(f"each:{span}")
    assert not gives_several(span)


@pytest.mark.parametrize("span", ["3:3", "4:2", "0:6", "-6:2", "7:", ":-5"])
def test_a_span_that_the_answer_does_not_hold(span):
    with pytest.raises(RelevancyError, match=r"within 0:5: there is no .*word:"):
        choose(span, [90, 91, 92, 93, 94], TOKENIZER)


def test_a_string_of_several_tokens_is_their_span():
    answer = ids("The dog stands left.")
    (choice,) = choose("dog stands", answer, TOKENIZER)
    assert shown(TOKENIZER, *choice.span) == " dog stands"
    (choice,) = choose("og stan", answer, TOKENIZER)  # begins and ends inside of tokens: whole ones
    assert shown(TOKENIZER, *choice.span).startswith(" dog stan")
    assert choose("each:og stan", answer, TOKENIZER) == choice.singly()
    assert choose("word:dog stands", answer, TOKENIZER) == choose("dog stands", answer, TOKENIZER)


def test_what_reads_as_a_span_has_its_strings_named():
    answer = ids("It is 3:30, no answer")
    (choice,) = choose("word:3:30", answer, TOKENIZER)
    assert shown(TOKENIZER, *choice.span).strip() == "3:30"
    (choice,) = choose("word:answer", answer, TOKENIZER)
    assert shown(TOKENIZER, *(choice.span or (choice.id,))).strip() == "answer"


def test_each_of_what_is_one_token_is_that_token():
    answer = ids("(b) No")
    for target in ("first-relevant", "contrast", "Yes|No", 1, "first"):
        assert choose(f"each:{target}", answer, TOKENIZER) == choose(target, answer, TOKENIZER)


def test_a_span_explains_log_probabilities():
    logits = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    choice = Choice.spanning(3, (7, 9))
    expected = logits.double().log_softmax(-1)[[0, 1], [7, 9]].sum()
    assert float(choice.scalar(logits)) == pytest.approx(float(expected), rel=1e-5)
    assert float(choice.scalar(logits.bfloat16())) == pytest.approx(float(expected), rel=2e-2)
    assert choice.scalar(logits.bfloat16()).dtype == torch.float32
    target = choice.described(logits, TOKENIZER)
    assert target.log_probability == pytest.approx(float(expected), rel=1e-5)
    assert target.probability == pytest.approx(float(expected.exp()), rel=1e-5)
    assert (target.logit, target.id, target.positions) == (float(logits[0, 7]), 7, range(3, 5))


def test_a_string_is_taken_as_spelled_before_case_is_ignored():
    text = "no boats, No"
    assert choose("No", ids(text), TOKENIZER)[0].position == len(ids("no boats,"))
    assert choose("no", ids(text), TOKENIZER)[0].position == 0
    assert choose("NO", ids(text), TOKENIZER)[0].position == 0


def test_a_string_that_the_answer_does_not_hold():
    with pytest.raises(RelevancyError, match='The answer is "red"; it does not contain "blue"'):
        choose("blue", ids("red"), TOKENIZER)
    with pytest.raises(RelevancyError, match="does not contain"):
        choose(".", ids("red"), TOKENIZER)  # a string, no pattern


TEXT = st.text(st.sampled_from("abY N(.)\nİß😀é水"), min_size=1, max_size=12)


@given(TEXT, st.data())
def test_a_string_begins_in_the_token_it_names(text, data):
    """Also among characters of several tokens (byte fallback), and those whose lower case is longer."""
    start = data.draw(st.integers(0, len(text) - 1))
    wanted = text[start : data.draw(st.integers(start + 1, len(text)))]
    answer = ids(text)
    assume(shown(TOKENIZER, *answer) == text)
    (choice,) = choose(wanted, answer, TOKENIZER)
    before = shown(TOKENIZER, *answer[: choice.position])
    assert text.startswith(before)
    assert len(before) <= text.find(wanted)
    held = answer[choice.position : choice.last + 1]
    whole = shown(TOKENIZER, *answer[: choice.last + 1])
    assert text.startswith(whole)
    assert len(whole) >= text.find(wanted) + len(wanted)
    short = shown(TOKENIZER, *answer[: choice.last])
    assert len(held) == 1 or len(short) < text.find(wanted) + len(wanted) or not text.startswith(short)
    through = next(
        end for end in range(choice.position + 1, len(answer) + 1) if text.startswith(shown(TOKENIZER, *answer[:end]))
    )
    assert len(shown(TOKENIZER, *answer[:through])) > text.find(wanted)


def test_a_contrast_stands_where_the_answer_says_one_of_the_two():
    yes, no = ids("Yes")[0], ids("No")[0]
    assert choose("Yes|No", ids("No"), TOKENIZER) == [Choice(0, yes, no)]
    assert choose("Yes|No", ids("red"), TOKENIZER) == [Choice(0, yes, no)]  # neither: the first token
    answer = ids("(b) No")
    (choice,) = choose("Yes|No", answer, TOKENIZER)
    assert (choice.id, choice.contrast_id) == (ids(" Yes")[0], ids(" No")[0])  # spelled as there, with its space
    assert answer[choice.position] == ids(" No")[0]
    spaced = ids(" No")[:1]  # an answer may begin with its space
    assert choose("Yes|No", spaced, TOKENIZER) == [Choice(0, ids(" Yes")[0], spaced[0])]


def test_a_contrast_takes_each_words_first_token():
    """Whatever follows it, bytes included."""
    assert choose("Yx|Nx", ids("red"), TOKENIZER) == [Choice(0, ids("Y")[0], ids("N")[0])]


def test_a_contrast_of_words_whose_space_is_a_token_of_its_own():
    """With a space before them, N and Y begin with the same token, which says neither."""
    one, other = ids("N")[0], ids("Y")[0]
    assert ids(" N")[0] == ids(" Y")[0]
    answer = [*ids("("), ids(" N")[0], one]
    assert choose("Y|N", answer, TOKENIZER) == [Choice(len(answer) - 1, other, one)]


def test_what_was_said_against_the_next_best_is_known_once_the_logits_are():
    answer = [TOKENIZER.convert_tokens_to_ids(token) for token in ("(", "b", ")")]
    (choice,) = choose("contrast", answer, TOKENIZER)
    assert choice == Choice(1, answer[1], against_next=True)
    logits = torch.zeros(len(TOKENIZER))
    logits[answer[1]], logits[7], logits[9] = 3.0, 2.0, 1.0
    assert choice.against(logits) == Choice(1, answer[1], 7)
    logits[9] = 5.0  # a given answer need not be the likeliest
    assert choice.against(logits) == Choice(1, answer[1], 9)
    assert choice.against(logits).scalar(logits) == 3 - 5
    assert Choice(1, 4, 7).against(logits) == Choice(1, 4, 7)
    assert Choice(1, 4).against(logits) == Choice(1, 4)
    assert needs_answer("contrast")


def test_a_contrast_is_logit_minus_logit():
    logits = torch.arange(5.0).square()
    assert Choice(0, 3, 1).scalar(logits) == 9 - 1
    assert Choice(0, 3).scalar(logits) == 9


def test_a_position_against_a_token_of_that_number():
    answer = ids("(a) No")
    other = ids("Yes")[0]
    last = len(answer) - 1
    for target in (f"{last}|#{other}", f" -1|#{other} "):
        assert choose(parsed(target), answer, TOKENIZER) == [Choice(last, answer[-1], contrast_id=other)]
    assert needs_answer(f"0|#{other}")
    for target in (f"{last}|#{answer[-1]}", f"{last}|#{len(TOKENIZER)}"):
        with pytest.raises(RelevancyError, match="There is no contrast with token"):
            choose(parsed(target), answer, TOKENIZER)
    with pytest.raises(RelevancyError, match="there is no 99"):
        choose(parsed(f"99|#{other}"), answer, TOKENIZER)


def test_the_likeliest_others_in_a_tokens_place():
    logits = torch.zeros(len(TOKENIZER))
    likely = [7, 3, 9, 5, 11, 4, 8]
    logits[likely] = torch.tensor([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0])
    shares = logits.softmax(-1)
    for chosen, others in ((7, [3, 9, 5, 11, 4]), (5, [7, 3, 9, 11, 4]), (8, [7, 3, 9, 5, 11])):
        found = Choice(0, chosen).described(logits, TOKENIZER).alternatives
        assert [one.id for one in found] == others
        assert [one.token for one in found] == [shown(TOKENIZER, one) for one in others]
        np.testing.assert_allclose([one.probability for one in found], shares[others].numpy(), rtol=1e-6)
    assert [one.id for one in Choice(0, 1).described(torch.tensor([0.0, 1.0, 2.0]), TOKENIZER).alternatives] == [2, 0]
    assert Choice.spanning(0, [7, 3]).described(logits.expand(2, -1), TOKENIZER).alternatives == ()


def test_places_in_words():
    target = Choice(2, 7).described(torch.zeros(len(TOKENIZER)), TOKENIZER)
    word = shown(TOKENIZER, 7).strip()
    assert target.place == f"token 2 “{word}”"
    assert (
        Choice.spanning(1, [7, 7])
        .described(torch.zeros(2, len(TOKENIZER)), TOKENIZER)
        .place.startswith("tokens 1 to 2")
    )


def test_tokens_are_shown_with_the_spaces_that_they_have():
    words = ["red", ",", "green", "?"]
    backend = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="?"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")
    assert shown(tokenizer, *range(4)) == "red , green ?"
    assert choose("green", range(4), tokenizer) == [Choice(2, 2)]


def test_what_a_target_says_of_itself():
    yes, no = ids("Yes")[0], ids("No")[0]
    logits = torch.zeros(len(TOKENIZER))
    logits[yes], logits[no] = 3.0, 2.0
    target = Choice(1, yes, no).described(logits, TOKENIZER)
    assert (target.id, target.contrast_id, target.position) == (yes, no, 1)
    assert (target.logit, target.contrast_logit) == (3.0, 2.0)
    assert target.probability == pytest.approx(float(logits.softmax(0)[yes]))
    assert (target.token, target.contrast) == (shown(TOKENIZER, yes), shown(TOKENIZER, no))
    alone = Choice(1, yes).described(logits, TOKENIZER)
    assert (alone.contrast, alone.contrast_id, alone.contrast_logit) == (None, None, None)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("Yes|Yes", "begin with the same token"),
        ("Yes|水", 'no token for "水"'),
        ("😀|No", 'no token for "😀"'),
        ("Yes|", 'no token for ""'),
        ("|No", 'no token for ""'),
        ("|", 'no token for ""'),
        ("Yes|No|red", r"more than two words: .*word:Yes\|No\|red"),
    ],
)
def test_contrasts_that_compare_nothing(target, said):
    with pytest.raises(RelevancyError, match=said):
        choose(target, ids("Yes"), TOKENIZER)


@pytest.mark.parametrize("target", ["first", "first-relevant", "contrast", "all", 0, "Yes", "Yes|No"])
def test_an_empty_answer_has_nothing_to_explain(target):
    with pytest.raises(RelevancyError, match="answer is empty"):
        choose(target, [], TOKENIZER)


def test_digits_are_a_position_and_with_word_before_them_the_string():
    answer = ids("There are 2 boats, not 3 or 2")
    text = [shown(TOKENIZER, token) for token in answer]
    assert choose(parsed("2"), answer, TOKENIZER) == choose(2, answer, TOKENIZER) == [Choice(2, answer[2])]
    (choice,) = choose(parsed("word:2"), answer, TOKENIZER)
    assert "2" in text[choice.position]
    assert not any("2" in token for token in text[: choice.position])
    assert named("word:3", "3") == ["3"]
    assert needs_answer(parsed("word:2"))
    with pytest.raises(RelevancyError, match=r"there is no 2 .*word:2"):
        choose(parsed("2"), ids("2"), TOKENIZER)


@pytest.mark.parametrize("word", ["first", "all", "first-relevant", "contrast", "Yes|No", "-1", "word:2", "²"])
def test_a_string_that_reads_as_another_target_can_be_named(word):
    answer = ids(f"(red) {word}, blue")
    (choice,) = choose(parsed(f"word:{word}"), answer, TOKENIZER)
    said = shown(TOKENIZER, *answer[: choice.position])
    assert len(said) <= len("(red) ") <= len(said) + len(shown(TOKENIZER, choice.id))
    assert needs_answer(parsed(f"word:{word}"))


def test_a_whole_number_of_any_kind_is_a_position():
    assert parsed(np.int64(2)) == 2
    assert type(parsed(np.int64(2))) is int


@pytest.mark.parametrize(("given_", "read"), [("3", 3), (" -2 ", -2), (0, 0), ("first", "first"), ("Yes|No", "Yes|No")])
def test_targets_as_given(given_, read):
    assert parsed(given_) == read


@given(st.text(min_size=1).filter(str.strip))
@example("0\x1f")  # stripped from a string, and not by int
def test_every_text_is_a_target(text):
    """A number or itself, never a failure: '²' and '--3' look like numbers and are none."""
    read = parsed(text)
    assert read == text or read == int(text.strip())


@pytest.mark.parametrize("target", ["²", "--3", "3-"])
def test_what_only_looks_like_a_number_is_a_string(target):
    assert parsed(target) == target


@pytest.mark.parametrize("target", ["", "  ", "word:", "word: ", True, np.True_, None, 1.5, b"2", ["first"]])
def test_targets_that_are_none(target):
    with pytest.raises(RelevancyError, match="target"):
        parsed(target)


def test_only_the_first_token_is_explained_without_knowing_the_answer():
    assert not needs_answer("first")
    assert not needs_answer(0)
    assert all(map(needs_answer, ["first-relevant", "all", 1, -1, "Yes", "Yes|No"]))
