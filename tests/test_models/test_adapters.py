"""Adapters of peft: alone in a folder, left over beside merged weights, in a model that is wrapped."""

import json
import shutil

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from relevancy import explain, models
from relevancy.errors import RelevancyError
from relevancy.models import adapters

peft = pytest.importorskip("peft")

QUESTION = "Is the duck floating? (a) Yes (b) No"
DECODER = r".*language_model.*\.(q_proj|v_proj|up_proj)"
KINDS = {
    "LoRA in tower and decoder": peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
    "DoRA": peft.LoraConfig(r=4, target_modules=DECODER, use_dora=True),
    "rsLoRA": peft.LoraConfig(r=4, target_modules=DECODER, use_rslora=True, task_type="CAUSAL_LM"),
    "on the connector": peft.LoraConfig(r=4, target_modules=["linear_1", "linear_2"]),
    "with a connector of its own": peft.LoraConfig(
        r=4, target_modules=DECODER, modules_to_save=["multi_modal_projector"]
    ),
    "on a head that is tied to the words": peft.LoraConfig(r=4, target_modules=["lm_head"]),
    "on words that are tied to the head": peft.LoraConfig(r=4, target_modules=["embed_tokens"]),
    "IA3": peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    hf_model, processor = tiny.gemma_clip()
    hf_model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def processor(base):
    return models.load(base, device="cpu").processor


@pytest.fixture(scope="module")
def plain(base):
    return image_map(models.load(base, device="cpu"))


def image_map(model):
    return explain(model, tiny.picture(), QUESTION, max_new_tokens=1).image_map


def same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * expected.max())


def trained(base, config):
    """A peft model whose adapter does something."""
    hf_model = models.load(base, device="cpu").model
    torch.manual_seed(0)
    adapted = peft.get_peft_model(hf_model, config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape))
    return adapted.eval()


def saved(base, folder, config=KINDS["LoRA in tower and decoder"]):
    trained(base, config).save_pretrained(folder)
    return folder


def refusal(call, *arguments, **options):
    with pytest.raises(RelevancyError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edited(folder, **changes):
    told = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(told | changes))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_with_an_adapter_alone_gives_the_map_of_the_adapted_model(kind, base, processor, plain, tmp_path):
    adapted = trained(base, KINDS[kind])
    adapted.save_pretrained(tmp_path)
    expected = image_map(models.wrap(adapted, processor, name="adapted"))
    assert np.abs(expected - plain).max() > 1e-2 * plain.max()
    model = models.load(tmp_path, device="cpu")
    same(image_map(model), expected)
    assert f"was put on {base}" in model.notes[0]
    assert not any("lora" in name for name, _ in model.model.named_modules())


def test_an_adapter_left_beside_merged_weights_is_not_applied_again(base, processor, plain, tmp_path):
    adapted = trained(base, KINDS["LoRA in tower and decoder"])
    adapted.save_pretrained(tmp_path)
    adapted.merge_and_unload().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    merged = image_map(models.wrap(adapted.get_base_model(), processor, name="merged"))
    assert np.abs(merged - plain).max() > 1e-2 * plain.max()
    result = explain(models.load(tmp_path, device="cpu"), tiny.picture(), QUESTION)
    same(result.image_map, merged)
    assert "was not applied" in result.notes[0]


def test_weights_whose_adapter_calls_them_its_base_are_refused(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "model")
    saved(base, folder)
    edited(folder, base_model_name_or_path=str(folder))
    assert "cannot be told" in refusal(models.load, folder, device="cpu")


def test_an_adapter_with_the_names_of_an_older_transformers(base, tmp_path):
    expected = image_map(models.load(saved(base, tmp_path), device="cpu"))
    weights = tmp_path / "adapter_model.safetensors"
    old = {
        name.replace(".model.model.language_model.", ".model.language_model.model.").replace(
            ".model.model.vision_tower.", ".model.vision_tower.vision_model."
        ): value.clone()
        for name, value in load_file(weights).items()
    }
    weights.unlink()
    save_file(old, weights, metadata={"format": "pt"})
    same(image_map(models.load(tmp_path, device="cpu")), expected)


@pytest.mark.parametrize(
    "config",
    [
        peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        peft.PromptEncoderConfig(num_virtual_tokens=3, task_type="CAUSAL_LM", encoder_hidden_size=16),
    ],
)
def test_adapters_with_virtual_tokens_are_refused_by_name(config, base, processor, tmp_path):
    adapted = trained(base, config)
    adapted.save_pretrained(tmp_path)
    kind = config.peft_type.value
    assert f"{kind} adds virtual" in refusal(models.load, tmp_path, device="cpu")
    assert f"{kind} adds virtual" in refusal(models.wrap, adapted, processor)


def test_every_kind_that_is_no_layer_of_its_own_is_known_by_name():
    prompting = {
        kind.value for kind, config in peft.PEFT_TYPE_TO_CONFIG_MAPPING.items()
        if issubclass(config, peft.PromptLearningConfig)
    }  # fmt: skip
    assert prompting <= set(adapters._NOT_FOLLOWED)


def test_what_is_wrong_with_an_adapters_folder(base, tmp_path, monkeypatch):
    folder = saved(base, tmp_path / "adapter")
    whole = (folder / "adapter_config.json").read_text()
    edited(folder, base_model_name_or_path=None)
    assert "names no base model" in refusal(models.load, folder)
    edited(folder, base_model_name_or_path=str(tmp_path / "gone"))
    message = refusal(models.load, folder)
    assert "there is no folder" in message
    assert "base_model_name_or_path" in message
    edited(folder, base_model_name_or_path=str(folder))
    assert "is an adapter again" in refusal(models.load, folder)
    edited(folder, base_model_name_or_path="demo-small")
    assert "cannot be put on demo-small" in refusal(models.load, folder, device="cpu")
    (folder / "adapter_config.json").write_text("{")
    assert "adapter_config.json is damaged" in refusal(models.load, folder)
    (folder / "adapter_config.json").write_text(whole)
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    save_file(dict(list(tensors.items())[1:]), weights, metadata={"format": "pt"})
    assert "does not fit" in refusal(models.load, folder, device="cpu")
    weights.write_bytes(b"short")
    assert "cannot be put on" in refusal(models.load, folder, device="cpu")
    weights.rename(folder / "adapter_model.bin")
    assert "pickled (adapter_model.bin)" in refusal(models.load, folder)
    (folder / "adapter_model.bin").unlink()
    assert "no adapter_model.safetensors" in refusal(models.load, folder)
    weights.touch()
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda _name: None)
    assert "relevancy[lora]" in refusal(models.load, folder)


def test_an_adapter_on_one_of_our_names(tmp_path):
    adapted = trained("demo-small", peft.LoraConfig(r=2, target_modules=DECODER))
    adapted.save_pretrained(tmp_path)
    edited(tmp_path, base_model_name_or_path="demo-small", revision=None)
    model = models.load(tmp_path, device="cpu")
    assert model.notes[0].endswith("was put on demo-small")
    expected = image_map(models.wrap(adapted, model.processor, name="adapted"))
    same(image_map(model), expected)


def test_a_long_run_knows_the_size_and_the_files_of_an_adapter_with_its_base(base, tmp_path):
    from relevancy.export.engines import parameters_of

    folder = saved(base, tmp_path / "adapter")
    assert parameters_of(str(folder), None) == parameters_of(str(base), None)
    assert adapters.located(str(folder), None).folders == (base, folder)
