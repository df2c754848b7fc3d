"""The documentation tells the truth: its examples run, its messages are the package's, its files agree."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import relevancy
from relevancy.methods.registry import METHODS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
RUNNABLE = re.compile(r"<!-- runnable -->\n```python\n(.*?)```", re.DOTALL)


def python(*arguments: str, folder: Path) -> None:
    """Run the same Python in a process of its own."""
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_examples_run(tmp_path):
    examples = {page.name: "\n".join(RUNNABLE.findall(page.read_text())) for page in PAGES}
    assert sum(map(bool, examples.values())) >= 4
    python("-m", "relevancy.cli", "demo", "--scenes", "1", folder=tmp_path)
    each = f"for page, code in {examples!r}.items():\n    exec(compile(code, page, 'exec'), {{}})"
    python("-c", each, folder=tmp_path)


def said(node: ast.AST) -> str:
    """A text of the package, with a gap for each value in it."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def test_the_messages_that_are_explained_are_the_packages():
    files = (ROOT / "relevancy").rglob("*.py")
    texts = "\n".join(said(node) for file in files for node in ast.walk(ast.parse(file.read_text())))
    headings = re.findall(r"^### (.*)$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    parts = [part for heading in headings for part in re.findall(r"`([^`]+)`", heading)]
    assert len(parts) > 30
    assert not [part for part in parts if part not in texts]


def test_every_public_name_is_in_the_reference():
    listed = re.findall(r"^::: (\S+)\.(\w+)$", (DOCS / "reference" / "python.md").read_text(), re.MULTILINE)
    described = {name: getattr(importlib.import_module(module), name) for module, name in listed}
    assert len(described) == len(listed)
    for name in relevancy.__all__:
        assert described[name] is getattr(relevancy, name)


def test_every_page_has_its_place_in_the_site():
    nav = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(nav) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


def test_nothing_of_the_site_comes_from_elsewhere():
    site = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in site
    assert "http" not in site
    assert "http" not in (DOCS / "assets" / "extra.css").read_text()


def test_the_readme_is_short_and_counts_the_methods():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200
    assert len(METHODS) == 16, "the README and docs/ say that there are sixteen"


def test_the_files_beside_the_package_say_its_version():
    assert re.search(rf"^## {re.escape(relevancy.__version__)}, ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == relevancy.__version__


@pytest.mark.parametrize("file", [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"], ids=str)
def test_targets_that_workflows_call_are_there(file):
    yaml.safe_load(file.read_text())
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z-]+)", file.read_text())) <= set(targets)
