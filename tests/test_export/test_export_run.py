"""From the command line to the files: right, whole, once, and again after whatever stopped it."""

import json
import os
import re
import resource
import shutil
import signal
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from making import QUESTIONS, encoded, run, stub_for, stub_request

import relevancy
from relevancy.cli import export as cli_export
from relevancy.data.columns import Columns
from relevancy.errors import RelevancyError
from relevancy.explanations.explain import ExplainConfig, explain
from relevancy.export import estimate
from relevancy.export.request import shape
from relevancy.export.run import Request, export
from relevancy.images import open_picture
from relevancy.report.build import make_report

LIMITS = {"wish": ExplainConfig(max_new_tokens=4)}


def asked(saved, items, out, **changes):
    return Request(models=[saved], input=str(items), out=out, **{"processes": 0} | LIMITS | changes)


def once(found, rows, models=1):
    """Every (row, model) stands exactly once."""
    table = found.table(["row", "model"])
    pairs = list(zip(table["row"].to_pylist(), table["model"].to_pylist(), strict=True))
    assert len(pairs) == len(set(pairs)) == rows * models
    assert {row for row, _ in pairs} == set(range(rows))


def test_an_export_is_what_single_explanations_say(saved, items, tmp_path):
    reached = []
    done = export(asked(saved, items, tmp_path / "out", overlays="sample:2", batch=5), reached.append)
    assert (done.count, done.errors) == (12, 0)
    assert (reached[-1].done, reached[-1].total) == (12, 12)
    found = relevancy.open_export(tmp_path / "out")
    once(found, 12)
    assert found.manifest["finished"]
    assert found.manifest["rows"] == 12
    assert found.table(["correct"])["correct"].null_count == 0
    assert found.table(["in_n"])["in_n"].to_pylist() == list(range(12))
    model = relevancy.load(saved)
    for row, result in zip(map(json.loads, items.read_text().splitlines()), found, strict=True):
        alone = explain(model, items.parent / row["image"], row["question"], max_new_tokens=4)
        np.testing.assert_allclose(result.image_map, alone.image_map, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(result.relevance, alone.relevance, rtol=1e-5, atol=1e-5)
        assert (result.answer, result.tokens, result.answer_tokens) == (alone.answer, alone.tokens, alone.answer_tokens)
        assert result.target.token == alone.target.token
        assert np.array_equal(np.array(result.image), np.array(alone.image))
        assert result.overlay().size == alone.image.size
    assert len(list((tmp_path / "out" / "overlays").glob("*.webp"))) == 2


def test_other_tools_read_the_parts(saved, items, tmp_path):
    export(asked(saved, items, tmp_path / "out", map_dtype="float16"))
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(tmp_path / "out" / "results")
    assert len(frame) == 12
    first = frame.iloc[0]
    assert np.array(first["image_map"]).reshape(first["rows"], first["cols"]).dtype == np.float16


def test_the_command_in_processes_and_again(saved, items, tmp_path):
    arguments = ("--model", saved, "--input", items, "--out", tmp_path / "out", "--processes", 2, "--max-new-tokens", 4,
                 "--device", "cpu", "--decoders", 1)  # fmt: skip
    first = run(*arguments)
    assert first.returncode == 0, first.stderr
    assert "12 done, no errors" in first.stdout
    assert "12 of 12" in first.stderr
    again = run(*arguments)
    assert again.returncode == 0, again.stderr
    assert "finished: 12 done" in (tmp_path / "out" / "log.txt").read_text()
    here = tmp_path / "here"
    export(asked(saved, items, here))
    one, other = relevancy.open_export(tmp_path / "out"), relevancy.open_export(here)
    once(one, 12)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a.image_map, b.image_map, rtol=1e-5, atol=1e-5)
    refused = run(*arguments[:-2], "--decoders", 1, "--target", "first-relevant")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "target" in refused.stderr


@pytest.mark.parametrize(("may", "processes", "each"), [(1, 1, 1), (3, 1, 3), (99, 2, 4), (99, 16, 1)])
def test_no_process_has_more_threads_than_this_one_may_use(saved, items, tmp_path, monkeypatch, may, processes, each):
    monkeypatch.setattr("torch.get_num_threads", lambda: may)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert shape(asked(saved, items, tmp_path, processes=processes), "cpu") == (processes, each, ())


def test_a_dry_run_estimates_and_writes_nothing(saved, items, tmp_path):
    found = estimate.estimate(asked(saved, items, tmp_path / "out", overlays="all"))
    assert (found.rows, found.sampled, found.faults, found.overlays) == (12, 12, 0, 12)
    assert found.seconds > 0
    assert found.bytes > 12 * 4 * 16
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"models": ["nothing-of-that-name"]}, "nothing-of-that-name"), ({"models": []}, "at least one model"),
        ({"wish": ExplainConfig("all")}, "one map"), ({"overlays": "some"}, "--overlays takes"),
        ({"wish": ExplainConfig(layers=[99])}, "layers 0 to"), ({"columns": Columns(picture="p")}, "no column 'p'"),
        ({"limit": 0}, "--limit"), ({"engine": "slurm"}, "no engine"), ({"input": "none.jsonl"}, "no input"),
        ({"input": "a.xyz"}, "kind"), ({"map_dtype": "int8"}, "no map dtype"), ({"kind": "xml"}, "Unknown kind"),
    ],
)  # fmt: skip
def test_what_is_refused_before_anything_is_written(saved, items, tmp_path, changes, why):
    request = replace(asked(saved, items, tmp_path / "out"), **changes)
    with pytest.raises(RelevancyError, match=why) as caught:
        export(request)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_export_of_nothing_but_errors_is_no_success(saved, items, tmp_path, capsys):
    lines = [json.dumps(json.loads(line) | {"image": "none.png"}) for line in items.read_text().splitlines()]
    items.write_text("\n".join(lines))
    request = asked(saved, items, tmp_path / "out")
    with pytest.raises(RelevancyError, match=r"Not one row could be explained\. The first one: .*no such file"):
        cli_export._exported(request)
    assert "12 of them errors" in capsys.readouterr().out
    with pytest.raises(RelevancyError, match="Not one row of the sample"):
        cli_export._estimated(request)


def test_odd_boxes_are_counted_and_brought_to_pixels(saved, items, tmp_path, capsys):
    given = [[0.25, 0.5, 0.5, 1], [200, 200, 210, 210], [9, 9, 1, 1], [1, 2, 30, 40]]
    rows = [json.loads(line) | {"bbox": box} for line, box in zip(items.read_text().splitlines(), given, strict=False)]
    items.write_text("\n".join(map(json.dumps, rows)))
    cli_export._exported(asked(saved, items, tmp_path / "out"))
    said = capsys.readouterr().out
    for odd in ("taken as shares", "outside of the picture", "wrong way round"):
        assert re.search(rf"^1 rows: the boxes .*{odd}", said, re.MULTILINE)
    found = relevancy.open_export(tmp_path / "out")
    assert found.table(["boxes"])["boxes"].to_pylist() == [
        [[20, 30, 40, 60]], [[200, 200, 210, 210]], None, [[1, 2, 30, 40]]
    ]  # fmt: skip
    assert found.manifest["boxes"] == "pixels"


def test_a_limit_may_be_raised_later(items, tmp_path):
    request = stub_request(items, tmp_path / "out", limit=5)
    export(request, engine=stub_for(request))
    once(relevancy.open_export(tmp_path / "out"), 5)
    export(replace(request, limit=None), engine=stub_for(request))
    once(relevancy.open_export(tmp_path / "out"), 12)


def test_models_take_turns_where_they_do_not_fit(saved, items, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    export(replace(asked(saved, items, tmp_path / "out", together=False), models=[saved, str(copy)]))
    found = relevancy.open_export(tmp_path / "out")
    once(found, 12, models=2)
    assert [result.model for result in found][:2] == [saved, str(copy)]


def test_a_stop_at_any_chunk_goes_on_without_loss_or_repetition(items, tmp_path):
    class StopError(Exception):
        pass

    request = replace(stub_request(items, tmp_path / "out"), chunk=2, part_rows=1)
    whole = replace(request, out=tmp_path / "whole")
    export(whole, engine=stub_for(request))
    countdown = iter([2, 1, 3])

    def stop_after(chunks):
        def before(_):
            nonlocal chunks
            if chunks == 0:
                raise StopError
            chunks -= 1

        return before

    for chunks in countdown:
        with pytest.raises(StopError):
            export(request, engine=stub_for(request, before=stop_after(chunks)))
    assert not relevancy.open_export(request.out).manifest["finished"]
    export(request, engine=stub_for(request))
    found = relevancy.open_export(request.out)
    once(found, 12)
    assert found.checksum() == relevancy.open_export(whole.out).checksum()


def test_the_checksum_knows_every_value_and_no_order(items, tmp_path):
    request = stub_request(items, tmp_path / "a")
    export(request, engine=stub_for(request))
    before = relevancy.open_export(tmp_path / "a").checksum()
    part = next((tmp_path / "a" / "results").iterdir())
    table = pq.read_table(part)
    pq.write_table(table.take(pa.array(range(len(table) - 1, -1, -1))), part)
    assert relevancy.open_export(tmp_path / "a").checksum() == before
    answers = table["answer"].to_pylist()
    changed = table.set_column(table.schema.get_field_index("answer"), "answer", [[*answers[:-1], "other"]])
    pq.write_table(changed, part)
    assert relevancy.open_export(tmp_path / "a").checksum() != before


def chaos_arguments(saved, items, out):
    return (
        "--model", saved, "--input", items, "--out", out, "--processes", 2, "--max-new-tokens", 4, "--device", "cpu",
        "--overlays", "sample:5",
    )  # fmt: skip


def test_a_second_process_says_so_and_stops(saved, items, tmp_path):
    from relevancy.export.folder import held

    with held(tmp_path / "out"):
        second = run(*chaos_arguments(saved, items, tmp_path / "out"))
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1
    assert f"pid {os.getpid()}" in second.stderr


def test_a_full_disk_stops_in_one_line_and_resumes(saved, items, tmp_path):
    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    arguments = ("--model", saved, "--input", items, "--out", tmp_path / "out", "--processes", 0, "--device", "cpu")
    full = run(*arguments, preexec_fn=small_files)
    assert full.returncode == 2, full.stderr
    assert full.stderr.strip().splitlines()[-1].startswith("relevancy: The disk of")
    assert list((tmp_path / "out" / "results").iterdir()) == []
    after = run(*arguments)
    assert after.returncode == 0, after.stderr
    once(relevancy.open_export(tmp_path / "out"), 12)


def test_pictures_as_bytes_and_in_tars_come_back(saved, tmp_path):
    rows = [{"id": str(n // 2), "image": encoded(n), "question": QUESTIONS[0]} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    export(asked(saved, tmp_path / "a.parquet", tmp_path / "out"))
    found = relevancy.open_export(tmp_path / "out")
    assert [result.image.size for result in found] == [(80, 60)] * 3
    for row, result in enumerate(found):
        assert np.array_equal(np.array(result.image), np.array(open_picture(encoded(row)).image))
        assert np.array_equal(found.of_row(row, saved).image_map, result.image_map)
    assert np.array_equal(found.explanation("0", saved).image_map, found[0].image_map)
    with pytest.raises(RelevancyError, match="no result"):
        found.explanation("9", saved)
    with pytest.raises(RelevancyError, match="no result"):
        found.of_row(3, saved)


def test_a_picture_that_changed_is_told(saved, items, tmp_path):
    export(asked(saved, items, tmp_path / "out"))
    (items.parent / "0.png").write_bytes(encoded(99))
    (items.parent / "1.png").unlink()
    found = relevancy.open_export(tmp_path / "out")
    assert "has changed" in found[0].notes[-1]
    with pytest.raises(RelevancyError, match="no such file"):
        found[1]


def test_open_export_refuses_a_folder_without_one(tmp_path):
    with pytest.raises(RelevancyError, match="holds no export"):
        relevancy.open_export(tmp_path)


def test_memory_of_what_is_done_is_a_bit_a_row(items, tmp_path):
    request = stub_request(items, tmp_path / "out")
    done = export(request, engine=stub_for(request))
    assert sum(map(len, done._bits.values())) <= 12 / 8 + 1024


def test_answers_alone_are_those_that_maps_come_with(saved, items, tmp_path):
    whole = relevancy.open_export(_done(asked(saved, items, tmp_path / "whole")))
    some = relevancy.open_export(_done(asked(saved, items, tmp_path / "some", maps="sample:4", overlays="all")))
    told = ["id", "answer", "token", "position", "correct", "picture_hash", "answer_tokens", "width", "notes"]
    none = relevancy.open_export(_done(asked(saved, items, tmp_path / "none", maps="none")))
    assert some.table(told).drop_columns("notes") == whole.table(told).drop_columns("notes")
    assert none.table(told).drop_columns("notes") == whole.table(told).drop_columns("notes")
    np.testing.assert_allclose(none.table()["probability"], whole.table()["probability"], rtol=1e-4)
    assert (len(whole), len(some), len(none)) == (12, 4, 0)
    assert len(list((tmp_path / "some" / "overlays").iterdir())) == 4
    assert some.table()["image_map"].null_count == 8
    assert not len(some.errors())
    with pytest.raises(RelevancyError, match='maps was "sample:4", now "all"'):
        export(asked(saved, items, tmp_path / "some"))
    with pytest.raises(RelevancyError, match="--maps takes all, none or sample"):
        export(asked(saved, items, tmp_path / "odd", maps="few"))
    with pytest.raises(RelevancyError, match="holds answers alone"):
        make_report(tmp_path / "none")
    assert make_report(tmp_path / "some").findings.models[0].results == 4


def _done(request):
    export(request)
    return request.out


def test_a_span_is_exported_as_explain_tells_it(saved, items, tmp_path):
    wish = ExplainConfig("answer", max_new_tokens=3, evidence=False)
    export(asked(saved, items, tmp_path / "out", wish=wish, limit=2))
    model = relevancy.load(saved)
    rows = map(json.loads, items.read_text().splitlines())
    for row, result in zip(rows, relevancy.open_export(tmp_path / "out"), strict=False):
        alone = explain(
            model, items.parent / row["image"], row["question"], target="answer", max_new_tokens=3, evidence=False
        )
        assert (result.target.token, result.target.positions) == (alone.target.token, range(3))
        assert result.target.log_probability == pytest.approx(alone.target.log_probability, rel=1e-5)
        np.testing.assert_allclose(result.image_map, alone.image_map, rtol=1e-5, atol=1e-5)
