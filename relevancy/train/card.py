"""The model card of a trained model: what it was made of, how, and how to ask it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SCORES = re.compile(r"## Scores\n.*?(?=\n## |\nWeights follow)", re.DOTALL)
_UNMEASURED = "It was not measured on any benchmark by this card's writing."


@dataclass(frozen=True)
class CardScore:
    """A benchmark's quoted score as it is printed, its 95 % interval if there is one, and the protocol it is under."""

    benchmark: str
    score: str
    printed: str
    interval: str
    protocol: str


def with_scores(text: str, scores: Iterable[CardScore]) -> str:
    """A card with these scores in the place of those it had."""
    rows = [f"| {one.benchmark} | {one.score} | {one.printed} | {one.interval} | {one.protocol} |\n" for one in scores]
    head = "| benchmark | score | value | 95 % interval | protocol |\n| --- | --- | ---: | --- | --- |\n"
    return _SCORES.sub(lambda _: f"## Scores\n\n{head}{''.join(rows)}", text)


def card(configuration: Mapping[str, Any], parameters: Mapping[str, int], stages: Sequence[tuple[str, str]]) -> str:
    """Markdown with the header the hub reads; `stages` are names with how far each came."""
    preset = configuration["preset"]
    bases = "".join(f"- {name}\n" for name in dict.fromkeys((preset["language"], preset["vision"])))
    rows = "\n".join(f"| {_row(preset[name], name, how_far, configuration)} |" for name, how_far in stages)
    sizes = ", ".join(f"{part} {count:,}" for part, count in parameters.items())
    versions = ", ".join(f"{name} {version}" for name, version in configuration["versions"].items())
    return f"""---
library_name: transformers
pipeline_tag: image-text-to-text
base_model:
{bases}tags:
- llava
- relevancy
---

# {preset["name"]} ({preset["flavour"]})

{preset["language"]} sees through {preset["vision"]} at {preset["image_size"]} pixels, joined by a two-layer connector.
Parameters: {sizes}. Trained with `relevancy train`; configuration {configuration["hash"]}: see `training.json`.

| stage | trained | data | batch | learning rate | state |
| --- | --- | --- | --- | --- | --- |
{rows}

```python
import relevancy

model = relevancy.load("path/of/this/folder")
relevancy.explain(model, image, "What is in the picture?").overlay()
```

## Scores

{_UNMEASURED}

Weights follow the licenses of the models it was made of.

Versions: {versions}.
"""


def _row(stage: Mapping[str, Any], name: str, how_far: str, configuration: Mapping[str, Any]) -> str:
    given = configuration["data"].get(name, {}).get("data", "")
    read = ", ".join(source.rsplit("/", 1)[-1] for source in ([given] if isinstance(given, str) else given))
    cells = (name, " and ".join(stage["trains"]), read, stage["batch"], stage["learning_rate"])
    return " | ".join(str(cell) for cell in (*cells, how_far))
