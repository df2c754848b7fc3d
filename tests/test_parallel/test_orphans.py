"""A killed parent leaves no process at work, and each may save first."""

import subprocess
import sys
from textwrap import dedent

SCRIPT = dedent("""
    import signal, sys, time
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context
    from pathlib import Path
    from relevancy.parallel.orphans import end_with_parent

    folder = Path(sys.argv[1])

    def work(name):
        def save(*_):
            (folder / f"{name} saved").touch()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

        signal.signal(signal.SIGTERM, save)
        print("at work", flush=True)
        while True:
            time.sleep(0.01)

    if __name__ == "__main__":
        with ProcessPoolExecutor(2, get_context("spawn"), end_with_parent) as pool:
            list(pool.map(work, ["one", "two"]))
""")


def test_children_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    parent = subprocess.Popen([sys.executable, script, tmp_path], stdout=subprocess.PIPE, text=True)
    assert [parent.stdout.readline() for _ in range(2)] == ["at work\n"] * 2
    parent.kill()
    parent.communicate(timeout=60)  # until none of them holds its standard output
    assert {file.name for file in tmp_path.iterdir()} == {"script.py", "one saved", "two saved"}
