"""Tokens as words: of SentencePiece, of byte-level tokenizers, of bytes, marks, and text in any script."""

import numpy as np
import pytest
import regex
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from relevancy.explanations.explain import explain
from relevancy.models import generation, wrap
from relevancy.token_text import spells_bytes, spoken_runs, summed, whole_words

CORPUS = [
    "Is the duck floating on the water? Don't ask me, it's 3.5 metres (or less).",
    "Ist die Ente schön? Où est le café? Ένα παιδί. Это утка. हिन्दी भाषा में।",
]


def sentence_pieces() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    every = [f"<0x{byte:02X}>" for byte in range(256)]
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=420, special_tokens=["<unk>", *every]))
    return made


def byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet))
    return made


TOKENIZERS = {"pieces": sentence_pieces(), "bytes": byte_level()}


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["<bos>", "▁du", "ck", "?"], ["<bos>", " duck", "?"]),
        (["▁", "3", ".", "5", "▁don", "'", "t"], [" 3.5", " don't"]),
        (["Ġcaf", "Ã©", "ĠâĤ", "¬", "ĊĊ", "Is"], [" café", " €", "\n\n", "Is"]),
        (["▁well", "-", "known", "."], [" well", "-", "known", "."]),
        (["▁水", "面", "に"], [" 水", "面", "に"]),
        (["▁水面", "に"], [" 水面", "に"]),  # one token, so one word
        (["(a", ")", "▁Yes"], ["(a", ")", " Yes"]),
        (["<0xE2>", "<0x82>", "<0xAC>", "5"], ["€", "5"]),
        (["n", "<0xC3>", "<0xA4>", "he"], ["nähe"]),
        (["<start_of_turn>", "us", "er", "<0x0A>", "Is"], ["<start_of_turn>", "user", "\n", "Is"]),
        (["Ġa", "<|im_end|>", "[INST]", "b"], [" a", "<|im_end|>", "[INST]", "b"]),
        (["a", "▁", "<eos>"], ["a", " ", "<eos>"]),
        (["▁", "▁", "a", "▁"], ["  a", " "]),
        (["", "x", "", "y", "", "▁z", ""], ["xy", " z"]),
        (["x", "\ufe0f", "👩", "\u200d", "👧"], ["x\ufe0f", "👩\u200d👧"]),
        ([], []),
        (["", ""], [""]),
    ],
)
def test_tokens_by_words(tokens, words):
    runs = whole_words(tokens)
    assert [run.text for run in runs] == words
    assert [place for run in runs for place in range(run.start, run.stop)] == list(range(len(tokens)))


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="<>[]▁ĠĊ"), max_size=40))
@settings(max_examples=150)
def test_any_text_is_cut_at_the_words_of_unicode_where_a_token_ends(kind, text):
    tokens = TOKENIZERS[kind].encode(text).tokens
    by_bytes = kind == "bytes"
    runs = whole_words(tokens, by_bytes=by_bytes)
    assert "".join(run.text for run in runs) == text
    assert [place for run in runs for place in range(run.start, run.stop)] == list(range(len(tokens)))
    values = list(map(float, range(len(tokens))))
    assert sum(value for _, value in summed(runs, values)) == sum(values)
    ends = {0, *np.cumsum([len(run.text) for run in spoken_runs(tokens, by_bytes=by_bytes)]).tolist()}
    words = np.cumsum([0, *(len(part) for part in regex.split(r"(?V1w)\b", text))]).tolist()
    allowed = ends & {*words, 0, len(text)}
    kept = [0, *np.cumsum([len(run.text) for run in runs]).tolist()]
    assert set(kept) <= allowed
    for left_out in allowed - set(kept):  # blanks stay with what follows them
        begin = max(end for end in kept if end < left_out)
        assert set(text[begin:left_out]) == {" "}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_words_of_a_sentence_are_the_same_whatever_the_tokenizer(kind):
    tokens = TOKENIZERS[kind].encode("Das Kind sieht 4.25 Enten, isn't it? (नदी)").tokens
    found = [run.text.strip() for run in whole_words(tokens)]
    assert found == ["Das", "Kind", "sieht", "4.25", "Enten", ",", "isn't", "it", "?", "(", "नदी", ")"]
    assert len(found) < len(tokens)
    assert spells_bytes(tokens) == (kind == "bytes")


QUESTION, ANSWER = "Is the duck floating?", "Yes, the duck is floating on the water."


def test_a_results_words_are_sums_over_their_tokens_and_pictures_part_them():
    model = wrap(*tiny.gemma_clip())
    result = explain(model, tiny.picture(), QUESTION, answer=ANSWER, target=-1, evidence=False)
    words = result.words(whole=True)
    assert "".join(text for text, _ in words) == "".join(token.replace("▁", " ") for token, _ in result.words())
    assert sum(value for _, value in words) == pytest.approx(sum(value for _, value in result.words()), rel=1e-6)
    assert len(words) < len(result.words())
    texts = [text.strip() for text, _ in words]
    for word in ("Is", "the", "duck"):
        assert word in texts
    duck = next(place for place, text in enumerate(texts) if text == "duck")
    tokens, start = list(result.tokens), 0
    for place in range(len(tokens)):  # by hand: the tokens that spell the first duck
        stops = [stop for stop in range(place + 1, place + 6) if "".join(tokens[place:stop]) == "▁duck"]
        if stops:
            start, stop = place, stops[0]
            break
    assert words[duck][1] == pytest.approx(float(result.relevance[start:stop].sum()), rel=1e-6)
    assert result.panel().words == words
    assert (
        f"{max((t for t in words if t[0].strip().isalnum()), key=lambda one: one[1])[0].strip()!r}" in result.summary()
    )


def test_each_word_of_an_answer_is_explained_with_its_tokens_together():
    model, picture = wrap(*tiny.gemma_clip()), tiny.picture()
    found = explain(model, picture, QUESTION, answer=ANSWER, target="words")
    ids = generation.encoded(model, ANSWER)
    assert [place for one in found for place in one.target.positions] == list(range(len(ids)))
    spoken = [one.target.token.strip() for one in found]
    assert spoken[:7] == ["Yes", ",", "the", "duck", "is", "floating", "on"]
    assert any(one.target.length > 1 for one in found)
    for one in found:
        span = one.target.positions
        target = f"{span.start}:{span.stop}" if len(span) > 1 else span.start
        alone = explain(model, picture, QUESTION, answer=ANSWER, target=target)
        np.testing.assert_allclose(one.relevance, alone.relevance, rtol=1e-3, atol=1e-6)
        assert one.target.probability == pytest.approx(alone.target.probability, rel=1e-4)
        assert one.evidence.blind_tv == pytest.approx(alone.evidence.blind_tv, abs=1e-5)


def test_a_token_without_text_goes_with_what_comes_after_it():
    assert [(run.start, run.stop) for run in whole_words(["x", "", "▁z", ""])] == [(0, 1), (1, 4)]
