"""Whom the app speaks to, what it lets in, and what it lets out."""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
import tiny
from gradio.state_holder import StateHolder
from hostile import encoded
from relevancy_app import safety
from relevancy_app.building import launch_options
from relevancy_app.guard import BodyLimit, Guard, Leaving, Patience
from relevancy_app.safety import StoppedError
from relevancy_app.session import Controls
from relevancy_app.settings import Settings

from relevancy import RelevancyError
from relevancy.images import open_picture

APP = Path(__file__).parents[2] / "app"


def refusal(call):
    """What the package says."""
    with pytest.raises(RelevancyError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "login"),
    [
        (None, ()),
        ("ann:secret", (("ann", "secret"),)),
        ("ann:se:cret", (("ann", "se:cret"),)),
        (" ann :x\nbob:y", (("ann", "x"), ("bob", "y"))),
    ],
)
def test_the_password_comes_from_the_environment(given, login):
    assert safety.logins_from({} if given is None else {safety.LOGIN: given}) == login


@pytest.mark.parametrize("given", ["", "ann", "ann:", ":secret", " :secret", "ann:x\nbob", "ann:x\nann:y"])
def test_half_a_password_is_none(given):
    with pytest.raises(RelevancyError, match="user:password"):
        safety.logins_from({safety.LOGIN: given})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_this_machine_needs_no_password(host):
    assert launch_options(Settings(host=host))["auth"] is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "", "127.0.0.1.example.org"])
def test_any_other_address_does(host):
    with pytest.raises(RelevancyError, match="without a password"):
        launch_options(Settings(host=host))
    assert launch_options(Settings(host=host, logins=(("ann", "x"),)))["auth"] == [("ann", "x")]


def test_so_does_a_public_link():
    with pytest.raises(RelevancyError, match="will not share without a password"):
        launch_options(Settings(share=True))
    assert launch_options(Settings(share=True, logins=(("ann", "x"),)))["share"] is True


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--host", "0.0.0.0"], {}, "will not bind to 0.0.0.0 without a password"),
        (["--share"], {}, "will not share without a password"),
        ([], {"GRADIO_SERVER_NAME": "0.0.0.0"}, "will not bind to 0.0.0.0"),
        ([], {"RELEVANCY_APP_AUTH": "nobody"}, "must hold user:password"),
    ],
)
def test_the_program_refuses_in_one_line_before_it_loads_anything(tmp_path, arguments, environment, message):
    clean = {
        name: value for name, value in os.environ.items() if name not in ("RELEVANCY_APP_AUTH", "GRADIO_SERVER_NAME")
    }
    done = subprocess.run(
        [sys.executable, str(APP / "app.py"), *arguments],
        cwd=tmp_path, env=clean | environment | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert done.stdout == ""
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("relevancy-app")]


def test_the_program_explains_itself():
    done = subprocess.run([sys.executable, str(APP / "app.py"), "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "--model" in done.stdout
    assert "RELEVANCY_APP_AUTH" in done.stdout


def test_requirements_of_a_space_are_the_tested_versions():
    root = APP.parent
    pinned = set((root / "constraints.txt").read_text().replace(' ; python_version >= "3.11"', "").splitlines())
    wanted = [line for line in (APP / "requirements.txt").read_text().splitlines() if line[:1].isalpha()]
    assert len(wanted) >= 8
    assert set(wanted) <= pinned
    header = (APP / "README.md").read_text().split("---")[1]
    version = re.search(r"sdk_version: (\S+)", header)
    assert version is not None
    assert f"gradio=={version[1]}" in pinned


def test_an_upload_is_read_whole(picture_file, source):
    assert safety.received(str(picture_file), Settings()) == source


@pytest.mark.parametrize("path", [None, "", "/no/such/file.png", "\0", 7, {}, "/etc"])
def test_an_upload_that_is_not_there(path):
    with pytest.raises(RelevancyError) as caught:
        safety.received(path, Settings())
    assert "/" not in str(caught.value)


def test_an_upload_that_is_empty_or_too_large(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"")
    with pytest.raises(RelevancyError, match="empty"):
        safety.received(file, Settings())
    file.write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(RelevancyError, match="larger than 1 MB"):
        safety.received(file, Settings(upload_megabytes=1))


def test_reading_an_upload_makes_it_young_again(picture_file, tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(picture_file.read_bytes())
    os.utime(file, (1, 1))
    safety.received(file, Settings())
    assert file.stat().st_mtime > 1
    safety.still_needed(tmp_path / "gone")
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("picture bytes: is not a picture", "The picture is not a picture"),
        (
            refusal(lambda: open_picture(encoded(tiny.picture(), "PNG")[:500])),
            "The picture is damaged or cut short; save it again, or give another picture",
        ),
        (refusal(lambda: open_picture(tiny.picture(), max_pixels=9)), None),
        (
            "It does not contain it. Name a part of it, or explain another answer: answer= (--answer).",
            "It does not contain it. Name a part of it",
        ),
        ("found here only: declare it, or work here (--processes 0).", "Found here only: declare it"),
        ("cannot read /home/ann/secret.png here", "Cannot read … here"),
        (r"cannot read C:\Users\ann\x.png", "Cannot read …"),
        ("a\nb   c", "A b c"),
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"),
        ("choose Yes/No or and/or", "Choose Yes/No or and/or"),
    ],
)
def test_a_line_for_the_browser(given, shown):
    line = safety.shown_line(RelevancyError(given))
    assert "--" not in line
    assert shown is None or line == shown


def test_a_line_is_short():
    assert len(safety.shown_line(RelevancyError("x" * 5_000_000))) < 500


def test_what_was_foreseen_is_told():
    with pytest.raises(gr.Error) as caught:
        safety.speaking(_raising(RelevancyError("shorten it")))(1)
    assert caught.value.message == "Shorten it"
    assert caught.value.print_exception is False


@pytest.mark.parametrize("stepwise", [False, True])
def test_what_was_not_foreseen_goes_to_the_log_alone(caplog, stepwise):
    def step(_):
        yield 1
        raise ValueError("/home/ann/secret")

    handler = safety.speaking(step if stepwise else _raising(ValueError("/home/ann/secret")))
    with pytest.raises(gr.Error) as caught:
        list(handler(1))
    assert "secret" not in str(caught.value.message)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "secret" in caplog.text


def _raising(error):
    def handler(_):
        raise error

    return handler


def test_cancel_stops_runs_that_began_before_it_and_no_later_ones():
    controls = Controls()
    first = controls.start()
    first()
    controls.press()
    with pytest.raises(StoppedError):
        first()
    second = controls.start()
    second()
    with pytest.raises(StoppedError):
        first()


class Echo:
    """An ASGI app that reads its body and says how long it is."""

    def __init__(self):
        self.read = 0

    async def __call__(self, scope, receive, send):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            self.read += len(message["body"])
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})


def sent(path, headers, chunks):
    """Status and bytes that arrive, for a request of these chunks."""
    echo, statuses = Echo(), []
    left = list(chunks)

    async def receive():
        chunk = left.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(left)}

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {"type": "http", "path": path, "headers": headers}
    asyncio.run(BodyLimit(echo, most=10)(scope, receive, send))
    return statuses, echo.read


@pytest.mark.parametrize(
    ("path", "headers", "chunks", "statuses", "read"),
    [
        ("/queue/join", [(b"content-length", b"10")], [b"0123456789"], [200], 10),
        ("/queue/join", [(b"content-length", b"11")], [b"01234567890"], [413], 0),
        ("/queue/join", [(b"content-length", b"lots")], [b"0"], [413], 0),
        ("/queue/join", [], [b"012345", b"678901"], [], 6),  # no length stated: cut off where it is too much
        ("/gradio_api/upload", [(b"content-length", b"11")], [b"01234567890"], [200], 11),  # has a limit of its own
    ],
)
def test_bodies_are_limited(path, headers, chunks, statuses, read):
    assert sent(path, headers, chunks) == (statuses, read)


def answered(asgi, *, method="POST", path="/", headers=(), client="1.2.3.4", **scope):
    """Status and headers with which an app answers a request; None where it passes it on to nobody."""
    found = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        if message["type"] == "http.response.start":
            found.append((message["status"], dict(message["headers"])))

    asked = {"type": "http", "method": method, "path": path, "client": (client, 1), "query_string": b"", **scope}
    asyncio.run(asgi(asked | {"headers": [(name.encode(), value.encode()) for name, value in headers]}, receive, send))
    return found[0]


@pytest.mark.parametrize(
    ("method", "headers", "local", "status"),
    [
        ("GET", [("host", "127.0.0.1:7860")], True, 200),
        ("GET", [("host", "localhost")], True, 200),
        ("GET", [("host", "[::1]:7860")], True, 200),
        ("GET", [("host", "evil.example")], True, 403),  # a name that was led to this machine
        ("GET", [("host", "127.0.0.1.evil.example")], True, 403),
        ("GET", [], True, 403),
        ("GET", [("host", "app.example")], False, 200),
        ("POST", [("host", "127.0.0.1:1"), ("origin", "http://127.0.0.1:1")], True, 200),
        ("POST", [("host", "127.0.0.1:1")], True, 200),  # a program, no browser
        ("POST", [("host", "127.0.0.1:1"), ("origin", "http://evil.example")], True, 403),
        ("POST", [("host", "127.0.0.1:1"), ("origin", "http://127.0.0.1:2")], True, 403),
        ("POST", [("host", "127.0.0.1:1"), ("origin", "null")], True, 403),
        ("POST", [("host", "app.example"), ("origin", "https://evil.example")], False, 403),
        (
            "POST",
            [("host", "inner:1"), ("x-forwarded-host", "app.example"), ("origin", "https://app.example")],
            False,
            200,
        ),
    ],
)
def test_only_this_machines_names_and_this_apps_own_pages(method, headers, local, status):
    found, marks = answered(Guard(Echo(), local), method=method, headers=headers)
    assert found == status
    assert marks[b"x-content-type-options"] == b"nosniff"
    assert b"default-src 'self'" in marks[b"content-security-policy"]


def test_wrong_passwords_are_answered_later_and_later():
    async def door(scope, receive, send):
        await send({"type": "http.response.start", "status": int(scope["status"]), "headers": []})

    app, waits = Patience(door, first_wait=0.01), []
    for status in (400, 400, 400, 400, 400, 400, 200, 400):
        began = time.monotonic()
        assert answered(app, path="/login", status=status)[0] == status
        waits.append(time.monotonic() - began)
    for wait, least in zip(waits, (0.01, 0.02, 0.04, 0.08, 0.16, 0.16, 0, 0.01), strict=True):
        assert least <= wait < least + 0.15
    began = time.monotonic()
    assert answered(app, path="/login", status=400, client="5.6.7.8")[0] == 400
    assert time.monotonic() - began < 0.1
    assert answered(app, path="/other", status=400)[0] == 400


def test_guesses_of_one_address_wait_for_each_other():
    async def door(scope, receive, send):
        await send({"type": "http.response.start", "status": 400, "headers": []})

    async def guesses():
        app, done = Patience(door, first_wait=0.02), []

        async def one():
            async def send(message):
                done.append(time.monotonic())

            await app({"type": "http", "method": "POST", "path": "/login", "client": ("a", 1)}, None, send)

        began = time.monotonic()
        await asyncio.gather(*(one() for _ in range(4)))
        return [end - began for end in done]

    ends = asyncio.run(guesses())
    assert ends[-1] >= 0.02 + 0.04 + 0.08 + 0.16
    assert ends == sorted(ends)


def test_a_closed_page_drops_its_visit():
    holder = StateHolder()
    holder.session_data = OrderedDict(a=SimpleNamespace(state_components=[]), b=SimpleNamespace(state_components=[]))
    app = SimpleNamespace(state_holder=holder)
    assert answered(Leaving(Echo()), path="/closed", query_string=b"visit=a&visit=nobody", app=app)[0] == 200
    assert set(holder.session_data) == {"b"}
