"""Models against each other over the same questions, and the table as JSON and as a picture."""

import json

import numpy as np
import pytest
from PIL import Image

from relevancy import cli
from relevancy.errors import RelevancyError
from relevancy.evaluate.pope import _METRICS
from relevancy.evaluate.pope import BENCHMARK as POPE
from relevancy.evaluate.scores import FRACTION, PERCENT, PictureSums, Protocol, Scoreboard, ratio
from relevancy.evaluate.store import read_sums, write_score
from relevancy.evaluate.table import make_table
from relevancy.stats.clustered import Sample, means
from relevancy.stats.intervals import Resamples

PROTOCOL = Protocol("a", "1", "{question}", 128, "rules")
KEY = ("all", "accuracy")


def board(right, pictures):
    made = Scoreboard(pictures)
    made.mean("all", "accuracy", np.array(right, float))
    made.mean("first half", "accuracy", np.array(right, float), np.arange(len(right)) < len(right) // 2)
    return made


def answers(seed, chance=0.6, rows=240):
    return (np.random.default_rng(seed).random(rows) < chance).astype(float)


def test_a_mean_is_compared_as_the_mean_of_differences():
    pictures = np.concatenate([np.arange(60), np.random.default_rng(0).integers(0, 20, 180)])  # some have many rows
    one, other = answers(1, 0.95), answers(2, 0.3)
    found = board(one, pictures).sums().less(board(other, pictures).sums(), {KEY: ratio, ("none", "x"): ratio})
    assert list(found) == [KEY]
    (plain,) = means([Sample(one - other, pictures)], Resamples(60))
    estimate = found[KEY]
    assert estimate.value == pytest.approx((one - other).mean())
    assert (estimate.rows, estimate.pictures) == (240, 60)
    assert [estimate.low, estimate.high] == pytest.approx([plain.low, plain.high], abs=0.02)


def test_pairing_tells_what_two_intervals_hide():
    pictures = np.arange(400)
    one = answers(3, 0.5, 400)
    other = one.copy()
    other[np.flatnonzero(one == 1)[:12]] = 0  # wrong in twelve places more, and nowhere less
    scores = [board(each, pictures).estimates()["all"]["accuracy"] for each in (one, other)]
    assert scores[0].low < scores[1].value  # their own intervals overlap
    found = board(one, pictures).sums().less(board(other, pictures).sums(), {KEY: ratio})[KEY]
    assert found.decided == 1


def test_a_function_of_sums_is_compared_draw_by_draw():
    rng = np.random.default_rng(0)
    pictures = np.repeat(np.arange(50), 6)
    labels = rng.integers(2, size=300)
    made = []
    for chance in (0.9, 0.7):
        yes = np.where(rng.random(300) < chance, labels, 1 - labels)
        columns = yes * labels, yes * (1 - labels), (1 - yes) * labels, (1 - yes) * (1 - labels)
        own = Scoreboard(pictures)
        own.function("random", "f1", columns, _METRICS["f1"])
        made.append(own)
    found = made[0].sums().less(made[1].sums(), {("random", "f1"): POPE.function("random", "f1")})["random", "f1"]
    values = [one.estimates()["random"]["f1"].value for one in made]
    assert found.value == pytest.approx(values[0] - values[1])
    assert found.low < found.value < found.high
    # A resample by hand: both models lose and gain the same pictures.
    weights = next(iter(Resamples(50).weights()))
    columns = [one.sums().columns["random", "f1"] for one in made]
    draws = [[float(_METRICS["f1"](own @ draw)) for draw in weights] for own in columns]
    spread = np.quantile(np.subtract(*draws), [0.025, 0.975])
    assert [found.low, found.high] == pytest.approx(spread, abs=0.03)


def test_other_pictures_are_not_compared():
    one, other = board(answers(1), range(240)), board(answers(1), range(1, 241))
    assert one.sums().less(other.sums(), {KEY: ratio}) == {}


def test_sums_are_read_back_as_they_were_written():
    sums = board(answers(1), [f"bild/{at // 4}é" for at in range(240)]).sums()
    found = PictureSums.of_arrays(sums.arrays())
    assert (found.pictures, found.rows) == (sums.pictures, sums.rows)
    assert all((found.columns[key] == sums.columns[key]).all() for key in sums.columns)


def stored(folder, right, *, stand_in=None, name="gqa", unit=PERCENT):
    found = board(right, np.repeat(np.arange(60), 4)).scored(name, PROTOCOL, unit, KEY, {}, stand_in)
    write_score(found, folder)
    return folder


def test_the_table_prints_differences(tmp_path):
    stored(tmp_path / "one", answers(1, 0.7))
    stored(tmp_path / "two", answers(2, 0.5))
    made = make_table([tmp_path])  # the folder that holds both
    assert [row.model for row in made.rows[:2]] == ["one", "two"]
    (found,) = made.differences
    value = answers(1, 0.7).mean() - answers(2, 0.5).mean()
    assert found.printed.startswith(f"+{value:.3f} [+")
    assert f"| one less two | GQA | {found.printed} |" in made.markdown()
    assert f"% one less two, GQA: {found.printed}" in made.latex()
    told = json.loads(made.json())
    assert told["differences"][0]["value"] == pytest.approx(value)
    assert told["rows"][0]["cells"]["GQA"] == f"{answers(1, 0.7).mean():.3f}"
    assert "less" not in make_table([tmp_path / "one"]).markdown()


def test_stand_ins_and_scores_of_before_have_no_difference(tmp_path):
    one = stored(tmp_path / "one", answers(1), name="mmvp", stand_in="letters")
    two = stored(tmp_path / "two", answers(2), name="mmvp", stand_in="letters")
    assert make_table([one, two]).differences == ()
    three, four = stored(tmp_path / "three", answers(1)), stored(tmp_path / "four", answers(2))
    (three / "gqa.npz").unlink()
    assert make_table([three, four]).differences == ()
    assert read_sums(three, "gqa") is None
    (four / "gqa.npz").write_bytes(b"nothing")
    with pytest.raises(RelevancyError, match="score this model again"):
        read_sums(four, "gqa")


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_table_is_drawn(tmp_path, monkeypatch, capsys, kind):
    stored(tmp_path / "one", answers(1), unit=FRACTION)
    path = tmp_path / "pictures" / f"table.{kind}"
    monkeypatch.setattr("sys.argv", ["relevancy", "evaluate", "table", str(tmp_path / "one"), "--out", str(path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert capsys.readouterr().out == f"→ {path}\n"
    if kind == "png":
        with Image.open(path) as image:
            assert image.width > image.height > 300
    else:
        assert path.stat().st_size > 5000
    monkeypatch.setattr("sys.argv", ["relevancy", "evaluate", "table", "--out", str(tmp_path / "table.txt")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "it is drawn as .png, .svg, .pdf" in capsys.readouterr().err
