"""All that a report says, as values: the page shows them and nothing else, the JSON holds them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from relevancy.explanations.explanation import finite
from relevancy.report.claim import CLAIM, SOURCE, ClaimReading
from relevancy.report.findings import ReportFindings
from relevancy.report.gallery import Card, Shelf
from relevancy.report.source import ExportSource
from relevancy.report.words import MEASURES
from relevancy.stats.clustered import FEWEST
from relevancy.stats.intervals import LEVEL

FORMAT = 2
_DRAWN = ("picture", "drawn")  # pictures stand on the page alone


@dataclass(frozen=True)
class ExportFacts:
    """What one export says of itself; rows is None while it is being written."""

    name: str
    models: tuple[str, ...]
    rows: int | None
    finished: bool
    created: str | None
    configuration: Mapping[str, Any]
    configuration_hash: str | None
    versions: Mapping[str, str]
    own_columns: tuple[str, ...]

    @classmethod
    def of(cls, source: ExportSource) -> ExportFacts:
        """The facts in an export's manifest."""
        manifest = source.manifest
        return cls(
            name=source.name,
            models=tuple(str(name) for name in manifest.get("models") or ()),
            rows=manifest.get("rows"),
            finished=bool(manifest.get("finished")),
            created=manifest.get("created"),
            configuration=dict(manifest.get("configuration") or {}),
            configuration_hash=manifest.get("configuration_hash"),
            versions=dict(manifest.get("versions") or {}),
            own_columns=source.own_columns,
        )


@dataclass(frozen=True)
class Report:
    """Exports, what they show, what that says about the claim, and the rows worth looking at."""

    exports: tuple[ExportFacts, ...]
    findings: ReportFindings
    reading: ClaimReading
    gallery: tuple[tuple[Shelf, tuple[Card, ...]], ...]
    version: str

    @property
    def differing(self) -> tuple[str, ...]:
        """Settings, models aside, in which two exports differ: so do then the numbers, whatever the models."""
        if len(self.exports) < 2:
            return ()
        one, other = (export.configuration for export in self.exports)
        keys = sorted({*one, *other} - {"models", "input", "out"})
        return tuple(key for key in keys if one.get(key) != other.get(key))

    def to_json(self) -> dict[str, Any]:
        """Every number on the page, by name; what is unknown is null."""
        shelves = [
            {"title": shelf.title, "chosen_by": shelf.measure, "candidates": shelf.candidates,
             "cards": [without_pictures(asdict(card)) for card in cards]}
            for shelf, cards in self.gallery
        ]  # fmt: skip
        stored: dict[str, Any] = {
            "format": FORMAT,
            "version": self.version,
            "interval": LEVEL,
            "fewest": FEWEST,
            "exports": [asdict(export) for export in self.exports],
            "differing_settings": list(self.differing),
            "claim": {"text": CLAIM, "source": SOURCE, **asdict(self.reading)},
            **asdict(self.findings),
            "measures": {name: asdict(meaning) for name, meaning in MEASURES.items()},
            "gallery": shelves,
        }
        whole: dict[str, Any] = finite(stored)
        return whole


def without_pictures(value: Any) -> Any:
    """Plain values without the pictures that stand on a page alone."""
    if isinstance(value, dict):
        return {key: without_pictures(each) for key, each in value.items() if key not in _DRAWN}
    return [without_pictures(each) for each in value] if isinstance(value, list | tuple) else value
