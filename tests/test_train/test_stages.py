"""Training in stages: labels, freezing, composition, collation, stored features, going on after a stop, looking."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_data import PATCH, PATCHES, SIZE, small_llava
from transformers import Gemma3TextConfig, LlamaConfig, LlavaForConditionalGeneration

from relevancy.demo.language import build_processor, build_tokenizer
from relevancy.train.attention_penalty import Looks, eager_attention, looking_share, looks
from relevancy.train.collate import Collate
from relevancy.train.composition import compose
from relevancy.train.features import look_once, stored_features
from relevancy.train.stages import PARTS, Stage, freeze
from relevancy.train.template import END, IGNORED, BadDialogueError, Turn, dialogue, encode
from relevancy.train.trainer import run


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def model(tokenizer) -> LlavaForConditionalGeneration:
    return small_llava(tokenizer, layers=1)


class Examples(torch.utils.data.Dataset):
    def __init__(self, tokenizer, count: int = 24):
        self.examples = []
        for index in range(count):
            encoded = encode(dialogue("<image>Is the duck floating?", ("Yes", "No")[index % 2]), tokenizer, PATCHES)
            generator = torch.Generator().manual_seed(index)
            pixels = torch.randn(1, 3, SIZE, SIZE, generator=generator)
            self.examples.append({"input_ids": encoded.ids, "labels": encoded.labels, "pixel_values": pixels})

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int):
        return self.examples[index]


def supervised(encoded, tokenizer) -> str:
    return tokenizer.decode([label for label in encoded.labels if label != IGNORED])


def test_answer_and_end_of_turn_are_supervised(tokenizer) -> None:
    encoded = encode(dialogue("Is it red?", "Yes", "Is it blue?", "No"), tokenizer)
    assert supervised(encoded, tokenizer) == f"Yes{END}\nNo{END}\n"
    assert encoded.labels[0] == IGNORED
    assert all(label in (IGNORED, token) for token, label in zip(encoded.ids, encoded.labels, strict=True))


def test_empty_answer_supervises_the_end_of_the_turn(tokenizer) -> None:
    assert supervised(encode(dialogue("Is it red?", ""), tokenizer), tokenizer) == f"{END}\n"


def test_odd_turns(tokenizer) -> None:
    even = encode(dialogue("Is it red?", "Yes"), tokenizer)
    assert encode(dialogue("Is it red?", "Yes", "Is it blue?"), tokenizer) == even
    assert encode([Turn("model", "Hello"), *dialogue("Is it red?", "Yes")], tokenizer) == even


def test_image_in_mid_text_moves_to_the_front(tokenizer) -> None:
    encoded = encode(dialogue("What <image> is this?", "Red"), tokenizer, image_tokens=3)
    tokens = tokenizer.convert_ids_to_tokens(encoded.ids)
    assert tokens[:8] == ["<bos>", "<start_of_turn>", "user", "\n", "<image>", "<image>", "<image>", "\n"]
    assert tokens.count("<image>") == 3
    assert encode(dialogue("<image>\nWhat  is this?", "Red"), tokenizer, image_tokens=3) == encoded


@pytest.mark.parametrize(
    "turns",
    [
        [],
        [Turn("user", "Is it red?")],
        [Turn("user", "a"), Turn("user", "b")],
        dialogue("a", f"b{END}"),
        dialogue("a", "<image>"),
    ],
)
def test_bad_dialogues_are_refused_by_name(turns, tokenizer) -> None:
    with pytest.raises(BadDialogueError):
        encode(turns, tokenizer)


said = st.text(st.characters(exclude_characters="<>", codec="utf-8"), max_size=20)


@settings(max_examples=40)
@given(st.lists(st.tuples(said, said), min_size=1, max_size=3))
def test_ids_equal_the_chat_template(tokenizer, rounds) -> None:
    texts = [text for pair in rounds for text in pair]
    messages = [
        {"role": "user" if index % 2 == 0 else "assistant", "content": text.strip()} for index, text in enumerate(texts)
    ]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    assert encode(dialogue(*texts), tokenizer).ids == tokenizer(whole, add_special_tokens=False)["input_ids"]


def test_ids_equal_the_processors(tokenizer, model) -> None:
    from PIL import Image

    processor = build_processor(tokenizer, SIZE, PATCH)
    content = [{"type": "image"}, {"type": "text", "text": "Is it red?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(
        images=[Image.new("RGB", (20, 20))], text=[prompt], add_special_tokens=False, return_tensors="pt"
    )
    ids = encode(dialogue("<image>Is it red?", ""), tokenizer, PATCHES).ids[:-2]
    assert inputs["input_ids"][0].tolist() == ids


@pytest.mark.parametrize("trains", [("connector",), ("connector", "decoder"), ("decoder",), ("tower",)])
def test_a_stage_changes_only_what_it_trains(trains, model, tokenizer, tmp_path: Path) -> None:
    stage = Stage("some", trains, steps=2, batch=4, learning_rate=1e-2, warmup=0.0)
    counts = freeze(model, stage)
    assert all(counts.values())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run(stage, model, Examples(tokenizer), Collate(0), tmp_path)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    for part, starts in PARTS.items():
        mine = {name for name in before if name.startswith(starts)}
        assert bool(changed & mine) == (part in trains), part


def test_unknown_part() -> None:
    with pytest.raises(ValueError, match="unknown parts"):
        Stage("some", ("projector",), 1, 1, 1e-3)


def test_stopped_stage_goes_on_bit_for_bit(model, tokenizer, tmp_path: Path) -> None:
    """Eight steps at once, or stopped after the checkpoint at step four: the same weights."""
    stage = Stage("some", ("connector", "decoder"), steps=8, batch=4, learning_rate=1e-3, save_every=4)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    freeze(model, stage)
    run(stage, model, Examples(tokenizer), Collate(0), tmp_path / "whole")
    whole = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    class StoppedError(Exception):
        pass

    def stop(_: str, share: float) -> None:
        if share > 0.7:
            raise StoppedError

    model.load_state_dict(start)
    with pytest.raises(StoppedError):
        run(stage, model, Examples(tokenizer), Collate(0), tmp_path / "parts", progress=stop)
    model.load_state_dict(start)
    steps = []
    run(
        stage, model, Examples(tokenizer), Collate(0), tmp_path / "parts", progress=lambda _, share: steps.append(share)
    )
    assert len(steps) == 4
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, whole[name]), name


def test_connector_carries_the_sqrt_hidden_scale(model, tokenizer) -> None:
    linear_1, linear_2 = (
        getattr(model.model.multi_modal_projector, name).weight.detach().std() for name in ("linear_1", "linear_2")
    )
    assert 2 < float(linear_2 / linear_1) < 6  # sqrt(16) = 4 before sampling noise
    assert tokenizer.convert_tokens_to_ids(END) in model.generation_config.eos_token_id


@pytest.mark.parametrize(("config_class", "factor"), [(LlamaConfig, 1.0), (Gemma3TextConfig, 8.0)])
def test_a_fresh_connector_writes_on_the_scale_of_this_decoders_words(config_class, factor, tokenizer, model) -> None:
    composed = compose(model.model.vision_tower, tiny.text(config_class, len(tokenizer)), tokenizer)
    connector = composed.model.multi_modal_projector
    assert (connector.linear_2.weight.std() / connector.linear_1.weight.std()).item() == pytest.approx(factor, rel=0.05)


def test_a_sample_centers_and_scales_the_connector(tokenizer, model) -> None:
    tower, config = model.model.vision_tower, model.config.text_config
    sample = torch.randn(5, 3, 16) + 7.0
    composed = compose(tower, config, tokenizer, sample=sample)
    with torch.no_grad():
        connector = composed.model.multi_modal_projector
        handed = connector(sample)
        words = composed.get_input_embeddings()(torch.arange(config.vocab_size))
        assert connector.linear_1(sample).mean((0, 1)).abs().max() < 1e-5
    assert handed.mean((0, 1)).abs().max() < 1e-5
    assert torch.isclose(handed.square().mean(), words.square().mean())


def test_collate_pads_and_stacks(tokenizer) -> None:
    short, long = ({"input_ids": list(range(n)), "labels": list(range(n))} for n in (2, 4))
    batch = Collate(9)([short, long])
    assert batch["input_ids"].tolist() == [[0, 1, 9, 9], [0, 1, 2, 3]]
    assert batch["labels"].tolist() == [[0, 1, IGNORED, IGNORED], [0, 1, 2, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert "pixel_values" not in batch
    mixed = Collate(9)([short, long | {"pixel_values": torch.ones(1, 3, 2, 2)}])
    assert mixed["pixel_values"].shape == (1, 3, 2, 2)


def test_stored_features_give_the_same_logits(model, tokenizer) -> None:
    examples = Examples(tokenizer, 3)
    batch = Collate(0)([examples[index] for index in range(3)])
    model.eval()
    tower = model.model.vision_tower
    pixels = batch.pop("pixel_values")
    features = look_once(tower, lambda start, stop: pixels[start:stop], 3, batch=2, dtype=torch.float32)
    with torch.no_grad():
        expected = model(pixel_values=pixels, **batch).logits
        with stored_features(model):
            logits = model(pixel_values=features, **batch).logits
    assert torch.allclose(logits, expected, atol=1e-5)
    assert model.model.vision_tower is tower


def test_tower_comes_back_after_an_error(model) -> None:
    tower = model.model.vision_tower
    with pytest.raises(ZeroDivisionError), stored_features(model):
        raise ZeroDivisionError
    assert model.model.vision_tower is tower


def test_share_by_hand():
    found = Looks()
    heads = torch.tensor(
        [
            [[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.2, 0.3, 0.5, 0.0], [0.1, 0.2, 0.3, 0.4]],
            [[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.7, 0.3, 0.0], [0.0, 0.0, 1.0, 0.0]],
        ]
    )
    found.maps.append(heads[None])
    image = torch.tensor([[False, True, True, False]])
    tokens = torch.tensor([[True, True, True, False]])  # the last is padding
    # Token 0 and 1 look at no other image token; token 2 at token 1, 0.3 and 0.7 in the two heads.
    assert found.share(image, tokens).item() == pytest.approx((0 + 0 + 0.5) / 3)


@pytest.fixture
def batch(tokenizer):
    examples = Examples(tokenizer, 3).examples
    return Collate(tokenizer.pad_token_id)(examples)


def test_looks_are_attention_maps_with_a_gradient(model, batch):
    layers = model.model.language_model.layers
    with eager_attention(model), looks(model) as found:
        model(**batch)
        share = looking_share(model, found, batch)
    (attention,) = found.maps
    torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))
    assert 0 < share.item() < 1
    share.backward()
    assert layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


def test_attention_and_hooks_are_given_back(model):
    decoder = model.model.language_model
    hooks = len(decoder.layers[0].self_attn._forward_hooks)
    before = decoder.config._attn_implementation
    with pytest.raises(RuntimeError), eager_attention(model), looks(model):
        raise RuntimeError
    assert decoder.config._attn_implementation == before
    assert len(decoder.layers[0].self_attn._forward_hooks) == hooks


def test_a_price_makes_a_model_look_less(model, tokenizer, batch, tmp_path):
    def share() -> float:
        with torch.no_grad(), eager_attention(model), looks(model) as found:
            model(**batch)
        return looking_share(model, found, batch).item()

    before = share()
    stage = Stage("stage", ("connector", "decoder"), steps=30, batch=4, learning_rate=1e-2, looking_cost=20.0)
    freeze(model, stage)
    run(stage, model, Examples(tokenizer), Collate(tokenizer.pad_token_id), tmp_path)
    assert share() < before / 2
