"""The folder: one process, one configuration, whole files."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import relevancy
from relevancy.errors import RelevancyError
from relevancy.export.folder import FinishedRows, configuration_hash, held, manifest_of, parts_of
from relevancy.export.results import open_export

TABLE = pa.table({"row": [0, 1], "model": ["m", "m"], "error": [None, "why"]})


@given(st.lists(st.tuples(st.integers(0, 20_000), st.sampled_from("ab"))))
def test_done_counts_each_end_once(ends):
    done, known = FinishedRows(), set()
    for row, model in ends:
        assert done.add(row, model, error=False) is ((row, model) not in known)
        known.add((row, model))
    assert done.count == len(known)
    assert all(done.has(row, model) is ((row, model) in known) for row in range(0, 20_000, 97) for model in "ab")


def test_parts_are_read_back_and_numbered_on(tmp_path):
    with held(tmp_path) as folder:
        folder.read({})
        folder.write_manifest({"format": 1, "configuration": {}})
        folder.write_part(TABLE)
    with held(tmp_path) as folder:
        folder.read({})
        assert folder.done.has(0, "m")
        assert (folder.done.count, folder.done.errors) == (2, 1)
        folder.write_part(TABLE)
    assert [part.name for part in parts_of(tmp_path)] == ["part-00000.parquet", "part-00001.parquet"]


def test_errors_are_forgotten_where_they_are_tried_again(tmp_path):
    finished = {"format": 1, "configuration": {}, "finished": True}
    with held(tmp_path) as folder:
        folder.write_manifest(finished)
        folder.write_part(TABLE)
        folder.write_part(TABLE.slice(1))
        folder.write_part(TABLE.slice(0, 1))
        with pytest.raises(RelevancyError, match="target was"):
            folder.read({"target": "all"}, retry=True)
    with held(tmp_path) as folder:
        folder.read({})
        assert folder.done.errors == 1
    with held(tmp_path) as folder:
        folder.read({}, retry=True)
        assert (folder.done.count, folder.done.errors) == (1, 0)
        assert not folder.done.has(1, "m")
        folder.write_part(TABLE)
    assert manifest_of(tmp_path) == finished | {"finished": False}
    assert [pq.read_table(part)["row"].to_pylist() for part in parts_of(tmp_path)] == [[0], [], [0], [0, 1]]


def test_a_second_process_is_refused_in_one_line_and_the_lock_dies_with_its_holder(tmp_path):
    script = (
        "import sys; from pathlib import Path; from relevancy.export.folder import held\n"
        "with held(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RelevancyError, match=rf"pid {other.pid} on .* works on {tmp_path}"), held(tmp_path):
            pass
        other.kill()
        other.wait()
        with held(tmp_path) as folder:
            assert folder.path == tmp_path


def test_another_configuration_is_refused_by_name(tmp_path):
    with held(tmp_path) as folder:
        folder.write_manifest({"format": 1, "configuration": {"target": "first", "scope": "full"}})
        with pytest.raises(RelevancyError, match=r'target was "first", now "Yes\|No"') as caught:
            folder.read({"target": "Yes|No", "scope": "full"})
    assert "scope" not in str(caught.value)


def test_an_input_may_move_but_not_change(tmp_path):
    before = {"input": {"path": "/a", "fingerprint": "1"}}
    with held(tmp_path) as folder:
        folder.write_manifest({"format": 1, "configuration": before})
        folder.read({"input": {"path": "/b", "fingerprint": "1"}})
        with pytest.raises(RelevancyError, match="input was"):
            folder.read({"input": {"path": "/a", "fingerprint": "2"}})
    assert configuration_hash(before) == configuration_hash({"input": {"path": "/b", "fingerprint": "1"}})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_and_leaves_no_broken_part(tmp_path, monkeypatch, number):
    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with held(tmp_path) as folder:
        folder.write_manifest({"format": 1, "configuration": {}})
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(RelevancyError, match="is full: make room"):
                folder.write_part(TABLE)
        assert list((tmp_path / "results").iterdir()) == []
        folder.write_part(TABLE)
    assert len(parts_of(tmp_path)) == 1


def test_what_was_not_finished_is_cleared(tmp_path):
    with held(tmp_path) as folder:
        folder.write_manifest({"format": 1, "configuration": {}})
        folder.write_part(TABLE)
    (tmp_path / "results" / ".unfinished-part-00001.parquet").write_bytes(b"PAR1")
    with held(tmp_path) as folder:
        folder.read({})
        assert folder.done.count == 2
    assert [file.name for file in (tmp_path / "results").iterdir()] == ["part-00000.parquet"]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1 and no more PAR1"])
def test_a_damaged_part_is_one_line(tmp_path, content):
    with held(tmp_path) as folder:
        folder.write_manifest({"format": 1, "configuration": {}, "models": {}})
        folder.write_part(TABLE)
        (part,) = parts_of(tmp_path)
        part.write_bytes(content or part.read_bytes()[:-20])
        for read in (lambda: folder.read({}), lambda: relevancy.open_export(tmp_path)):
            with pytest.raises(RelevancyError, match=r"part-00000\.parquet: cannot be read .* Delete it"):
                read()


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"format": 99, "configuration": {}}', "{}", '{"format": 1, "configuration": []}'],
)
def test_a_folder_that_is_no_exports_is_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(RelevancyError, match=r"give another --out"):
        manifest_of(tmp_path)


def test_an_export_is_a_folders_name():
    with pytest.raises(RelevancyError, match="an export is a folder, text or a path, not int"):
        open_export(5)


def test_results_without_a_manifest_are_refused(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "part-00000.parquet").touch()
    with pytest.raises(RelevancyError, match=r"no manifest\.json"):
        manifest_of(tmp_path)


def test_a_manifest_is_readable_json(tmp_path):
    with held(tmp_path) as folder:
        folder.write_manifest({"format": 1, "configuration": {"name": "日本"}})
    assert json.loads(Path(tmp_path / "manifest.json").read_text())["configuration"] == {"name": "日本"}
