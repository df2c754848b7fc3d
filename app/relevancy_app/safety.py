"""What a browser may send, what it may see, and to whom the app speaks."""

from __future__ import annotations

import html
import inspect
import ipaddress
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from relevancy import RelevancyError
from relevancy_app.settings import Settings

LOGIN = "RELEVANCY_APP_AUTH"
"""Environment variable that holds "user:password", one a line for several users."""

_UNNAMED = "picture bytes: "  # what open_picture calls a picture that has no file name
_CLAUSE = re.compile(r"((?<=[.;]) |, or )")  # what stands between two pieces of advice
_OPTION = re.compile(r"(?<![\w-])--[a-z]")  # of a command line, which a visitor has not
_PATH = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?(?:[/\\][\w.@~+-]+){2,}")
_LONGEST_MESSAGE = 400
_log = logging.getLogger("relevancy_app")


class StoppedError(RelevancyError):
    """The visitor pressed Cancel."""


def logins_from(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Users and passwords from the environment, none if there are none. Raises when they are incomplete."""
    given = environment.get(LOGIN)
    if given is None:
        return ()
    found = {}
    for line in given.splitlines() or [""]:
        user, colon, password = line.partition(":")
        if not (colon and user.strip() and password) or user.strip() in found:
            raise RelevancyError(
                f"{LOGIN} must hold user:password, both with at least one character, one a line, each user once"
            )
        found[user.strip()] = password
    return tuple(found.items())


def check_binding(settings: Settings) -> None:
    """Raise unless the app stays on this machine or asks for a password."""
    if not settings.logins and (settings.share or not is_loopback(settings.host)):
        where = "share" if settings.share else f"bind to {settings.host}"
        raise RelevancyError(f"will not {where} without a password: set {LOGIN}=user:password in the environment")


def check_port(settings: Settings) -> None:
    """Raise where the address cannot be served at, or another program is there already."""
    where = f"{settings.host}, port {settings.port}" if settings.port else settings.host
    try:
        family, kind, _, _, address = socket.getaddrinfo(settings.host, settings.port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        told = (error.strerror or str(error)).lower()
        raise RelevancyError(f"cannot serve at {where} ({told}): give another --port or --host") from error


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
    check_size(len(data), settings)
    still_needed(path)
    return data


def check_size(count: int, settings: Settings) -> None:
    """Raise unless a picture's file has so many bytes as are taken."""
    if count > settings.upload_megabytes << 20:
        raise RelevancyError(
            f"The picture's file is larger than {settings.upload_megabytes} MB: save it smaller, or as JPEG."
        )
    if not count:
        raise RelevancyError("The picture's file is empty: choose another.")


def still_needed(path: Any) -> None:
    """Count an upload as fresh: files are deleted by age. One that is gone stays gone."""
    with suppress(OSError, ValueError, TypeError):
        os.utime(path)


def shown_line(error: RelevancyError) -> str:
    """An error as a browser may see it: one line, no paths, no markup, no options of a command line."""
    said = str(error)
    words = " ".join(said[: 4 * _LONGEST_MESSAGE].split()).replace(_UNNAMED, "the picture ")
    line = _without_options(_PATH.sub("…", words))
    if len(line) > _LONGEST_MESSAGE or len(said) > 4 * _LONGEST_MESSAGE:
        line = line[:_LONGEST_MESSAGE] + "…"
    return html.escape(line[:1].upper() + line[1:], quote=False)


def _without_options(line: str) -> str:
    """The message less the clauses that tell of a command line's options."""
    first, *others = _CLAUSE.split(line)
    pairs = zip(others[::2], others[1::2], strict=True)
    return (first + "".join(mark + clause for mark, clause in pairs if not _OPTION.search(clause))).rstrip("; ")


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


def said(event: gr.EventData, name: str) -> Any:
    """What the page says with an event; None where it says nothing."""
    try:
        return getattr(event, name, None)
    except TypeError:  # Gradio's, of an event without data
        return None


def as_uploaded(component: gr.Image | gr.UploadButton | gr.File) -> Any:
    """The same component, handing on an upload's path, or several, unopened: Gradio's own reading fails unheard."""
    vars(component)["preprocess"] = _paths
    return component


def _paths(payload: Any) -> Any:
    files = getattr(payload, "root", None)  # of several
    return getattr(payload, "path", None) if files is None else [file.path for file in files]


def harden(blocks: gr.Blocks) -> None:
    """Answer with one line to whatever no component takes, fetch no web address, and hold no stream open."""
    for block in blocks.blocks.values():
        vars(block)["async_move_resource_to_block_cache"] = _local_only(block.async_move_resource_to_block_cache)
    vars(blocks)["preprocess_data"] = _taken(blocks.preprocess_data)
    vars(blocks)["get_config_file"] = _streamless(blocks.get_config_file)


def _streamless(config: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Pages hold no event stream open while nothing runs: a browser has six connections for all its tabs."""
    return lambda *args, **kwargs: {**config(*args, **kwargs), "connect_heartbeat": False}


def _taken(preprocess: Callable[..., Any]) -> Callable[..., Any]:
    async def told_if_not(block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> Any:
        if block_fn.api_visibility == "public":  # what a program leaves out at the end is as it stands there
            inputs = [*inputs, *(block.value for block in block_fn.inputs[len(inputs) :])]
        try:
            return await preprocess(block_fn, inputs, *args, **kwargs)
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
