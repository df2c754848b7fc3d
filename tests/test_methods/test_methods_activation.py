"""Token activation maps against loops over places and words, the filter against its published definition."""

import numpy as np
import pytest
import torch
from by_hand import ByHand

from relevancy.errors import RelevancyError
from relevancy.explanations.explain import explain
from relevancy.methods.activation_maps import ranked, without_interference
from relevancy.models.model import wrap

QUESTION = "Is the duck floating? (a) Yes (b) No"


@pytest.fixture
def model(pair):
    return wrap(*pair, name="tiny")


def filtered(image_map: np.ndarray) -> np.ndarray:
    """Patch by patch: the mirrored 3 x 3 square, sorted, weights exp(-rank^2 / 2 (std / mean)^2) around its middle."""
    padded = np.pad(image_map, 1, mode="reflect")
    found = np.zeros_like(image_map)
    for row, col in np.ndindex(image_map.shape):
        square = np.sort(padded[row : row + 3, col : col + 3].ravel())
        if square.mean() > 0:
            width = max(square.std() / square.mean(), 1e-6)
            weights = np.exp(-(np.arange(-4, 5) ** 2) / (2 * width**2))
            found[row, col] = (square * weights).sum() / weights.sum()
    return found


def by_hand(model, case: ByHand, token: int, against: int | None = None) -> np.ndarray:
    decoder, head = model.model.get_decoder(), model.model.get_output_embeddings().weight.detach().double().numpy()
    output = decoder(inputs_embeds=case.embeddings, attention_mask=case.inputs["attention_mask"])
    states = output.last_hidden_state[0].detach().double().numpy()
    head = head - head.mean(0)
    ids = case.inputs["input_ids"][0].tolist()
    special = {*model.tokenizer.all_special_ids, model.image_token_id}
    own = states @ (head[token] - (0 if against is None else head[against]))
    own = np.maximum(own, 0)
    places = case.places.numpy()
    words = [place for place, one in enumerate(ids[:-1]) if one not in special]
    total, interference = 0.0, np.zeros(len(places))
    for place in words:
        if ids[place] not in (token, against):
            interference += own[place] * np.maximum(states[places] @ head[ids[place]], 0)
            total += own[place]
    interference /= total
    best = np.linalg.lstsq(interference[:, None], own[places])[0][0]
    row = np.zeros(len(ids))
    row[words] = own[words]
    side = round(len(places) ** 0.5)
    row[places] = filtered(np.maximum(own[places] - best * interference, 0).reshape(side, side)).ravel()
    return row


@pytest.mark.parametrize("contrast", [False, True])
def test_the_map_is_the_tokens_own_less_what_earlier_words_explain(model, picture, contrast):
    target = "contrast" if contrast else "first-relevant"
    found = explain(model, picture, QUESTION, method="tam", target=target, max_new_tokens=2, evidence=False)
    said = model.tokenizer.convert_tokens_to_ids(list(found.answer_tokens))[: found.target.position]
    expected = by_hand(model, ByHand(model, picture, QUESTION, tuple(said)), found.target.id, found.target.contrast_id)
    assert np.abs(found.relevance - expected).max() <= 1e-4 * np.abs(expected).max()
    assert (found.target.contrast is not None) == contrast


def test_words_that_are_the_token_itself_take_nothing_off(model, picture):
    """Of a word of the question, its own map there does not stand against it."""
    found = explain(model, picture, "red", answer="red", method="tam", evidence=False)
    case = ByHand(model, picture, "red")
    assert found.target.id in case.inputs["input_ids"][0]
    expected = by_hand(model, case, found.target.id)
    assert np.abs(found.relevance - expected).max() <= 1e-4 * np.abs(expected).max()


def test_interference_is_taken_off_in_the_size_that_explains_most():
    own, words = torch.tensor([4.0, 2.0, 0.0]), torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    # the first word alone speaks for the token: I = (1, 1, 0), s = 6 / 2
    assert without_interference(own, words, torch.tensor([5.0, 0.0])).tolist() == [1.0, 0.0, 0.0]
    # both alike: I = (1/2, 1/2, 1), s = 3 / (3/2)
    assert without_interference(own, words, torch.ones(2)).tolist() == [3.0, 1.0, 0.0]
    for weights in (torch.zeros(2), torch.empty(0)):
        assert torch.equal(without_interference(own, words[:, : len(weights)], weights), own)


@pytest.mark.parametrize("shape", [(10, 10), (3, 7), (2, 2), (1, 4)])
def test_the_filter_is_the_published_one(shape):
    image_map = np.random.default_rng(0).exponential(size=shape)
    image_map[0, 0] = 0
    found = ranked(torch.from_numpy(image_map))
    assert np.allclose(found.numpy(), filtered(image_map), rtol=1e-6)
    assert np.allclose(ranked(torch.from_numpy(image_map) * 7).numpy(), found.numpy() * 7)


def test_the_filter_takes_a_lone_peak_away_and_leaves_an_even_map():
    lone = torch.zeros(5, 5)
    lone[2, 2] = 1
    assert float(ranked(lone).max()) < 0.4
    assert torch.allclose(ranked(torch.full((4, 4), 3.0)), torch.full((4, 4), 3.0))
    assert not ranked(torch.zeros(4, 4)).any()


def test_a_head_that_is_no_matrix_is_refused(model, picture, monkeypatch):
    monkeypatch.setattr(model.model, "get_output_embeddings", torch.nn.Identity)
    with pytest.raises(RelevancyError, match="tam reads the output embeddings, and tiny has none"):
        explain(model, picture, QUESTION, method="tam")
