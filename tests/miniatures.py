"""Every benchmark in miniature, in its authors' layout: drawn scenes, questions in the benchmark's form."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from relevancy.demo.layout import COLORS, KINDS
from relevancy.demo.world import HELD_OUT, Scene, scene

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
EVALUATOR = 'prompt = """Compare.\nQuestion | Ground truth | Prediction | Correctness\n--- | --- | --- | ---\n"""\n'


def scenes(number: int) -> list[Scene]:
    return [scene(HELD_OUT + 5_000_000 + place) for place in range(number)]


def png(one: Scene) -> bytes:
    stream = io.BytesIO()
    one.image.save(stream, "PNG")
    return stream.getvalue()


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    return put(path, "".join(json.dumps(row) + "\n" for row in rows))


def kinds(one: Scene) -> tuple[list[str], list[str]]:
    """What is in the scene, and what is not."""
    there = [kind for kind in KINDS if one.layout.of_kind(kind)]
    return there, [kind for kind in KINDS if kind not in there]


def first_item(one: Scene) -> tuple[str, str]:
    """Kind and color of an object that stands there alone."""
    for item in one.layout.items:
        if item.color is not None and len(one.layout.of_kind(item.kind)) == 1:
            return item.kind, item.color
    item = one.layout.items[0]
    return item.kind, item.color or COLORS[0]


def pope(folder: Path) -> Path:
    asked, number = [], 0
    for category in ("adversarial", "popular", "random"):
        labels = []
        for at, one in enumerate(scenes(6)):
            picture = f"COCO_val2014_{at:012d}.jpg"
            put(folder / "val2014" / picture, png(one))
            there, absent = kinds(one)
            for kind, label in ((there[0], "yes"), (absent[0], "no")):
                number += 1
                text = f"Is there a {kind} in the image?"
                asked.append({"question_id": number, "image": picture, "text": text + SHORT, "category": category})
                labels.append({"question_id": len(labels) + 1, "image": picture, "text": text, "label": label})
        lines(folder / "coco" / f"coco_pope_{category}.json", labels)
    lines(folder / "llava_pope_test.jsonl", asked)
    return folder


def gqa(folder: Path) -> Path:
    questions = {}
    for at, one in enumerate(scenes(6)):
        put(folder / "images" / f"n{at}.jpg", png(one))
        kind, color = first_item(one)
        for own, text, answer, structural in (
            (f"1{at}", f"What color is the {kind}?", color, "query"),
            (f"2{at}", f"Is the {kind} {color}?", "yes", "verify"),
        ):
            questions[own] = {
                "question": text, "answer": answer, "imageId": f"n{at}", "isBalanced": True,
                "types": {"structural": structural, "semantic": "attr"}, "groups": {"global": None},
            }  # fmt: skip
    put(folder / "testdev_balanced_questions.json", json.dumps(questions))
    return folder


def mme(folder: Path) -> Path:
    root = folder / "MME_Benchmark_release_version"
    for place, task in enumerate((*PERCEPTION, *COGNITION)):
        inner = task in ("existence", "celebrity")  # the authors use both layouts
        for at, one in enumerate(scenes(14)[place : place + 1]):
            there, absent = kinds(one)
            texts, pictures = ("questions_answers_YN", "images") if inner else ("", "")
            put(root / task / pictures / f"{at:04d}.png", png(one))
            said = [
                f"Is there a {kind} in this image? Please answer yes or no.\t{label}\n"
                for kind, label in ((there[0], "Yes"), (absent[0], "No"))
            ]
            put(root / task / texts / f"{at:04d}.txt", "".join(said))
    return folder


def mm_vet(folder: Path) -> Path:
    questions = {}
    for at, one in enumerate(scenes(4)):
        put(folder / "images" / f"v1_{at}.png", png(one))
        kind, color = first_item(one)
        questions[f"v1_{at}"] = {
            "imagename": f"v1_{at}.png", "question": f"What color is the {kind}?", "answer": f"{color}<OR>{color}ish",
            "imagesource": "drawn", "capability": ["rec"] if at % 2 else ["rec", "spat"],
        }  # fmt: skip
    put(folder / "mm-vet.json", json.dumps(questions))
    put(folder / "mm-vet_evaluator.py", EVALUATOR)
    return folder


def vqav2(folder: Path) -> Path:
    asked, known = [], []
    for at, one in enumerate(scenes(6)):
        put(folder / "val2014" / f"COCO_val2014_{at:012d}.jpg", png(one))
        kind, color = first_item(one)
        for own, text, answers, of in (
            (10 * at, f"What color is the {kind}?", [color] * 7 + ["grey"] * 3, "other"),
            (10 * at + 1, f"Is there a {kind}?", ["yes"] * 10, "yes/no"),
        ):
            asked.append({"question_id": own, "image_id": at, "question": text})
            known.append({
                "question_id": own, "image_id": at, "answer_type": of,
                "question_type": "what" if of == "other" else "is",
                "answers": [{"answer": answer, "answer_id": place + 1} for place, answer in enumerate(answers)],
            })  # fmt: skip
    put(folder / "v2_OpenEnded_mscoco_val2014_questions.json", json.dumps({"questions": asked}))
    put(folder / "v2_mscoco_val2014_annotations.json", json.dumps({"annotations": known}))
    return folder


def mmvp(folder: Path) -> Path:
    text = "Index,Question,Options,Correct Answer\n"
    for at, one in enumerate(scenes(6), 1):
        put(folder / "MMVP Images" / f"{at}.jpg", png(one))
        there, absent = kinds(one)
        kind, right = (there[0], "(a)") if at % 2 else (absent[0], "(b)")
        text += f"{at},Is there a {kind}?,(a) Yes (b) No,{right}\n"
    put(folder / "Questions.csv", text)
    return folder


def scienceqa(folder: Path) -> Path:
    rows, problems = [], {}
    for at, one in enumerate(scenes(6)):
        kind, color = first_item(one)
        others = [name for name in COLORS if name != color][:2]
        choices = [*others[: at % 3], color, *others[at % 3 :]]
        said = f"Context: A drawing.\nWhat color is the {kind}?\n" + "\n".join(
            f"{letter}. {choice}" for letter, choice in zip("ABC", choices, strict=True)
        )
        pictured = at != 5
        row = {
            "id": str(at + 1),
            "conversations": [
                {"from": "human", "value": ("<image>\n" if pictured else "") + said},
                {"from": "gpt", "value": "ABC"[choices.index(color)]},
            ],
        }
        if pictured:
            row["image"] = f"{at + 1}/image.png"
            put(folder / "images" / "test" / row["image"], png(one))
        rows.append(row)
        problems[str(at + 1)] = {"subject": "natural science" if at % 2 else "social science"}
    put(folder / "llava_test_CQM-A.json", json.dumps(rows))
    put(folder / "pid_splits.json", json.dumps({"test": [row["id"] for row in rows], "train": ["99"]}))
    put(folder / "problems.json", json.dumps(problems))
    return folder


def textvqa(folder: Path) -> Path:
    known, asked = [], []
    for at, one in enumerate(scenes(6)):
        put(folder / "train_images" / f"ab{at}.jpg", png(one))
        kind, color = first_item(one)
        text = f"What color is the {kind}?"
        answers = [color] * 8 + ["no idea"] * 2
        known.append({"question_id": 34600 + at, "image_id": f"ab{at}", "question": text, "answers": answers})
        asked.append({"question_id": f"ab{at}", "image": f"ab{at}.jpg",
                      "text": f"{text}\nReference OCR token: {kind.upper()}, {at}{SHORT}"})  # fmt: skip
    put(folder / "TextVQA_0.5.1_val.json", json.dumps({"data": known}))
    lines(folder / "llava_textvqa_val_v051_ocr.jsonl", asked)
    return folder


MAKERS: Mapping[str, Callable[[Path], Path]] = {
    "pope": pope, "gqa": gqa, "mme": mme, "mm-vet": mm_vet, "vqav2": vqav2, "mmvp": mmvp, "scienceqa": scienceqa,
    "textvqa": textvqa,
}  # fmt: skip


def packed(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def _encoded(path: Path) -> dict[str, Any]:
    return {"bytes": path.read_bytes(), "path": path.name}


def _lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def hub(name: str, data: Path, folder: Path) -> Path:
    """The same set as lmms-lab packs it on the hub."""
    if name == "pope":
        rows = [
            {
                "id": str(place), "question_id": str(row["question_id"]), "question": row["text"],
                "answer": row["label"], "image_source": row["image"].removesuffix(".jpg"),
                "image": _encoded(data / "val2014" / row["image"]), "category": category,
            }
            for category in ("adversarial", "popular", "random")
            for place, row in enumerate(_lines_of(data / "coco" / f"coco_pope_{category}.json"))
        ]  # fmt: skip
        packed(folder / "data" / "test-00000-of-00001.parquet", rows)
        packed(folder / "Full" / "random-00000-of-00001.parquet", rows[-12:])
    elif name == "gqa":
        questions = json.loads((data / "testdev_balanced_questions.json").read_text())
        names = sorted({row["imageId"] for row in questions.values()})
        pictures = [{"id": one, "image": _encoded(data / "images" / f"{one}.jpg")} for one in names]
        packed(folder / "testdev_balanced_images" / "testdev-00000-of-00001.parquet", pictures)
        rows = [{"id": own} | row for own, row in questions.items()]
        packed(folder / "testdev_balanced_instructions" / "testdev-00000-of-00001.parquet", rows)
        packed(folder / "testdev_all_instructions" / "testdev-00000-of-00001.parquet", rows[:1])
    elif name == "mme":
        rows = []
        for text in sorted(data.rglob("*.txt")):
            task = text.relative_to(data).parts[1]
            picture = next((data / "MME_Benchmark_release_version" / task).rglob(f"{text.stem}.png"))
            for line in text.read_text().splitlines():
                question, answer = line.split("\t")
                rows.append({"question_id": f"{task}/{picture.name}", "image": _encoded(picture),
                             "question": question, "answer": answer, "category": task})  # fmt: skip
        packed(folder / "data" / "test-00000-of-00001.parquet", rows)
    elif name == "mm-vet":
        questions = json.loads((data / "mm-vet.json").read_text())
        rows = [
            {"question_id": own, "image": _encoded(data / "images" / row["imagename"]), "question": row["question"],
             "answer": row["answer"], "capability": ",".join(row["capability"])}
            for own, row in questions.items()
        ]  # fmt: skip
        packed(folder / "data" / "test-00000-of-00001.parquet", rows)
    elif name == "scienceqa":
        subjects, rows = json.loads((data / "problems.json").read_text()), []
        for row in json.loads((data / "llava_test_CQM-A.json").read_text()):
            asked = row["conversations"][0]["value"].removeprefix("<image>\n").split("\n")
            rows.append({
                "image": _encoded(data / "images" / "test" / row["image"]) if "image" in row else None,
                "question": asked[1], "choices": [choice[3:] for choice in asked[2:]], "hint": asked[0][9:],
                "answer": "ABC".index(row["conversations"][1]["value"]), "subject": subjects[row["id"]]["subject"],
            })  # fmt: skip
        packed(folder / "data" / "test-00000-of-00001.parquet", rows)
        packed(folder / "data" / "train-00000-of-00001.parquet", rows[:1])
    elif name == "textvqa":
        known = json.loads((data / "TextVQA_0.5.1_val.json").read_text())["data"]
        read = [row["text"].split("\n")[1].removeprefix("Reference OCR token: ") for row in
                _lines_of(data / "llava_textvqa_val_v051_ocr.jsonl")]  # fmt: skip
        rows = [
            row | {"image": _encoded(data / "train_images" / f"{row['image_id']}.jpg"), "ocr_tokens": words.split(", ")}
            for row, words in zip(known, read, strict=True)
        ]
        packed(folder / "data" / "validation-00000-of-00001.parquet", rows)
    else:
        asked = json.loads((data / "v2_OpenEnded_mscoco_val2014_questions.json").read_text())["questions"]
        known = json.loads((data / "v2_mscoco_val2014_annotations.json").read_text())["annotations"]
        rows = [
            row | one | {"image": _encoded(data / "val2014" / f"COCO_val2014_{row['image_id']:012d}.jpg")}
            for one, row in zip(asked, known, strict=True)
        ]
        packed(folder / "data" / "validation-00000-of-00001.parquet", rows)
    return folder
