"""An export's folder: one process at a time, one configuration, and every file appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from relevancy.atomic_io import locked, writing
from relevancy.data.arrow import pa
from relevancy.errors import RelevancyError

FORMAT = 1
MANIFEST, RESULTS, OVERLAYS, LOG = "manifest.json", "results", "overlays", "log.txt"
_UNFINISHED = ".unfinished-"
_UNSAID = {"maps": "all"}  # entries that stand in a manifest only where they are otherwise


class FinishedRows:
    """Which rows of which model have ended; a bit each."""

    def __init__(self) -> None:
        self._bits: dict[str, bytearray] = {}
        self.count, self.errors = 0, 0

    def has(self, row: int, model: str) -> bool:
        """Whether this row has ended for this model."""
        bits = self._bits.get(model, b"")
        return row >> 3 < len(bits) and bool(bits[row >> 3] >> (row & 7) & 1)

    def add(self, row: int, model: str, *, error: bool) -> bool:
        """Note an end; False where it was noted before."""
        if self.has(row, model):
            return False
        bits = self._bits.setdefault(model, bytearray())
        if row >> 3 >= len(bits):
            bits.extend(bytes((row >> 3) + 1024 - len(bits)))
        bits[row >> 3] |= 1 << (row & 7)
        self.count += 1
        self.errors += error
        return True


class ExportFolder:
    """The folder while one process holds it; made by `held`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results = path / RESULTS
        self.manifest: dict[str, Any] | None = None
        self.done = FinishedRows()
        self._next = 0

    def read(self, configuration: Mapping[str, Any], *, retry: bool = False) -> None:
        """What earlier processes left: refuses another configuration, removes what they did not finish.

        retry: forget rows that ended as errors.
        """
        self.manifest = manifest_of(self.path)
        if self.manifest is not None:
            refuse_other(self.path, self.manifest["configuration"], configuration)
        for folder in (self.path, self.results, self.path / OVERLAYS):
            for file in folder.glob(f"{_UNFINISHED}*"):
                file.unlink()
        for part in parts_of(self.path):
            self._next = int(part.stem.rpartition("-")[2]) + 1
            table = table_of(part, ["row", "model", "error"])
            errors = table["error"].is_valid().to_pylist()
            for row, model, error in zip(table["row"].to_pylist(), table["model"].to_pylist(), errors, strict=True):
                if not (retry and error):
                    self.done.add(row, model, error=error)
            if retry and any(errors):
                self._forget_errors(part)

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Put the manifest in its place, whole."""
        self.manifest = dict(manifest)
        self.write(MANIFEST, json.dumps(self.manifest, ensure_ascii=False, indent=1).encode())

    def write_part(self, table: pa.Table) -> None:
        """The next part, whole."""
        self._write_table(f"part-{self._next:05d}.parquet", table)
        self._next += 1

    def write(self, name: str, data: Any) -> None:
        """A file that appears under its name only when all of it is on the disk. Raises RelevancyError."""
        target = self.path / name
        unfinished = target.with_name(f"{_UNFINISHED}{target.name}")
        with writing(self.path):
            target.parent.mkdir(exist_ok=True)
            try:
                with unfinished.open("wb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
                unfinished.replace(target)
                _settle(target.parent)
            except OSError:
                unfinished.unlink(missing_ok=True)
                raise

    def _write_table(self, name: str, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write(f"{RESULTS}/{name}", sink.getvalue())

    def _forget_errors(self, part: Path) -> None:
        assert self.manifest is not None
        self.write_manifest(self.manifest | {"finished": False})  # before it is so
        table = table_of(part)
        self._write_table(part.name, table.filter(table["error"].is_null()))

    def log(self, text: str) -> None:
        """A line in log.txt. A log that cannot be written is no reason to stop."""
        try:
            with (self.path / LOG).open("a", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(f"{now()} {' '.join(text.split())}\n")
        except OSError:
            return


@contextmanager
def held(path: Path) -> Iterator[ExportFolder]:
    """The folder, made where it is not there. Raises RelevancyError where another process works on it."""
    with locked(path):
        yield ExportFolder(path)


def manifest_of(path: Path) -> dict[str, Any] | None:
    """The folder's manifest, None where there is none yet. Raises RelevancyError for one that is no export's."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except FileNotFoundError:
        if any((path / RESULTS).glob("*")):
            raise RelevancyError(f"{path} holds results but no {MANIFEST}: give another --out.") from None
        return None
    except (OSError, ValueError) as error:
        raise RelevancyError(f"{path / MANIFEST} cannot be read ({error}): give another --out.") from error
    known = isinstance(manifest, dict) and manifest.get("format") == FORMAT
    if not known or not isinstance(manifest.get("configuration"), dict):
        raise RelevancyError(f"{path / MANIFEST} is not of an export of this version: give another --out.")
    return manifest


def parts_of(path: Path) -> list[Path]:
    """The finished parts in their order."""
    return sorted((path / RESULTS).glob("part-*.parquet"), key=lambda part: int(part.stem.rpartition("-")[2]))


def table_of(part: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A part, or some columns of it. Raises RelevancyError for one that is damaged."""
    with reading(part):
        return pq.read_table(part, columns=columns)


@contextmanager
def reading(part: Path) -> Iterator[None]:
    """Within the block what keeps a part from being read is one line that says what to do. Raises RelevancyError."""
    try:
        yield
    except (OSError, ValueError) as error:  # pyarrow's own errors are both
        raise RelevancyError(
            f"{part}: cannot be read ({first_line(error)}). Delete it and run the same `relevancy export` again."
        ) from error


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    text = (getattr(error, "strerror", None) or str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__


def refuse_other(path: Path, before: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise RelevancyError that names what differs between two configurations."""
    asked = json.loads(json.dumps(asked))
    differing = [name for name in {**before, **asked} if _decides(name, before) != _decides(name, asked)]
    if differing:
        told = ", ".join(f"{name} was {_short(before, name)}, now {_short(asked, name)}" for name in differing)
        raise RelevancyError(f"{path} holds an export of another kind: {told}. Give another --out.")


def configuration_hash(configuration: Mapping[str, Any]) -> str:
    """Equal for configurations that give the same results."""
    deciding = {name: _decides(name, configuration) for name in sorted(configuration)}
    return hashlib.blake2b(json.dumps(deciding, sort_keys=True).encode(), digest_size=16).hexdigest()


def _decides(name: str, configuration: Mapping[str, Any]) -> Any:
    """An entry as far as results depend on it: an input may have moved, but must be the same."""
    value = configuration.get(name)
    return value.get("fingerprint") if name == "input" and isinstance(value, Mapping) else value


def _short(configuration: Mapping[str, Any], name: str) -> str:
    text = json.dumps(configuration.get(name, _UNSAID.get(name)), ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


def now() -> str:
    """The time, to the second, with its zone."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _settle(folder: Path) -> None:
    """Make a rename outlive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
