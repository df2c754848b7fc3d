"""Videos as frames: rows against the same conversation written by hand, places by planted changes, files, figures."""

import json
from functools import cache
from types import SimpleNamespace
from typing import Any

import masked
import numpy as np
import pictured
import pytest
import tiny
import torch
import transformers
from PIL import Image
from reference import ROUNDED, reference
from typer.testing import CliRunner

from relevancy.cli import app
from relevancy.cli import explain as cli_explain
from relevancy.errors import RelevancyError
from relevancy.explanations.comparison import compare
from relevancy.explanations.explain import explain
from relevancy.explanations.explanation import Explanation
from relevancy.families.videos import VIDEOS
from relevancy.models.hooks import read_by_decoder
from relevancy.models.model import Model, load, wrap
from relevancy.models.video_processors import PillowVideoProcessor
from relevancy.videos import Film, open_video

ASK = "what color is the ball ?"
FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "llava_onevision"]
MERGED = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl"}  # two frames to a token
STILL = tiny.picture(33, 150, seed=9)


def frames(count: int, width: int = 80, height: int = 60, seed: int = 0) -> list[Image.Image]:
    return [tiny.picture(width, height, seed=seed + number) for number in range(count)]


FIVE, FOUR = frames(5), frames(4, 57, 90, seed=20)


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Model:
    return pictured.model_of(request.param)


def shown(*parts: Any) -> list[dict[str, Any]]:
    """A message: texts, pictures, and lists of frames, which may come with how many make a second."""
    content = []
    for part in parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        elif isinstance(part, Image.Image):
            content.append({"type": "image", "image": part})
        else:
            film, fps = part if isinstance(part, tuple) else (part, None)
            content.append({"type": "video", "video": film} | ({} if fps is None else {"fps": fps}))
    return [{"role": "user", "content": content}]


def by_hand(model: Model, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """What the processor itself makes of a conversation."""
    parts = messages[0]["content"]
    films = [part for part in parts if part["type"] == "video"]
    bare = [{"type": part["type"]} | {key: part[key] for key in ("text",) if key in part} for part in parts]
    text = model.processor.apply_chat_template([{"role": "user", "content": bare}], add_generation_prompt=True)
    stills = [part["image"] for part in parts if part["type"] == "image"]
    times = {
        "video_metadata": [
            {
                "total_num_frames": len(film["video"]),
                "fps": film.get("fps"),
                "frames_indices": list(range(len(film["video"]))),
            }
            for film in films
        ]
    }
    return dict(
        model.processor(
            images=[stills] if stills else None,
            videos=[np.stack([np.array(frame) for frame in film["video"]]) for film in films],
            text=[text], return_tensors="pt", videos_kwargs={"do_sample_frames": False} | times,
        )
    )  # fmt: skip


def test_a_video_is_read_as_written_by_hand(model):
    messages = shown("how many", (FIVE, 2.0), ASK)
    result = explain(model, None, messages, max_new_tokens=2)
    inputs = by_hand(model, messages)
    assert list(result.tokens) == model.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
    expected = reference(model.model, inputs).language[0].numpy()
    expected[-1] -= 1  # e_t
    assert np.linalg.norm(result.relevance - expected) <= ROUNDED * np.linalg.norm(expected)
    assert int(result.is_image.sum()) == sum(step.count for step in model.layouts([(5, 80, 60)]))
    assert [one.video for one in result.pictures] == [0] * 5
    for one, given in zip(result.pictures, FIVE, strict=True):
        assert np.array_equal(np.array(one.image), np.array(given))
        assert one.heatmap().shape == (60, 80)
    assert sum(one.share for one in result.pictures) == pytest.approx(result.shares["image"], rel=1e-5)


def test_frames_have_the_mass_of_their_step(model):
    """Each frame's map is its step's tokens, divided by the frames that they are made of."""
    result = explain(model, None, shown(FIVE, ASK), max_new_tokens=1)
    merged = 2 if model.name in MERGED else 1
    values, start = result.relevance[result.is_image], 0
    for number, step in enumerate(model.layouts([(5, 80, 60)])):
        own = values[start : start + step.count]
        start += step.count
        together = result.pictures[number * merged : number * merged + merged]
        assert len(together) == step.frames
        for one in together:
            grid = own[: step.grid.rows * step.grid.cols].reshape(step.grid.rows, step.grid.cols)
            np.testing.assert_allclose(one.image_map, grid / len(together), rtol=1e-5)
            mass = own.sum(dtype=np.float64) / result.relevance.sum(dtype=np.float64) / len(together)
            assert one.share == pytest.approx(mass, rel=1e-4)
    assert start == len(values)


@pytest.mark.parametrize("family", ["llava_onevision", "internvl"])
def test_what_patches_do_not_divide_of_a_frame_is_seen_by_no_token(family):
    """Frames of 120 x 60 stretched to 60 x 60: four patches of 14 in each direction, two by two to a token."""
    config = SimpleNamespace(vision_config=SimpleNamespace(patch_size=14), downsample_ratio=0.5)
    made = {"pixel_values_videos": torch.zeros(1, 2, 3, 60, 60)}
    for step in VIDEOS[family](config, None, made, 2, 120, 60):
        assert step.grid.x_edges == pytest.approx([0, 56, 112])
        assert step.grid.y_edges == pytest.approx([0, 28, 56])


def test_pictures_and_videos_keep_their_order(model):
    messages = shown(FOUR, STILL, "how many ?", FOUR[::-1], ASK)
    inputs = by_hand(model, messages)
    result = explain(model, None, messages, max_new_tokens=1)
    expected = reference(model.model, inputs).language[0].numpy()
    expected[-1] -= 1
    assert np.linalg.norm(result.relevance - expected) <= ROUNDED * np.linalg.norm(expected)
    assert [one.video for one in result.pictures] == [0] * 4 + [None] + [1] * 4
    assert [one.image.size for one in result.pictures] == [(57, 90)] * 4 + [STILL.size] + [(57, 90)] * 4
    for one, given in zip(result.frames(1), FOUR[::-1], strict=True):
        assert np.array_equal(np.array(one.image), np.array(given))
    assert len(result.evidence.without) == 3
    (turn,) = result.turns()
    assert turn.pictures == tuple(range(9))
    beside = explain(model, None, [shown(FIVE, ASK), messages, shown(STILL, ASK)], max_new_tokens=1)
    assert [len(one.pictures) for one in beside] == [5, 9, 1]
    assert beside[1].relevance.tobytes() == result.relevance.tobytes()


def test_a_turns_share_counts_its_videos_frames():
    model = pictured.model_of("qwen2_vl")
    messages = [*shown(STILL, "how many ?"), {"role": "assistant", "content": "two"}, *shown(FIVE, ASK, STILL)]
    result = explain(model, None, messages, max_new_tokens=1)
    first, answer, last = result.turns()
    assert (first.pictures, answer.pictures, last.pictures) == ((0,), (), (1, 2, 3, 4, 5, 6))
    words = sum(value for _, value in last.words) / result.relevance.sum(dtype=np.float64)
    assert last.share == pytest.approx(words + sum(one.share for one in result.pictures[1:]), rel=1e-5)


def test_videos_and_pictures_are_knocked_out_one_by_one(model):
    """By a mask written out: what follows the first step of which something is hidden does not see what is hidden."""
    messages = shown(FIVE, STILL, ASK)
    found, inputs = explain(model, None, messages, max_new_tokens=1).evidence, by_hand(model, messages)
    layouts = model.layouts([(5, 80, 60), STILL.size])
    places = model.shown_at(inputs["input_ids"][0]).nonzero()[:, 0].numpy()
    ends = np.cumsum([layout.count for layout in layouts])
    token = int(masked.probabilities(model, inputs, places[:0], 0).argmax())
    film = np.arange(len(places)) < ends[-2]
    for hidden, end, told in (
        (film | True, ends[0], found.blind), (film, ends[0], found.without[0]), (~film, ends[-1], found.without[1]),
    ):  # fmt: skip
        changed = masked.probabilities(model, inputs, places[hidden], places[end - 1] + 1)
        assert told == pytest.approx(float(changed[token]), rel=1e-3)
    assert not found.shared


@cache
def unmixed(family: str) -> Model:
    """A tower in which no patch hears of another."""
    return pictured.unmixed(wrap(*pictured.BUILDERS[family](), name=family))


def embeddings(model: Model, pixels: np.ndarray) -> np.ndarray:
    """What the decoder reads of a video (frames, height, width, 3): (tokens, width)."""
    messages = shown(list(map(Image.fromarray, pixels)), ASK)
    inputs = {name: value.float() if value.is_floating_point() else value
              for name, value in by_hand(model, messages).items() if isinstance(value, torch.Tensor)}  # fmt: skip
    with torch.no_grad(), read_by_decoder(model) as read:
        model.model(**inputs)
    return read[0][model.shown_at(inputs["input_ids"])].numpy()


@pytest.mark.parametrize("size", [(61, 200), (230, 57), (101, 99), (33, 29), (320, 240)])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_token_that_a_changed_place_of_a_frame_changes_most_owns_it(family, size):
    model, rng = unmixed(family), np.random.default_rng(1)
    width, height = size
    steps = model.layouts([(5, width, height)])
    pixels = rng.integers(96, 160, (5, height, width, 3)).astype(np.uint8)
    before = embeddings(model, pixels)
    owners = np.array([(number, cell) for number, step in enumerate(steps) for cell in range(step.count)])
    assert len(before) == len(owners)
    boxes = steps[0].grid.boxes()
    for frame in range(5):
        cell = int(rng.integers(len(boxes)))
        (left, upper), (right, lower) = np.ceil(boxes[cell][:2]).astype(int), np.floor(boxes[cell][2:]).astype(int)
        changed = pixels.copy()
        changed[frame, upper:lower, left:right] = 255 * (changed[frame, upper:lower, left:right] < 128)
        moved = np.linalg.norm(embeddings(model, changed) - before, axis=1)
        assert owners[moved.argmax()].tolist() == [frame // 2 if family in MERGED else frame, cell]
        others = owners[:, 0] != owners[moved.argmax()][0]
        assert moved[others].max() <= 1e-5 * moved.max()


@pytest.mark.parametrize("family", FAMILIES)
def test_frames_by_pillow_are_as_by_the_familys_own_processor(family):
    pytest.importorskip("torchvision")
    processor = pictured.model_of(family).processor
    by_pillow = processor.video_processor
    own = getattr(transformers, by_pillow.stands_for)(
        **{name: value for name, value in by_pillow.to_dict().items() if name != "video_processor_type"}
    )
    for size in ((80, 60), (61, 200), (320, 240)):
        video = np.stack([np.array(frame) for frame in frames(5, *size)])
        made, expected = (
            one([video], do_sample_frames=False, input_data_format="channels_last", return_tensors="pt")
            for one in (by_pillow, own)
        )
        assert made.keys() == expected.keys()
        if "video_grid_thw" in made:
            assert torch.equal(made["video_grid_thw"], expected["video_grid_thw"])
        away = (made["pixel_values_videos"] - expected["pixel_values_videos"]).abs()
        assert away.mean() < 0.01
        assert away.max() < 0.06  # of a scale on which black and white are 4 apart: some 4 levels of 256


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_saved_with_its_videos_is_loaded(family, tmp_path):
    """As published folders are: with or without torchvision, pictures by Pillow."""
    model = pictured.model_of(family)
    model.model.save_pretrained(tmp_path)
    save_processor(model, tmp_path)
    again = load(str(tmp_path))
    assert type(again.processor) is type(model.processor).__mro__[1]
    assert "Pil" in type(again.processor.image_processor).__name__
    messages = shown(FIVE, STILL, ASK)
    one, other = (explain(each, None, messages, max_new_tokens=1) for each in (model, again))
    assert one.tokens == other.tokens
    same = isinstance(again.processor.video_processor, PillowVideoProcessor)
    np.testing.assert_allclose(one.relevance, other.relevance, rtol=1e-4 if same else 1, atol=1e-6 if same else 0.1)


def save_processor(model: Model, folder: Any) -> None:
    """The tiny processors are of a class of the tests, which no folder may name."""
    kept = model.processor.__class__
    model.processor.__class__ = kept.__mro__[1]
    try:
        model.processor.save_pretrained(folder)
    finally:
        model.processor.__class__ = kept
    assert "Pillow" not in "".join(file.read_text() for file in folder.glob("*processor*.json"))


def test_older_folders_name_pixels_for_the_frames_budget(tmp_path):
    model = pictured.model_of("qwen2_5_vl")
    model.model.save_pretrained(tmp_path)
    save_processor(model, tmp_path)
    (tmp_path / "processor_config.json").unlink()
    old = {"min_pixels": 3136, "max_pixels": 31360, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
           "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    steps = load(str(tmp_path)).layouts([(4, 320, 240)])
    assert len(steps) == 2
    assert steps[0].grid.rows == model.layouts([(4, 320, 240)])[0].grid.rows == 5


def test_a_family_without_a_known_part_for_videos_is_loaded_for_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr("relevancy.models.video_processors.is_torchvision_available", lambda: False)
    monkeypatch.setattr("relevancy.models.video_processors._BY_PILLOW", {})
    model = pictured.model_of("internvl")
    model.model.save_pretrained(tmp_path)
    save_processor(model, tmp_path)
    again = load(str(tmp_path))
    assert explain(again, STILL, ASK, max_new_tokens=1).tokens == explain(model, STILL, ASK, max_new_tokens=1).tokens
    with pytest.raises(RelevancyError, match="has no part for videos"):
        explain(again, None, shown(FIVE, ASK))


def test_a_video_is_saved_drawn_and_loaded(tmp_path):
    result = explain(
        pictured.model_of("qwen2_vl"), None, shown(FIVE[:3], "how many", STILL, FOUR[:2], ASK), max_new_tokens=1
    )
    result.save(tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    assert {"film.png", "film-2.png", "overlay-6.png", "figure.png"} <= names
    assert len(Explanation.saved_in(tmp_path)) == len(names) == 2 + 3 * 6 + 2
    again = Explanation.load(tmp_path)
    assert [one.video for one in again.pictures] == [0] * 3 + [None] + [1] * 2
    assert [one.share for one in again.pictures] == [one.share for one in result.pictures]
    assert again.conversation == result.conversation
    assert "frame 3 of 3 of video 1" in again.summary()
    assert "picture 1 of 1" in again.summary()
    for video, count in enumerate((3, 2)):
        bars = result.film(video, columns=2).axes
        heights = [bar.get_height() for axis in bars for bar in axis.patches]
        assert heights == pytest.approx([one.share for one in result.frames(video)])
        assert len(heights) == count
    titles = [text.get_text() for axis in result.figure().axes for text in axis.texts]
    assert len(result.figure().axes) < 12, titles
    with pytest.raises(RelevancyError, match="no video 2"):
        result.film(2)
    alone = explain(pictured.model_of("qwen2_vl"), None, shown(FIVE[:1], ASK), max_new_tokens=1)
    alone.save(tmp_path / "one")
    assert Explanation.load(tmp_path / "one").frames()[0].share == alone.shares["image"]


def test_frames_of_a_folder_come_by_their_numbers(tmp_path):
    for number in (10, 2, 1):
        Image.new("RGB", (20, 30), (number, 0, 0)).save(tmp_path / f"f{number}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    video = open_video(Film(str(tmp_path), 2))
    assert [int(frame.image.getpixel((0, 0))[0]) for frame in video.frames] == [1, 2, 10]
    assert video.size == (3, 20, 30)
    assert video.fps == 2
    assert open_video(Film(video.pixels())).pixels().tobytes() == video.pixels().tobytes()


def test_the_command_takes_frames_beside_its_messages(tmp_path, monkeypatch):
    model = pictured.model_of("qwen2_vl")
    monkeypatch.setattr(cli_explain, "load_model", lambda *_, **__: model)
    (tmp_path / "clip").mkdir()
    for number, frame in enumerate(FOUR):
        frame.save(tmp_path / "clip" / f"{number}.png")
    content = [{"type": "video", "video": "clip"}, {"type": "text", "text": ASK}]
    (tmp_path / "chat.json").write_text(json.dumps([{"role": "user", "content": content}]))
    arguments = ["explain", "--model", "m", "--max-new-tokens", "1", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*arguments, "--messages", str(tmp_path / "chat.json")])
    assert done.exit_code == 0, done.output
    expected = explain(model, None, shown(FOUR, ASK), max_new_tokens=1)
    np.testing.assert_allclose(Explanation.load(tmp_path / "out").relevance, expected.relevance, rtol=1e-4, atol=1e-6)
    content[0]["video"] = ["clip/3.png", "clip/2.png"]
    (tmp_path / "chat.json").write_text(json.dumps([{"role": "user", "content": content}]))
    done = CliRunner().invoke(app, [*arguments, "--messages", str(tmp_path / "chat.json")])
    assert done.exit_code == 0, done.output
    assert len(Explanation.load(tmp_path / "out").frames()) == 2


def test_two_models_are_compared_on_a_video():
    both = compare([pictured.model_of("qwen2_vl"), pictured.model_of("internvl")], None, shown(FOUR, ASK))
    assert [len(one.frames()) for one in both.explanations] == [4, 4]
    assert np.isfinite(both.agreement[0].rank_correlation)


@pytest.mark.parametrize(
    ("film", "said"),
    [
        ([], "a video is a list of pictures"),
        (3, "a video is a list of pictures"),
        ([STILL, FIVE[0]], "must be of one size, not 33 x 150 and 80 x 60"),
        ("nowhere.mp4", "no such folder; a video is given as a folder of its frames"),
    ],
)
def test_what_is_no_video_is_refused(film, said):
    with pytest.raises(RelevancyError, match=said):
        explain(pictured.model_of("qwen2_vl"), None, [{"role": "user", "content": [{"type": "video", "video": film}]}])


def test_a_video_file_and_wrong_times_are_refused(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"0")
    with pytest.raises(RelevancyError, match=r"clip.mp4: is no folder; .*ffmpeg -i clip.mp4"):
        open_video(Film(str(tmp_path / "clip.mp4")))
    (tmp_path / "clip.mp4").unlink()
    with pytest.raises(RelevancyError, match="holds no pictures"):
        open_video(Film(str(tmp_path)))
    for fps in (0, -1.0, "two", float("nan"), float("inf")):
        with pytest.raises(RelevancyError, match="fps is how many"):
            open_video(Film(FIVE, fps))


def test_what_a_model_cannot_be_shown_is_refused():
    for family in ("gemma3", "llava_next"):
        assert family not in VIDEOS
        with pytest.raises(RelevancyError, match=f"not known for {family}, but for .*: give the frames as pictures"):
            explain(pictured.model_of(family), None, shown(FIVE, ASK))
    model = pictured.model_of("qwen2_vl")
    with pytest.raises(RelevancyError, match="With a video, scope language of these methods"):
        explain(model, None, shown(FIVE[:1], ASK), scope="full")
    with pytest.raises(RelevancyError, match="a video is a part of a message that holds its frames"):
        explain(model, STILL, [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": ASK}]}])
    with pytest.raises(RelevancyError, match="takes no video of 4 frames of 900 x 3"):
        explain(model, None, shown(frames(4, 900, 3), ASK))
    still = wrap(*pictured.BUILDERS["qwen2_vl"](), name="still")
    still.processor.chat_template = pictured.template("<|vision_start|><|image_pad|><|vision_end|>")
    with pytest.raises(RelevancyError, match="does not say its videos"):
        explain(still, None, shown(FIVE, ASK))
