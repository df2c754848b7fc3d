"""Pictures that were read last are not read again, and never wrongly remembered."""

import copy
import gc
import pickle

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from relevancy.explanations import map_batch
from relevancy.explanations.explain import explain
from relevancy.models.model import Model, wrap

QUESTIONS = ["Is the duck floating?", "What color is the ball?", "Duck?"]
PLENTY = 1 << 30


@pytest.fixture(autouse=True)
def _every_picture_is_long(monkeypatch):
    monkeypatch.setattr(map_batch, "_LONG", 0)


def doubled(name: str = "gemma-clip") -> Model:
    hf_model, processor = tiny.FAMILIES[name]()
    return wrap(hf_model.double(), processor)


@pytest.fixture
def model() -> Model:
    return doubled()


@pytest.fixture
def lengths(model, monkeypatch) -> list[int]:
    """Tokens of each forward pass through the decoder with gradients, as they come."""
    found: list[int] = []
    decoder = model.model.get_decoder()
    plain = decoder.forward

    def forward(*args, **named):
        if torch.is_grad_enabled():
            found.append(named["inputs_embeds"].shape[1])
        return plain(*args, **named)

    monkeypatch.setattr(decoder, "forward", forward)
    return found


@pytest.fixture
def tower_runs(model, monkeypatch) -> list[int]:
    found: list[int] = []
    tower = model.model.get_encoder(modality="image")
    plain = tower.forward
    monkeypatch.setattr(tower, "forward", lambda pixels, **named: found.append(len(pixels)) or plain(pixels, **named))
    return found


def asked(model: Model, question: str, picture: Image.Image | None = None, **options):
    chosen = {"evidence": False, "max_new_tokens": 3} | options
    return explain(model, picture or tiny.picture(), question, **chosen)


def same(found, expected):
    assert found.answer == expected.answer
    np.testing.assert_allclose(found.relevance, expected.relevance, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found.image_map, expected.image_map, rtol=1e-6, atol=1e-8)


OTHERS = ["gemma-dinov2", "llama-clip", "qwen2-clip", "paligemma", "gemma2-clip"]
OPTIONS = [
    {"scope": "full"},
    {"method": "relevancy-magnitude"},
    {"layers": (1,)},
    {"target": "answer"},
    {"evidence": True},
]


@pytest.mark.parametrize(
    ("name", "options"), [(name, {}) for name in OTHERS] + [("gemma-clip", options) for options in OPTIONS]
)
def test_maps_are_those_of_calls_that_remember_nothing(name, options):
    model = doubled(name)
    pictures = [tiny.picture(), tiny.picture(seed=4)]
    expected = [asked(model, question, picture, **options) for picture in pictures for question in QUESTIONS]
    with model.remembering(PLENTY):
        for _ in range(2):
            found = [asked(model, question, picture, **options) for picture in pictures for question in QUESTIONS]
            for one, other in zip(found, expected, strict=True):
                same(one, other)
                if options.get("evidence"):
                    assert one.evidence.blind == pytest.approx(other.evidence.blind, rel=1e-6)
    same(asked(model, QUESTIONS[0], pictures[0], **options), expected[0])


def test_a_picture_is_read_once_by_decoder_and_tower(model, lengths, tower_runs):
    asked(model, QUESTIONS[0])
    (whole,) = lengths
    with model.remembering(PLENTY):
        lengths.clear()
        tower_runs.clear()
        for question in QUESTIONS:
            asked(model, question, tiny.picture())  # another object with the same pixels
        assert len(lengths) == 4
        assert lengths[0] + lengths[1] == whole
        assert max(lengths[1:]) < whole - 16
        assert tower_runs == [1]
        asked(model, QUESTIONS[0], tiny.picture(seed=4))
        assert (len(lengths), tower_runs) == (6, [1, 1])


def test_what_is_asked_otherwise_is_read_otherwise(model, lengths):
    ways = [{}, {"method": "relevancy-magnitude"}, {"layers": (0,)}, {"scope": "full"}]
    expected = [asked(model, QUESTIONS[1], **way) for way in ways]
    lengths.clear()
    with model.remembering(PLENTY):
        for way, result in zip(ways, expected, strict=True):
            same(asked(model, QUESTIONS[1], **way), result)
        assert len(lengths) == 8
        for way, result in zip(ways, expected, strict=True):
            same(asked(model, QUESTIONS[1], **way), result)
        assert len(lengths) == 12


def scaled(model):
    model.model.get_decoder().layers[0].mlp.up_proj.weight.data.mul_(1.5)


def one_step(model):
    with torch.no_grad():
        next(model.model.get_decoder().layers[1].parameters())[0] += 0.5


def one_number(model):
    """Which no sample of the weight holds, but torch counts."""
    with torch.no_grad():
        model.model.get_decoder().layers[0].self_attn.v_proj.weight[1, 3] += 5


def replaced(model):
    layer = model.model.get_decoder().layers[0].self_attn.q_proj
    layer.weight = torch.nn.Parameter(layer.weight * 1.5)


def loaded(model):
    model.model.load_state_dict({name: value * 1.25 for name, value in model.model.state_dict().items()})


def softened(model):
    model.model.config.vision_feature_layer = -1


def hooked(model):
    model.model.get_decoder().layers[0].register_forward_hook(
        lambda _, __, output: (output[0] * 1.5, *output[1:]) if isinstance(output, tuple) else output * 1.5
    )


@pytest.mark.parametrize("change", [scaled, one_step, one_number, replaced, loaded, softened, hooked])
def test_a_model_that_has_changed_is_read_anew(model, change):
    other = doubled()
    before = asked(model, QUESTIONS[1])
    change(other)
    expected = asked(other, QUESTIONS[1])
    assert np.abs(before.relevance - expected.relevance).max() > 1e-4
    with model.remembering(PLENTY):
        same(asked(model, QUESTIONS[1]), before)
        change(model)
        same(asked(model, QUESTIONS[1]), expected)


def test_pictures_of_one_call_are_remembered_apart(model):
    pictures = [tiny.picture(seed=seed) for seed in range(2)]
    expected = [asked(model, QUESTIONS[2], picture) for picture in pictures]
    with model.remembering(PLENTY):
        explain(model, pictures * 2, [QUESTIONS[0]] * 2 + [QUESTIONS[1]] * 2, evidence=False, max_new_tokens=2)
        for picture, result in zip(pictures, expected, strict=True):
            same(asked(model, QUESTIONS[2], picture), result)


def test_a_budget_is_kept_and_the_oldest_go_first(model, lengths):
    pictures = [tiny.picture(seed=seed) for seed in range(4)]
    with model.remembering(PLENTY):
        asked(model, QUESTIONS[0], pictures[0])
        one = model.prefixes.bytes
    assert one > 10_000
    with model.remembering(2 * one + one // 2):
        for picture in pictures[:3]:
            asked(model, QUESTIONS[0], picture)
            assert model.prefixes.bytes <= 2 * one + one // 2
        lengths.clear()
        asked(model, QUESTIONS[1], pictures[2])
        asked(model, QUESTIONS[1], pictures[1])
        assert len(lengths) == 2
        asked(model, QUESTIONS[1], pictures[0])  # it went first
        assert len(lengths) == 4
        asked(model, QUESTIONS[1], pictures[2])  # it was used before the other
        assert len(lengths) == 6


@pytest.mark.parametrize("memory", [0, 1000])
def test_without_room_nothing_is_kept(model, memory, lengths):
    with model.remembering(memory):
        for _ in range(2):
            asked(model, QUESTIONS[0])
            assert model.prefixes.bytes == 0
    assert len(lengths) == (2 if memory == 0 else 4)


def test_the_default_is_a_part_of_what_is_free(model):
    with model.remembering():
        assert 0 < model.prefixes.budget < 1 << 50
        budget = model.prefixes.budget
        with model.remembering(budget // 2):
            assert model.prefixes.budget == budget // 2
        assert model.prefixes.budget == budget
    assert model.prefixes is None


def test_what_is_kept_is_what_backward_holds():
    """Counted bytes against the tensors themselves, found by the collector."""
    model = wrap(*tiny.gemma_clip())

    def held() -> int:
        gc.collect()
        storages = {
            one.untyped_storage().data_ptr(): one.untyped_storage().nbytes()
            for one in gc.get_objects()
            if issubclass(type(one), torch.Tensor) and one.device.type == "cpu"
        }
        return sum(storages.values())

    asked(model, QUESTIONS[0])
    before = held()
    with model.remembering(PLENTY):
        asked(model, QUESTIONS[0])
        told = model.prefixes.bytes
        assert told >= 0.5 * (held() - before)
    assert held() == before


def test_a_remembering_model_can_be_sent_and_copied(model):
    with model.remembering(PLENTY):
        asked(model, QUESTIONS[0])
        assert pickle.loads(pickle.dumps(model)).prefixes is None
        assert copy.copy(model).prefixes is None


def test_a_failed_call_leaves_nothing_wrong(model, monkeypatch):
    expected = asked(model, QUESTIONS[1])
    with model.remembering(PLENTY):
        asked(model, QUESTIONS[0])
        with monkeypatch.context() as broken:
            broken.setattr("relevancy.core.tape.Tape.relevance", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                asked(model, QUESTIONS[1])
        same(asked(model, QUESTIONS[1]), expected)
