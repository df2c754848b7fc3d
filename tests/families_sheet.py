"""Draws docs/images/families.png, one map of each family, and film.png, a video: `python tests/families_sheet.py`.

The models are tiny and random, so the maps mean nothing: what is to be seen is that each lies over the whole picture in
cells of its family's own kind.
"""

import sys
import warnings
from pathlib import Path

import kindred
import numpy as np
import pictured
import relatives
import tiny
from PIL import Image, ImageDraw

from relevancy.explanations.explain import explain
from relevancy.models.model import wrap
from relevancy.plotting.overlay import overlay

SHEET = Path(__file__).parents[1] / "docs/images/families.png"
FILM = SHEET.with_name("film.png")
FAMILIES = (
    {"llava": tiny.gemma_clip, "paligemma": tiny.paligemma} | pictured.BUILDERS | relatives.BUILDERS | kindred.BUILDERS
)
COLUMNS, WIDTH, HEIGHT, LINE = 8, 160, 96, 14


def picture() -> Image.Image:
    """Wide enough to be cut into tiles: a board of colored fields."""
    fields = np.random.default_rng(3).integers(60, 220, (3, 5, 3), dtype=np.uint8)
    return Image.fromarray(fields).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)


def moving(frames: int) -> list[Image.Image]:
    """A disc that crosses the board."""
    found = [picture() for _ in range(frames)]
    for number, frame in enumerate(found):
        middle = WIDTH * (number + 0.5) / frames
        ImageDraw.Draw(frame).ellipse((middle - 18, HEIGHT / 2 - 18, middle + 18, HEIGHT / 2 + 18), fill="#b3261e")
    return found


def draw_film() -> None:
    content = [{"type": "video", "video": moving(5)}, {"type": "text", "text": "what color is the ball ?"}]
    result = explain(pictured.model_of("qwen2_5_vl"), None, [{"role": "user", "content": content}], evidence=False)
    result.film().savefig(FILM)
    Image.open(FILM).convert("RGB").quantize(128).save(FILM, optimize=True)


def main() -> None:
    draw_film()
    drawn: list[tuple[str, Image.Image]] = []
    for name, build in FAMILIES.items():
        try:
            model = wrap(*build(), name=name)
        except ImportError:
            continue
        result = explain(model, picture(), "what color is the ball ?", max_new_tokens=1, evidence=False)
        drawn.append((name, overlay(result.image, result.heatmap(smooth=False))))
    rows = -(-len(drawn) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (WIDTH + 4), rows * (HEIGHT + LINE + 4)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (name, one) in enumerate(drawn):
        left, upper = number % COLUMNS * (WIDTH + 4), number // COLUMNS * (HEIGHT + LINE + 4)
        pen.text((left + 2, upper + 1), name, fill="black")
        sheet.paste(one.convert("RGB"), (left, upper + LINE))
    sheet.quantize(96).save(SHEET, optimize=True)
    sys.stdout.write(f"{len(drawn)} maps, {SHEET.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
