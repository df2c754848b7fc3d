"""What makes an export the one that it is: its request with the input looked through, and its manifest."""

from __future__ import annotations

__all__ = ["ExportPlan", "weights_digest"]

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from relevancy.data.arrow import pa
from relevancy.data.columns import ROLES, Columns, Itemizer, Survey
from relevancy.data.inputs import open_input
from relevancy.data.items import Item
from relevancy.data.reader import RowReader
from relevancy.digests import digest_of
from relevancy.errors import RelevancyError
from relevancy.explanations.map_batch import versions
from relevancy.export.folder import FORMAT, configuration_hash, now
from relevancy.export.request import Request, check, names_of
from relevancy.export.schema import schema
from relevancy.models import adapters

_ALWAYS = frozenset({*ROLES, "every"}) - {"video"}  # of the columns: what was not asked for is said, too


@dataclass(frozen=True)
class ExportPlan:
    """A request with its input looked through."""

    request: Request
    reader: RowReader
    columns: Columns
    survey: Survey
    names: tuple[str, ...]

    @classmethod
    def of(cls, request: Request) -> ExportPlan:
        """Reads the input once. Raises RelevancyError for what cannot be exported."""
        names = names_of(request.models)
        check(request, names)
        reader = open_input(request.input, request.kind)
        if reader.kind == "folder" and request.out.resolve().is_relative_to(reader.base.resolve()):
            raise RelevancyError(f"--out {request.out} lies among the pictures of {request.input}: give another --out.")
        columns = request.columns.found_in(reader.columns())
        return cls(request, reader, columns, Survey.of(reader, columns), names)

    @property
    def rows(self) -> int:
        """How many rows are to end."""
        limit = self.request.limit
        return self.survey.rows if limit is None else min(limit, self.survey.rows)

    @property
    def schema(self) -> pa.Schema:
        """Of the results."""
        return schema(self.survey.extras, self.request.map_dtype)

    def items(self) -> Iterator[Item]:
        """Every row."""
        base = self.request.pictures or self.reader.base
        return iter(Itemizer(self.columns, self.survey, base).items(self.reader, self.request.limit))

    def configuration(self) -> dict[str, Any]:
        """Everything that decides what a row's result is."""
        request, wish = self.request, self.request.wish
        return {
            "models": list(self.names),
            "weights": [
                weights_digest(model, request.options.get("revision")) if isinstance(model, str) else None
                for model in request.models
            ],
            "target": wish.target,
            "scope": wish.scope,
            "layers": None if wish.layers is None else list(wish.layers),
            "method": wish.explainer.name,
            "max_new_tokens": wish.max_new_tokens,
            "evidence": wish.evidence,
            **{name: request.options.get(name) for name in ("dtype", "framing", "quantization", "revision")},
            "max_pixels": request.max_pixels,
            "map_dtype": request.map_dtype,
            **({} if request.maps == "all" else {"maps": request.maps}),
            "input": {
                "path": os.path.abspath(request.input) if Path(request.input).exists() else request.input,  # noqa: PTH100
                "kind": self.reader.kind,
                "pictures": None if request.pictures is None else str(request.pictures.absolute()),
                "fingerprint": self.reader.fingerprint(),
            },
            "columns": {name: of for name, of in asdict(self.columns).items() if of or name in _ALWAYS},
        }


def weights_digest(model: str, revision: str | None = None) -> str:
    """Tells weights of a folder from those that stood there before."""
    files = [file for folder in adapters.located(model, revision).folders for file in sorted(folder.glob("*"))]
    return digest_of([file for file in files if file.suffix in (".json", ".safetensors", ".jinja")])


def manifest(plan: ExportPlan, configuration: dict[str, Any], planning: Mapping[str, int]) -> dict[str, Any]:
    """What is written into the folder when the export begins."""
    return {
        "format": FORMAT,
        "configuration": configuration,
        "configuration_hash": configuration_hash(configuration),
        "models": list(plan.names),
        "planning": dict(planning),
        "versions": versions(),
        "boxes": "pixels",
        "rows": None,
        "finished": False,
        "created": now(),
    }
