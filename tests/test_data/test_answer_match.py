"""Right and wrong answers: a table of what was said, what is true, and what a person would say of the two."""

import json
from decimal import Decimal

import numpy as np
import pytest

from relevancy.data.answer_match import answers_of, correct

TEN = [{"answer": one, "answer_confidence": "yes", "answer_id": n} for n, one in enumerate(["no"] * 9 + ["nope"])]
RIGHT, WRONG, UNKNOWN = True, False, None

JUDGED = [
    # numbers as numbers
    ("1", 1.0, RIGHT), ("1", 1, RIGHT), ("1.0", "1", RIGHT), ("1", "1.0", RIGHT), ("1.50", 1.5, RIGHT),
    ("1.5", "1", WRONG), ("1", "1.5", WRONG), ("1.5", 1, WRONG), ("-5", "5", WRONG), ("5", "-5", WRONG),
    ("-5", -5, RIGHT), ("\u22125", -5, RIGHT), ("\u20135", "-5", RIGHT), ("minus 5", -5, RIGHT),
    ("negative five", -5, RIGHT), ("+5", 5, RIGHT), ("\uff15", 5, RIGHT), ("\u0665", 5, RIGHT),
    ("1,000", 1000, RIGHT), ("1000", "1,000", RIGHT), ("1,000.5", 1000.5, RIGHT), ("1,5", 1, WRONG),
    ("1,5", "1.5", WRONG), (".5", 0.5, RIGHT), ("0.1", float(np.float32(0.1)), RIGHT), ("1e3", 1000, RIGHT),
    ("10", "1", WRONG), ("1", "10", WRONG), ("007", 7, WRONG), ("007", "007", RIGHT), ("2.", 2, RIGHT),
    ("10000000", 10000001, WRONG), ("1" * 40, "1" * 39 + "2", WRONG), ("0", -0.0, RIGHT), ("5:30", "5", WRONG),
    ("1/2", "1", WRONG), ("1\u00bd", 1, WRONG), ("\u00bd", "1/2", RIGHT), ("10\u00b2", "102", WRONG),
    ("2-3", "2", WRONG), ("5 - 10", 5, WRONG), ("2x", 2, WRONG), ("1999", 1999, RIGHT),
    ("12345678.5", "12345679.5", WRONG),
    # in words
    ("Two.", 2, RIGHT), ("2", "two", RIGHT), ("Twenty-one", 21, RIGHT), ("twenty one", "twenty-one", RIGHT),
    ("twenty-one", "twenty", WRONG), ("twenty one", 20, WRONG), ("three", 2, WRONG), ("Two ducks", 2, RIGHT),
    ("Two, one on the left and one on the right", 2, RIGHT), ("2 (two)", 2, RIGHT), ("2. Two ducks", 2, RIGHT),
    # that go on
    ("2 or 3", 2, WRONG), ("2 million", 2, WRONG), ("one and a half", 1, WRONG), ("1 1/2", 1, WRONG),
    ("1, 2", 1, WRONG), ("1, 2, 3", "1,2,3", RIGHT), ("3 to 4", 3, WRONG), ("10 000", 10, WRONG),
    ("Yes or no", "yes", WRONG), ("red or blue", "red", WRONG), ("3 apples", "3", RIGHT),
    ("one and a half litres", 1, WRONG), ("Two and no more", 2, RIGHT),
    # symbols
    ("50%", "50", WRONG), ("50", "50%", WRONG), ("50 %", "50%", RIGHT), ("50 percent", "50%", RIGHT),
    ("50.0%", "50%", RIGHT), ("$5", "5", WRONG), ("$5.00", "$5", RIGHT), ("$1,000", "$1000", RIGHT),
    ("5\u00b0", "5", WRONG), ("C++", "C", WRONG), ("C#", "C", WRONG), ("C++", "c++", RIGHT), ("A+", "A", WRONG),
    ("A-", "A", WRONG), ("~5", "5", WRONG), (">5", 5, WRONG), ("#5", "5", WRONG), ("5cm", "5", WRONG),
    ("5 \u00b0C", "5\u00b0C", RIGHT), ("5cm", "5 cm", RIGHT), ("5 cm long", "5cm", RIGHT), ("10am", "10 am", RIGHT),
    ("5.0 kg", "5kg", RIGHT), ("5cm", "5 km", WRONG), ("15 cm", "5cm", WRONG), ("5", "5cm", WRONG), ("B2", "2", WRONG),
    ("don't", "don", WRONG), ("yes/no", "yes", WRONG),
    # booleans
    ("No", False, RIGHT), ("Yes, it is.", True, RIGHT), ("No", True, WRONG), ("Yes", np.bool_(False), WRONG),
    ("no", "False", RIGHT), ("Yes", "true", RIGHT), ("False", False, RIGHT), ("True", "yes", RIGHT),
    ("1", True, WRONG), ("not sure", False, WRONG), ("Nothing", False, WRONG), ("Yesterday", True, WRONG),
    # lists and objects
    ("no", TEN, RIGHT), ("Nope!", TEN, RIGHT), ("yes", TEN, WRONG), ("no", json.dumps(TEN), RIGHT),
    ("no", str(TEN), RIGHT), ("no", {"answer": "no"}, RIGHT), ("yes", {"answer": ["no", "none"]}, WRONG),
    ("none", {"answer": ["no", "none"]}, RIGHT), ("a", {"text": ["a b", "a"], "answer_start": [1, 2]}, RIGHT),
    ("two", ["2", "two"], RIGHT), ("2", ("1", 2), RIGHT), ("red", np.array(["red", "blue"]), RIGHT),
    ("red", "['red' 'blue']", RIGHT), ("redblue", "['red' 'blue']", WRONG), ("blue", "['red', 'blue']", RIGHT),
    ("2", np.int64(2), RIGHT), ("2.5", np.float32(2.5), RIGHT), ("3", np.array([1, 2]), WRONG),
    ("1.5", Decimal("1.50"), RIGHT), ("no", b"no", RIGHT), ("no", ["", None, "no"], RIGHT), ("", ["", "no"], WRONG),
    # no truth
    ("Yes", None, UNKNOWN), ("Yes", float("nan"), UNKNOWN), ("Yes", np.nan, UNKNOWN), ("Yes", [], UNKNOWN),
    ("Yes", [None, None], UNKNOWN), ("Yes", {"confidence": 1}, UNKNOWN), ("Yes", "nan", UNKNOWN),
    ("Yes", Decimal("NaN"), UNKNOWN), ("Yes", "[]", UNKNOWN), ("[1, 2]", "[1, 2]", RIGHT), ("(1, 2)", "(1, 2)", RIGHT),
    # options
    ("a", "(a) Yes", RIGHT), ("A.", "(a) Yes", RIGHT), ("(A)", "a", RIGHT), ("(a) Red", "(a)", RIGHT),
    ("A. Red", "A", RIGHT), ("B", "(a) Yes", WRONG), ("Yes", "(a) Yes", RIGHT), ("(a) Yes", "Yes", RIGHT),
    ("(a) Yes", "(b) Yes", WRONG), ("(a) Red", "(a) Blue", WRONG), ("b) No", "(b) No", RIGHT), ("A dog", "a", WRONG),
    ("B because it is red", "B", RIGHT), ("c", "cat", WRONG), ("A dog", "dog", RIGHT),
    # letters, words and what is around them
    ("Yes\u2014it floats", "yes", RIGHT), ("Yes,it floats", "yes", RIGHT), ("**Yes**", "yes", RIGHT),
    ("'Yes'", "yes", RIGHT), ("\u00abOui\u00bb", "oui", RIGHT), ("STRASSE", "stra\u00dfe", RIGHT),
    ("cafe\u0301", "caf\u00e9", RIGHT), ("ano", "a\u00f1o", WRONG), ("\uff39\uff45\uff53", "yes", RIGHT),
    ("ice-cream", "ice cream", RIGHT), ("black-and-white", "black", WRONG), ("no-one", "no", WRONG),
    ("T-shirt", "t shirt", RIGHT), ("not", "no", WRONG), ("The dogs", "dog", WRONG), ("dog", "the dog house", WRONG),
    ("the United States", "United States", RIGHT), ("?", "?", RIGHT), ("Why?", "?", WRONG), ("", "?", WRONG),
    ("\u662f\u3002", "\u662f", RIGHT), ("\u4e0d\u662f", "\u662f", WRONG),
]  # fmt: skip


def test_the_table_is_long_enough():
    assert len(JUDGED) >= 60


@pytest.mark.parametrize(("said", "truth", "right"), JUDGED, ids=lambda value: repr(value)[:30])
def test_what_a_person_would_say(said, truth, right):
    assert correct(said, truth) is right


def test_what_is_endless_or_nested_is_no_trouble():
    assert correct("9" * 100_000, "9" * 100_000) is True
    assert correct("[" * 100_000, "[" * 100_000) is True
    assert correct("1e999", "1e998") is False


def test_answers_are_plain_text_and_none_stands_twice():
    assert answers_of(TEN) == ["no", "nope"]
    assert answers_of(1.0) == ["1"]
    assert answers_of(True) == ["true"]
