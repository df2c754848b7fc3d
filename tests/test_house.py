"""The house: which way imports flow, what `import relevancy` costs, and that the README tells the truth."""

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from importlib import metadata
from pathlib import Path
from textwrap import dedent

import pytest

import relevancy

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "relevancy"
# Each may import what comes after it, never what comes before.
ORDER = (
    "cli",
    "benchmark",
    "demo",
    "report",
    "evaluate",
    "checking",
    "export",
    "metrics",
    "train",
    "explanations",
    "methods",
    "models",
    "families",
    "plotting",
    "core",
    "data",
    "parallel",
    "stats",
    "geometry",
    "token_text",
    "videos",
    "images",
    "digests",
    "atomic_io",
    "plugins",
    "formats",
    "errors",
)
# What knows nothing of the rest of the house, whatever the order would allow.
ONLY = {
    "evaluate": {"errors", "atomic_io", "data", "digests", "stats", "export"},
    "train": {"errors", "formats", "atomic_io", "models", "data", "images"},
    "families": {"core", "geometry", "errors"},
    "plotting": {"token_text", "errors"},
    "core": {"token_text", "errors"},
    "data": {"images", "videos", "digests", "plugins", "errors"},
    "parallel": {"errors"},
    "stats": set(),
    "geometry": {"images", "errors"},
    "token_text": set(),
    "videos": {"images", "errors"},
    "images": {"errors"},
    "atomic_io": {"errors"},
    "plugins": {"errors"},
    "formats": {"errors"},
    "errors": set(),
}
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless"}  # where an import is called otherwise
EXTRAS = ("train", "lora", "quantize", "captum", "export", "datasets", "ray")  # whose packages the package imports
HEAVY = ("torch", "transformers", "matplotlib", "cv2", "numpy", "PIL")


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imported(name: str) -> set[str]:
    """The package's modules that this one imports, anywhere in it, for types alone too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{name}: relative import"
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= inside or {node.module}
    return found & MODULES.keys() - {"relevancy"}


def room(name: str) -> str:
    """The module or folder right under the package to which a module belongs."""
    return name.split(".")[1]


ROOMS = {room(name) for name in MODULES if name != "relevancy"}


def fresh(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """The same Python in a process of its own."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300, **options)  # type: ignore[call-overload]


def test_every_module_has_its_place_in_the_order():
    assert set(ORDER) == ROOMS


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"relevancy"}))
def test_imports_flow_one_way(name):
    own = ORDER.index(room(name))
    rooms = {room(other) for other in imported(name)} - {room(name)}
    upward = {other for other in rooms if ORDER.index(other) < own}
    assert not upward
    assert rooms <= ONLY.get(room(name), rooms)


def test_no_module_imports_itself_by_a_detour():
    TopologicalSorter({name: imported(name) for name in MODULES if name != "relevancy"}).prepare()


def test_a_class_name_means_one_thing():
    bodies = [ast.parse(path.read_text("utf-8")).body for path in PACKAGE.rglob("*.py")]
    classes = [node.name for body in bodies for node in body if isinstance(node, ast.ClassDef)]
    assert not [name for name, times in Counter(classes).items() if times > 1 and not name.startswith("_")]


def test_only_the_demo_may_be_asked_for_by_the_command_line_alone():
    outside = {name for name in MODULES if name != "relevancy" and room(name) not in ("cli", "demo")}
    assert not {name for name in outside if any(room(other) == "demo" for other in imported(name))}


def from_elsewhere(folder: Path) -> set[str]:
    """Packages that a folder's code imports, as imports call them; what is for types alone left out."""
    names = set()
    for file in folder.rglob("*.py"):
        tree = ast.parse(file.read_text())
        guards = [one for one in ast.walk(tree) if isinstance(one, ast.If) and ast.unparse(one.test) == "TYPE_CHECKING"]
        typed = {node for guard in guards for node in ast.walk(guard)}
        for node in ast.walk(tree):
            if node not in typed and isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif node not in typed and isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names - sys.stdlib_module_names - {"relevancy", "relevancy_app"}


def distributions(names: set[str]) -> set[str]:
    return {DISTRIBUTIONS.get(name, name) for name in names}


def declared(*extras: str) -> set[str]:
    """What pyproject.toml asks for, always or with these extras."""
    project = pytest.importorskip("tomllib").loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    wanted = list(extras)
    for extra in wanted:
        for line in project["optional-dependencies"][extra]:
            if own := re.fullmatch(r"relevancy\[(.*)\]", line):
                wanted += own[1].split(",")
            else:
                lines.append(line)
    return {re.split(r"[^\w-]", line)[0] for line in lines}


def normal(name: str) -> str:
    return name.lower().replace("-", "_")


INSTALLED = {normal(one.name) for one in metadata.distributions()}


def brought(distribution: str, seen: set[str]) -> set[str]:
    """What is installed with a distribution, by normal names, itself included."""
    if distribution not in seen:
        seen.add(distribution)
        lines = [line for line in metadata.requires(distribution) or [] if "extra ==" not in line]
        for name in {normal(re.split(r"[^\w.-]", line)[0]) for line in lines} & INSTALLED:
            brought(name, seen)
    return seen


def test_what_is_imported_is_declared_and_what_is_always_installed_is_imported():
    assert distributions(from_elsewhere(PACKAGE)) <= declared(*EXTRAS)
    assert distributions(from_elsewhere(ROOT / "app")) <= declared("app")
    assert declared() <= distributions(from_elsewhere(PACKAGE))


def test_import_is_light_and_quiet():
    script = f"import sys, relevancy; sys.exit(','.join(sorted(set(sys.modules) & set({HEAVY!r}))))"
    done = fresh("-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "\n")


@pytest.mark.parametrize("arguments", [["--help"], ["explain", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    script = (
        "import sys\nfrom relevancy.cli import main\n"
        f"sys.argv = ['relevancy', *{arguments!r}]\n"
        "try:\n    main()\n"
        f"finally:\n    sys.stderr.write(','.join(sorted(set(sys.modules) & set({HEAVY!r}))))"
    )
    done = fresh("-c", script)
    assert done.returncode == 0
    assert "Usage" in done.stdout
    assert done.stderr == ""


def test_every_public_name_resolves():
    assert relevancy.__all__ == sorted(relevancy.__all__)
    for name in relevancy.__all__:
        assert getattr(relevancy, name) is not None
        assert name in dir(relevancy)
    with pytest.raises(AttributeError, match="nonsense"):
        relevancy.nonsense  # noqa: B018


def imports_from_the_package(text: str) -> set[tuple[str, str]]:
    """(module, name) of what a program imports from the package's modules."""
    found = [node for node in ast.walk(ast.parse(dedent(text))) if isinstance(node, ast.ImportFrom)]
    return {(node.module, one.name) for node in found if node.module in MODULES for one in node.names}


def test_what_pages_notebooks_and_the_app_import_is_listed_as_public():
    """What a module's __all__ does not list is private, and may change in any version."""
    programs = [file.read_text() for file in (*ROOT.glob("notebooks/*.py"), *ROOT.glob("app/**/*.py"))]
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        programs += re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    used = set.union(*map(imports_from_the_package, programs))
    assert len(used) > 30
    for module, name in sorted(used):
        if f"{module}.{name}" not in MODULES:
            assert name in getattr(importlib.import_module(module), "__all__", ()), f"{module} does not list {name}"


@pytest.mark.parametrize("name", sorted(name for name, file in MODULES.items() if "__all__ = [" in file.read_text()))
def test_public_names_are_there_and_are_described(name):
    module = importlib.import_module(name)
    for public in module.__all__:
        value = getattr(module, public)
        if inspect.isfunction(value) or inspect.isclass(value):
            assert inspect.getdoc(value), f"{name}.{public}"


def test_no_module_stands_in_a_public_names_place():
    assert not set(relevancy.__all__) & ROOMS


def test_one_version():
    assert metadata.version("relevancy") == relevancy.__version__


def test_constraints_name_every_dependency_and_pin_torch_first():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    assert lines[0].startswith("torch==")
    assert "torchvision" not in pinned
    required = [text for text in metadata.requires("relevancy") or [] if "extra" not in text]
    assert required
    assert {re.split(r"[<>=!~ \[;]", text)[0].lower() for text in required} <= pinned


def runnable(language: str) -> list[str]:
    """The README's code blocks of a language that are marked as complete."""
    pattern = rf"<!-- runnable -->\n```{language}\n(.*?)```"
    return re.findall(pattern, (ROOT / "README.md").read_text(), flags=re.DOTALL)


def bare(folder: Path, *extras: str) -> dict[str, str]:
    """An environment in which no package can be imported but those of the core and of these extras."""
    core: set[str] = set()
    for name in declared(*extras):
        brought(normal(name), core)
    absent = sorted(name for name in from_elsewhere(PACKAGE) if normal(DISTRIBUTIONS.get(name, name)) not in core)
    assert {"accelerate", "peft"} <= set(absent)
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({absent!r}))\n")
    search = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": search}


@pytest.fixture(scope="module")
def without_extras(tmp_path_factory):
    """As after a plain installation, without what `make demo` adds for exports."""
    folder = tmp_path_factory.mktemp("core")
    env = bare(folder)
    assert "'pyarrow'" in (folder / "sitecustomize.py").read_text()
    return env


def test_the_app_needs_no_more_than_its_extra_brings(tmp_path):
    modules = sorted(f"relevancy_app.{file.stem}" for file in (ROOT / "app" / "relevancy_app").glob("[!_]*.py"))
    assert "relevancy_app.batch" in modules
    env = bare(tmp_path, "app")
    env["PYTHONPATH"] = os.pathsep.join([env["PYTHONPATH"], str(ROOT / "app")])
    done = fresh("-c", f"import {', '.join(modules)}", env=env)
    assert done.returncode == 0, done.stderr
    space = {line.split("==")[0].lower() for line in (ROOT / "app" / "requirements.txt").read_text().splitlines()}
    assert {name.lower() for name in declared("export") | declared()} - {"gradio"} <= space


@pytest.fixture(scope="module")
def after_the_demo(tmp_path_factory, without_extras):
    """A folder in which `make demo` was run."""
    folder = tmp_path_factory.mktemp("readme")
    done = fresh("-m", "relevancy.cli", "demo", "--scenes", "1", cwd=folder, env=without_extras)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_readmes_python_runs(after_the_demo, without_extras):
    blocks = runnable("python")
    assert len(blocks) >= 3
    program = "\n".join(blocks)
    done = fresh("-W", "error::FutureWarning", "-c", program, cwd=after_the_demo, env=without_extras)
    assert done.returncode == 0, done.stderr
    assert (after_the_demo / "overlay.png").is_file()


def test_the_readmes_commands_run(after_the_demo, without_extras):
    blocks = runnable("bash")
    assert blocks
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for block in blocks:
        done = subprocess.run(
            ["bash", "-euc", block],
            cwd=after_the_demo,
            env=without_extras | {"PATH": search},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    written = json.loads((after_the_demo / "result" / "explanation.json").read_text())
    assert written["model"] == "demo-large"


def test_the_readmes_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    local = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    assert local
    for link in [*local, *re.findall(r"`(notebooks/[^`]+)`", text)]:
        assert (ROOT / link).is_file(), link
