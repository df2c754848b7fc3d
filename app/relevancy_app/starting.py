"""The program: arguments, models, and a server that leaves nothing behind."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from relevancy import RelevancyError
from relevancy_app.settings import DEMO_GEMMA, DEMO_PAIR, Settings, history_path

_LIMITS = Settings()
_PRELOADED = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until interrupted. Mistakes in the arguments end in one line and exit code 2."""
    given = _parser(os.environ).parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        _serve(given)
    except RelevancyError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")


class _Parser(argparse.ArgumentParser):
    """Refuses in one line."""

    def error(self, message: str) -> NoReturn:
        """End the program."""
        self.exit(2, f"error: {message}; see --help\n")


class _Once(argparse.Action):
    """A value that is given once: of two, neither is dropped without a word."""

    heard = False

    def __call__(
        self, parser: argparse.ArgumentParser, given: argparse.Namespace, value: Any, option: str | None = None
    ) -> None:
        """Keep the value."""
        if self.heard:
            parser.error(f"{option} is given twice and takes one value: give it once")
        self.heard = True
        setattr(given, self.dest, value)


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = _Parser(
        description="Which patches and words made a model say that? Side by side, in a browser.",
        epilog="RELEVANCY_APP_AUTH=user:password in the environment asks visitors for it, one a line for several "
        "users; without one the app speaks to this machine only.",
    )
    parser.register("action", None, _Once)
    add = parser.add_argument
    add(
        "--model",
        action="append",
        help=f"offered model, again for more; by default {' and '.join(DEMO_PAIR)}, and "
        f"{DEMO_GEMMA} where Gemma 3 270M is installed or named",
    )
    add(
        "--preload",
        type=_whole(0),
        default=_PRELOADED,
        help="how many of the models are loaded at start, the others when they are first asked for; %(default)s",
    )
    add("--host", default=environment.get("GRADIO_SERVER_NAME", _LIMITS.host), help="address; %(default)s")
    add("--port", type=_whole(1, 65535), help="by default the first that is free from 7860 on")
    add("--share", action="store_true", help="open a public link through Gradio")
    add("--upload-megabytes", type=_whole(1, 1000), default=_LIMITS.upload_megabytes, help="largest file; %(default)s")
    add("--max-pixels", type=_whole(1), default=_LIMITS.max_pixels, help="larger pictures are shrunk; %(default)s")
    add(
        "--question-characters",
        type=_whole(1),
        default=_LIMITS.question_characters,
        help="longest question; %(default)s",
    )
    add("--queue", type=_whole(1), default=_LIMITS.queue, help="most requests that wait; %(default)s")
    add("--sessions", type=_whole(1), default=_LIMITS.sessions, help="most visits whose results are kept; %(default)s")
    add("--keep-minutes", type=_minutes, default=_LIMITS.keep_minutes, help="how long after a visit; %(default)s")
    add(
        "--history",
        type=_file_or_none,
        default=history_path(environment),
        help="file that keeps every run of the page, or none; %(default)s",
    )
    add(
        "--history-megabytes",
        type=_whole(1),
        default=_LIMITS.history_megabytes,
        help="beyond it, the oldest runs that are not pinned go; %(default)s",
    )
    for option in ("--device", "--dtype", "--quantization"):
        add(option, help="as in relevancy.load, for every model")
    return parser


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """What reads a whole number from `least` to `most`."""

    def number(text: str) -> int:
        value = int(text)
        if value < least or (most is not None and value > most):
            upper = "" if most is None else f" to {most}"
            raise argparse.ArgumentTypeError(f"{text} is no number from {least}{upper or ' on'}")
        return value

    number.__name__ = "int"  # as argparse calls it where the text is no number
    return number


def _file_or_none(text: str) -> Path | None:
    return None if text == "none" else Path(text)


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return value


def _said(stage: str, _: float) -> None:
    """Progress, in the log."""
    sys.stderr.write(f"{stage}\n")


def _serve(given: argparse.Namespace) -> None:
    options: dict[str, Any] = vars(given)
    named, preloaded = options.pop("model"), options.pop("preload")
    loading = {name: value for name in ("device", "dtype", "quantization") if (value := options.pop(name)) is not None}
    with tempfile.TemporaryDirectory(prefix="relevancy-app-") as scratch:
        os.environ |= {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_TEMP_DIR": scratch,
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }  # before the imports that read them
        from relevancy_app.building import build, launch_options
        from relevancy_app.library import library, offer, usual
        from relevancy_app.safety import check_binding, check_port, logins_from

        settings = Settings(logins=logins_from(os.environ), **options)
        check_binding(settings)  # before gigabytes are read
        check_port(settings)
        names = named or usual()
        offered = library([offer(name, **loading) for name in names])
        for name in names[:preloaded]:
            with offered.using(name, _said):
                pass
        blocks = build(offered, settings)
        _, local, public = blocks.launch(**launch_options(settings), prevent_thread_lock=True)
        sys.stderr.write(f"{public or local}  (Ctrl+C ends)\n")
        blocks.block_thread()
