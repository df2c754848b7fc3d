"""Writes the table of docs/models.md from what the tests of families find: `python tests/families_table.py`.

It runs them once more with torchvision where `make test-torchvision` has put that; with --results FILE it takes the
JUnit files of runs that have been.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import transformers

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/models.md"
TORCHVISION = ROOT / "build/torchvision"
TESTS = "tests/test_families/test_families.py"
LANGUAGE, FULL = "language, float32", "full, float32"
BEGINS, ENDS = "<!-- table of families: begins -->", "<!-- table of families: ends -->"


def results(files: Sequence[Path]) -> dict[str, dict[str, str]]:
    """What tests have said of each set-up, by the set-up's name. Exits where one has failed."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for case in (case for file in files for case in ElementTree.parse(file).iter("testcase")):
        if case.find("failure") is not None or case.find("error") is not None:
            sys.exit(f"{case.get('name')} has failed: no table is made of that")
        said = {one.get("name", ""): one.get("value", "") for one in case.iter("property")}
        skipped = case.find("skipped")
        if skipped is not None and "Torchvision" in skipped.get("message", ""):
            said["needs"] = "torchvision"
        name = said.get("set-up") or str(case.get("name")).partition("[")[2].rstrip("]").removesuffix("-full")
        found[name.removesuffix("-language")] |= said
    return found


def row(name: str, said: dict[str, str]) -> str:
    """One line of the table."""
    family = said["family"]
    title = f"`{family}`" if name in (family, family.replace("-", "_")) else f"`{family}` ({name.replace('_', ' ')})"
    title += " †" if "needs" in said else ""
    if "refused" in said:
        return f"| {title} | | | refused: {reason(said['refused'])} |"
    full = f"{float(said[FULL]):.0e}" if FULL in said else f"refused: {reason(said['full refused'])}"
    place = f"rule, {float(said['away']):.2f} px from measured" if "away" in said else "measured"
    return f"| {title} | {float(said[LANGUAGE]):.0e} | {full} | {place} |"


def reason(message: str) -> str:
    """A refusal without what to do instead."""
    return message.split(". Use")[0].split("; relevancy.record")[0].removeprefix('scope="full" is not exact for ')


def table(found: dict[str, dict[str, str]]) -> str:
    """The table, families in order."""
    told = {name: said for name, said in found.items() if "explained" in said or "refused" in said}
    families = {said["family"] for said in told.values() if "explained" in said}
    lines = [
        f"{len(families)} families in {len(told)} set-ups with transformers {transformers.__version__}.",
        f"The worst row of a model in float64 is {worst(told, 'float64')} away; of one in float32, whose rounding is",
        f"the processor's own, {worst(told, 'float32')}. †: its image processor needs torchvision.",
        "",
        "| family | row, scope language | row, scope full | places |",
        "| --- | --- | --- | --- |",
        *sorted(row(name, said) for name, said in told.items()),
    ]
    if missing := sorted(name for name, said in found.items() if name not in told and "needs" in said):
        lines += ["", f"Not tested, since torchvision is missing: {', '.join(f'`{name}`' for name in missing)}."]
    return "\n".join(lines)


def worst(told: dict[str, dict[str, str]], precision: str) -> str:
    """The largest distance of all, and the family it is of."""
    away, family = max(
        (float(value), said["family"])
        for said in told.values()
        for name, value in said.items()
        if name.endswith(precision)
    )
    return f"{away:.1e} (`{family}`)"


def run(file: Path, *options: str, beside: Sequence[Path] = ()) -> Path:
    """The tests, their results in a file; packages in the folders `beside` can be imported, too."""
    paths = [*map(str, beside), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", TESTS, f"--junitxml={file}", "-o", "junit_family=xunit1", *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        check=True,
    )
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, nargs="+", metavar="FILE", help="JUnit files of these tests")
    files = parser.parse_args().results
    with tempfile.TemporaryDirectory() as folder:
        if files is None:
            files = [run(Path(folder) / "bare.xml")]
            if TORCHVISION.is_dir():
                files.append(run(Path(folder) / "with.xml", "-p", "torchvision_operators", beside=[TORCHVISION]))
        before, rest = PAGE.read_text().split(BEGINS)
        _, after = rest.split(ENDS)
        PAGE.write_text(f"{before}{BEGINS}\n{table(results(files))}\n{ENDS}{after}")


if __name__ == "__main__":
    main()
