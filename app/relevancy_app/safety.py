"""What a browser may send, what it may see, and to whom the app speaks."""

from __future__ import annotations

import html
import inspect
import ipaddress
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from relevancy import RelevancyError
from relevancy_app.settings import Settings

LOGIN = "RELEVANCY_APP_AUTH"
"""Environment variable that holds "user:password"."""

_UNNAMED = "picture bytes: "  # what open_picture calls a picture that has no file name
_PATH = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?(?:[/\\][\w.@~+-]+){2,}")
_LONGEST_MESSAGE = 400
_log = logging.getLogger("relevancy_app")


class StoppedError(RelevancyError):
    """The visitor pressed Cancel."""


def login_from(environment: Mapping[str, str]) -> tuple[str, str] | None:
    """User and password from the environment, None if there are none. Raises when they are incomplete."""
    given = environment.get(LOGIN)
    if given is None:
        return None
    user, colon, password = given.partition(":")
    if not (colon and user.strip() and password):
        raise RelevancyError(f"{LOGIN} must hold user:password, both with at least one character")
    return user.strip(), password


def check_binding(settings: Settings) -> None:
    """Raise unless the app stays on this machine or asks for a password."""
    if settings.login is None and (settings.share or not is_loopback(settings.host)):
        where = "share" if settings.share else f"bind to {settings.host}"
        raise RelevancyError(f"will not {where} without a password: set {LOGIN}=user:password in the environment")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def received(path: Any, settings: Settings) -> bytes:
    """An uploaded picture's file, at a path that Gradio has found to be an upload. Raises without naming the path."""
    if not path:
        raise RelevancyError("No picture yet: upload one, paste one, or pick an example.")
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError, TypeError) as error:
        raise RelevancyError("The picture is no longer on the server: upload it again.") from error
    if len(data) > settings.upload_megabytes << 20:
        raise RelevancyError(f"The picture's file is larger than {settings.upload_megabytes} MB: shrink it.")
    if not data:
        raise RelevancyError("The picture's file is empty: choose another.")
    still_needed(path)
    return data


def still_needed(path: Any) -> None:
    """Count an upload as fresh: files are deleted by age. One that is gone stays gone."""
    with suppress(OSError, ValueError, TypeError):
        os.utime(path)


def shown_line(error: RelevancyError) -> str:
    """An error as a browser may see it: one line, no paths, no markup."""
    line = _PATH.sub("…", " ".join(str(error).split()).replace(_UNNAMED, "the picture "))
    if len(line) > _LONGEST_MESSAGE:
        line = line[:_LONGEST_MESSAGE] + "…"
    return html.escape(line[:1].upper() + line[1:], quote=False)


@contextmanager
def told() -> Iterator[None]:
    """Turn whatever goes wrong inside into one line for the browser; what was not foreseen goes to the log only."""
    try:
        yield
    except gr.Error:
        raise
    except RelevancyError as error:
        raise gr.Error(shown_line(error), print_exception=False) from None
    except Exception:
        _log.exception("unforeseen")
        raise gr.Error("Something went wrong on the server; its log says what.", print_exception=False) from None


def speaking(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as an event handler that tells errors as `told` does."""
    if inspect.isgeneratorfunction(function):

        @wraps(function)
        def stepwise(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with told():
                yield from function(*args, **kwargs)

        return stepwise

    @wraps(function)
    def at_once(*args: Any, **kwargs: Any) -> Any:
        with told():
            return function(*args, **kwargs)

    return at_once


def as_uploaded(component: gr.Image | gr.UploadButton) -> Any:
    """The same component, handing on the upload's path unopened: Gradio's own reading would fail without a word."""
    vars(component)["preprocess"] = lambda payload: None if payload is None else getattr(payload, "path", None)
    return component


def harden(blocks: gr.Blocks) -> None:
    """Answer with one line to whatever no component takes, and fetch no web address in place of a file."""
    for block in blocks.blocks.values():
        vars(block)["async_move_resource_to_block_cache"] = _local_only(block.async_move_resource_to_block_cache)
    vars(blocks)["preprocess_data"] = _taken(blocks.preprocess_data)


def _taken(preprocess: Callable[..., Any]) -> Callable[..., Any]:
    async def told_if_not(*args: Any, **kwargs: Any) -> Any:
        try:
            return await preprocess(*args, **kwargs)
        except gr.Error:
            raise
        except Exception as error:
            _log.info("refused: %s", type(error).__name__)
            raise gr.Error("What was sent is not what this app takes.", print_exception=False) from None

    return told_if_not


def _local_only(move: Callable[[Any], Any]) -> Callable[[Any], Any]:
    async def checked(path: Any) -> Any:
        if isinstance(path, str) and "://" in path:
            raise gr.Error("Web addresses are not fetched: upload the file.", print_exception=False)
        return await move(path)

    return checked


class BodyLimit:
    """ASGI middleware: refuses request bodies beyond `most` bytes, uploads excepted, which Gradio limits itself."""

    def __init__(self, app: Any, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on, or answer 413."""
        if scope["type"] != "http" or scope["path"].rstrip("/").endswith("/upload"):
            await self.app(scope, receive, send)
            return
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        if not stated.isdigit() or int(stated) > self.most:
            await _refuse(send)
            return
        count = 0

        async def counted() -> Any:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            return {"type": "http.disconnect"} if count > self.most else message

        await self.app(scope, counted, send)


async def _refuse(send: Any) -> None:
    body = b'{"detail":"The request is too large."}'
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
