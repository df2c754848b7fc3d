"""Layers that run again for backward: the same rows, less memory, and told."""

from functools import partial

import numpy as np
import pytest
import tiny
import torch

from relevancy.core import recomputation
from relevancy.core.tape import record
from relevancy.explanations import map_batch
from relevancy.explanations.explain import explain
from relevancy.models.model import Model, wrap

QUESTIONS = ["Is the duck floating?", "What color is the ball?"]
SCARCE = 1


def doubled(name: str) -> Model:
    hf_model, processor = tiny.FAMILIES[name]()
    return wrap(hf_model.double(), processor)


@pytest.fixture
def scarce(monkeypatch):
    monkeypatch.setattr(recomputation, "free_bytes", lambda _: SCARCE)


@pytest.mark.parametrize("name", sorted(tiny.FAMILIES))
@pytest.mark.parametrize(("scope", "rule", "layers"), [("language", "clamp", None), ("full", "magnitude", (0,))])
def test_rows_are_those_of_kept_activations(name, scope, rule, layers, monkeypatch):
    model = doubled(name)
    inputs = model.prepare([tiny.picture(), tiny.picture(seed=3)], QUESTIONS)
    found = {}
    for free in (1 << 60, SCARCE):
        monkeypatch.setattr(recomputation, "free_bytes", lambda _, free=free: free)
        with record(model.model, scope, rule=rule, layers=layers) as tape:
            logits = model.model(**inputs, logits_to_keep=2).logits
            assert tape.recomputation.needed is (free == SCARCE)
            rows = [
                tape.relevance(logits[:, -1].max(-1).values, retain_graph=True),
                tape.relevance(logits[:, -2, 7], -2),
            ]
        found[free] = rows
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one.language, other.language, rtol=1e-6, atol=1e-9)
        if scope == "full":
            torch.testing.assert_close(one.vision, other.vision, rtol=1e-6, atol=1e-9)
        if rule == "clamp":
            torch.testing.assert_close(one.cut, other.cut, rtol=1e-6, atol=1e-9)


def deep(layers: int = 6) -> Model:
    """Deep enough that most layers run again."""
    hf_model, processor = tiny.gemma_clip(num_hidden_layers=layers)
    return wrap(hf_model.double(), processor)


def test_all_layers_but_the_first_and_the_last_run_again(scarce):
    model = deep()
    inputs = model.prepare([tiny.picture()], QUESTIONS[:1])
    runs = [0] * 6
    for number, layer in enumerate(model.model.get_decoder().layers):
        layer.mlp.register_forward_hook(lambda *_, number=number: runs.__setitem__(number, runs[number] + 1))
    with record(model.model) as tape:
        logits = model.model(**inputs, logits_to_keep=1).logits[:, -1]
        assert runs == [1] * 6
        tape.relevance(logits[:, 5], retain_graph=True)
        assert runs == [1, 2, 2, 2, 2, 1]
        tape.relevance(logits[:, 6])
        assert runs == [1, 3, 3, 3, 3, 1]
    assert all("forward" not in vars(layer) for layer in model.model.get_decoder().layers)


def test_what_is_kept_is_a_layers_input(scarce, monkeypatch):
    model = deep()
    inputs = model.prepare([tiny.picture()], QUESTIONS[:1])
    sizes = {}
    for free in (1 << 60, SCARCE):
        monkeypatch.setattr(recomputation, "free_bytes", lambda _, free=free: free)
        with record(model.model) as tape, tape.kept.counted(model.model) as size:
            model.model(**inputs, logits_to_keep=1)
            sizes[free] = size()
    (plain, short), hidden = sizes.values(), inputs["input_ids"].numel() * 64 * 8
    assert model.model.config.text_config.hidden_size == 64
    layer = plain / 6
    assert short < 2.2 * layer + 6 * hidden


@pytest.mark.parametrize(
    "options",
    [{}, {"target": "all"}, {"target": "answer"}, {"target": -1, "evidence": False}, {"method": "relevancy-magnitude"},
     {"method": "attention-gradient"}, {"scope": "full"}],
)  # fmt: skip
@pytest.mark.parametrize("fewest", [0, 10**9])
def test_explanations_are_the_same_and_say_how_they_were_made(options, fewest, monkeypatch):
    """Also where the picture would be read once for all questions, which then does not fit."""
    model, picture = deep(), tiny.picture()
    monkeypatch.setattr(map_batch, "_LONG", fewest)
    plain = explain(model, picture, QUESTIONS, max_new_tokens=3, **options)
    monkeypatch.setattr(recomputation, "free_bytes", lambda _: SCARCE)
    found = explain(model, picture, QUESTIONS, max_new_tokens=3, **options)
    for ones, others in zip(found, plain, strict=True):
        pairs = zip(ones, others, strict=True) if isinstance(ones, list) else [(ones, others)]
        for one, other in pairs:
            assert one.answer == other.answer
            np.testing.assert_allclose(one.relevance, other.relevance, rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(one.image_map, other.image_map, rtol=1e-6, atol=1e-8)
            assert any("layers ran again" in note for note in one.notes)
            assert not any("layers ran again" in note for note in other.notes)
            if other.evidence is not None:
                assert one.evidence.blind == pytest.approx(other.evidence.blind, rel=1e-6)


def test_a_short_forward_pass_in_between_does_not_change_what_runs_again(scarce):
    model = deep()
    inputs = model.prepare([tiny.picture()], QUESTIONS[:1])
    other = model.prepare([tiny.picture(seed=5)], QUESTIONS[1:])
    with record(model.model) as tape:
        logits = model.model(**inputs, logits_to_keep=4).logits[0]
        expected = tape.relevance(logits[-4:-3, 3], -4, retain_graph=True).language
        with torch.no_grad():
            model.model(**other, logits_to_keep=1, use_cache=True)
        found = tape.relevance(logits[-4:-3, 3], -4).language
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_where_memory_is_not_known_activations_are_kept(monkeypatch):
    model = deep()
    monkeypatch.setattr(recomputation, "free_bytes", lambda _: 0)
    with record(model.model) as tape:
        model.model(**model.prepare([tiny.picture()], QUESTIONS[:1]), logits_to_keep=1)
        assert tape.recomputation.needed is False


def test_layers_with_a_forward_of_their_own_run_again_and_keep_it(scarce, monkeypatch):
    """As accelerate gives them one where they lie on several devices."""
    model = deep()
    inputs = model.prepare([tiny.picture()], QUESTIONS[:1])
    with monkeypatch.context() as plenty, record(model.model) as tape:
        plenty.setattr(recomputation, "free_bytes", lambda _: 1 << 60)
        expected = tape.relevance(model.model(**inputs, logits_to_keep=1).logits[:, -1, 5]).language
    own = {}
    for layer in model.model.get_decoder().layers:
        own[layer] = layer.forward = partial(layer.forward)
    with record(model.model) as tape:
        logits = model.model(**inputs, logits_to_keep=1).logits[:, -1, 5]
        assert tape.recomputation.needed
        torch.testing.assert_close(tape.relevance(logits).language, expected, rtol=1e-9, atol=1e-12)
    assert all(layer.forward is forward for layer, forward in own.items())


def test_a_device_that_is_short_is_enough(monkeypatch):
    """Each device is weighed with the layers that it holds."""
    model = deep()
    layers = model.model.get_decoder().layers
    found = recomputation.Recomputation(model.model.get_decoder(), None)
    layers[4].to("meta")
    layers[5].to("meta")
    free = {"cpu": 10_000, "meta": 10_000}
    monkeypatch.setattr(recomputation, "free_bytes", lambda device: free[device.type])
    found._decide(1000, list(layers))
    assert (found.needed, found.expected) == (False, 7000)
    free["meta"] = 4_999  # two layers, and three more for backward itself
    found._decide(1000, list(layers))
    assert (found.needed, found.expected, found.free) == (True, 5000, 4_999)
    free["meta"] = 5_000
    found._decide(1000, list(layers))
    assert not found.needed
