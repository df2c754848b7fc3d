"""The program as it is started: it serves, looks nothing up outside, and leaves nothing behind."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from relevancy_app.starting import main

import relevancy

APP = Path(__file__).parents[2] / "app"
# Python runs a module of this name before anything else.
WATCH = """
import os, socket
real = socket.getaddrinfo
def watched(host, *rest, **options):
    if host not in (None, "", "localhost", "127.0.0.1", "::1"):
        with open(os.environ["LOOKED_UP"], "a") as file:
            file.write(f"{host}\\n")
        raise socket.gaierror("no network in tests")
    return real(host, *rest, **options)
socket.getaddrinfo = watched
"""


@pytest.fixture
def folder(tmp_path):
    """The app's folder on its own, as a Space has it, and places for what it writes."""
    for name in ("home", "tmp", "watch", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    shutil.copytree(APP, tmp_path / "space", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_it_serves_and_leaves_nothing(folder, source):
    environment = os.environ | {
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "LOOKED_UP": str(folder / "looked-up"),
        "PYTHONPATH": os.pathsep.join([str(folder / "watch"), str(Path(relevancy.__file__).parents[1])]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": "",
    }
    command = [sys.executable, str(folder / "space" / "app.py"), "--model", "demo-small", "--keep-minutes", "5"]
    with subprocess.Popen(command, cwd=folder / "empty", env=environment, stderr=subprocess.PIPE, text=True) as program:
        try:
            url = _address(program)
            assert url.startswith("http://127.0.0.1:")
            assert httpx.get(url).status_code == 200
            (path,) = httpx.post(f"{url}gradio_api/upload", files={"files": ("a.png", source)}).json()
            assert Path(path).is_relative_to(folder / "tmp")
            assert _explained(url, path)["model"] == "demo-small"
        finally:
            program.send_signal(signal.SIGTERM)
            program.wait(60)
    assert program.returncode == 0
    assert list((folder / "tmp").iterdir()) == []
    assert list((folder / "empty").iterdir()) == []
    assert (folder / "home" / ".cache" / "relevancy" / "history.sqlite3").is_file()  # what it is to leave
    assert not (folder / "looked-up").exists()


def _address(program):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        line = program.stderr.readline()
        if found := re.search(r"http://\S+", line):
            return found[0]
        assert line or program.poll() is None
    raise AssertionError("no address in two minutes")


def _explained(url, path):
    """Through the plain HTTP interface: no client that would look things up itself."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    data = [file, "Is the duck floating?", "demo-small", "first", "language", 0, -1, "relevancy"]
    event = httpx.post(f"{url}gradio_api/call/explain", json={"data": data}).json()["event_id"]
    with httpx.stream("GET", f"{url}gradio_api/call/explain/{event}", timeout=60) as stream:
        lines = [line[6:] for line in stream.iter_lines() if line.startswith("data: [")]
    return json.loads(lines[-1])[0]


@pytest.fixture
def own_settings(monkeypatch):
    """What the program sets for its process stays out of this one."""
    monkeypatch.setattr(
        "os.environ", {name: value for name, value in os.environ.items() if name != "RELEVANCY_APP_AUTH"}
    )
    monkeypatch.setattr("signal.signal", lambda *_: None)


@pytest.mark.usefixtures("own_settings")
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--port", "1", "--port", "2"], "--port is given twice and takes one value: give it once"),
        (["--dtype", "float32", "--dtype=float16"], "--dtype is given twice"),
        (["--port", "x"], "invalid int value"),
        (["--port", "99999"], "99999 is no number from 1 to 65535"),
        (["--queue", "-5"], "-5 is no number from 1 on"),
        (["--max-pixels=-1"], "-1 is no number from 1 on"),
        (["--upload-megabytes", "0"], "0 is no number from 1 to 1000"),
        (["--question-characters", "0"], "0 is no number from 1 on"),
        (["--sessions", "0"], "0 is no number from 1 on"),
        (["--history-megabytes", "0"], "0 is no number from 1 on"),
        (["--history", "none", "--history", "x"], "--history is given twice"),
        (["--keep-minutes", "nan"], "nan is no number above 0"),
        (["--nonsense"], "unrecognized arguments"),
    ],
)
def test_mistakes_in_the_arguments_are_one_line(given, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(given)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert told in said
    assert said.count("\n") == 1


@pytest.mark.usefixtures("own_settings")
def test_a_busy_port_is_told_before_a_model_is_read(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            main(["--port", str(port)])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert (
        said
        == f"error: cannot serve at 127.0.0.1, port {port} (address already in use): give another --port or --host\n"
    )
