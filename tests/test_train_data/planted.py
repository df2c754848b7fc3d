"""A data set in LLaVA's format with faults at known places."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from training_data import entry

from relevancy.train.template import IMAGE

PICTURES = 40
_QUESTION = f"{IMAGE}\nWhat color is the duck on the left?"


def _fault(kind: str, name: str) -> Any:
    faults: dict[str, Callable[[], Any]] = {
        "no dialogue": lambda: {"id": name, "text": "A duck."},
        "bad turns": lambda: {"id": name, "conversations": [{"from": "human", "value": "a"}] * 2},
        "missing picture": lambda: entry(name, _QUESTION, "Red.", image="nowhere.jpg"),
        "unreadable picture": lambda: entry(name, _QUESTION, "Red.", image="broken.jpg"),
        "no answer left": lambda: entry(name, "word " * 1000, "Red."),
        "unread picture": lambda: entry(name, "What color?", "Red.", photo="0.jpg"),
        "over-long": lambda: entry(name, "What color?", "Red.", "And then?", "word " * 1000),
        "empty question": lambda: entry(name, f"{_QUESTION}", "Red.", "  ", "Blue.", image="0.jpg"),
        "empty answer": lambda: entry(name, _QUESTION, "", image="1.jpg"),
        "unanswered": lambda: entry(name, "What color?", "Red.", "And then?"),
        "answer first": lambda: {"id": name, "conversations": [{"from": "gpt", "value": "Hello"},
                                                                *entry("", "a", "b")["conversations"]]},
    }  # fmt: skip
    return faults[kind]()


KINDS = (
    "no dialogue", "bad turns", "missing picture", "unreadable picture", "no answer left", "over-long",
    "empty question", "empty answer", "unanswered", "answer first", "unread picture",
)  # fmt: skip


def plant(folder: Path, count: int, every: int) -> dict[int, str]:
    """Writes folder/data.json and folder/images; returns the kind of fault by the entry's position."""
    images = folder / "images"
    images.mkdir()
    random = np.random.default_rng(0)
    for number in range(PICTURES):
        values = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(values).resize((64, 48)).save(images / f"{number}.jpg")
    (images / "broken.jpg").write_bytes((images / "0.jpg").read_bytes()[:300])
    planted = {}
    with (folder / "data.json").open("w") as stream:
        for place in range(count):
            name = f"entry-{place}"
            if place % every == every - 1:
                planted[place] = KINDS[place // every % len(KINDS)]
                given = _fault(planted[place], name)
            elif place % 5 == 0:
                given = entry(name, "Is 2 more than 1?", "Yes.", "And 3?", "Yes.")
            else:
                given = entry(name, _QUESTION, "It is red.", image=f"{place % PICTURES}.jpg")
            stream.write(("[" if place == 0 else ",\n ") + json.dumps(given))
        stream.write("\n]\n")
    return planted
