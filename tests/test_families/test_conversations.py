"""Several pictures in one question and several turns, against the same conversation written by hand."""

import copy
import json
from functools import cache
from typing import Any

import masked
import numpy as np
import pictured
import pytest
import tiny
import torch
from PIL import Image
from reference import ROUNDED, reference
from typer.testing import CliRunner

import relevancy
from relevancy.cli import app
from relevancy.cli import explain as cli_explain
from relevancy.errors import RelevancyError
from relevancy.explanations.comparison import compare
from relevancy.explanations.counterfactual import Region, counterfactual
from relevancy.explanations.explain import explain
from relevancy.explanations.explanation import Explanation
from relevancy.models.conversation import messages_in
from relevancy.models.model import Model, wrap

FAMILIES = {**pictured.BUILDERS, "llava": tiny.gemma_clip, "paligemma": tiny.paligemma}
ASK = "what color is the ball ?"
FIRST, SECOND, THIRD = tiny.picture(80, 60), tiny.picture(33, 150, seed=1), tiny.picture(57, 57, seed=2)


@cache
def model_of(family: str) -> Model:
    return wrap(*FAMILIES[family](), name=family)


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Model:
    return model_of(request.param)


def by_hand(model: Model, pictures: list[Image.Image], text: str) -> dict[str, Any]:
    """What the processor itself makes of a text with marks for pictures."""
    adds = {"add_special_tokens": False} if model.name == "llava" else {}  # its template writes <bos> itself
    inputs = dict(model.processor(images=[pictures], text=[text], return_tensors="pt", **adds))
    inputs.pop("labels", None)
    return inputs


def text_of(model: Model, messages: list[dict[str, Any]]) -> str:
    if model.name == "paligemma":
        return "<image>" * 2 + ASK
    if model.name == "llava":
        (message,) = messages
        content = "".join("<image>\n" if part["type"] == "image" else part["text"] for part in message["content"])
        messages = [{"role": "user", "content": content}]
        return model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return model.processor.apply_chat_template(messages, add_generation_prompt=True)


TWO = [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": ASK}]}]


def test_two_pictures_in_one_question_are_as_written_by_hand(model):
    (result,) = explain(model, [[FIRST, SECOND]], ASK, max_new_tokens=2)
    inputs = by_hand(model, [FIRST, SECOND], text_of(model, TWO))
    assert list(result.tokens) == model.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
    expected = reference(model.model, inputs).language[0].numpy()
    expected[-1] -= 1  # e_t
    assert np.linalg.norm(result.relevance - expected) <= ROUNDED * np.linalg.norm(expected)
    layouts = model.layouts([FIRST.size, SECOND.size])
    values, start = expected[result.is_image], 0
    for one, picture, layout in zip(result.pictures, (FIRST, SECOND), layouts, strict=True):
        own = values[start : start + layout.count]
        start += layout.count
        assert one.image.size == picture.size
        assert one.heatmap().shape == picture.size[::-1]
        np.testing.assert_allclose(one.image_map.sum(), own[layout.placed].sum(), rtol=1e-4)
        np.testing.assert_allclose(one.share, own.sum() / expected.sum(), rtol=1e-4)
    assert start == len(values)
    assert sum(one.share for one in result.pictures) == pytest.approx(result.shares["image"])
    assert result.image_map is result.pictures[0].image_map
    assert np.array_equal(result.heatmap(picture=1), result.pictures[1].heatmap(), equal_nan=True)


def test_pictures_are_never_mixed_up_in_a_batch(model):
    """Questions with one, two and three pictures in one batch: each picture's map is the one it has alone."""
    shown = [[SECOND], [FIRST, SECOND], [THIRD, FIRST, SECOND], FIRST]
    asked = explain(model, shown, ASK, max_new_tokens=1)
    assert [len(one.pictures) for one in asked] == [1, 2, 3, 1]
    for pictures, beside in zip(shown, asked, strict=True):
        (alone,) = explain(model, [pictures], ASK, max_new_tokens=1)
        for number, (one, other) in enumerate(zip(alone.pictures, beside.pictures, strict=True)):
            given = pictures[number] if isinstance(pictures, list) else pictures
            assert np.array_equal(np.array(other.image), np.array(given))
            assert np.abs(one.image_map - other.image_map).max() <= 1e-4 * np.abs(one.image_map).max()
        assert alone.evidence.without == pytest.approx(beside.evidence.without, abs=1e-5)
    (turned,) = explain(model, [[SECOND, FIRST]], ASK, max_new_tokens=1)
    assert [one.image.size for one in turned.pictures] == [SECOND.size, FIRST.size]
    assert turned.pictures[0].image_map.shape == asked[1].pictures[1].image_map.shape


def test_each_picture_is_knocked_out_and_all_of_them(model):
    """No token after the first picture of which something is hidden sees what is hidden: by a mask written out."""
    (result,) = explain(model, [[FIRST, SECOND]], ASK, max_new_tokens=1)
    found = result.evidence
    assert len(found.without) == len(found.without_tv) == 2
    assert not found.shared
    counts = [layout.count for layout in model.layouts([FIRST.size, SECOND.size])]
    plain = probabilities(model, np.zeros(sum(counts), bool))
    for hidden, probability, tv in zip(
        [[True, True], [True, False], [False, True]],
        [found.blind, *found.without],
        [found.blind_tv, *found.without_tv],
        strict=True,
    ):
        changed = probabilities(model, np.repeat(hidden, counts))
        assert probability == pytest.approx(float(changed[result.target.id]), rel=1e-3)
        assert tv == pytest.approx(float((changed - plain).abs().sum() / 2), abs=1e-5)


def probabilities(model: Model, hidden: np.ndarray) -> torch.Tensor:
    """Of the next token, where some image tokens are hidden from what follows their picture."""
    inputs = by_hand(model, [FIRST, SECOND], text_of(model, TWO))
    places = (inputs["input_ids"][0] == model.image_token_id).nonzero()[:, 0].numpy()
    first = model.layouts([FIRST.size, SECOND.size])[0].count
    begins = 0 if not hidden.any() else places[first - 1 if hidden[:first].any() else -1] + 1
    return masked.probabilities(model, inputs, places[hidden], begins)


def said(*parts: str | None) -> list[dict[str, Any]]:
    """Parts of a message, None for a picture."""
    return [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]


CHAT = [
    {"role": "user", "content": said("how many", None, "?")},
    {"role": "assistant", "content": "two ( a )"},
    {"role": "user", "content": said("is the duck", None, ASK)},
]


@pytest.fixture(params=["qwen2_5_vl", "internvl", "idefics3", "llava_onevision", "gemma3"])
def talker(request: pytest.FixtureRequest) -> Model:
    return model_of(request.param)


def parted(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A copy with texts as parts, as the tiny templates read them."""
    return [
        copy.deepcopy(one)
        if isinstance(one["content"], list)
        else {"role": one["role"], "content": [{"type": "text", "text": one["content"]}]}
        for one in messages
    ]


def test_turns_with_pictures_anywhere_are_as_written_by_hand(talker):
    (result,) = explain(talker, [[FIRST, SECOND]], [CHAT], max_new_tokens=1)
    text = talker.processor.apply_chat_template(parted(CHAT), add_generation_prompt=True)
    inputs = by_hand(talker, [FIRST, SECOND], text)
    assert list(result.tokens) == talker.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
    expected = reference(talker.model, inputs).language[0].numpy()
    expected[-1] -= 1  # e_t
    assert np.linalg.norm(result.relevance - expected) <= ROUNDED * np.linalg.norm(expected)
    assert [one.image.size for one in result.pictures] == [FIRST.size, SECOND.size]
    assert result.question == f"is the duck\n{ASK}"
    sources, held = iter((FIRST, SECOND)), parted(CHAT)
    for part in (part for one in held for part in one["content"] if part["type"] == "image"):
        part["image"] = next(sources)
    within = explain(talker, None, held, max_new_tokens=1)
    assert within.relevance.tobytes() == result.relevance.tobytes()


def test_words_by_turn(talker):
    result = explain(talker, [[FIRST, SECOND]], [CHAT], max_new_tokens=1)[0]
    turns = result.turns()
    assert [turn.role for turn in turns] == ["user", "assistant", "user"]
    words = [[word for word, _ in turn.words] for turn in turns]
    assert words == [["how", "many", "?"], ["two", "(", "a", ")"], ["is", "the", "duck", *ASK.split()]]
    assert [turn.pictures for turn in turns] == [(0,), (), (1,)]
    for turn in turns:
        pictured = sum(result.pictures[number].share for number in turn.pictures)
        said = sum(value for _, value in turn.words) / result.relevance.sum(dtype=np.float64)
        assert turn.share == pytest.approx(pictured + said, rel=1e-4)


def test_a_conversation_is_saved_drawn_and_loaded(tmp_path):
    model = model_of("qwen2_vl")
    (result,) = explain(model, [[FIRST, SECOND]], [CHAT], max_new_tokens=1)
    result.save(tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {
        "explanation.json", "figure.png", "overlay.png", "heatmap.npy", "picture.png", "overlay-2.png", "heatmap-2.npy",
        "picture-2.png",
    }  # fmt: skip
    again = Explanation.load(tmp_path)
    assert again.conversation == result.conversation
    for one, other in zip(again.pictures, result.pictures, strict=True):
        assert one.share == other.share
        assert one.image_map.tobytes() == other.image_map.tobytes()
        assert np.array_equal(np.array(one.image), np.array(other.image))
    assert np.array_equal(np.load(tmp_path / "heatmap-2.npy"), result.heatmap(picture=1), equal_nan=True)
    assert "picture 2" in again.summary()
    assert again.evidence == result.evidence
    assert [turn.words for turn in again.turns()] == [turn.words for turn in result.turns()]
    explain(model, FIRST, ASK, max_new_tokens=1).save(tmp_path / "one")
    assert len(Explanation.saved_in(tmp_path)) == 8


def test_the_command_with_messages_and_with_several_pictures(tmp_path, monkeypatch):
    model = model_of("qwen2_vl")
    monkeypatch.setattr(cli_explain, "load_model", lambda *_, **__: model)
    for number, picture in enumerate((FIRST, SECOND)):
        picture.save(tmp_path / f"{number}.png")
    asked = {"role": "user", "content": [{"type": "image", "image": "0.png"}, *said("how many ?")]}
    later = [{"role": "assistant", "content": "two"}, {"role": "user", "content": ASK}]
    (tmp_path / "chat.json").write_text(json.dumps([asked, *later]))

    def told(*arguments: str) -> Explanation:
        shown = ["explain", "--model", "m", "--max-new-tokens", "1", "--out", str(tmp_path / "out"), *arguments]
        done = CliRunner().invoke(app, shown)
        assert done.exit_code == 0, done.output
        return Explanation.load(tmp_path / "out")

    one = told("--messages", str(tmp_path / "chat.json"))
    expected = explain(model, FIRST, [asked | {"content": said(None, "how many ?")}, *later], max_new_tokens=1)
    np.testing.assert_allclose(one.relevance, expected.relevance, rtol=1e-4, atol=1e-6)
    two = told("--image", str(tmp_path / "0.png"), "--image", str(tmp_path / "1.png"), "--question", ASK)
    assert [picture.image.size for picture in two.pictures] == [FIRST.size, SECOND.size]
    assert not (tmp_path / "out" / "overlay-3.png").exists()


@pytest.mark.parametrize("family", ["qwen2_vl", "idefics3", "llava_onevision"])
@pytest.mark.parametrize("number", [0, 1])
def test_hiding_a_part_of_one_picture_is_the_conversation_about_the_changed_one(family, number):
    model, region = model_of(family), Region(box=(5, 5, 30, 40))
    options = {"picture": number, "answer": "red ball"}
    (found, _) = counterfactual(model, [FIRST, SECOND], CHAT, [region, Region(box=(0, 0, 9, 9))], **options)
    changed = [FIRST, SECOND]
    assert changed[number].size == found.image.size
    changed[number] = found.image
    again = counterfactual(model, changed, CHAT, region, **options)
    before = counterfactual(model, [FIRST, SECOND], CHAT, region, **options)
    assert found.before.per_token == pytest.approx(before.before.per_token, rel=1e-5)
    assert found.after.per_token == pytest.approx(again.before.per_token, rel=1e-4)
    assert found.after.per_token != found.before.per_token


def test_a_picture_that_is_not_there_and_a_video_cannot_be_changed():
    model, region = model_of("qwen2_vl"), Region(box=(5, 5, 30, 40))
    for number in (-1, 2):
        with pytest.raises(RelevancyError, match=f"no picture {number} to change: there are 2"):
            counterfactual(model, [FIRST, SECOND], ASK, region, picture=number)
    film = [{"role": "user", "content": [{"type": "video", "video": [FIRST, FIRST]}, *said(ASK)]}]
    with pytest.raises(RelevancyError, match="video cannot be hidden"):
        counterfactual(model, None, film, region)


FILM = [{"type": "video", "video": [FIRST, FIRST.rotate(180)]}]


@pytest.mark.parametrize(
    ("shown", "asked"),
    [
        ([FIRST, SECOND], CHAT),
        ([FIRST, SECOND], ASK),
        ([FIRST], [{"role": "user", "content": said(None, ASK)}]),
        ([], [{"role": "user", "content": [*FILM, {"type": "image", "image": SECOND}, *said(ASK)]}]),
    ],
    ids=["turns", "pictures", "one", "video"],
)
def test_the_python_of_a_result_makes_it_again(shown, asked, tmp_path, monkeypatch):
    model = model_of("qwen2_vl")
    (result,) = explain(model, [shown], [asked], max_new_tokens=1)
    for number, picture in enumerate(result.pictures, 1):
        picture.image.save(tmp_path / ("picture.png" if number == 1 else f"picture-{number}.png"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(relevancy, "load", lambda name: model)
    known: dict[str, Any] = {}
    exec(result.code, known)
    np.testing.assert_allclose(known["result"].relevance, result.relevance, rtol=1e-4, atol=1e-6)
    assert [one.video for one in known["result"].pictures] == [one.video for one in result.pictures]


def test_words_of_a_turn_stand_where_its_places_say():
    (result,) = explain(model_of("idefics3"), [[FIRST, SECOND]], [CHAT], max_new_tokens=1)
    places = [place for turn in result.turns() for place in turn.places]
    assert places == sorted(set(places))
    for turn in result.turns():
        assert tuple((result.tokens[place], float(result.relevance[place])) for place in turn.places) == turn.words


def test_two_models_are_compared_on_two_pictures(tmp_path):
    models = [model_of("qwen2_vl"), model_of("idefics3")]
    both = compare(models, [FIRST, SECOND], ASK, max_new_tokens=1)
    assert [len(one.pictures) for one in both.explanations] == [2, 2]
    assert np.isfinite(both.agreement[0].rank_correlation)
    assert len(both.figure().axes) > 8
    sizes = [drawn.size for drawn in both.overlays(picture=1)]
    assert sizes == [SECOND.size] * 2


def test_one_view_beside_others_lies_where_the_padded_square_does():
    """A pixel of a tall picture, changed: the token that changes most owns it."""
    model = model_of("llava_onevision")
    layout = model.layouts([SECOND.size, FIRST.size])[0]
    boxes = layout.grid.boxes()
    for token in np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))[::2]:
        left, upper, right, lower = boxes[token].round().astype(int)
        changed = np.array(SECOND)
        changed[upper:lower, left:right] = 255 * (changed[upper:lower, left:right] < 128)
        pixels = [
            model.prepare([(picture, FIRST)], [ASK])["pixel_values"][0, 0]
            for picture in (SECOND, Image.fromarray(changed))
        ]
        moved = (pixels[1] - pixels[0]).abs().sum(0).unfold(0, 14, 14).unfold(1, 14, 14).sum((2, 3)).flatten()
        assert int(moved.argmax()) == token


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "robot", "content": "hi"}], "role is one of"),
        ([{"role": "user", "content": [{"type": "sound"}]}], "no part of a message"),
        ([{"role": "assistant", "content": "hi"}], "last message must be the user's"),
        ([{"role": "user", "content": " "}], "is empty"),
        ([{"role": "user", "content": 3}], "content is text or a list"),
        ([{"role": "user", "content": [{"type": "image"}]}], "1 places for pictures without"),
    ],
)
def test_messages_that_cannot_be_read_are_refused(messages, said):
    with pytest.raises(RelevancyError, match=said):
        explain(model_of("qwen2_vl"), None, messages)


TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for message in messages %}{{ message['content'] }}{% endfor %}"
)


def test_what_a_template_cannot_say_is_refused(built):
    gemma = wrap(*built["gemma-clip"], name="tiny")
    system = [{"role": "system", "content": "be short"}, {"role": "user", "content": [{"type": "image"}]}]
    with pytest.raises(RelevancyError, match="one question and no further messages"):
        explain(model_of("paligemma"), FIRST, system)
    bare = wrap(*tiny.gemma_clip(), name="bare")
    bare.processor.chat_template = bare.tokenizer.chat_template = None
    with pytest.raises(RelevancyError, match="no system message"):
        explain(bare, FIRST, system)
    bare = wrap(*tiny.gemma_clip(), name="bare")
    for owner in (bare.processor, bare.tokenizer):
        owner.chat_template = (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
        )
    with pytest.raises(RelevancyError, match="does not take this conversation"):
        explain(bare, FIRST, system)
    with pytest.raises(RelevancyError, match="several pictures, scope language"):
        explain(gemma, [[FIRST, SECOND]], ASK, method="gradcam")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_file_of_messages_that_cannot_be_read_is_refused(content, tmp_path):
    (tmp_path / "chat.json").write_bytes(content)
    with pytest.raises(RelevancyError, match="cannot be read as JSON"):
        messages_in(tmp_path / "chat.json")
