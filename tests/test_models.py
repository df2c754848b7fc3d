import json
import re
import shutil
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
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
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

from relevancy.errors import RelevancyError
from relevancy.models import checkpoints, compat, device, prompts
from relevancy.models import model as models_model

FIXTURES = Path(__file__).parent / "fixtures"
PUBLISHED = FIXTURES / "published"
QUESTION = "Is the duck floating? (a) Yes (b) No"


@pytest.fixture(scope="session")
def recorded():
    with np.load(FIXTURES / "recorded.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="session")
def published():
    return models_model.load(PUBLISHED, device="cpu")


@pytest.fixture(scope="session")
def wrapped(built):
    return {name: models_model.wrap(*pair, name=name) for name, pair in built.items()}


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
    again = models_model.load(tmp_path, device="cpu")
    plain = LlavaForConditionalGeneration.from_pretrained(tmp_path)
    assert recorded_error(again.model, recorded) <= 1e-5
    assert recorded_error(plain, recorded) <= 1e-5
    assert again.prepare([tiny.picture()], [QUESTION])["input_ids"].shape == recorded["input_ids"].shape


def test_a_saved_repair_is_remembered_whatever_the_version_says(published, recorded, tmp_path):
    published.model.save_pretrained(tmp_path)
    published.processor.save_pretrained(tmp_path)
    edited(tmp_path, "config.json", transformers_version="4.57.1")
    assert recorded_error(models_model.load(tmp_path, device="cpu").model, recorded) <= 1e-5


def test_output_matrix_stored_beside_the_embeddings_it_is_tied_to(recorded, tmp_path):
    folder = copied(PUBLISHED, to=tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["language_model.lm_head.weight"] = tensors["language_model.model.embed_tokens.weight"].clone()
    rewritten(folder / "model.safetensors", tensors)
    assert recorded_error(models_model.load(folder, device="cpu").model, recorded) <= 1e-5


def test_wrap_warns_of_a_checkpoint_that_needs_the_repair(published):
    unrepaired = AutoModelForImageTextToText.from_pretrained(PUBLISHED)
    with pytest.warns(UserWarning, match="sqrt"):
        models_model.wrap(unrepaired, published.processor)
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
        (tower_with_registers, "default", 20, 4),
        (siglip_tower, "full", 16, 0),
    ],
)
def test_processor_fields_come_from_the_model(tower, strategy, image_tokens, extra):
    tokenizer = tiny.gemma_tokenizer()
    text_config = tiny.text(GemmaConfig, len(tokenizer))
    hf_model = tiny.build(text_config, tower(), tokenizer=tokenizer, seed=0, vision_feature_select_strategy=strategy)
    bare = LlavaProcessor(image_processor=tiny.processor_for(tokenizer).image_processor, tokenizer=tokenizer)
    model = models_model.wrap(hf_model, bare)
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
            models_model.wrap(hf_model, stranger)
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
    model = models_model.load(PUBLISHED, device="cpu", framing="pad")
    image = tiny.picture(*size)
    processor = CLIPImageProcessorPil.from_pretrained(PUBLISHED)
    square = expanded_to_square(image, tuple(int(255 * channel) for channel in processor.image_mean))
    expected = processor(square, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(model.prepare([image], [QUESTION])["pixel_values"], expected, rtol=0, atol=1e-5)
    grid = model.grid(*size)
    assert grid.x_edges[-1] - grid.x_edges[0] == pytest.approx(max(size))


def test_framing_crop_is_what_the_published_processor_does(published):
    cropped = models_model.load(PUBLISHED, device="cpu", framing="crop")
    image = tiny.picture(90, 50)
    ours, theirs = (m.prepare([image], [QUESTION])["pixel_values"] for m in (cropped, published))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_unknown_framing_is_refused():
    with pytest.raises(RelevancyError, match="pad, crop"):
        models_model.load(PUBLISHED, device="cpu", framing="stretch")


# Prompts


def bos_count(model, inputs):
    return (inputs["input_ids"] == model.tokenizer.bos_token_id).sum(-1).tolist()


def test_every_way_to_word_a_gemma_question_gives_the_same_ids(built, published):
    hf_model, processor = built["gemma-clip"]
    expected = models_model.wrap(hf_model, processor).prepare([tiny.picture()], [QUESTION])["input_ids"].tolist()
    gemma_own = published.tokenizer.chat_template
    for own, tokenizers in [(None, None), (None, gemma_own), (None, tiny.CHAT_TEMPLATE), (tiny.CHAT_TEMPLATE, None)]:
        variant = tiny.processor_for(tiny.gemma_tokenizer(chat_template=tokenizers))
        variant.chat_template = own
        model = models_model.wrap(hf_model, variant)
        inputs = model.prepare([tiny.picture()], [QUESTION])
        assert inputs["input_ids"].tolist() == expected
        assert bos_count(model, inputs) == [1]


def test_a_template_without_bos_still_gives_one(built):
    hf_model, _ = built["gemma-clip"]
    for adds in (True, False):
        tokenizer = tiny.gemma_tokenizer(chat_template=tiny.CHAT_TEMPLATE.removeprefix("{{ bos_token }}"))
        tokenizer.add_bos_token = adds
        model = models_model.wrap(hf_model, tiny.processor_for(tokenizer))
        inputs = model.prepare([tiny.picture()], [QUESTION])
        assert bos_count(model, inputs) == [1]
        assert inputs["input_ids"][0, 0] == tokenizer.bos_token_id


def test_other_families_use_their_own_template(built):
    hf_model, _ = built["llama-clip"]
    template = (
        "{% for message in messages %}USER: {% for part in message['content'] %}"
        "{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %} ASSISTANT:{% endfor %}"
    )
    model = models_model.wrap(hf_model, tiny.processor_for(tiny.gemma_tokenizer(chat_template=template)))
    inputs = model.prepare([tiny.picture()], ["Where?"])
    assert model.tokenizer.decode(inputs["input_ids"][0]) == f"<bos>USER: {'<image>' * 16}\nWhere? ASSISTANT:"
    bare = models_model.wrap(hf_model, tiny.processor_for(tiny.gemma_tokenizer(chat_template=None)))
    inputs = bare.prepare([tiny.picture()], ["Where?"])
    assert bare.tokenizer.decode(inputs["input_ids"][0]) == f"<bos>{'<image>' * 16}\nWhere?\n"


CONTROLS = ["<image>", "<start_of_turn>", "<end_of_turn>", "<eos>", "<bos>", "<pad>", "<unk>"]
PIECES = st.lists(st.one_of(st.sampled_from([*CONTROLS, "<", ">", "image>", " "]), st.text(max_size=5)), max_size=8)


@settings(max_examples=60, deadline=None)
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
    model = models_model.wrap(*pair)
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


def test_wrap_leaves_the_users_objects_alone(built):
    hf_model, processor = built["gemma-clip"]
    before = dict(vars(processor))
    model = models_model.wrap(hf_model, processor)
    model.prepare([tiny.picture()] * 2, [QUESTION, "Where?"])
    assert vars(processor) == before
    assert model.model is hf_model


def test_a_tokenizer_without_padding_gets_one_of_its_own(built):
    hf_model, _ = built["llama-clip"]
    tokenizer = tiny.gemma_tokenizer()
    tokenizer.pad_token = None
    model = models_model.wrap(hf_model, tiny.processor_for(tokenizer))
    inputs = model.prepare([tiny.picture()] * 2, [QUESTION, "Where?"])
    assert inputs["attention_mask"].sum(-1).tolist()[0] > inputs["attention_mask"].sum(-1).tolist()[1]
    assert tokenizer.pad_token is None


# Loading


def test_precision_follows_the_size_of_the_model(monkeypatch):
    assert models_model.load(PUBLISHED, device="cpu").dtype == torch.float32
    monkeypatch.setattr(device, "_FLOAT32_BELOW", 1000)
    model = models_model.load(PUBLISHED, device="cpu")
    assert model.dtype == torch.bfloat16
    assert model.prepare([tiny.picture()], [QUESTION])["pixel_values"].dtype == torch.bfloat16
    assert models_model.load(PUBLISHED, device="cpu", dtype="fp32").dtype == torch.float32


def test_device_map_places_the_model(recorded):
    pytest.importorskip("accelerate")
    assert recorded_error(models_model.load(PUBLISHED, device_map={"": "cpu"}).model, recorded) <= 1e-5


def refusal(*arguments, **options) -> str:
    with pytest.raises(RelevancyError) as caught:
        models_model.load(*arguments, **options)
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


def test_models_without_pictures_are_refused(tmp_path):
    tokenizer = tiny.gemma_tokenizer()
    text_model = GemmaForCausalLM(tiny.text(GemmaConfig, len(tokenizer)))
    text_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert "takes no pictures" in refusal(tmp_path)
    with pytest.raises(RelevancyError, match="takes no pictures"):
        models_model.wrap(text_model, tiny.processor_for(tokenizer))


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
    assert models_model.load("2b", revision="main", device="cpu").name == "2b"
    assert (asked["source"], asked["revision"]) == ("Intel/llava-gemma-2b", "main")
    assert not {"*.bin", "*.py", "*.pt", "*"} & set(asked["allow_patterns"])


@pytest.mark.engines("bitsandbytes")
@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_quantized_models_keep_connector_and_head(quantization):
    model = models_model.load(PUBLISHED, device="cpu", quantization=quantization).model
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    assert kinds["model.multi_modal_projector.linear_2"] == kinds["lm_head"] == "Linear"
    assert kinds["model.language_model.layers.0.mlp.up_proj"].startswith("Linear")
    assert kinds["model.language_model.layers.0.mlp.up_proj"] != "Linear"
    assert model.config.image_features_scaled
