"""Parquet files as the hub has them (lmms-lab's sets), made into the layout of the benchmark's authors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relevancy.atomic_io import locked, whole, writing
from relevancy.data.items import picture_hash
from relevancy.data.parquet import Parquet
from relevancy.digests import digest_of
from relevancy.errors import RelevancyError, shortened
from relevancy.evaluate.benchmark import SHORT_ANSWER
from relevancy.evaluate.questions import write_json

_SOURCE = "source.json"
Told = Callable[[float], None]


@dataclass(frozen=True)
class HubLayout:
    """Which files a split has, by which file the official layout is known, and what writes it of a split's rows."""

    pattern: str
    official: str
    write: Callable[[Iterable[Mapping[str, Any]], Path], None]


def unpacked(name: str, data: Path, target: Path, told: Told) -> Path:
    """The folder in the official layout: `data` itself, or `target`, made once of the Parquet files in `data`.

    Raises RelevancyError for Parquet of another benchmark or split or of several sets, for a target made of other
    files, and where another process works beside it.
    """
    layout = HUB.get(name)
    if layout is None or any(data.glob(layout.official)):
        return data
    found = sorted(data.rglob("*.parquet")) if data.is_dir() else [data]
    if not found or found[0].suffix != ".parquet":
        return data
    files = [file for file in found if file.match(layout.pattern)] if data.is_dir() else found
    if not files:
        raise RelevancyError(f"--data {data}: none of its Parquet files is {layout.pattern}; is it another split?")
    places = sorted({str(file.parent.relative_to(data)) for file in files}) if data.is_dir() else []
    if len(places) > 1 and "/" not in layout.pattern:
        raise RelevancyError(
            f"--data {data}: {' and '.join(places)} hold {layout.pattern}, sets that may overlap; give one of them."
        )
    digest = digest_of(files)
    with locked(target.parent):
        if target.is_dir():
            if json.loads((target / _SOURCE).read_text()) != digest:
                raise RelevancyError(
                    f"{target} was made of other Parquet files than those of {data}; give another --out."
                )
            return target
        with writing(target), whole(target) as part:
            part.mkdir()
            try:
                layout.write(_rows(files, told), part)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise RelevancyError(
                    f"--data {data}: is not {name} as lmms-lab packs it ({shortened(error)}); give the official files."
                ) from error
            write_json(part / _SOURCE, digest)
    return target


def _rows(files: Iterable[Path], told: Told) -> Iterator[Mapping[str, Any]]:
    readers = [Parquet(str(file)) for file in files]
    rows = sum(reader.count() for reader in readers)
    for number, row in enumerate(one for reader in readers for one in reader.rows()):
        if number % 100 == 0:
            told(number / rows)
        yield row  # type: ignore[misc]  # Parquet has no broken rows
    told(1.0)


def _pope(rows: Iterable[Mapping[str, Any]], folder: Path) -> None:
    asked, labels = [], {name: list[dict[str, Any]]() for name in ("adversarial", "popular", "random")}
    for number, row in enumerate(rows, 1):
        picture = f"{row['image_source']}.jpg"
        _picture(folder / "val2014" / picture, row)
        asked.append({
            "question_id": number, "image": picture, "text": row["question"] + SHORT_ANSWER,
            "category": row["category"],
        })  # fmt: skip
        own = labels[row["category"]]
        own.append({
            "question_id": len(own) + 1, "image": picture, "text": row["question"], "label": row["answer"].lower()
        })  # fmt: skip
    _lines(folder / "llava_pope_test.jsonl", asked)
    for name, found in labels.items():
        _lines(folder / "coco" / f"coco_pope_{name}.json", found)


def _gqa(rows: Iterable[Mapping[str, Any]], folder: Path) -> None:
    questions = {}
    for row in rows:
        if "question" in row:
            kept = ("question", "answer", "imageId", "isBalanced", "types", "groups")
            questions[row["id"]] = {name: row[name] for name in kept if name in row}
        else:
            _picture(folder / "images" / f"{row['id']}.jpg", row)
    write_json(folder / "testdev_balanced_questions.json", questions)


def _mme(rows: Iterable[Mapping[str, Any]], folder: Path) -> None:
    for row in rows:
        name = row["question_id"].rpartition("/")[2]
        _picture(folder / row["category"] / name, row)
        with (folder / row["category"] / f"{name.rpartition('.')[0]}.txt").open("a", encoding="utf-8") as stream:
            stream.write(f"{row['question']}\t{row['answer']}\n")


def _mm_vet(rows: Iterable[Mapping[str, Any]], folder: Path) -> None:
    questions = {}
    for row in rows:
        picture = f"{picture_hash(row['image']['bytes'])}.png"
        _picture(folder / "images" / picture, row)
        needed = row["capability"]
        questions[row["question_id"]] = {
            "imagename": picture, "question": row["question"], "answer": row["answer"],
            "capability": needed.split(",") if isinstance(needed, str) else list(needed),
        }  # fmt: skip
    write_json(folder / "mm-vet.json", questions)


def _scienceqa(rows: Iterable[Mapping[str, Any]], folder: Path) -> None:
    asked, problems = [], {}
    for number, row in enumerate(rows):
        choices = "".join(f"\n{chr(ord('A') + place)}. {one}" for place, one in enumerate(row["choices"]))
        context = f"Context: {row['hint']}\n" if row["hint"] else ""
        pictured = row["image"] is not None
        said = ("<image>\n" if pictured else "") + context + row["question"] + choices
        turns = [{"from": "human", "value": said}, {"from": "gpt", "value": chr(ord("A") + row["answer"])}]
        entry: dict[str, Any] = {"id": str(number), "conversations": turns}
        if pictured:
            entry["image"] = f"{number}/image.png"
            _picture(folder / "images" / "test" / entry["image"], row)
        asked.append(entry)
        problems[str(number)] = {"subject": row.get("subject", "")}
    write_json(folder / "llava_test_CQM-A.json", asked)
    write_json(folder / "problems.json", problems)


def _textvqa(rows: Iterable[Mapping[str, Any]], folder: Path) -> None:
    known, asked = [], []
    for row in rows:
        _picture(folder / "train_images" / f"{row['image_id']}.jpg", row)
        kept = ("image_id", "question_id", "question")
        known.append({name: row[name] for name in kept} | {"answers": list(row["answers"])})
        read = f"{row['question']}\nReference OCR token: {', '.join(row['ocr_tokens'])}{SHORT_ANSWER}"
        asked.append({"question_id": row["image_id"], "image": f"{row['image_id']}.jpg", "text": read})
    write_json(folder / "TextVQA_0.5.1_val.json", {"data": known})
    _lines(folder / "llava_textvqa_val_v051_ocr.jsonl", asked)


def _vqav2(rows: Iterable[Mapping[str, Any]], folder: Path) -> None:
    known, asked = [], []
    for row in rows:
        picture = int(row["image_id"])
        _picture(folder / "val2014" / f"COCO_val2014_{picture:012d}.jpg", row)
        own = {"question_id": int(row["question_id"]), "image_id": picture}
        asked.append(own | {"question": row["question"]})
        answers = [{"answer": one["answer"]} for one in row["answers"]]
        known.append(own | {"answers": answers} | {name: row[name] for name in ("answer_type", "question_type")})
    write_json(folder / "v2_mscoco_val2014_annotations.json", {"annotations": known})
    write_json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": asked})


def _picture(path: Path, row: Mapping[str, Any]) -> None:
    """The row's picture as it is, once; openers look at what is inside, not at its name."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["image"]["bytes"])


def _lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


HUB: Mapping[str, HubLayout] = {
    "pope": HubLayout("test-*.parquet", "llava_pope_test.jsonl*", _pope),
    "gqa": HubLayout("testdev_balanced_*/*.parquet", "testdev_balanced_questions.json*", _gqa),
    "mme": HubLayout("test-*.parquet", "**/*.txt", _mme),
    "mm-vet": HubLayout("test-*.parquet", "mm-vet.json*", _mm_vet),
    "vqav2": HubLayout("validation-*.parquet", "v2_mscoco_val2014_annotations.json*", _vqav2),
    "scienceqa": HubLayout("test-*.parquet", "llava_test_CQM-A.json*", _scienceqa),
    "textvqa": HubLayout("validation-*.parquet", "TextVQA_0.5.1_val.json*", _textvqa),
}
"""Benchmarks by name; MMVP lies on the hub in its authors' own layout."""
