"""POPE's questions with and without maps, timed in one run.

`python tests/test_evaluate/test_evaluate_speed.py [pictures] [rounds] [2b]` prints answers a second of CPU time for the
embedded pair, twelve questions a picture: answers alone, with maps, with maps and evidence, in turns, and how much more
a round with maps costs than the one with answers alone beside it. With 2b it is a model of LLaVA-Gemma-2B's widths with
two layers and random weights, which ends each answer at once.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

import miniatures
import torch

import relevancy
from relevancy.benchmark.random_models import random_model
from relevancy.benchmark.setting import SHAPES
from relevancy.evaluate.runner import EvaluationRequest, evaluate
from relevancy.explanations.map_batch import ExplainConfig
from relevancy.export.run import Request
from relevancy.models.model import Model

PAIR = ("demo-small", "demo-large")
WAYS = {"answers alone": ("none", False), "maps": ("all", False), "maps and evidence": ("all", True)}
EACH = 4  # questions of a category about a picture


def questions(folder: Path, pictures: int) -> int:
    """POPE's layout with drawn scenes; gives the number of questions."""
    asked: list[dict[str, object]] = []
    for category in ("adversarial", "popular", "random"):
        labels: list[dict[str, object]] = []
        for at, one in enumerate(miniatures.scenes(pictures)):
            picture = f"COCO_val2014_{at:012d}.jpg"
            miniatures.put(folder / "val2014" / picture, miniatures.png(one))
            for number in range(EACH):
                kinds = miniatures.kinds(one)[number % 2]
                text = f"Is there a {kinds[number // 2 % len(kinds)]} in the image?"
                row = {"image": picture, "text": text}
                asked.append(row | {"question_id": len(asked), "text": text + miniatures.SHORT, "category": category})
                labels.append(row | {"question_id": len(labels), "label": ("yes", "no")[number % 2]})
        miniatures.lines(folder / "coco" / f"coco_pope_{category}.json", labels)
    miniatures.lines(folder / "llava_pope_test.jsonl", asked)
    return len(asked)


def seconds(data: Path, models: list[Model], out: Path, maps: str, *, evidence: bool) -> float:
    """CPU time of one run from its beginning to its scores."""
    answering = Request(models=models, input="", out=out, wish=ExplainConfig(evidence=evidence))
    began = time.process_time()
    evaluate(EvaluationRequest("pope", data, out, maps, bare=True, answering=answering))
    return time.process_time() - began


def wide() -> Model:
    """Of true width, and silent: what it would say has no end."""
    shape = SHAPES["2b"].cut(2)
    model = random_model(shape, torch.float32, "cpu", shape.patches + 64)
    model.model.generation_config.eos_token_id = list(range(shape.vocabulary))
    return model


def rounds(place: Path, models: list[Model], pictures: int, count: int) -> tuple[int, list[dict[str, float]]]:
    """How many answers a run gives, and each round's seconds by way."""
    asked = questions(place / "data", pictures)
    found = [
        {
            way: seconds(place / "data", models, place / f"{number}-{way}", maps, evidence=evidence)
            for way, (maps, evidence) in WAYS.items()
        }
        for number in range(count)
    ]
    return asked * len(models), found


@pytest.mark.slow
def test_maps_cost_little_beside_answers(tmp_path):
    _, (_, *found) = rounds(tmp_path, [relevancy.load(name) for name in PAIR], 20, 4)
    assert median(one["maps"] / one["answers alone"] for one in found) < 2.3
    assert median(one["maps and evidence"] / one["answers alone"] for one in found) < 3.2


def main(pictures: str = "20", count: str = "5", size: str = "") -> None:
    models = [wide()] if size else [relevancy.load(name) for name in PAIR]
    with tempfile.TemporaryDirectory() as place:
        answers, found = rounds(Path(place), models, int(pictures), int(count))
    for way in WAYS:
        ratios = [one[way] / one["answers alone"] for one in found]
        print(  # noqa: T201
            f"{way}: {answers / median(one[way] for one in found):.0f} answers a second, "
            f"{median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}] x answers alone"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
