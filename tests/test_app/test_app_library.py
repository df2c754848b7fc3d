"""Models on demand: loaded when they are asked for, gone when memory is short, shown with what they take."""

import pytest
from relevancy_app import actions, asking
from relevancy_app.building import build
from relevancy_app.library import Offer, library, offer, told_bytes, usual
from relevancy_app.session import Session
from relevancy_app.settings import Settings
from relevancy_app.starting import main
from relevancy_app.wiring import Handlers

import relevancy
from relevancy import RelevancyError
from relevancy.models import bases, checkpoints
from relevancy.models.memory import bytes_of, expected

LIMITS = Settings()
NAMES = ("one", "two", "three")


@pytest.fixture(scope="module")
def folders(built, tmp_path_factory):
    """Three folders of saved models."""
    made = {}
    for name in NAMES:
        model, processor = built["gemma-clip"]
        made[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(made[name])
        processor.save_pretrained(made[name])
    return made


class Machine:
    """A device on which so many of the models fit, and what was loaded on it, in order."""

    def __init__(self, folders, fits):
        self.folders, self.loaded, self.told = folders, [], []
        self.offers = [Offer(name, expected(str(folder))) for name, folder in folders.items()]
        self.room = int(self.offers[0].expected.bytes * (fits + 0.5))
        self.shelf = library(self.offers, self.load, self.free)

    def load(self, name):
        self.loaded.append(name)
        model = relevancy.load(self.folders[name])
        return relevancy.wrap(model.model, model.processor, name=name)

    def free(self, device):
        return max(1, self.room - sum(map(bytes_of, self.held)))

    @property
    def held(self):
        return self.shelf.models.values() if hasattr(self, "shelf") else ()

    def use(self, *names):
        with self.shelf.using(list(names), lambda stage, share: self.told.append(stage)) as models:
            assert tuple(model.name for model in models) == names
        return list(self.shelf.models)


def test_nothing_is_loaded_before_it_is_asked_for(folders):
    machine = Machine(folders, 3)
    assert (machine.shelf.names, machine.shelf.models, machine.loaded) == (NAMES, {}, [])
    assert asking.ask(machine.shelf, LIMITS, "Is it?", ["two"]).models == ("two",)
    assert machine.use("two") == ["two"]
    assert machine.told == [f"loading two ({machine.offers[1].size})"]
    assert machine.use("two", "one") == ["one", "two"]
    assert machine.loaded == ["two", "one"]


def test_what_was_not_asked_for_longest_goes_first(folders):
    machine = Machine(folders, 2)
    machine.use("one")
    machine.use("two")
    machine.use("one")
    assert machine.use("three") == ["one", "three"]
    assert machine.use("two") == ["two", "three"]
    assert machine.loaded == ["one", "two", "three", "two"]


def test_what_somebody_is_using_stays(folders):
    machine = Machine(folders, 2)
    with machine.shelf.using(["one", "two"]) as models:
        with pytest.raises(RelevancyError, match=r"three needs about .* are free: choose fewer models") as caught:
            machine.use("three")
        assert "\n" not in str(caught.value)
        assert list(machine.shelf.models.values()) == list(models)
        assert machine.use("two") == ["one", "two"]
    assert machine.use("three") == ["two", "three"]


def test_models_that_were_given_stay(folders, random_models):
    (given, *_), machine = random_models, Machine(folders, 1)
    machine.shelf = library([given, *machine.offers], machine.load, machine.free)
    with pytest.raises(RelevancyError, match="one needs about"):
        machine.use("one")
    assert machine.shelf.models == {given.name: given}


def test_one_that_fails_is_a_line_and_the_others_work(folders, tmp_path):
    def load(name, **options):
        if name == "two":
            raise RelevancyError("not enough memory to load two in float32 on cpu")
        return machine.load(name)

    machine = Machine(folders, 3)
    machine.shelf = library(machine.offers, load, machine.free)
    for _ in range(2):
        with pytest.raises(RelevancyError, match="not enough memory to load two"):
            machine.use("one", "two")
    assert machine.use("one") == ["one"]
    assert machine.use("one", "three") == ["one", "three"]


def test_a_device_that_does_not_tell_what_is_free_holds_all(folders):
    machine = Machine(folders, 0)
    machine.shelf = library(machine.offers, machine.load, lambda device: 0)
    assert machine.use(*NAMES) == list(NAMES)


def test_the_estimate_is_what_it_takes(folders):
    for options in ({}, {"dtype": "bfloat16"}):
        found = offer(str(folders["one"]), **options).expected
        loaded = relevancy.load(folders["one"], **options)
        weights = sum(weight.nbytes for weight in loaded.model.parameters())
        assert found.bytes == pytest.approx(weights, rel=0.02)
        assert found.layers == loaded.model.config.text_config.num_hidden_layers
    assert expected(str(folders["one"]), quantization="8bit").bytes * 4 == expected(str(folders["one"])).bytes


def test_what_must_be_fetched_is_offered_without_asking_the_hub(monkeypatch):
    def fetched(source, **options):
        assert options["local_files_only"]
        raise FileNotFoundError

    monkeypatch.setattr(checkpoints, "snapshot_download", fetched)
    found = offer("owner/model")
    assert (found.expected, found.size) == (None, "to be fetched first")
    assert library([found]).depth == 1


def test_names_of_nothing_are_told_at_start(tmp_path):
    for name, message in (
        ("/none", "there is no folder"),
        ("demo-huge", "unknown model"),
        (str(tmp_path), "no weights"),
    ):
        with pytest.raises(RelevancyError, match=message):
            offer(name)
    with pytest.raises(RelevancyError, match="only once"):
        library([Offer("a", None), Offer("a", None)])


def test_the_page_tells_memory_and_whether_it_is_there(folders):
    machine = Machine(folders, 3)
    size = machine.offers[0].size
    assert machine.shelf.labels == [(f"{name} · {size}", name) for name in NAMES]
    machine.use("two")
    held = told_bytes(bytes_of(machine.shelf.models["two"]))
    assert machine.shelf.labels[1] == (f"two · {held} in memory", "two")
    handlers = Handlers(machine.shelf, LIMITS, (), "")
    assert handlers.offered()["choices"] == machine.shelf.labels


def test_models_that_are_always_there_are_told_by_name_alone(shelf):
    assert shelf.labels == [(name, name) for name in shelf.names]
    assert not shelf.on_demand


def test_a_run_loads_and_explains(folders, source):
    machine = Machine(folders, 2)
    begun = Session(asking.ask(machine.shelf, LIMITS, "Is it?", ["one", "two"]), source)
    *_, whole = actions.explained(machine.shelf, LIMITS, begun, lambda stage, share: machine.told.append(stage))
    alone = relevancy.explain(str(folders["one"]), source, "Is it?", target="first-relevant")
    assert whole.first[0].relevance.tobytes() == alone.relevance.tobytes()
    assert [stage for stage in machine.told if stage.startswith("loading")] == [
        f"loading {name} ({machine.offers[0].size})" for name in ("one", "two")
    ]
    assert not +machine.shelf._using
    actions.picked(machine.shelf, whole, (1, 0, None), lambda *_: None)
    assert machine.loaded == ["one", "two"]


def test_the_page_is_built_with_models_that_are_not_there(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    machine = Machine(folders, 2)
    blocks = build(machine.shelf, LIMITS)
    assert machine.loaded == []
    (models,) = [one for one in blocks.blocks.values() if getattr(one, "elem_id", None) == "rv-models"]
    assert models.choices == machine.shelf.labels
    assert models.value == list(NAMES[:2])


def test_the_program_tells_of_a_wrong_name_before_anything_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("os.environ", {"HOME": "/tmp"})
    monkeypatch.setattr(relevancy, "load", None)
    with pytest.raises(SystemExit) as ended:
        main(["--model", "demo-small", "--model", "demo-huge"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: unknown model 'demo-huge'")
    assert said.count("\n") == 1


def test_sizes_are_told_in_one_unit():
    assert [told_bytes(count) for count in (5_130_000_000, 123_000_000, 4_200_000)] == ["5.1 GB", "0.1 GB", "4 MB"]


def test_demo_gemma_is_offered_where_its_base_can_be_had(demo_gemma, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert usual() == ["demo-small", "demo-large", "demo-gemma"]
    shelf = library([offer("demo-small"), offer("demo-gemma")])
    assert {name: label for label, name in shelf.labels}["demo-gemma"].endswith("to be fetched first")
    with shelf.using(["demo-gemma", "demo-small"]) as models:
        assert [model.name for model in models] == ["demo-gemma", "demo-small"]
    assert offer("demo-gemma").size.startswith("about")
    monkeypatch.delenv(bases.VARIABLE)
    monkeypatch.setattr(bases, "_PARTS", {"no_such_part_of_gemma": "part00"})
    assert usual() == ["demo-small", "demo-large"]
    with pytest.raises(RelevancyError, match="which is not part of this package"):
        offer("demo-gemma")
