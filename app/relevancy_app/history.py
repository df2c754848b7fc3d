"""Every run, kept in one SQLite file: found, opened and compared again after a reload or a restart.

A run is written before its results are shown, in one short transaction.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from relevancy import RelevancyError
from relevancy_app import stored_runs
from relevancy_app.session import Session

_OURS = 0x52565948  # in the file's header: whose database it is
_VERSION = 2  # the first knew one picture of a run
_PATIENCE = 20  # seconds to wait for another writer
_PAUSE = 0.01  # seconds, before what cannot wait is tried again
_LONGEST_NAME = 120
_FURTHER = (
    """CREATE TABLE further (
        run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE, place INTEGER NOT NULL,
        picture TEXT NOT NULL REFERENCES pictures (digest), PRIMARY KEY (run, place))""",
    "CREATE INDEX further_of_picture ON further (picture)",
    f"PRAGMA user_version = {_VERSION}",
)
"""What the second version added: pictures of a run beside its first one."""
_SCHEMA = (
    "CREATE TABLE pictures (digest TEXT PRIMARY KEY, data BLOB NOT NULL)",
    """CREATE TABLE runs (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, began REAL NOT NULL,
        name TEXT NOT NULL DEFAULT '', pinned INTEGER NOT NULL DEFAULT 0,
        question TEXT NOT NULL, made TEXT NOT NULL, answers TEXT NOT NULL, models TEXT NOT NULL,
        ask TEXT NOT NULL, notes TEXT NOT NULL, shown TEXT NOT NULL, comparison BLOB,
        picture TEXT NOT NULL REFERENCES pictures (digest), bytes INTEGER NOT NULL, thumbnail BLOB NOT NULL)""",
    "CREATE INDEX runs_in_order ON runs (owner, pinned DESC, number DESC)",
    "CREATE INDEX runs_of_picture ON runs (picture)",
    """CREATE TABLE results (
        run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE, model INTEGER NOT NULL,
        position INTEGER NOT NULL, against INTEGER NOT NULL, explanation BLOB NOT NULL,
        PRIMARY KEY (run, model, position, against))""",
    f"PRAGMA application_id = {_OURS}",
    *_FURTHER,
)
_FOUND = "folded(name || char(10) || question || char(10) || answers || char(10) || models || char(10) || made)"


@dataclass(frozen=True)
class Run:
    """One run as a list shows it. answers: of each model, those of models that had their turn. began: Unix time."""

    id: str
    began: float
    name: str
    pinned: bool
    question: str
    answers: tuple[str, ...]
    models: tuple[str, ...]
    made: str


@dataclass(frozen=True)
class History:
    """The runs in one file, each its owner's alone; made by `opened`.

    owner: a user's name, "" where the app asks for no password. megabytes: where the file would grow beyond, the oldest
    runs that are not pinned go, of the owner who has the most.
    Every method raises RelevancyError where the file cannot be used, and for a run that the owner does not have.
    """

    path: Path
    megabytes: int

    def keep(self, last: Session, owner: str) -> Session:
        """Write a run, or what is new of it; returns once it is safe, with the run's id in `kept`.

        A run that was deleted meanwhile stays deleted.
        """
        if not last.kept:
            return self._begun(replace(last, kept=secrets.token_urlsafe(16)), owner)
        with self._reading() as db:
            number = _number(db, last.kept, owner)
            known = set(db.execute("SELECT model, position, against FROM results WHERE run = ?", (number,)).fetchall())
        if number is not None:
            packed, row = stored_runs.results(last, known), stored_runs.growing(last)
            with self._writing() as db:
                # By its id, too: a deleted run's number goes to the next one.
                change = f"UPDATE runs SET {_each(row)} WHERE number = ? AND id = ?"
                if db.execute(change, (*row.values(), number, last.kept)).rowcount:
                    self._add(db, number, packed)
        return last

    def _begun(self, session: Session, owner: str) -> Session:
        packed = stored_runs.results(session, ())
        row = {"owner": owner, "began": time.time(), **stored_runs.beginning(session), **stored_runs.growing(session)}
        with self._writing() as db:
            digests = list(map(stored_runs.digest, session.sources))
            db.executemany("INSERT OR IGNORE INTO pictures VALUES (?, ?)", zip(digests, session.sources, strict=True))
            added = db.execute(
                f"INSERT INTO runs ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", tuple(row.values())
            )
            number = int(added.lastrowid or 0)
            further = [(number, place, one) for place, one in enumerate(digests[1:])]
            db.executemany("INSERT INTO further VALUES (?, ?, ?)", further)
            self._add(db, number, packed)
        return session

    def _add(self, db: sqlite3.Connection, number: int, packed: Mapping[stored_runs.Place, bytes]) -> None:
        """Results of a run, and room for them."""
        rows = [(number, *key, result) for key, result in packed.items()]
        db.executemany("INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?, ?)", rows)
        size = sum(map(len, packed.values()))
        db.execute("UPDATE runs SET bytes = bytes + ? WHERE number = ?", (size, number))
        self._shorten(db, number)

    def runs(self, owner: str, words: str = "", most: int = 1000) -> tuple[list[Run], int]:
        """Pinned ones, then the newest, in which all words stand, at most so many; and how many there are."""
        wanted = words.casefold().split()
        where = " AND ".join(["owner = ?", *[f"instr({_FOUND}, ?)"] * len(wanted)])
        with self._reading() as db:
            count = db.execute(f"SELECT count(*) FROM runs WHERE {where}", (owner, *wanted)).fetchone()[0]
            rows = db.execute(
                "SELECT id, began, name, pinned, question, answers, models, made FROM runs "
                f"WHERE {where} ORDER BY pinned DESC, number DESC LIMIT ?",
                (owner, *wanted, most),
            ).fetchall()
        found = [
            Run(run, began, name, bool(pinned), question, _read(answers), _read(models), made)
            for run, began, name, pinned, question, answers, models, made in rows
        ]
        return found, count

    def run(self, run: str, owner: str) -> Session:
        """The run as it was shown; one that was cut short is whole with what there is."""
        with self._reading() as db:
            db.execute("BEGIN")  # all is of one moment: a deleted run's number goes to the next one
            row = db.execute(
                "SELECT number, data, ask, notes, shown, comparison FROM runs JOIN pictures ON digest = picture "
                "WHERE id = ? AND owner = ?",
                (run, owner),
            ).fetchone()
            if row is None:
                raise RelevancyError("There is no such run in your history: it was deleted, or is another user's.")
            results = db.execute(
                "SELECT model, position, against, explanation FROM results WHERE run = ? "
                "ORDER BY model, position, against",
                row[:1],
            ).fetchall()
            others = db.execute(
                "SELECT data FROM further JOIN pictures ON digest = picture WHERE run = ? ORDER BY place", row[:1]
            ).fetchall()
        try:
            return stored_runs.session(run, *row[1:], others=[data for (data,) in others], results=results)
        except (ValueError, LookupError, TypeError, zlib.error) as error:
            raise RelevancyError("This run cannot be read: delete it.") from error

    def thumbnail(self, run: str, owner: str) -> bytes | None:
        """A small picture of the first map, as JPEG; None for a run that the owner does not have."""
        with self._reading() as db:
            found = db.execute("SELECT thumbnail FROM runs WHERE id = ? AND owner = ?", (run, owner)).fetchone()
        return found[0] if found else None

    def pin(self, run: str, owner: str, pinned: bool) -> None:
        """Keep a run for good, or no longer. Raises where pinned runs fill the history."""
        with self._writing() as db:
            if pinned:
                (held,) = db.execute("SELECT total(bytes) FROM runs WHERE pinned OR id = ?", (run,)).fetchone()
                if held > self.megabytes << 20:
                    raise RelevancyError("Pinned runs fill the history: unpin or delete one first.")
            self._change(db, "UPDATE runs SET pinned = ? WHERE id = ? AND owner = ?", (pinned, run, owner))

    def name(self, run: str, owner: str, name: str) -> None:
        """Give a run a name, or with an empty one its question's again."""
        with self._writing() as db:
            told = " ".join(name.split())[:_LONGEST_NAME]
            self._change(db, "UPDATE runs SET name = ? WHERE id = ? AND owner = ?", (told, run, owner))

    def delete(self, run: str, owner: str) -> None:
        """Remove a run, and its pictures where no other run is about them."""
        with self._writing() as db:
            self._change(db, "DELETE FROM runs WHERE id = ? AND owner = ?", (run, owner))
            _drop_pictures(db)

    # -- the file

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with _told(self.path):
            if not self.path.exists():  # deleted by its owner: begun anew
                opened(self.path, self.megabytes)
            with closing(_connected(self.path)) as db:
                yield db

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, on the disk when the block ends; nothing of it where the block raises."""
        with self._reading() as db, _transaction(db):
            yield db

    @staticmethod
    def _change(db: sqlite3.Connection, statement: str, values: tuple[Any, ...]) -> None:
        if not db.execute(statement, values).rowcount:
            raise RelevancyError("That run is no longer in your history.")

    def _shorten(self, db: sqlite3.Connection, newest: int) -> None:
        """Delete until the file fits, the run that was just written and pinned ones excepted."""
        while _size(db) > self.megabytes << 20:
            oldest = db.execute(
                "SELECT min(number) FROM runs WHERE NOT pinned AND number <> ? GROUP BY owner "
                "ORDER BY (SELECT sum(bytes) FROM runs AS own WHERE own.owner = runs.owner) DESC LIMIT 1",
                (newest,),
            ).fetchone()
            if oldest is None:
                return
            db.execute("DELETE FROM runs WHERE number = ?", oldest)
            _drop_pictures(db)


def opened(path: Path, megabytes: int) -> History:
    """The history in this file, made where there is none, for its owner's eyes only.

    Raises RelevancyError for a file that is damaged, of another program or of a later version, or cannot be written.
    """
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with closing(_connected(path)) as db:
            if _blank(db, path):
                db.execute("PRAGMA auto_vacuum = FULL")  # before there is a table, or it does nothing
                _log_ahead(db)
            with _transaction(db):
                for statement in _SCHEMA if _blank(db, path) else _missing(db):
                    db.execute(statement)
    return History(path, megabytes)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Within the block what is wrong with the file is one line that says what to do. Raises RelevancyError."""
    try:
        yield
    except (sqlite3.Error, OSError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise RelevancyError(
            f"The history {path} cannot be used ({said}): mend it, move it away, or give another --history, or none."
        ) from error


def _connected(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
    db.create_function("folded", 1, str.casefold, deterministic=True)
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA secure_delete = ON")  # what is deleted is gone from the disk, too
    return db


def _log_ahead(db: sqlite3.Connection) -> None:
    """Set write-ahead logging, which SQLite refuses without a wait while another process does the same."""
    mode, end = "PRAGMA journal_mode = WAL", time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        with suppress(sqlite3.OperationalError):
            db.execute(mode)
            return
        time.sleep(_PAUSE)
    db.execute(mode)


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk ends it by itself
            db.execute("ROLLBACK")
        raise


def _blank(db: sqlite3.Connection, path: Path) -> bool:
    """Whether nothing is in the file yet. Raises RelevancyError where it is not a history of this version."""
    # In one statement: between two, another process may have made the tables.
    whose, version, tables = db.execute(
        "SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version), "
        "(SELECT count(*) FROM sqlite_master)"
    ).fetchone()
    if whose == 0 and not tables:
        return True
    if whose != _OURS:
        raise RelevancyError(f"{path} is another program's database: give another --history, or none.")
    if version > _VERSION:
        raise RelevancyError(f"{path} was written by a later version of this app: give another --history, or none.")
    return False


def _missing(db: sqlite3.Connection) -> Sequence[str]:
    """What makes a history of an earlier version one of this."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return _FURTHER if version < _VERSION else ()


def _size(db: sqlite3.Connection) -> int:
    """Bytes of the file that are in use, what this transaction has written included."""
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _number(db: sqlite3.Connection, run: str, owner: str) -> int | None:
    found = db.execute("SELECT number FROM runs WHERE id = ? AND owner = ?", (run, owner)).fetchone()
    return found[0] if found else None


def _read(listed: str) -> tuple[str, ...]:
    return tuple(json.loads(listed))


def _each(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = ?" for name in row)


def _drop_pictures(db: sqlite3.Connection) -> None:
    db.execute(
        "DELETE FROM pictures WHERE NOT EXISTS (SELECT 1 FROM runs WHERE picture = digest) "
        "AND NOT EXISTS (SELECT 1 FROM further WHERE picture = digest)"
    )
