"""The columns of an export's Parquet files, and what may be told from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from relevancy.data.arrow import pa
from relevancy.explanations.evidence import NUMBERS

EXTRA = "in_"
"""What stands before the name of an input column that is carried along."""

EVIDENCE = "evidence_"
"""What stands before the name of a field of `Evidence`."""

_MAP = {
    "width": pa.int32(),
    "height": pa.int32(),
    "rows": pa.int32(),
    "cols": pa.int32(),
    "x_edges": pa.list_(pa.float64()),
    "y_edges": pa.list_(pa.float64()),
    "image_map": pa.list_(pa.float32()),
}
_PICTURE = {
    "picture": pa.string(),
    "picture_hash": pa.string(),
    "share": pa.float64(),
    "without": pa.float64(),
    "without_tv": pa.float64(),
    **_MAP,
    "video": pa.int32(),
}
_NAME = pa.dictionary(pa.int32(), pa.string())
_RESULT = {
    "answer": pa.string(),
    "token": pa.string(),
    "token_id": pa.int64(),
    "position": pa.int32(),
    "probability": pa.float64(),
    "logit": pa.float64(),
    "expected": pa.string(),
    "correct": pa.bool_(),
    "share_image": pa.float64(),
    "share_text": pa.float64(),
    "share_first_token": pa.float64(),
    **_MAP,
    "tokens": pa.list_(pa.string()),
    "is_image": pa.list_(pa.bool_()),
    "relevance": pa.list_(pa.float32()),
    "answer_tokens": pa.list_(pa.string()),
    "cut": pa.float64(),
    "verdict": pa.string(),
    **{f"{EVIDENCE}{name}": pa.float64() for name in NUMBERS},
    f"{EVIDENCE}shared": pa.bool_(),
    f"{EVIDENCE}blind_token": pa.string(),
}


def schema(extras: Mapping[str, pa.DataType], map_dtype: str = "float32") -> pa.Schema:
    """Columns in their order; `extras` are the further input columns, by the names that they have there."""
    fields = {
        "row": pa.int64(),
        "id": pa.string(),
        "model": pa.string(),
        "picture": pa.string(),
        "picture_hash": pa.string(),
        "question": pa.string(),
        **_RESULT,
        "boxes": pa.list_(pa.list_(pa.float64())),
        "mask": pa.string(),
        "mask_png": pa.binary(),
        "notes": pa.list_(pa.string()),
        "seconds": pa.float64(),
        "error": pa.string(),
        "scope": _NAME,
        "method": _NAME,
        "contrast": pa.string(),
        "contrast_id": pa.int64(),
        "contrast_logit": pa.float64(),
        "length": pa.int32(),
        "log_probability": pa.float64(),
        "messages": pa.string(),
        "pictures": pa.list_(pa.struct(list(_PICTURE.items()))),
        **{EXTRA + name: kind for name, kind in extras.items()},
    }
    if map_dtype == "float16":
        fields["image_map"] = pa.list_(pa.float16())
        each = _PICTURE | {"image_map": pa.list_(pa.float16())}
        fields["pictures"] = pa.list_(pa.struct(list(each.items())))
    return pa.schema(list(fields.items()))


def table_of(records: list[dict[str, Any]], columns: pa.Schema) -> pa.Table:
    """Records as a table; what a record lacks is null."""
    half = columns.field("image_map").type.value_type == pa.float16()
    arrays = []
    for column in columns:
        values = [record.get(column.name) for record in records]
        if half and column.name == "image_map":
            values = [None if value is None else value.astype(np.float16) for value in values]
        if half and column.name == "pictures":
            values = [
                value and [one | {"image_map": one["image_map"].astype(np.float16)} for one in value]
                for value in values
            ]
        arrays.append(pa.array(values, type=column.type))
    return pa.Table.from_arrays(arrays, schema=columns)


def checksum(table: pa.Table) -> str:
    """A digest of all that the rows say, whatever file they stand in: sorted by row and model, `seconds` left out."""
    kept = table.drop_columns(["seconds"]).sort_by([("row", "ascending"), ("model", "ascending")])
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(kept.column_names):
        column = kept.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        digest.update(f"{name} {column.type}\n".encode())
        sink = pa.BufferOutputStream()
        whole = pa.table({name: column}).combine_chunks()
        # A slice and a whole hold the same values in different buffers: taking every row makes them alike.
        whole = whole.take(pa.array(range(len(whole)), pa.int64()))
        with pa.ipc.new_stream(sink, whole.schema) as stream:
            stream.write_table(whole)
        digest.update(sink.getvalue())
    return digest.hexdigest()
