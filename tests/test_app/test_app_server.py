"""The served app as programs and strangers meet it."""

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from hostile import FILE_NAMES, PATHS, questions, uploads
from PIL import Image
from relevancy_app.settings import BODY_BYTES, Settings

import relevancy

QUESTION = "Is the duck floating? (a) Yes (b) No"
GENERIC = "has raised an exception but"  # what gradio_client says when the server said nothing


def client_of(served, folder):
    return Client(served.url, verbose=False, download_files=str(folder))


@pytest.fixture(scope="module")
def client(served, tmp_path_factory):
    return client_of(served, tmp_path_factory.mktemp("client"))


def plain(value):
    """As JSON carries it."""
    return json.loads(json.dumps(value))


def outcome(client, file, question):
    """What the endpoint gave, or the one line with which it refused."""
    try:
        return client.predict(handle_file(file), question, api_name="/explain")[0], ""
    except AppError as error:
        return None, str(error)


def raw(served, fn_index, data, **more):
    """One event through the queue, as a browser sends it; the last message."""
    body = {"data": data, "fn_index": fn_index, "session_hash": f"raw{time.monotonic_ns()}", **more}
    with httpx.Client(base_url=served.url, timeout=60) as http:
        joined = http.post("gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            return {"status": joined.status_code}
        with http.stream("GET", "gradio_api/queue/data", params={"session_hash": body["session_hash"]}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    message = json.loads(line[5:])
                    if message["msg"] in ("process_completed", "unexpected_error", "close_stream"):
                        return message
    return {}


def function(served, name):
    """The number of the event whose handler has this name."""
    for number, one in served.blocks.fns.items():
        if getattr(one.fn, "__name__", "") == name and one.api_visibility == "private":
            return number
    raise AssertionError(name)


# -- the endpoints


def test_only_the_two_endpoints_are_told_of(served):
    told = httpx.get(f"{served.url}gradio_api/info").json()
    assert set(told["named_endpoints"]) == {"/explain", "/compare"}
    assert not told["unnamed_endpoints"]
    names = [one["parameter_name"] for one in told["named_endpoints"]["/explain"]["parameters"]]
    one_picture = ["image", "question", "model", "target", "scope", "first_layer", "last_layer", "method"]
    assert names == [*one_picture, "pictures", "messages"]


@pytest.mark.parametrize(
    "options",
    [{}, {"target": "first", "scope": "full", "method": "relevancy-magnitude"}, {"target": "0", "first_layer": 1}],
)
def test_explain_is_the_packages_explain(served, client, picture_file, options):
    found, overlay = client.predict(handle_file(picture_file), QUESTION, "demo-large", api_name="/explain", **options)
    wanted = {"target": "first-relevant"} | {
        key: options[key] for key in ("target", "scope", "method") if key in options
    }
    layers = range(1, 99)[: served.models[1].model.config.text_config.num_hidden_layers - 1]
    alone = relevancy.explain(
        served.models[1], picture_file, QUESTION, layers=layers if "first_layer" in options else None, **wanted
    )
    assert found == plain(alone.to_json())
    assert np.array_equal(np.asarray(Image.open(overlay)), np.asarray(alone.overlay()))


def test_compare_is_two_explains(served, client, picture_file):
    found, figure = client.predict(handle_file(picture_file), QUESTION, api_name="/compare")
    alone = [relevancy.explain(model, picture_file, QUESTION, target="first-relevant") for model in served.models]
    assert found["explanations"] == plain([one.to_json() for one in alone])
    assert [pair["models"] for pair in found["agreement"]] == [["demo-small", "demo-large"]]
    assert Image.open(figure).width > 800


CHAT = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What color is the car?"}]},
    {"role": "assistant", "content": "red"},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]},
]


def test_several_pictures_and_turns_are_the_packages(served, client, picture_file):
    files = {"image": handle_file(picture_file), "pictures": [handle_file(picture_file)]}
    found, _ = client.predict(**files, model="demo-large", messages=CHAT, api_name="/explain")
    pictures = [picture_file, picture_file]
    (alone,) = relevancy.explain(served.models[1], [pictures], [CHAT], target="first-relevant")
    assert found == plain(alone.to_json())
    both, _ = client.predict(**files, messages=CHAT, api_name="/compare")
    assert [len(one["pictures"]) for one in both["explanations"]] == [2, 2]
    found, _ = client.predict(**files, question=QUESTION, model="demo-large", api_name="/explain")
    (alone,) = relevancy.explain(served.models[1], [pictures], [QUESTION], target="first-relevant")
    assert found == plain(alone.to_json())


def holding(**part):
    return [{"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (CHAT, "2 places for pictures without one of their own, and 1 were given"),
        (holding(type="image", image="/etc/passwd"), "Pictures are uploaded beside the messages"),
        (holding(type="image", url="http://127.0.0.1/x.png"), "Pictures are uploaded beside the messages"),
        (holding(type="image", base64="eA=="), "Pictures are uploaded beside the messages"),
        (holding(type="video", video="/tmp"), "Pictures are uploaded beside the messages"),
        ([{"role": "robot", "content": "hi"}], "role is one of"),
        ([{"role": "user", "content": "x" * 5000}], "more than 1,000 characters"),
        ({"role": "user"}, "list of chat messages"),
        ([1, 2], "list of chat messages"),
        ("[]]", "list of chat messages"),
    ],
)
def test_messages_are_checked_in_one_line(client, picture_file, messages, message):
    with pytest.raises(AppError, match=message) as caught:
        client.predict(image=handle_file(picture_file), messages=messages, api_name="/explain")
    assert "\n" not in str(caught.value)


def test_a_question_beside_messages_is_refused(client, picture_file):
    given = {"image": handle_file(picture_file), "question": QUESTION, "messages": CHAT}
    with pytest.raises(AppError, match="not both"):
        client.predict(**given, api_name="/explain")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "Intel/llava-gemma-2b"}, "does not offer that model"),
        ({"model": "/etc"}, "does not offer that model"),
        ({"question": ""}, "No question yet"),
        ({"target": "all"}, "press a token"),
        ({"target": "zebra crossing"}, "does not contain"),
        ({"scope": "sideways"}, "no such scope"),
        ({"first_layer": 3, "last_layer": 2}, "behind the last"),
        ({"first_layer": 1.5}, "First_layer is a whole number"),
        ({"last_layer": -2}, "Last_layer is a whole number"),
        ({"method": "magic"}, "no such method"),
    ],
)
def test_mistakes_are_told_in_one_line(client, picture_file, changes, message):
    given = {"image": handle_file(picture_file), "question": QUESTION} | changes
    with pytest.raises(AppError, match=message) as caught:
        client.predict(**given, api_name="/explain")
    assert "\n" not in str(caught.value)


def test_the_readmes_snippets_work(served, picture_file, tmp_path, monkeypatch, capsys):
    root = Path(__file__).parents[2]
    blocks = [
        code
        for readme in ("docs/how-to/app.md", "app/README.md")
        for code in re.findall(r"```python\n(.*?)```", (root / readme).read_text(), re.DOTALL)
    ]
    snippets = [code for code in blocks if "gradio_client" in code]
    assert snippets
    monkeypatch.chdir(tmp_path)
    (tmp_path / "picture.png").write_bytes(picture_file.read_bytes())
    for code in snippets:
        exec(code.replace("http://127.0.0.1:7860", served.url), {})
        assert len(capsys.readouterr().out.splitlines()) >= 2


# -- many at once


def test_eight_at_once_get_what_one_gets(served, client, picture_file, tmp_path):
    texts = [QUESTION, "What color is the duck?", "Is there a boat in the picture?", "How many ducks are there?"] * 2
    expected = [client.predict(handle_file(picture_file), text, api_name="/explain")[0] for text in texts]
    clients = [client_of(served, tmp_path) for _ in texts]
    start = threading.Barrier(len(texts))

    def ask(one):
        visitor, text = one
        start.wait()
        return visitor.predict(handle_file(picture_file), text, api_name="/explain")[0]

    with ThreadPoolExecutor(len(texts)) as pool:
        assert list(pool.map(ask, zip(clients, texts, strict=True))) == expected


def test_a_full_queue_says_so(outside, serve, random_models, tmp_path, picture_file):
    with serve(random_models, tmp_path, Settings(queue=1)) as running:
        visitor = client_of(running, tmp_path)
        with running.models[0].lock:  # nobody gets on
            jobs = [visitor.submit(handle_file(picture_file), "Is it?", "deep", api_name="/explain") for _ in range(4)]
            deadline = time.monotonic() + 30
            while not any(job.done() for job in jobs) and time.monotonic() < deadline:
                time.sleep(0.05)
        ends = [job.exception(timeout=60) for job in jobs]
    full = [end for end in ends if end is not None]
    assert full
    assert all("full" in str(end).lower() for end in full)
    assert None in ends


# -- strangers


def test_nothing_outside_was_looked_up(outside, served, client, picture_file):
    client.predict(handle_file(picture_file), QUESTION, api_name="/explain")
    httpx.get(served.url)
    assert outside == []


@pytest.mark.parametrize("data", uploads().values(), ids=uploads())
def test_any_upload_is_handled_or_refused_in_one_line(request, served, client, tmp_path, data):
    name = request.node.callspec.id
    file = tmp_path / name
    file.write_bytes(data)
    around = set(tmp_path.iterdir()) | set(Path.cwd().iterdir())
    found, refusal = outcome(client, file, QUESTION)
    if found is None:
        assert GENERIC not in refusal
        assert "\n" not in refusal
        assert str(served.folder) not in refusal
        assert str(tmp_path) not in refusal
    else:
        assert found["image"]["width"] >= 1
    assert set(tmp_path.iterdir()) | set(Path.cwd().iterdir()) == around


@pytest.mark.parametrize("name", FILE_NAMES, ids=ascii)
def test_a_files_name_never_leads_out_of_the_folder(served, name, picture_file):
    before = {path for path in served.folder.parent.rglob("*evil*")}  # noqa: C416
    answer = httpx.post(f"{served.url}gradio_api/upload", files={"files": (name, picture_file.read_bytes())})
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        (path,) = answer.json()
        assert Path(path).resolve().is_relative_to(served.folder.resolve())
    assert not [
        path
        for path in served.folder.parent.rglob("*evil*")
        if served.folder not in path.parents and path not in before
    ]


@pytest.mark.parametrize("path", PATHS, ids=ascii)
def test_a_path_that_was_not_uploaded_is_not_read(outside, served, path):
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    values = [file, QUESTION, "demo-large", "first-relevant", "language", 0, -1, "relevancy"]
    number = next(number for number, one in served.blocks.fns.items() if one.api_name == "explain")
    message = raw(served, number, values)
    assert message["success"] is False
    assert "root:" not in json.dumps(message)
    assert "Traceback" not in json.dumps(message)
    in_question = raw(served, number, ["", file, "demo-large", "first-relevant", "language", 0, -1, "relevancy"])
    assert in_question["success"] is False
    assert outside == []


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "app/app.py", "../../etc/passwd", "relevancy/__init__.py", "%2fetc%2fpasswd"]
)
def test_no_file_is_served_that_is_not_the_apps(served, path):
    answer = httpx.get(f"{served.url}gradio_api/file={path}")
    assert answer.status_code in (403, 404)
    assert "root:" not in answer.text


def test_uploaded_pages_are_not_run(served):
    (path,) = httpx.post(
        f"{served.url}gradio_api/upload", files={"files": ("page.html", b"<script>alert(1)</script>")}
    ).json()
    answer = httpx.get(f"{served.url}gradio_api/file={path}")
    assert "attachment" in answer.headers.get("content-disposition", "") or answer.status_code == 403


@pytest.mark.parametrize("number", range(len(questions())))
def test_any_question_is_answered_or_refused_in_one_line(client, picture_file, number):
    question = questions()[number]
    found, refusal = outcome(client, picture_file, question)
    if found is None:
        assert GENERIC not in refusal
        assert "\n" not in refusal
        assert len(refusal) < 600
    else:
        assert found["tokens"].count("<image>") == found["image"]["rows"] * found["image"]["cols"]


def test_five_megabytes_of_question(served, client, picture_file):
    with pytest.raises(Exception, match=r"413|(?i:too large)"):
        client.predict(handle_file(picture_file), "duck " * 1_000_000, api_name="/explain")
    assert len("duck " * 1_000_000) > BODY_BYTES
    assert client.predict(handle_file(picture_file), QUESTION, api_name="/explain")


def test_an_upload_beyond_the_limit(served):
    data = bytes(served.settings.file_bytes + 1000)
    answer = httpx.post(f"{served.url}gradio_api/upload", files={"files": ("big.png", data)}, timeout=60)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("explain", [None] * 9),
        ("explain", [None, {"path": "/etc/passwd"}, *[[]] * 7]),
        ("pick", [None, None]),
        ("every_token", [None, None]),
        ("vary", [None, None, "a\nb", "demo-large", *[None] * 7]),
        ("ways", [None, None, "demo-large", ["../.."]]),
        ("layers", [None, None, {}]),
        ("hide", [None, None, "grey"]),
        ("take", [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]),
        ("example", []),
        ("restore", [None]),
        ("restore", [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]),
        ("keep", [None, {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]),
    ],
)
@pytest.mark.parametrize(
    "event",
    [None, {"index": [0, 0], "value": ""}, {"index": "../..", "value": {}}, [1], {"part": "drawn", "box": "x"}],
    ids=["none", "token", "path", "list", "box"],
)
def test_events_of_the_page_take_no_nonsense(served, name, data, event):
    message = raw(served, function(served, name), data, event_data=event)
    text = json.dumps(message)
    assert "Traceback" not in text
    assert "root:" not in text
    assert str(served.folder) not in text
    assert message.get("success") is not True or name in ("keep", "entered")


@pytest.mark.parametrize(
    "headers", [{"host": "evil.example"}, {"host": "evil.example:7860"}, {"origin": "http://evil.example"}]
)
def test_other_sites_pages_reach_nothing(served, picture_file, headers):
    """A name that was led to this machine (DNS rebinding), and forms that other sites' pages send."""
    upload = {"files": ("a.png", picture_file.read_bytes())}
    before = set(served.folder.rglob("*"))
    assert httpx.post(f"{served.url}gradio_api/upload", files=upload, headers=headers).status_code == 403
    joined = {"data": [], "fn_index": 0, "session_hash": "x"}
    assert httpx.post(f"{served.url}gradio_api/queue/join", json=joined, headers=headers).status_code == 403
    assert httpx.post(f"{served.url}closed?visit=x", headers=headers).status_code == 403
    if "host" in headers:
        for path in ("", "config", "gradio_api/info", "gradio_api/queue/data?session_hash=x"):
            assert httpx.get(served.url + path, headers=headers).status_code == 403
    assert set(served.folder.rglob("*")) == before


@pytest.mark.parametrize("path", ["", "config", "gradio_api/info", "theme.css", "gradio_api/file=/etc/passwd"])
def test_every_answer_tells_the_browser_what_it_may_do(served, path):
    headers = httpx.get(served.url + path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    for rule in ("default-src 'self'", "object-src 'none'", "form-action 'self'", "base-uri 'self'"):
        assert rule in headers["content-security-policy"]
    assert "connect-src" not in headers["content-security-policy"]  # so nothing but this app can be asked


def test_the_server_is_still_there(served, client, picture_file):
    assert httpx.get(served.url).status_code == 200
    assert client.predict(handle_file(picture_file), QUESTION, api_name="/explain")[0]["model"] == "demo-small"


def test_a_password_keeps_strangers_out(outside, serve, random_models, tmp_path, picture_file):
    with serve(random_models, tmp_path, Settings(logins=(("ann", "secret"),))) as running:
        for path in ("config", "gradio_api/info", f"gradio_api/file={picture_file}"):
            assert httpx.get(running.url + path).status_code in (401, 403)
        joined = httpx.post(
            f"{running.url}gradio_api/queue/join", json={"data": [], "fn_index": 0, "session_hash": "x"}
        )
        uploaded = httpx.post(f"{running.url}gradio_api/upload", files={"files": ("a.png", picture_file.read_bytes())})
        assert joined.status_code == 401
        assert uploaded.status_code == 401
        with pytest.raises(Exception, match=r"(?i)auth|credential|login"):
            Client(running.url, verbose=False, auth=("ann", "wrong"))
        visitor = Client(running.url, verbose=False, auth=("ann", "secret"), download_files=str(tmp_path / "got"))
        found, _ = visitor.predict(handle_file(picture_file), "Is it?", "flat", api_name="/explain")
        assert found["model"] == "flat"


# -- what stays


def test_files_are_deleted_and_a_visits_results_are_dropped(outside, serve, random_models, tmp_path, picture_file):
    folder = tmp_path / "files"
    with serve(random_models, folder, Settings(keep_minutes=2 / 60)) as running:
        kept = {path for path in folder.rglob("*") if path.is_file()}  # the examples
        visitor = client_of(running, tmp_path / "got")
        visitor.predict(handle_file(picture_file), "Is it?", "deep", api_name="/explain")
        assert {path for path in folder.rglob("*") if path.is_file()} > kept
        deadline = time.monotonic() + 20
        while {path for path in folder.rglob("*") if path.is_file()} != kept and time.monotonic() < deadline:
            time.sleep(0.2)
        assert {path for path in folder.rglob("*") if path.is_file()} == kept


def test_sessions_are_few(outside, serve, random_models, tmp_path, picture_file):
    with serve(random_models, tmp_path, Settings(sessions=3)) as running:
        for _ in range(5):
            client_of(running, tmp_path / "got").predict(
                handle_file(picture_file), "Is it?", "flat", api_name="/explain"
            )
        assert len(running.blocks.state_holder.session_data) <= 3


def test_two_apps_share_nothing(outside, serve, random_models, tmp_path):
    with (
        serve(random_models[:1], tmp_path / "a", Settings()) as one,
        serve(random_models[1:], tmp_path / "b", replace(Settings(), queue=3)) as other,
    ):
        for running, name in ((one, "deep"), (other, "flat")):
            told = httpx.get(f"{running.url}gradio_api/info").json()
            model = told["named_endpoints"]["/explain"]["parameters"][2]
            assert model["parameter_default"] == name
