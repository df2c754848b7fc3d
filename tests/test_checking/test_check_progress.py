"""Progress where there is no terminal: lines with the time that a step has left."""

from types import SimpleNamespace

from relevancy.cli import terminal


def test_lines_tell_how_long_it_will_take(monkeypatch, capsys):
    now = 0.0
    clock = SimpleNamespace(monotonic=lambda: now)  # for that module alone: other threads ask the time too
    monkeypatch.setattr(terminal, "time", clock)
    heard = [(10, "maps", 0.1), (40, "maps", 0.25), (160, "maps", 1.0), (200, "controls", 0.5), (240, "controls", 1.0)]
    with terminal.bars() as report:
        for now, what, share in heard:  # noqa: B007, the clock reads it
            report(what, share)
    told = capsys.readouterr().err.splitlines()
    assert told == ["maps: 25%, 2 min 0 s left", "maps: done", "controls: 50%, 40 s left", "controls: done"]
