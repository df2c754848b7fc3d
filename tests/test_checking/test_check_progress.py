"""Progress where there is no terminal: lines with the time that a step has left."""

from types import SimpleNamespace

from relevancy.cli import terminal


def test_lines_tell_how_long_it_will_take(monkeypatch, capsys):
    moments = iter([0.0, 10, 40, 160, 200, 240])
    clock = SimpleNamespace(monotonic=lambda: next(moments))  # for that module alone: other threads ask the time too
    monkeypatch.setattr(terminal, "time", clock)
    with terminal.bars() as report:
        for what, share in (("maps", 0.1), ("maps", 0.25), ("maps", 1.0), ("controls", 0.5), ("controls", 1.0)):
            report(what, share)
    told = capsys.readouterr().err.splitlines()
    assert told == ["maps: 25%, 2 min 0 s left", "maps: done", "controls: 50%, 40 s left", "controls: done"]
