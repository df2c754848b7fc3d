"""What comes before a question, read once for all questions: rows equal those of whole passes."""

import copy
import gc
from contextlib import suppress

import numpy as np
import pytest
import tiny
import torch
from reference import reference
from transformers import DynamicCache

from relevancy.core.tape import record
from relevancy.data.items import Item, PictureSource
from relevancy.errors import RelevancyError
from relevancy.explanations import map_batch
from relevancy.explanations.explain import explain
from relevancy.explanations.map_batch import ExplainConfig
from relevancy.export.records import ExplainBatches
from relevancy.images import Picture
from relevancy.models.generation import branched, shares_prefix
from relevancy.models.model import Model, wrap
from relevancy.models.prepared import Example, Prepared
from relevancy.models.session import Session

QUESTIONS = [
    "Is the duck floating?", "Duck?", "Is the ball red or is the duck on the water?", "What color is the ball?",
]  # fmt: skip
SHARING = ["gemma-clip", "gemma-dinov2", "gemma-siglip", "llama-clip", "qwen2-clip"]


def doubled(name: str) -> Model:
    hf_model, processor = tiny.FAMILIES[name]()
    return wrap(hf_model.double(), processor)


def split(model: Model, question: str, picture=None) -> tuple[Prepared, Prepared, int]:
    """A question, its beginning up to the picture's end, and how long that is."""
    inputs = model.prepare([picture or tiny.picture()], [question])
    whole = Prepared(inputs, model.image_token_id)
    tokens = int(whole.image_places(0)[-1]) + 1
    return whole, whole.only(0, tokens), tokens


@pytest.mark.parametrize("name", SHARING)
@pytest.mark.parametrize("scope", ["language", "full"])
@pytest.mark.parametrize("rule", ["clamp", "magnitude"])
@pytest.mark.parametrize("layers", [None, (0,), (1, 3)])
def test_rows_over_a_beginning_and_its_rest_are_those_of_one_pass(name, scope, rule, layers):
    model = doubled(name)
    if layers and max(layers) >= model.model.config.get_text_config().num_hidden_layers:
        layers = (1,)
    with record(model.model, scope, rule=rule, layers=layers) as tape:
        beginning, cache = None, None
        for question in QUESTIONS:
            whole, first, tokens = split(model, question)
            if beginning is None:
                beginning = first
                with tape.beginning(tokens):
                    cache = model.model(**first.inputs, logits_to_keep=1, use_cache=True).past_key_values
            assert first.equals(beginning)
            with tape.rest():
                logits = model.model(
                    **whole.rest(tokens), past_key_values=branched(cache), use_cache=True, logits_to_keep=2
                ).logits[0]
            last = tape.relevance(logits[-1:].max(-1).values)
            earlier = tape.relevance(logits[-2:-1, 7] - logits[-2:-1, 9], -2)
            with record(model.model, scope, rule=rule, layers=layers) as other:
                plain = model.model(**whole.inputs, logits_to_keep=2).logits[0]
                for found, target, position in (
                    (last, plain[-1:].max(-1).values, -1), (earlier, plain[-2:-1, 7] - plain[-2:-1, 9], -2),
                ):  # fmt: skip
                    expected = other.relevance(target, position, retain_graph=True)
                    torch.testing.assert_close(found.language, expected.language, rtol=1e-6, atol=1e-7)
                    if scope == "full":
                        torch.testing.assert_close(found.vision, expected.vision, rtol=1e-6, atol=1e-7)
                    if rule == "clamp":
                        torch.testing.assert_close(found.cut, expected.cut, rtol=1e-6, atol=1e-7)


def test_a_whole_pass_after_a_beginning_is_a_whole_pass():
    model = doubled("gemma-clip")
    whole, first, tokens = split(model, QUESTIONS[0])
    with record(model.model) as tape:
        expected = tape.relevance(model.model(**whole.inputs, logits_to_keep=1).logits[:, -1].max(-1).values)
        with tape.beginning(tokens):
            cache = model.model(**first.inputs, logits_to_keep=1, use_cache=True).past_key_values
        with pytest.raises(RelevancyError, match="known tokens"):
            model.model(**whole.rest(tokens), past_key_values=branched(cache), use_cache=True)
        again = tape.relevance(model.model(**whole.inputs, logits_to_keep=1).logits[:, -1].max(-1).values)
    torch.testing.assert_close(again.language, expected.language, rtol=0, atol=0)


def test_a_row_over_a_beginning_is_that_of_the_equations():
    """Against every matrix kept, as in eqs. 5 and 6."""
    model = doubled("gemma-clip")
    whole, first, tokens = split(model, QUESTIONS[2])
    with record(model.model) as tape:
        with tape.beginning(tokens):
            cache = model.model(**first.inputs, logits_to_keep=1, use_cache=True).past_key_values
        with tape.rest():
            logits = model.model(
                **whole.rest(tokens), past_key_values=branched(cache), use_cache=True, logits_to_keep=1
            ).logits
        found = tape.relevance(logits[:, -1].max(-1).values)
    expected = reference(model.model, dict(whole.inputs)).language[0]
    torch.testing.assert_close(found.language[0].double(), expected.double(), rtol=1e-5, atol=1e-7)


OPTIONS = [
    {}, {"target": "first-relevant"}, {"target": -1}, {"scope": "full"}, {"target": "duck|ball"},
    {"method": "relevancy-magnitude"}, {"answer": "duck ball red"}, {"method": "rollout"}, {"evidence": False},
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {"target": "all"}) for name in sorted(tiny.FAMILIES)] + [("gemma-clip", options) for options in OPTIONS],
)
def test_questions_about_one_picture_are_explained_as_each_by_itself(name, options, monkeypatch):
    model = doubled(name)
    pictures = [tiny.picture(seed=1), tiny.picture(90, 40, seed=2)]
    asked = [pictures[number % 2] for number in range(4)], QUESTIONS
    plain = explain(model, *asked, max_new_tokens=4, **options)
    monkeypatch.setattr(map_batch, "_LONG", 0)
    shared = explain(model, *asked, max_new_tokens=4, **options)
    both = zip(plain, shared, strict=True)
    several = [(one, other) if isinstance(one, list) else ([one], [other]) for one, other in both]
    for ones, others in several:
        assert len(ones) == len(others)
        for one, other in zip(ones, others, strict=True):
            assert (one.answer, one.question, one.tokens, one.notes) == (
                other.answer, other.question, other.tokens, other.notes,
            )  # fmt: skip
            peak = np.abs(one.relevance).max()
            np.testing.assert_allclose(other.relevance, one.relevance, rtol=0, atol=1e-5 * peak)
            np.testing.assert_allclose(other.image_map, one.image_map, rtol=0, atol=1e-5 * np.abs(one.image_map).max())
            assert other.target.logit == pytest.approx(one.target.logit, abs=1e-4)
            if one.evidence is not None:
                assert other.evidence.blind_tv == pytest.approx(one.evidence.blind_tv, abs=1e-5)


def test_a_picture_is_read_forward_once_for_its_questions(monkeypatch):
    model = wrap(*tiny.gemma_clip())
    monkeypatch.setattr(map_batch, "_LONG", 0)
    lengths = []
    model.model.get_decoder().register_forward_pre_hook(
        lambda _, args, named: lengths.append(named["inputs_embeds"].shape[1]) if torch.is_grad_enabled() else None,
        with_kwargs=True,
    )
    explain(model, tiny.picture(), QUESTIONS, max_new_tokens=1, evidence=False)
    _, _, tokens = split(model, QUESTIONS[0])
    assert lengths.count(tokens) == 1
    assert len(lengths) == 1 + len(QUESTIONS)
    assert sum(lengths) < 2 * tokens + 60


def test_a_picture_is_read_once_too_where_the_answers_decide_the_target(monkeypatch):
    """Questions of unequal length are padded beside each other, and not where each is read on with its answer."""
    model = wrap(*tiny.gemma_clip())
    monkeypatch.setattr(map_batch, "_LONG", 0)
    _, _, tokens = split(model, QUESTIONS[0])
    lengths = []
    model.model.get_decoder().register_forward_pre_hook(
        lambda _, args, named: lengths.append(named["inputs_embeds"].shape[1]), with_kwargs=True
    )
    explain(model, tiny.picture(), QUESTIONS, target=1, max_new_tokens=3, evidence=False)
    assert lengths.count(tokens) == 1


@pytest.mark.parametrize("fewest", [0, 10**9])
@pytest.mark.parametrize(
    "options", [{}, {"target": "all"}, {"target": "contrast"}, {"scope": "full"}, {"target": "zebra"}]
)
def test_no_graph_outlives_an_explanation(fewest, options, monkeypatch):
    """Not by a circle that no collector sees, either: a graph whose backward never ran, or kept for other targets."""
    model = wrap(*tiny.gemma_clip())
    monkeypatch.setattr(map_batch, "_LONG", fewest)

    def left() -> int:
        with suppress(RelevancyError):  # no answer has a zebra
            explain(model, tiny.picture(), QUESTIONS[:2], max_new_tokens=3, **options)
        gc.collect()
        return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())

    assert left() == left()


def test_what_cannot_share_is_told_beforehand():
    assert shares_prefix(wrap(*tiny.gemma_clip()), 500)
    assert not shares_prefix(wrap(*tiny.gemma2_clip()), 500)  # its windows hold 16 tokens
    assert not shares_prefix(wrap(*tiny.paligemma()), 20)
    cache = DynamicCache(config=tiny.gemma2_clip()[0].config.get_text_config())
    assert not shares_prefix(wrap(*tiny.gemma2_clip()), 16, cache)
    assert shares_prefix(wrap(*tiny.gemma2_clip()), 15, cache)


def test_an_export_puts_the_questions_about_one_picture_together():
    sources = [PictureSource(content=bytes([number])) for number in range(3)]
    items = [Item(row, str(row), sources[row % 3 if row < 7 else 2], "duck " * (row + 1)) for row in range(8)]
    items[5] = Item(5, "5", PictureSource(content=b"another"), "duck")
    way = ExplainBatches(ExplainConfig(), 2)
    assert list(way.batches(items, [0] * 8, by_picture=True)) == [[0, 3, 6], [1, 4], [2, 7], [5]]
    assert [place for places in way.batches(items, [0] * 8) for place in places] == [5, 0, 1, 2, 3, 4, 6, 7]


def test_a_session_shows_a_picture_to_the_tower_once(monkeypatch):
    model = wrap(*tiny.gemma_clip())
    runs = []
    tower = model.model.get_encoder(modality="image")
    plain = tower.forward
    monkeypatch.setattr(tower, "forward", lambda pixels, **named: runs.append(len(pixels)) or plain(pixels, **named))
    picture, other = Picture(tiny.picture()), Picture(tiny.picture(seed=5))
    examples = [Example((picture,), question) for question in QUESTIONS]
    with Session(model) as session:
        seen = session.prepare([*examples, Example((other,), "Duck?")], features=True)
        session.prepare(examples, [(90,)] * 4, features=True)
    assert runs == [2]
    plainly = model.prepare([one.images for one in (*examples, Example((other,), ""))], [*QUESTIONS, "Duck?"])
    torch.testing.assert_close(model.model(**seen.inputs).logits, model.model(**plainly).logits, rtol=1e-5, atol=1e-5)
    assert copy.copy(seen).equals(seen)
