"""`relevancy report` as a user types it: what it writes, what it prints, how it refuses."""

import json

import exports
import pytest

from relevancy import cli


@pytest.fixture
def run(monkeypatch, capsys):
    """The command in this process: exit code, standard output, standard error."""

    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["relevancy", "report", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return command


def test_it_writes_beside_the_export_and_says_where(run, two_models):
    code, out, err = run(two_models, "--by", "type", "--gallery", 1, "--resamples", 100)
    assert (code, err) == (0, "")
    assert str(two_models / "report" / "report.html") in out
    assert "uses the picture less" in out
    assert "confirmed" in out
    assert (two_models / "report" / "report.html").is_file()
    stored = json.loads((two_models / "report" / "report.json").read_text())
    assert [split["column"] for split in stored["splits"]] == ["type"]


def test_json_alone_is_printed(run, two_models, tmp_path):
    code, out, err = run(two_models, "--json", "--out", tmp_path / "out", "--resamples", 100)
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((tmp_path / "out" / "report.json").read_text())


def test_a_report_does_not_disturb_the_export(run, two_models):
    before = {path: path.read_bytes() for path in two_models.rglob("*") if path.is_file()}
    assert run(two_models, "--resamples", 100)[0] == 0
    assert run(two_models, "--resamples", 100)[0] == 0
    assert all(path.read_bytes() == content for path, content in before.items())


def test_refusals_are_one_line_and_exit_code_2(run, two_models, tmp_path):
    errors = exports.write_export(tmp_path / "errors", [exports.failed(0)])
    other = exports.write_export(tmp_path / "other", [exports.line(row) for row in range(50, 60)])
    for arguments in ([tmp_path], [errors], [two_models, "--compare", other], [two_models, "--by", "nothing"], []):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("relevancy: ")
        assert err.count("\n") == 1
