"""Whether an answer is right, by the words alone."""

from __future__ import annotations

import json
import re
import unicodedata

_OPTION = re.compile(r"^\(?[a-z]\)\s*")
_ARTICLES = frozenset({"a", "an", "the"})


def correct(answer: str, expected: str | None) -> bool | None:
    """Whether the answer says one of what is expected; None where nothing is.

    Case, punctuation, articles and an option's letter do not count. A longer answer is right when it begins with the
    expected words ("Yes, it floats" for "Yes"). `expected` may be a JSON list, of which any will do.
    """
    if expected is None:
        return None
    said = [_words(answer), _words(_OPTION.sub("", answer.strip().lower()))]
    wanted = [
        words
        for choice in _choices(expected)
        for words in (_words(choice), _words(_OPTION.sub("", choice.strip().lower())))
        if words
    ]
    if not wanted:
        return not said[0]
    return any(words[: len(choice)] == choice for choice in wanted for words in said)


def _choices(expected: str) -> list[str]:
    if expected.lstrip().startswith("["):
        try:
            listed = json.loads(expected)
        except ValueError:
            return [expected]
        if isinstance(listed, list) and listed:
            return [str(one) for one in listed]
    return [expected]


def _words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = re.findall(r"\w+", folded)
    return [word for word in words if word not in _ARTICLES] or words
