"""The official rules, one answer at a time, worked by hand."""

import pytest

from relevancy.errors import RelevancyError
from relevancy.evaluate import gqa, mme, mmvp, pope, scienceqa, textvqa, vqav2
from relevancy.evaluate.files import Prediction
from relevancy.evaluate.vqa_answers import accuracy, agreement, normalized, tokenized


@pytest.mark.parametrize(
    ("answer", "no"),
    [
        ("No", True),
        ("no", True),
        ("Yes", False),
        ("NO", False),  # the script knows three spellings alone
        ("No, there is not.", True),
        ("Yes, no dog is missing.", True),  # any of the words will do
        ("There is not a dog.", True),
        ("There isn't a dog.", False),
        ("Yes. No dog though.", False),  # cut at the first full stop
        ("No.", True),
        ("None", False),
        ("nothing", False),
        ("", False),
        ("no\n", False),  # split at spaces, not at line ends
        ("Not sure", False),
        ("(no)", False),
    ],
)
def test_pope_reads_an_answer(answer, no):
    assert pope.said_no(answer) is no


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("yes", "yes"),
        ("Yes", "yes"),
        ("YES", "yes"),
        ("No", "no"),
        ("no", "no"),
        ("Yes, it is.", "yes"),
        ("No, it is not.", "no"),
        ("Not at all", "no"),  # no stands in the first four characters
        ("None", "no"),
        (" yes", "yes"),
        ("  yes", "other"),  # only "  ye" is looked at
        ("It is yes", "other"),
        ("I know", "other"),
        ("Know", "no"),
        ("", "other"),
        ("yes\n", "yes"),
        ("'no'", "no"),
    ],
)
def test_mme_reads_an_answer(answer, said):
    assert mme.parsed(answer) == said


@pytest.mark.parametrize(
    ("id_", "prompt", "question"),
    [
        ("color/0001.jpg", "Is it red?\nAnswer the question using a single word or phrase.", "Is it red?"),
        ("color/0001.txt", "Is it red? Please answer yes or no.", "Is it red?"),
        ("color/0001.jpg", "Is it red?  Please answer yes or no.", "Is it red?"),
        ("color/images/0001.png", "Is it red?", "Is it red?"),
    ],
)
def test_mme_knows_a_question_in_every_wording(id_, prompt, question):
    assert mme.asked(id_, prompt) == ("color", "0001", question)


@pytest.mark.parametrize(
    ("answer", "choices", "letter"),
    [
        ("A", 2, "A"),
        ("B", 2, "B"),
        ("C", 2, None),  # a letter without a choice
        ("E", 5, "E"),
        ("F", 5, None),
        ("a", 2, None),
        ("AB", 2, None),
        ("", 2, None),
        ("A.", 2, None),  # a full stop and a space are wanted
        ("A. ", 2, "A"),
        ("B. the sun", 3, "B"),
        ("C. the sun", 2, None),
        ("B) the sun", 3, None),
        (" A", 2, None),
        ("The answer is B.", 2, "B"),
        ("The answer is B", 2, None),  # some character must follow
        ("So, The answer is A. BECAUSE: it shines.", 2, "A"),
        ("The answer is A. The answer is B.", 2, None),  # two of them are none
        ("The answer is D.", 3, None),
        ("the answer is A.", 2, None),
        ("FAILED", 2, None),
    ],
)
def test_scienceqa_reads_an_answer(answer, choices, letter):
    assert scienceqa.chosen(answer, choices) == letter


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("Yes", "yes"),
        ("The dog", "dog"),
        ("a", ""),
        ("an apple a day", "apple day"),
        ("two", "2"),
        ("none", "0"),
        ("zero", "0"),
        ("Ten", "10"),
        ("eleven", "eleven"),
        ("twenty-one", "twenty 1"),  # a mark between words is a space
        ("dont", "don't"),
        ("don't", "don't"),
        ("couldntve", "couldntve"),  # one apostrophe may be missing, not both
        ("couldn'tve", "couldn't've"),
        ("couldnt've", "couldn't've"),
        ("Im", "im"),  # the table has a capital here, which nothing can match
        ("somebody'd", "somebodyd"),
        ("yall", "y'all"),
        ("1,000", "1000"),
        ("1,000 red/blue", "1000 redblue"),  # a number with a comma takes every mark away without a space
        ("red,blue", "red blue"),
        ("red, blue", "red blue"),
        ("red/blue", "red blue"),
        ("red / blue", "red blue"),
        ("yes.", "yes"),
        ("1.5", "1.5"),
        ("U.S.A.", "usa"),
        ("no?", "no"),
        ("what?!", "what"),
        ("half-full - yes", "halffull yes"),  # one mark at a space, and all of its kind are glued
        ("$5", "$5"),
        ("5:30", "5:30"),  # a colon is no mark here
        ("(left)", "left"),
        ("  two   dogs ", "2 dogs"),
    ],
)
def test_vqa_spells_an_answer(text, spelled):
    assert normalized(text) == spelled


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("Yes, it is", "yes it is"),
        ("1,000", "1000"),
        ("red,blue", "redblue"),  # without the splitter it is red blue
        ("man's hat", "man 's hat"),
        ("it's", "it 's"),
        ("really?", "really"),
        ("The\ttwo\ndogs", "2 dogs"),
    ],
)
def test_llavas_splitter_comes_first(text, spelled):
    assert tokenized(text) == spelled


@pytest.mark.parametrize(("count", "value"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqas_accuracy_leaves_each_person_out(count, value):
    # 3 of 10: without one of the three two are left (2/3), without another all three (1): (3 * 2/3 + 7) / 10.
    assert agreement("x", ["x"] * count + ["y"] * (10 - count)) == pytest.approx(value)


def test_people_who_agree_are_compared_letter_by_letter():
    assert accuracy("The dog", ["dog"] * 10) == 0
    assert accuracy("dog\n", ["dog"] * 10) == 1
    assert accuracy("The dog", ["dog"] * 9 + ["cat"]) == 1


def test_what_a_model_said_goes_through_the_converter_and_a_submission_does_not():
    assert gqa.submitted(Prediction("1", "Yes.")) == "yes"
    assert gqa.submitted(Prediction("1", "Yes.", final=True)) == "Yes."
    assert vqav2.submitted(Prediction("1", "red,blue")) == "redblue"
    assert vqav2.submitted(Prediction("1", "red,blue", final=True)) == "red,blue"


@pytest.mark.parametrize(
    "prompt",
    [
        "What Brand?\nAnswer the question using a single word or phrase.",
        "What Brand?\nReference OCR token: A, B\nAnswer the question using a single word or phrase.",
        "Reference OCR token: A, B\nWhat Brand?\nAnswer the question using a single word or phrase.",
        "OCR tokens: A, B. Question: What Brand? Short answer:",
    ],
)
def test_textvqa_finds_the_question_in_llavas_prompts(prompt):
    assert textvqa.question_in(prompt) == "what brand?"


def test_a_prompt_of_another_form_is_refused():
    with pytest.raises(RelevancyError, match="none of LLaVA's"):
        textvqa.question_in("What brand?")


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("(a)", "a"),
        ("(B) Closed", "b"),
        ("a", "a"),
        ("b.", "b"),
        ("a) Open", "a"),
        ("Open", "a"),
        ("The door is closed.", "b"),
        ("It is open, not closed.", None),
        ("a door", None),  # an article is no letter
        ("It must be (b), I think", "b"),
        ("(a) or (b)", "a"),
        ("reopened", None),
        ("(c)", None),
        ("", None),
    ],
)
def test_mmvps_stand_in_takes_a_letter_or_one_options_words(answer, letter):
    assert mmvp.chosen(answer, "(a) Open (b) Closed") == letter
