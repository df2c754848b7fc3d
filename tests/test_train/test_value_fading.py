"""The price on answers that do not fall when less is read: what it measures, and that paying it away works."""

import pytest
import torch
from training_data import PATCHES, SIZE, small_llava
from transformers import Phi3Config
from transformers.models.phi3.modeling_phi3 import Phi3Attention

from relevancy.core.patching import attention_implementation
from relevancy.demo.language import build_tokenizer
from relevancy.errors import RelevancyError
from relevancy.train.collate import Collate
from relevancy.train.stages import Stage, freeze
from relevancy.train.template import IGNORED, dialogue, encode
from relevancy.train.trainer import run
from relevancy.train.value_fading import (
    ALL,
    COMMON,
    LEAST,
    MOST,
    OTHER,
    SOME,
    STILL,
    Fading,
    check_values,
    faded_values,
    fading_shortfall,
)

LAYERS = 2
TALKS = (
    ("<image>Is the duck floating?", "Yes", "What color is the duck?", "Red"),
    ("<image>Is there a boat?", "No"),
    ("<image>Is the duck floating? (a) Yes (b) No", "(a) Yes"),
)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def model(tokenizer):
    return small_llava(tokenizer, LAYERS)


class Examples(torch.utils.data.Dataset):
    def __init__(self, tokenizer, count: int = len(TALKS)):
        self.encoded = [encode(dialogue(*TALKS[index % len(TALKS)]), tokenizer, PATCHES) for index in range(count)]

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int):
        pixels = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(index))
        one = self.encoded[index]
        return {"input_ids": one.ids, "labels": one.labels, "pixel_values": pixels}


@pytest.fixture
def batch(tokenizer):
    examples = Examples(tokenizer)
    return Collate(tokenizer.pad_token_id)([examples[index] for index in range(len(examples))])


def test_a_fall_is_the_sum_of_attention_times_gradient(model, batch) -> None:
    """What eq. 5 is made of, over all that reads the faded tokens. Norms round to float32: steps cannot be tiny."""
    model, step = model.double().eval(), 0.05
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    inputs["pixel_values"] = inputs["pixel_values"].double()
    word, place = 5, int((batch["labels"][0] != IGNORED).int().argmax()) - 1
    with attention_implementation("eager", model.get_decoder()):
        found = model(**inputs, output_attentions=True)
        gradients = torch.autograd.grad(found.logits[0, place, word], found.attentions)
    chosen = torch.rand(inputs["input_ids"].shape, generator=torch.Generator().manual_seed(0)) < 0.5

    def logit(layer: int, amount: float) -> float:
        rows = len(chosen)
        kind, where = torch.full((rows,), SOME), torch.full((rows,), layer)
        fading = Fading(
            kind, where, torch.full((rows,), amount), chosen, inputs["input_ids"] == model.config.image_token_id
        )
        with torch.no_grad(), faded_values(model, fading):
            return model(**inputs).logits[0, place, word].item()

    for layer in range(LAYERS):
        fell = (logit(layer, -step) - logit(layer, step)) / (2 * step)
        product = (found.attentions[layer] * gradients[layer])[0]
        expected = product[:, :, chosen[0]].sum().item()
        assert fell == pytest.approx(expected, rel=0.03)
        assert abs(expected) > 1e-4


def fading_of(kind: list[int], layer: list[int], amount: list[float], chosen: torch.Tensor, is_image: torch.Tensor):
    return Fading(torch.tensor(kind), torch.tensor(layer), torch.tensor(amount), chosen, is_image)


def test_shortfall_by_hand() -> None:
    nothing = torch.zeros(4, 3, dtype=torch.bool)
    fading = fading_of([ALL, SOME, OTHER, COMMON], [0, 1, 0, 0], [0.5, 0.2, 0.25, 0.1], nothing, nothing)
    own = torch.tensor([3.0, 1.0, 2.0, 2.0, 1.0, 4.0, 4.0])
    fainter = torch.tensor([2.5, 0.9, 2.1, 1.0, 0.95, 4.3, 3.9])
    # For the whole way: 1.0 and 0.2 of 0.5; -0.5 and 5 of 0; 0.2 of 0.5; a rise by 3 and a fall by 1, both wrong.
    expected = (0 + 0.3 + 0.5 + 0 + 0.3 + STILL * 3 + STILL * 1) / 7
    sequence = torch.tensor([0, 0, 1, 1, 2, 3, 3])
    found = fading.shortfall(own, fainter, sequence)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert fading.shortfall(own[:0], fainter[:0], torch.tensor([], dtype=torch.long)).item() == 0


def test_values_by_hand() -> None:
    """Three tokens of one value each, the middle one the picture's, or in the last sequence the first one."""
    values = torch.tensor([[1.0, 2, 4], [8, 16, 32], [64, 128, 256], [512, 1024, 2048]])[..., None]
    middle, first = torch.tensor([False, True, False]), torch.tensor([True, False, False])
    is_image = torch.stack([middle, middle, middle, first])
    everything = torch.ones(4, 3, dtype=torch.bool)

    def changed(kind: int, chosen: torch.Tensor, layer: int = 1) -> list[list[float]]:
        return fading_of([kind] * 4, [1] * 4, [0.5] * 4, chosen, is_image).changed(values, layer)[..., 0].tolist()

    assert changed(ALL, everything) == (values[..., 0] / 2).tolist()
    assert changed(ALL, everything, layer=0) == values[..., 0].tolist()
    assert changed(SOME, middle.expand(4, 3))[0] == [1, 1, 4]
    assert changed(OTHER, is_image, layer=0)[1:3] == [[8, 9, 32], [64, 72, 256]]
    common = (2 + 16 + 128) / 3
    assert changed(COMMON, is_image, layer=0)[2] == pytest.approx([64, 128 - common / 2, 256])
    assert changed(COMMON, is_image, layer=0)[3] == [256, 1024, 2048]


def test_what_fades() -> None:
    torch.manual_seed(0)
    picture = torch.tensor([[False, True, True, True, False, False], [True, True, True, False, False, False]])
    drawn = Fading.drawn(picture.repeat(400, 1), 3)
    assert set(drawn.layer.tolist()) == {0, 1, 2}
    assert LEAST <= drawn.amount.min() < drawn.amount.max() <= MOST
    assert min(drawn.kind.bincount()) > 150
    assert drawn.chosen[drawn.kind == ALL].all()
    assert (drawn.chosen[drawn.kind == OTHER].sum(1) == 2).all()  # places where both have a picture
    assert (drawn.chosen == drawn.is_image)[drawn.kind == COMMON].all()
    some, pictures = drawn.chosen[drawn.kind == SOME], drawn.is_image[drawn.kind == SOME]
    assert set((some & pictures).sum(1).tolist()) == {0, 3}
    assert 0.4 < some[~pictures].float().mean() < 0.6


def test_only_first_words_of_answers_are_asked(model, batch, monkeypatch) -> None:
    asked = []

    def seen(_fading, own, _fainter, sequence):
        asked.append((own, sequence.tolist()))
        return own.sum()

    monkeypatch.setattr(Fading, "shortfall", seen)
    logits = model(**batch).logits
    fading_shortfall(model, model, batch, logits)
    ((own, sequence),) = asked
    assert sequence == [0, 0, 1, 2]
    labels = batch["labels"]
    where = [
        (row, place)
        for row in range(len(labels))
        for place in range(1, labels.shape[1])
        if labels[row, place] != IGNORED and labels[row, place - 1] == IGNORED
    ]
    torch.testing.assert_close(own, torch.stack([logits[row, place - 1, labels[row, place]] for row, place in where]))


def test_a_price_makes_answers_fall(tokenizer, batch, tmp_path) -> None:
    def lacking(model) -> float:
        torch.manual_seed(1)
        with torch.no_grad():
            logits = model(**batch).logits
            return sum(fading_shortfall(model, model, batch, logits).item() for _ in range(60)) / 60

    found = {}
    for price in (0.0, 5.0):
        model = small_llava(tokenizer, LAYERS)
        stage = Stage("stage", ("connector", "decoder"), steps=60, batch=3, learning_rate=1e-2, fading_cost=price)
        freeze(model, stage)
        run(stage, model, Examples(tokenizer, 24), Collate(tokenizer.pad_token_id), tmp_path / str(price))
        found[price] = lacking(model)
        assert all(not layer.self_attn.v_proj._forward_hooks for layer in model.model.language_model.layers)
    assert found[5.0] < 0.7 * found[0.0]


def test_a_decoder_without_values_of_their_own_is_refused(model) -> None:
    check_values(model)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0}
    model.model.language_model.layers[0].self_attn = Phi3Attention(Phi3Config(**sizes), 0)
    with pytest.raises(RelevancyError, match="Phi3Attention"):
        check_values(model)
