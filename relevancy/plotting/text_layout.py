"""Words on paper: fonts, what they can draw, and tokens broken into pieces and lines."""

__all__ = ["pieces_of"]

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from matplotlib import font_manager, rc_context
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from relevancy.token_text import is_control, readable

# Points; lengths elsewhere are inches.
LARGE, NORMAL, SMALL = 13.0, 10.5, 8.5
SPACE = 0.16  # around a block of words
WORD_LINE = 0.235  # from one line of words to the next
FONTS = (
    "DejaVu Sans", "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Microsoft YaHei",
    "PingFang SC", "Hiragino Sans", "Malgun Gothic", "Arial Unicode MS", "Noto Emoji",
)  # fmt: skip
_MOST_WORDS = 1500  # a longer prompt loses its middle, and says so


@dataclass(frozen=True)
class Piece:
    """One token as it is drawn."""

    text: str
    value: float
    spaced: bool
    breaks: bool
    special: bool

    @property
    def size(self) -> float:
        """Points."""
        return SMALL - 1 if self.special else NORMAL


@dataclass
class Flow:
    """Pieces with their left edge, line and width, and the number of the last line."""

    chips: list[tuple[Piece, float, int, float]]
    line: int

    @property
    def height(self) -> float:
        """Inches, the space around included."""
        return 2 * SPACE + (self.line + 1) * WORD_LINE


def pieces_of(words: Sequence[tuple[str, float]]) -> list[Piece]:
    """Tokens with their values as pieces to draw; line breaks shown by an arrow, control tokens marked."""
    plain = readable(words)
    if len(plain) > _MOST_WORDS:
        half = _MOST_WORDS // 2
        left_out = f" … {len(plain) - 2 * half:,} tokens not drawn … "
        plain = [*plain[:half], (left_out, float("nan")), *plain[-half:]]
    has_spaces = any(word.startswith(" ") for word, _ in plain)
    pieces = []
    for word, value in plain:
        special = is_control(word)
        shown = word.replace("\n", "↵").replace("\t", "⇥")
        shown = shown.strip(" ") or "␣" * len(word)
        spaced = special or word.startswith(" ") or not has_spaces
        pieces.append(Piece(drawable(shown), float(value), spaced, word.endswith("\n"), special))
    return [piece for piece in pieces if piece.text]


def groups(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Pieces that make one word, which begins with a space, a control token, or after a line break."""
    group: list[Piece] = []
    for piece in pieces:
        if group and (piece.spaced or group[-1].special or group[-1].breaks):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


class TrueTypeFigure(Figure):
    """A figure whose PDF holds its fonts as TrueType, which programs can search and edit, and journals take."""

    def savefig(self, *args: Any, **options: Any) -> None:
        """As Matplotlib's, to which only its process-wide settings tell the kind of font."""
        with rc_context({"pdf.fonttype": 42, "ps.fonttype": 42}):
            super().savefig(*args, **options)


def line_height(size: float) -> float:
    """Height in inches of a line of text of that many points."""
    return size * 1.35 / 72


def font(size: float, weight: str = "normal", mono: bool = False) -> FontProperties:
    """The font of that size in points, with whatever families are installed to fall back on."""
    families = ["DejaVu Sans Mono", *_families()] if mono else list(_families())
    return FontProperties(family=families, size=size, weight=weight)


@lru_cache(maxsize=1)
def _families() -> tuple[str, ...]:
    known = set(font_manager.fontManager.get_font_names())
    return tuple(name for name in FONTS if name in known)


@lru_cache(maxsize=4096)
def _has_glyph(character: str) -> bool:
    paths = (font_manager.findfont(name) for name in _families())
    return any(font_manager.get_font(path).get_char_index(ord(character)) for path in paths)


def drawable(text: str) -> str:
    """Text with a square for whatever no installed font can draw."""
    return "".join(c if c.isspace() or (c.isprintable() and _has_glyph(c)) else "□" for c in text)
