"""The reference: lines of a docstring that describe a parameter or a field become a list."""

import re
from typing import Any

import griffe

_LINE = re.compile(r"(?P<names>\w+(?:, \w+)*)(?::|  +)\s*(?P<text>\S.*)")


def listed(text: str, known: set[str]) -> str:
    """The docstring with each line that begins with a known name made an entry, its indented lines in it."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found and set(found["names"].split(", ")) <= known:
            lines += [] if inside else [""]
            lines.append(f"- **{found['names']}**: {found['text']}")
            inside = True
        elif inside and line.startswith(" "):
            lines.append(f"    {line.strip()}")
        else:
            lines += [""] if inside else []
            lines.append(line)
            inside = False
    return "\n".join(lines)


class Listed(griffe.Extension):
    """Rewrites every docstring as `listed` does."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """The names that an object's docstring may describe are its parameters, or its fields."""
        if obj.docstring is None:
            return
        known = {parameter.name for parameter in obj.parameters} if isinstance(obj, griffe.Function) else set()
        known |= set(obj.members) if isinstance(obj, griffe.Class) else set()
        obj.docstring.value = listed(obj.docstring.value, known)
