import copy
import json
import pickle
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from huggingface_hub import errors as hub_errors
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForImageTextToText,
    BertConfig,
    BertModel,
    CLIPImageProcessorPil,
    DeiTConfig,
    Dinov2WithRegistersConfig,
    GemmaConfig,
    GemmaForCausalLM,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaProcessor,
    SiglipVisionConfig,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from relevancy import models
from relevancy.errors import RelevancyError
from relevancy.explanations.explain import explain
from relevancy.models import checkpoints, compat, device, generation, prompts

FIXTURES = Path(__file__).parents[1] / "fixtures"
PUBLISHED = FIXTURES / "published"
QUESTION = "Is the duck floating? (a) Yes (b) No"


@pytest.fixture(scope="session")
def recorded():
    with np.load(FIXTURES / "recorded.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="session")
def published():
    return models.load(PUBLISHED, device="cpu")


@pytest.fixture(scope="session")
def wrapped(built):
    return {name: models.wrap(*pair, name=name) for name, pair in built.items()}


def logits_of(hf_model, inputs):
    with torch.inference_mode():
        return hf_model(**inputs).logits


def recorded_error(hf_model, recorded):
    inputs = {name: recorded[name] for name in ("input_ids", "pixel_values")}
    difference = logits_of(hf_model.float(), inputs) - recorded["logits"]
    return float(difference.abs().max() / recorded["logits"].abs().max())


def copied(folder: Path, *, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "model"))


def rewritten(path: Path, tensors):
    path.unlink()  # a file that is mapped into memory must not change under it
    save_file(tensors, path, metadata={"format": "pt"})


def edited(folder: Path, file: str, **changes):
    content = json.loads((folder / file).read_text())
    for key, value in changes.items():
        if value is None:
            content.pop(key, None)
        else:
            content[key] = value
    (folder / file).write_text(json.dumps(content))


# The published layout


def test_published_checkpoint_computes_what_it_was_trained_for(published, recorded):
    assert recorded_error(published.model, recorded) <= 1e-5


def test_without_the_repair_it_does_not(recorded):
    unrepaired = AutoModelForImageTextToText.from_pretrained(PUBLISHED)
    assert recorded_error(unrepaired, recorded) > 0.1


def test_published_prompt_and_pixels_are_those_recorded(published, recorded):
    inputs = published.prepare([Image.open(FIXTURES / "picture.png")], [QUESTION])
    assert inputs["input_ids"].tolist() == recorded["input_ids"].tolist()
    torch.testing.assert_close(inputs["pixel_values"], recorded["pixel_values"], rtol=0, atol=1e-6)


def test_saving_does_not_lead_to_a_second_repair(published, recorded, tmp_path):
    published.model.save_pretrained(tmp_path)
    published.processor.save_pretrained(tmp_path)
    again = models.load(tmp_path, device="cpu")
    plain = LlavaForConditionalGeneration.from_pretrained(tmp_path)
    assert recorded_error(again.model, recorded) <= 1e-5
    assert recorded_error(plain, recorded) <= 1e-5
    assert again.prepare([tiny.picture()], [QUESTION])["input_ids"].shape == recorded["input_ids"].shape


def test_a_saved_repair_is_remembered_whatever_the_version_says(published, recorded, tmp_path):
    published.model.save_pretrained(tmp_path)
    published.processor.save_pretrained(tmp_path)
    edited(tmp_path, "config.json", transformers_version="4.57.1")
    assert recorded_error(models.load(tmp_path, device="cpu").model, recorded) <= 1e-5


def test_output_matrix_stored_beside_the_embeddings_it_is_tied_to(recorded, tmp_path):
    folder = copied(PUBLISHED, to=tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["language_model.lm_head.weight"] = tensors["language_model.model.embed_tokens.weight"].clone()
    rewritten(folder / "model.safetensors", tensors)
    assert recorded_error(models.load(folder, device="cpu").model, recorded) <= 1e-5


def test_wrap_warns_of_a_checkpoint_that_needs_the_repair(published):
    unrepaired = AutoModelForImageTextToText.from_pretrained(PUBLISHED)
    with pytest.warns(UserWarning, match="sqrt"):
        models.wrap(unrepaired, published.processor)
    assert compat.scale_image_features(unrepaired)
    assert not compat.scale_image_features(unrepaired)


@pytest.mark.parametrize(
    ("name", "version", "scaled"),
    [
        ("gemma-clip", "4.39.0.dev0", True),
        ("gemma-clip", "5.3.0", True),
        ("gemma-clip", "5.4.0", False),
        ("gemma-clip", "5.23.0", False),
        ("gemma-clip", None, False),
        ("gemma-dinov2", "4.57.1", True),
        ("gemma2-clip", "4.57.1", True),
        ("llama-clip", "4.39.0", False),
    ],
)
def test_image_scale_moves_into_the_connector_of_old_gemma_checkpoints_only(name, version, scaled):
    model, _ = tiny.BUILDERS[name]()
    model.config.transformers_version = version
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert compat.scale_image_features(model) is scaled
    factor = model.config.text_config.hidden_size**0.5 if scaled else 1.0
    for key, value in model.state_dict().items():
        expected = before[key] * (factor if ".linear_2." in key else 1.0)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("config_class", "model_class", "others"),
    [
        (LlavaNextConfig, LlavaNextForConditionalGeneration, {"model.image_newline"}),
        (VipLlavaConfig, VipLlavaForConditionalGeneration, set()),
    ],
)
def test_image_scale_in_the_relatives_of_llava(config_class, model_class, others, bias):
    config = config_class(
        text_config=tiny.text(GemmaConfig, 128), vision_config=tiny.clip(), image_token_index=100,
        multimodal_projector_bias=bias,
    )  # fmt: skip
    model = model_class(config)
    model.config.transformers_version = "4.50.0"
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert compat.scale_image_features(model)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    linear = "model.multi_modal_projector.linear_2"
    assert changed == ({f"{linear}.weight"} | ({f"{linear}.bias"} if bias else set()) | others) - {
        key for key in before if not before[key].any()
    }


def test_image_scale_is_rounded_as_the_old_release_rounded_it():
    model, _ = tiny.gemma_clip(hidden_size=48)
    model = model.bfloat16()
    model.config.transformers_version = "4.39.0"
    before = model.model.multi_modal_projector.linear_2.weight.clone()
    compat.scale_image_features(model)
    factor = torch.tensor(48**0.5, dtype=torch.bfloat16)
    assert torch.equal(model.model.multi_modal_projector.linear_2.weight, before * factor)


# The processor


def tower_that_was_distilled():
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return DeiTConfig(**sizes, image_size=tiny.IMAGE_SIZE, patch_size=tiny.PATCH_SIZE)


def tower_with_registers():
    return Dinov2WithRegistersConfig(
        hidden_size=48, mlp_ratio=2, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=14,
        num_register_tokens=4,
    )  # fmt: skip


def siglip_tower():
    return SiglipVisionConfig(
        hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=14
    )


@pytest.mark.parametrize(
    ("tower", "strategy", "image_tokens", "extra"),
    [
        (tiny.clip, "default", 16, 0),
        (tiny.clip, "full", 17, 1),
        (tiny.dinov2, "default", 16, 0),
        (tower_that_was_distilled, "default", 17, 1),
        (tower_with_registers, "default", 20, 4),
        (siglip_tower, "full", 16, 0),
    ],
)
def test_processor_fields_come_from_the_model(tower, strategy, image_tokens, extra):
    tokenizer = tiny.gemma_tokenizer()
    text_config = tiny.text(GemmaConfig, len(tokenizer))
    hf_model = tiny.build(text_config, tower(), tokenizer=tokenizer, seed=0, vision_feature_select_strategy=strategy)
    bare = LlavaProcessor(image_processor=tiny.processor_for(tokenizer).image_processor, tokenizer=tokenizer)
    model = models.wrap(hf_model, bare)
    inputs = model.prepare([tiny.picture()], [QUESTION])
    assert int((inputs["input_ids"] == model.image_token_id).sum()) == image_tokens
    assert model.extra_image_tokens == extra
    assert logits_of(hf_model, inputs).isfinite().all()
    assert bare.patch_size is None
    assert (model.grid(80, 60).rows, model.grid(80, 60).cols) == (4, 4)


def test_a_processor_of_another_model_is_refused(built):
    hf_model, processor = built["gemma-clip"]
    stranger = LlavaProcessor(
        image_processor=processor.image_processor, tokenizer=tiny.gemma_tokenizer(["other words"])
    )
    stranger.tokenizer.add_tokens(["filler"])
    hf_model.config.image_token_index, kept = 300, hf_model.config.image_token_index
    try:
        with pytest.raises(RelevancyError, match="belongs to another model"):
            models.wrap(hf_model, stranger)
    finally:
        hf_model.config.image_token_index = kept


def test_stop_tokens_include_the_end_of_a_turn(published):
    ids = published.tokenizer.convert_tokens_to_ids(["<eos>", "<end_of_turn>"])
    assert published.stop_token_ids == tuple(sorted(ids))


def expanded_to_square(image, color):
    side = max(image.size)
    square = Image.new("RGB", (side, side), color)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


@pytest.mark.parametrize("size", [(80, 60), (60, 80), (57, 56), (31, 90)])
def test_framing_pad_shows_the_whole_picture_on_the_mean_color(size):
    model = models.load(PUBLISHED, device="cpu", framing="pad")
    image = tiny.picture(*size)
    processor = CLIPImageProcessorPil.from_pretrained(PUBLISHED)
    square = expanded_to_square(image, tuple(int(255 * channel) for channel in processor.image_mean))
    expected = processor(square, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(model.prepare([image], [QUESTION])["pixel_values"], expected, rtol=0, atol=1e-5)
    grid = model.grid(*size)
    assert grid.x_edges[-1] - grid.x_edges[0] == pytest.approx(max(size))


def test_framing_crop_is_what_the_published_processor_does(published):
    cropped = models.load(PUBLISHED, device="cpu", framing="crop")
    image = tiny.picture(90, 50)
    ours, theirs = (m.prepare([image], [QUESTION])["pixel_values"] for m in (cropped, published))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_unknown_framing_is_refused():
    with pytest.raises(RelevancyError, match="pad, crop"):
        models.load(PUBLISHED, device="cpu", framing="stretch")


# Prompts


def bos_count(model, inputs):
    return (inputs["input_ids"] == model.tokenizer.bos_token_id).sum(-1).tolist()


def test_every_way_to_word_a_gemma_question_gives_the_same_ids(built, published):
    hf_model, processor = built["gemma-clip"]
    expected = models.wrap(hf_model, processor).prepare([tiny.picture()], [QUESTION])["input_ids"].tolist()
    gemma_own = published.tokenizer.chat_template
    for own, tokenizers in [(None, None), (None, gemma_own), (None, tiny.CHAT_TEMPLATE), (tiny.CHAT_TEMPLATE, None)]:
        variant = tiny.processor_for(tiny.gemma_tokenizer(chat_template=tokenizers))
        variant.chat_template = own
        model = models.wrap(hf_model, variant)
        inputs = model.prepare([tiny.picture()], [QUESTION])
        assert inputs["input_ids"].tolist() == expected
        assert bos_count(model, inputs) == [1]


def test_a_template_without_bos_still_gives_one(built):
    hf_model, _ = built["gemma-clip"]
    for adds in (True, False):
        tokenizer = tiny.gemma_tokenizer(chat_template=tiny.CHAT_TEMPLATE.removeprefix("{{ bos_token }}"))
        tokenizer.add_bos_token = adds
        model = models.wrap(hf_model, tiny.processor_for(tokenizer))
        inputs = model.prepare([tiny.picture()], [QUESTION])
        assert bos_count(model, inputs) == [1]
        assert inputs["input_ids"][0, 0] == tokenizer.bos_token_id


def test_other_families_use_their_own_template(built):
    hf_model, _ = built["llama-clip"]
    template = (
        "{% for message in messages %}USER: {% for part in message['content'] %}"
        "{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %} ASSISTANT:{% endfor %}"
    )
    model = models.wrap(hf_model, tiny.processor_for(tiny.gemma_tokenizer(chat_template=template)))
    inputs = model.prepare([tiny.picture()], ["Where?"])
    assert model.tokenizer.decode(inputs["input_ids"][0]) == f"<bos>USER: {'<image>' * 16}\nWhere? ASSISTANT:"
    bare = models.wrap(hf_model, tiny.processor_for(tiny.gemma_tokenizer(chat_template=None)))
    inputs = bare.prepare([tiny.picture()], ["Where?"])
    assert bare.tokenizer.decode(inputs["input_ids"][0]) == f"<bos>{'<image>' * 16}\nWhere?\n"


def test_a_prompt_of_paligemma_is_what_its_own_processor_makes():
    hf_model, processor = tiny.paligemma()
    ours = models.wrap(hf_model, processor).prepare([tiny.picture()], ["Where?"])
    theirs = processor(images=[[tiny.picture()]], text=["<image>Where?"], return_tensors="pt")
    assert ours["input_ids"].tolist() == theirs["input_ids"].tolist()


PARTS = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %} ASSISTANT:{% endfor %}"
)


@pytest.mark.parametrize("template", [None, PARTS, tiny.CHAT_TEMPLATE])
@pytest.mark.parametrize("frame", ["<bos> $A <eos>", "$A <eos>", "<bos> $A <eos> <eos>", "<bos> $A"])
def test_a_prompt_ends_where_the_model_goes_on_whatever_the_tokenizer_appends(built, template, frame):
    hf_model, _ = built["llama-clip"]
    expected = models.wrap(hf_model, tiny.processor_for(tiny.gemma_tokenizer(chat_template=template)))
    tokenizer = tiny.gemma_tokenizer(chat_template=template)
    specials = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<bos>", "<eos>")]
    tokenizer._tokenizer.post_processor = TemplateProcessing(single=frame, special_tokens=specials)
    model = models.wrap(hf_model, tiny.processor_for(tokenizer))
    asked = [tiny.picture()] * 2, ["Where?", QUESTION]
    for answers in (None, [[300, 301], []]):
        ours, plain = (each.prepare(*asked, answers)["input_ids"] for each in (model, expected))
        begun = "<bos>" in frame or template == tiny.CHAT_TEMPLATE
        assert ours[1].tolist() == plain[1].tolist()[not begun :]
        assert ours.shape == model.prepare(*asked, answers)["attention_mask"].shape
    assert generation.encoded(model, "Yes") == generation.encoded(expected, "Yes")
    assert generation.spellings(model, "Yes") == generation.spellings(expected, "Yes")


def test_of_templates_with_names_the_default_one_is_used(built):
    hf_model, _ = built["llama-clip"]
    others = {"tools": "{{ raise_exception('tools only') }}"}
    for template in ({"default": PARTS, **others}, {**others, "default": PARTS}):
        for tokenizers in (False, True):
            processor = tiny.processor_for(tiny.gemma_tokenizer(chat_template=template if tokenizers else None))
            processor.chat_template = None if tokenizers else template
            model = models.wrap(hf_model, processor)
            inputs = model.prepare([tiny.picture()], ["Where?"])
            assert model.tokenizer.decode(inputs["input_ids"][0]).endswith("\nWhere? ASSISTANT:")
    processor = tiny.processor_for(tiny.gemma_tokenizer(chat_template=None))
    processor.chat_template = others
    with pytest.raises(RelevancyError, match="named tools, and none of them default"):
        models.wrap(hf_model, processor).prepare([tiny.picture()], ["Where?"])


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (PARTS.replace("<image>", "<image><image>"), "says the picture 2 times"),
        (tiny.CHAT_TEMPLATE.replace("<image>", "<image><image>"), "says the picture 2 times"),
        ("{% for message in messages %}<image>{{ message['content'] }}{% endfor %}", "says the picture 2 times"),
        ("{{ raise_exception('a system turn is needed') }}", "a system turn is needed"),
        ("{{ messages[7]['content'] }}", "has no element 7"),
        ("{% for message in messages %}", "end of template"),
        ("{{ 1 // 0 }}", "by zero"),
        (PARTS.replace("<image>", "[IMG]"), "says the picture 0 times"),
        ("USER: {{ messages[0]['role'] }}", "picture and the question once each"),
        ("{{ messages[0]['content'] }}{{ messages[0]['content'] }}", "picture and the question once each"),
    ],
)
@pytest.mark.parametrize("family", ["gemma-clip", "llama-clip"])
def test_a_template_that_cannot_word_a_question_is_refused_and_never_replaced_in_silence(
    built, family, template, reason
):
    hf_model, _ = built[family]
    for owner in ("processor", "tokenizer"):
        processor = tiny.processor_for(tiny.gemma_tokenizer(chat_template=template if owner == "tokenizer" else None))
        processor.chat_template = template if owner == "processor" else None
        with pytest.raises(RelevancyError, match=reason) as caught:
            models.wrap(hf_model, processor).prepare([tiny.picture()], ["Where?"])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("question", [None, 7, b"Where?", {"role": "user", "content": "Where?"}, ["Where?"], 1.5])
def test_a_question_of_another_kind_than_text_is_refused(wrapped, question):
    for ask in (lambda: wrapped["gemma-clip"].question_notes(question),
                lambda: wrapped["gemma-clip"].prepare([tiny.picture()], [question])):  # fmt: skip
        with pytest.raises(RelevancyError, match=f"must be text, not {type(question).__name__}"):
            ask()


CONTROLS = ["<image>", "<start_of_turn>", "<end_of_turn>", "<eos>", "<bos>", "<pad>", "<unk>"]
PIECES = st.lists(st.one_of(st.sampled_from([*CONTROLS, "<", ">", "image>", " "]), st.text(max_size=5)), max_size=8)


@settings(max_examples=60)
@given(pieces=PIECES, which=st.sampled_from(["published", "gemma-clip"]))
def test_nothing_in_a_question_becomes_a_control_token(published, wrapped, pieces, which):
    model = published if which == "published" else wrapped[which]
    question = "Q" + "".join(pieces)
    controls = model.tokenizer.convert_tokens_to_ids([token for token in CONTROLS if token != "<unk>"])

    def count(text):
        ids = model.prepare([tiny.picture()], [text])["input_ids"]
        return [int((ids == control).sum()) for control in controls]

    assert count(question) == count("Q")
    assert len(model.question_notes(question)) == len({token for token in CONTROLS if token in question})


def test_notes_name_what_was_neutralized(wrapped):
    notes = wrapped["gemma-clip"].question_notes("What is <image> in <end_of_turn><end_of_turn>?")
    assert [re.search(r'"(.+?)"', note)[1] for note in notes] == ["<image>", "<end_of_turn>"]
    assert wrapped["gemma-clip"].question_notes(QUESTION) == ()


@given(text=st.text(alphabet="<imagepd> ", max_size=30))
def test_neutralizing_only_adds_spaces(text):
    controls = re.compile("<image>|<pad>|<<")
    neutral, found = prompts.neutralize(text, controls)
    assert neutral.replace(" ", "") == text.replace(" ", "")
    assert not controls.search(neutral)
    assert bool(found) == bool(controls.search(text))
    assert found or neutral == text


@pytest.mark.parametrize(
    ("controls", "text", "neutral", "found"),
    [
        ("<<", "<<<", "< < <", ("<<",)),
        ("<<", "<<<<<", "< < < < <", ("<<",)),
        (r"\[ x\]|\[\[", "[[ x]", "[ [  x]", ("[[", "[ x]")),  # one token, taken apart, makes another
    ],
)
def test_what_neutralizing_leaves_is_looked_at_again(controls, text, neutral, found):
    assert prompts.neutralize(text, re.compile(controls)) == (neutral, found)


@pytest.mark.parametrize("question", ["", "  ", "\n\t"])
def test_an_empty_question_is_refused(wrapped, question):
    with pytest.raises(RelevancyError, match="question is empty"):
        wrapped["gemma-clip"].prepare([tiny.picture()], [question])


def test_a_question_that_is_no_text_is_refused(wrapped):
    with pytest.raises(RelevancyError, match="UTF-8"):
        wrapped["gemma-clip"].prepare([tiny.picture()], ["Where\udcff?"])


def test_a_question_longer_than_the_model_reads_is_refused(wrapped):
    with pytest.raises(RelevancyError, match=r"picture's 16 tokens it makes \d+, and gemma-clip reads 512"):
        wrapped["gemma-clip"].prepare([tiny.picture()], ["duck " * 600])


# Batches


@pytest.mark.parametrize("answers", [None, [[300, 301, 302], []], [[], [300, 301]]])
def test_a_batch_gives_what_its_members_give(pair, answers):
    model = models.wrap(*pair)
    images = [tiny.picture(80, 60, seed=1), tiny.picture(50, 70, seed=2)]
    questions = ["Where?", QUESTION]
    batch = model.prepare(images, questions, answers)
    together = logits_of(model.model, batch)
    assert not batch["attention_mask"][0, 0]
    for row, (image, question) in enumerate(zip(images, questions, strict=True)):
        alone = model.prepare([image], [question], answers and [answers[row]])
        length = alone["input_ids"].shape[1]
        assert batch["input_ids"][row, -length:].tolist() == alone["input_ids"][0].tolist()
        assert batch["attention_mask"][row].sum() == length
        torch.testing.assert_close(together[row, -length:], logits_of(model.model, alone)[0], rtol=0, atol=2e-5)


def test_a_continuation_follows_the_models_turn(wrapped):
    model = wrapped["gemma-clip"]
    plain = model.prepare([tiny.picture()], [QUESTION])["input_ids"][0].tolist()
    continued = model.prepare([tiny.picture()], [QUESTION], [[300, 301]])
    assert continued["input_ids"][0].tolist() == [*plain, 300, 301]
    assert continued["attention_mask"].all()
    tail = model.tokenizer.decode(plain).removesuffix("<start_of_turn>model\n")
    assert tail.endswith(f"{QUESTION}<end_of_turn>\n")


@pytest.mark.parametrize("given", [None, "demo-small", torch.nn.Linear(1, 1)])
def test_wrap_takes_nothing_but_a_model(given):
    with pytest.raises(RelevancyError, match=rf"not {type(given).__name__}; relevancy.load takes a name"):
        models.wrap(given, None)


def test_wrap_leaves_the_users_objects_alone(built):
    hf_model, processor = built["gemma-clip"]
    before = dict(vars(processor))
    model = models.wrap(hf_model, processor)
    model.prepare([tiny.picture()] * 2, [QUESTION, "Where?"])
    assert vars(processor) == before
    assert model.model is hf_model


def test_a_tokenizer_without_padding_gets_one_of_its_own(built):
    hf_model, _ = built["llama-clip"]
    tokenizer = tiny.gemma_tokenizer()
    tokenizer.pad_token = None
    model = models.wrap(hf_model, tiny.processor_for(tokenizer))
    inputs = model.prepare([tiny.picture()] * 2, [QUESTION, "Where?"])
    assert inputs["attention_mask"].sum(-1).tolist()[0] > inputs["attention_mask"].sum(-1).tolist()[1]
    assert tokenizer.pad_token is None


# Loading


def test_precision_follows_the_size_of_the_model(monkeypatch):
    assert models.load(PUBLISHED, device="cpu").dtype == torch.float32
    monkeypatch.setattr(device, "_FLOAT32_BELOW", 1000)
    model = models.load(PUBLISHED, device="cpu")
    assert model.dtype == torch.bfloat16
    assert model.prepare([tiny.picture()], [QUESTION])["pixel_values"].dtype == torch.bfloat16
    assert models.load(PUBLISHED, device="cpu", dtype="fp32").dtype == torch.float32


def test_device_map_places_the_model(recorded):
    pytest.importorskip("accelerate")
    assert recorded_error(models.load(PUBLISHED, device_map={"": "cpu"}).model, recorded) <= 1e-5


def refusal(*arguments, **options) -> str:
    with pytest.raises(RelevancyError) as caught:
        models.load(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_unknown_names_list_the_known_ones(tmp_path):
    message = refusal("2-b")
    assert all(name in message for name in [*checkpoints.MODELS, "hub id", "folder"])
    assert "no folder" in refusal(tmp_path / "absent")
    assert "is a file" in refusal(PUBLISHED / "config.json")


def test_a_folder_must_hold_a_model(tmp_path):
    assert "no config.json" in refusal(tmp_path)
    folder = copied(PUBLISHED, to=tmp_path)
    (folder / "model.safetensors").unlink()
    assert "no *.safetensors" in refusal(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert "pickled (pytorch_model.bin)" in refusal(folder)


def test_damaged_and_incomplete_weights_are_refused(tmp_path):
    folder = copied(PUBLISHED, to=tmp_path)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    start = weights.read_bytes()[:5000]
    weights.unlink()
    weights.write_bytes(start)
    assert "damaged" in refusal(folder)
    missing = "multi_modal_projector.linear_2.weight"
    rewritten(weights, {key: value for key, value in tensors.items() if key != missing})
    assert f"model.{missing}" in refusal(folder)
    rewritten(weights, tensors | {missing: torch.zeros(3, 3)})
    assert "cannot be loaded" in refusal(folder)


def without(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def wrote(name, content):
    return lambda folder: (folder / name).write_text(content)


def changed(**changes):
    """Nested entries of config.json as `text_config__hidden_size`; None takes one out."""

    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        for path, value in changes.items():
            *parents, last = path.split("__")
            inner = config
            for name in parents:
                inner = inner[name]
            inner.pop(last, None) if value is None else inner.__setitem__(last, value)
        (folder / "config.json").write_text(json.dumps(config))

    return change


def with_tensors(change):
    def rewrite(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        rewritten(folder / "model.safetensors", tensors)

    return rewrite


def lost_shard(folder):
    names = sorted(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {name: f"model-0000{1 + (name == names[-1])}-of-00002.safetensors" for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))


def looped(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "model.safetensors")


BROKEN = {
    "no tokenizer": (without("tokenizer.json"), "processor.save_pretrained"),
    "damaged tokenizer": (wrote("tokenizer.json", "{"), "processor.save_pretrained"),
    "an image processor that is a list": (wrote("preprocessor_config.json", "[]"), "processor.save_pretrained"),
    "a config that is no JSON": (wrote("config.json", "{nope"), "config.json is damaged"),
    "an empty config": (wrote("config.json", ""), "config.json is damaged"),
    "a config that is a list": (wrote("config.json", "[]"), "no JSON object"),
    "a config of wrong types": (changed(text_config__hidden_size="big"), "config.json"),
    "a config that cannot be built": (changed(text_config__num_attention_heads=0), "no model that can be built"),
    "a config without its decoder": (changed(text_config=None), "describes a model of 6,"),
    "fewer layers than the weights": (changed(text_config__num_hidden_layers=1), "leaves out layers"),
    "more layers than the weights": (changed(text_config__num_hidden_layers=3), "incomplete"),
    "other shapes": (changed(text_config__intermediate_size=8), "by config.json"),
    "a shard that is missing": (lost_shard, "model-00002-of-00002.safetensors"),
    "a file that is a link to itself": (looped, "damaged or incomplete"),
    "NaN": (with_tensors(lambda t: next(iter(t.values())).fill_(float("nan"))), "no numbers"),
    "infinity": (with_tensors(lambda t: next(iter(t.values())).view(-1)[:1].fill_(float("inf"))), "no numbers"),
    "a version that is none": (changed(transformers_version="git-main"), "'git-main', which is no release"),
    "pictures of another size": (
        wrote("preprocessor_config.json", json.dumps({
            "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 28},
            "crop_size": {"height": 28, "width": 28},
        })),
        "pictures of 28 x 28 pixels, and this model's tower takes 56 x 56",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_folder_is_one_line(fault, tmp_path):
    spoil, words = BROKEN[fault]
    folder = copied(PUBLISHED, to=tmp_path)
    spoil(folder)
    assert words in refusal(folder, device="cpu")


@pytest.mark.parametrize("version", ["4.39.0.dev0", 5])
def test_versions_that_can_be_read(version, tmp_path, recorded):
    folder = copied(PUBLISHED, to=tmp_path)
    edited(folder, "config.json", transformers_version=version)
    assert recorded_error(models.load(folder, device="cpu").model, recorded) <= 1e-5


def test_tensors_without_a_place_are_noted(tmp_path):
    folder = copied(PUBLISHED, to=tmp_path)
    with_tensors(lambda tensors: tensors.update({"vision_tower.own.weight": torch.ones(2)}))(folder)
    (note,) = models.load(folder, device="cpu").notes
    assert "have no place in this model, such as" in note


@pytest.mark.parametrize("name", [None, 3, b"demo-small"])
def test_a_name_that_is_none_is_refused(name):
    assert f"not {type(name).__name__}" in refusal(name)


def test_a_name_too_long_for_a_file_is_shortened():
    assert len(refusal("x" * 5000)) < 500
    assert len(refusal("/" + "x" * 300)) < 500


def test_a_tower_that_is_not_in_memory_is_refused(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    hf_model, processor = tiny.gemma_clip()
    accelerate.disk_offload(hf_model.model.vision_tower, str(tmp_path / "off"), execution_device="cpu")
    with pytest.raises(RelevancyError, match="keeps the tower in memory"):
        models.wrap(hf_model, processor)


def test_a_processor_of_another_size_is_refused(built):
    hf_model, processor = built["gemma-clip"]
    other = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer=processor.tokenizer,
    )
    with pytest.raises(RelevancyError, match="28 x 28 pixels, and this model's tower takes 56 x 56"):
        models.wrap(hf_model, other)


def test_models_that_neither_see_nor_speak_are_refused(tmp_path):
    tokenizer = tiny.gemma_tokenizer()
    encoder = BertModel(
        BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    encoder.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    assert "neither takes pictures with text nor continues a text" in refusal(tmp_path)
    with pytest.raises(RelevancyError, match="does not continue a text"):
        models.wrap(encoder, tokenizer)
    speaker = GemmaForCausalLM(tiny.text(GemmaConfig, len(tokenizer)))
    with pytest.raises(RelevancyError, match="give its tokenizer"):
        models.wrap(speaker, tiny.clip())


def test_a_model_without_an_output_head_is_refused_with_what_to_load(built):
    hf_model, processor = built["gemma-clip"]
    with pytest.raises(RelevancyError, match=r"LlavaModel.* has no output head.*AutoModelForImageTextToText"):
        models.wrap(hf_model.model, processor)


def test_a_family_without_a_select_strategy_leaves_the_class_token_out(built):
    plain, processor = built["llama-clip"]
    config = VipLlavaConfig(
        text_config=plain.config.text_config,
        vision_config=tiny.clip(),
        image_token_index=plain.config.image_token_id,
        vision_feature_layers=[-2, -3],
    )
    model = models.wrap(VipLlavaForConditionalGeneration(config).eval(), processor)
    inputs = model.prepare([tiny.picture()], ["What color is the ball?"])
    assert int((inputs["input_ids"] == model.image_token_id).sum()) == 16
    assert model.extra_image_tokens == 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_model_can_be_copied_and_pickled(built, copied):
    model = models.wrap(*built["gemma-clip"], name="original")
    expected = explain(model, tiny.picture(), "What color is the ball?", max_new_tokens=1)
    again = copied(model)
    found = explain(again, tiny.picture(), "What color is the ball?", max_new_tokens=1)
    np.testing.assert_array_equal(found.relevance, expected.relevance)
    assert again.name == "original"
    assert not {id(weight) for weight in again.model.parameters()} & {id(weight) for weight in model.model.parameters()}
    with model.lock, ThreadPoolExecutor(1) as pool:  # a lock of its own
        assert pool.submit(explain, again, tiny.picture(), "red", max_new_tokens=1).result(30)
    hidden = again.model(**again.prepare([tiny.picture()], ["red"]), output_hidden_states=True).hidden_states
    assert len(hidden) == 4  # transformers' own hooks are back


@pytest.mark.parametrize("method", ["relevancy", "rollout", "input-gradient"])
def test_outputs_by_position_are_read_by_name(built, method):
    hf_model, processor = tiny.gemma_clip()
    asked = tiny.picture(), "What color is the ball?"
    expected = explain(models.wrap(*built["gemma-clip"]), *asked, method=method, max_new_tokens=2)
    hf_model.config.return_dict = False
    found = explain(models.wrap(hf_model, processor), *asked, method=method, max_new_tokens=2)
    np.testing.assert_allclose(found.relevance, expected.relevance, rtol=1e-6)
    assert hf_model.config.return_dict is False


def test_many_threads_may_wrap_one_model(built):
    hf_model, processor = built["gemma-clip"]
    pictures = [tiny.picture(seed=seed) for seed in range(8)]

    def explained(picture):
        return explain(models.wrap(hf_model, processor), picture, "What color is the ball?", max_new_tokens=1)

    expected = [explained(picture) for picture in pictures]
    attention = hf_model.config.text_config._attn_implementation
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in hf_model.modules()]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(explained, pictures))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.relevance, other.relevance)
    assert hf_model.config.text_config._attn_implementation == attention
    assert [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in hf_model.modules()] == hooks


def test_a_model_without_a_picture_processor_is_refused(tmp_path):
    folder = copied(PUBLISHED, to=tmp_path)
    (folder / "preprocessor_config.json").unlink()
    assert "processor" in refusal(folder)


def test_code_of_a_checkpoint_is_never_run(tmp_path):
    folder = copied(PUBLISHED, to=tmp_path)
    (folder / "own.py").write_text("raise SystemExit('ran')\n")
    edited(folder, "config.json", model_type="own", auto_map={"AutoConfig": "own.Config"})
    assert "never run" in refusal(folder)


def test_options_that_cannot_be(monkeypatch):
    assert "unknown device" in refusal(PUBLISHED, device="toaster")
    assert "there is no cuda:99" in refusal(PUBLISHED, device="cuda:99")
    assert "unknown dtype" in refusal(PUBLISHED, device="cpu", dtype="int3")
    assert "unknown quantization" in refusal(PUBLISHED, device="cpu", quantization="2bit")
    assert "not both" in refusal(PUBLISHED, device="cpu", device_map="auto")
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda _name: None)
    assert "pip install" in refusal(PUBLISHED, device="cpu", quantization="4bit")
    assert "needs accelerate" in refusal(PUBLISHED, device_map="auto")


def test_too_little_memory_says_what_to_lower(monkeypatch):
    def exhausted(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 5 GiB")

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", exhausted)
    assert "quantization 4bit" in refusal(PUBLISHED, device="cpu")


def hub_error(kind, message="x"):
    response = hub_errors.HfHubHTTPError.__new__(kind)
    Exception.__init__(response, message)
    return response


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (hub_error(hub_errors.GatedRepoError), "accept its terms"),
        (hub_error(hub_errors.RepositoryNotFoundError), "the hub has no model"),
        (hub_error(hub_errors.RevisionNotFoundError), "no revision 'v9'"),
        (hub_errors.LocalEntryNotFoundError("offline"), "cannot be reached"),
        (ConnectionError("Name or service not known"), "Name or service not known"),
    ],
)
def test_what_the_hub_refuses(monkeypatch, error, words):
    def failing(*arguments, **options):
        raise error

    monkeypatch.setattr(checkpoints, "snapshot_download", failing)
    message = refusal("2b", revision="v9")
    assert words in message
    assert "Intel/llava-gemma-2b" in message


def test_only_safe_files_are_fetched(monkeypatch):
    asked = {}

    def fetched(source, **options):
        asked.update(options, source=source)
        return PUBLISHED

    monkeypatch.setattr(checkpoints, "snapshot_download", fetched)
    assert models.load("2b", revision="main", device="cpu").name == "2b"
    assert (asked["source"], asked["revision"]) == ("Intel/llava-gemma-2b", "main")
    assert not {"*.bin", "*.py", "*.pt", "*"} & set(asked["allow_patterns"])


@pytest.mark.engines("bitsandbytes")
@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_quantized_models_keep_connector_and_head(quantization):
    model = models.load(PUBLISHED, device="cpu", quantization=quantization).model
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    assert kinds["model.multi_modal_projector.linear_2"] == kinds["lm_head"] == "Linear"
    assert kinds["model.language_model.layers.0.mlp.up_proj"].startswith("Linear")
    assert kinds["model.language_model.layers.0.mlp.up_proj"] != "Linear"
    assert model.config.image_features_scaled
