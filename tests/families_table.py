"""Writes the table of docs/models.md from what the tests of families find: `python tests/families_table.py`.

With --results FILE it takes the JUnit file of a run that has been (`pytest --junitxml FILE tests/test_families`).
"""

import argparse
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import transformers

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/models.md"
TESTS = "tests/test_families/test_families.py"
BEGINS, ENDS = "<!-- table of families: begins -->", "<!-- table of families: ends -->"


def results(file: Path) -> dict[str, dict[str, str]]:
    """What tests have said of each set-up, by the set-up's name. Exits where one has failed."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for case in ElementTree.parse(file).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            sys.exit(f"{case.get('name')} has failed: no table is made of that")
        said = {one.get("name", ""): one.get("value", "") for one in case.iter("property")}
        skipped = case.find("skipped")
        if skipped is not None:
            said["skipped"] = skipped.get("message", "")
        name = said.get("set-up") or str(case.get("name")).partition("[")[2].rstrip("]").removesuffix("-full")
        found[name.removesuffix("-language")] |= said
    return found


def row(name: str, said: dict[str, str]) -> str:
    """One line of the table."""
    if "explained" not in said:
        needs = "torchvision" if "Torchvision" in said.get("skipped", "") else said.get("skipped", "")
        return f"| `{name}` | | not tested here: needs {needs} | | |"
    family = said["family"]
    full = f"{float(said['full']):.0e}" if "full" in said else f"refused: {said['full refused'].split('. Use')[0]}"
    place = f"rule, {float(said['away']):.2f} px from measured" if "away" in said else "measured"
    title = f"`{family}`" if name in (family, family.replace("-", "_")) else f"`{family}` ({name.replace('_', ' ')})"
    return f"| {title} | {float(said['language']):.0e} | {full} | {place} |"


def table(found: dict[str, dict[str, str]]) -> str:
    """The table, families in order."""
    told = [row(name, said) for name, said in found.items() if "explained" in said]
    missing = sorted(name for name, said in found.items() if "explained" not in said)
    number = len({said["family"] for said in found.values() if "explained" in said})
    lines = [
        f"{number} families in {len(told)} set-ups, with transformers {transformers.__version__}.",
        "",
        "| family | row, scope language | row, scope full | places |",
        "| --- | --- | --- | --- |",
        *sorted(told),
    ]
    if missing:
        lines += ["", f"Not tested where torchvision is missing: {', '.join(f'`{name}`' for name in missing)}."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, help="a JUnit file of these tests")
    file = parser.parse_args().results
    with tempfile.TemporaryDirectory() as folder:
        if file is None:
            file = Path(folder) / "families.xml"
            subprocess.run(
                [sys.executable, "-m", "pytest", "-q", TESTS, f"--junitxml={file}", "-o", "junit_family=xunit1"],
                cwd=ROOT,
                check=True,
            )
        before, rest = PAGE.read_text().split(BEGINS)
        _, after = rest.split(ENDS)
        PAGE.write_text(f"{before}{BEGINS}\n{table(results(file))}\n{ENDS}{after}")


if __name__ == "__main__":
    main()
