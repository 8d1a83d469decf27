"""The layout holds: who may import whom, how large things get, how light the start is."""

from __future__ import annotations

import ast
import graphlib
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = REPOSITORY / "src" / "v2ir"

# This table is the architecture. A room may import itself and the rooms named here.
ROOMS: dict[str, frozenset[str]] = {
    "base": frozenset(),
    "data": frozenset({"base"}),
    "annotation": frozenset({"base", "data"}),
    "model": frozenset({"base"}),
    # Training draws sample grids, so it samples.
    "training": frozenset({"base", "data", "annotation", "model", "sampling"}),
    "sampling": frozenset({"base", "model"}),
    "evaluation": frozenset({"base"}),
    "hub": frozenset({"base", "model"}),
    # Rows of a table, trained and measured alike.
    "ablation": frozenset({"base", "data", "annotation", "model"})
    | {"training", "sampling", "evaluation"},
    # Networks trained on images and tested on real ones.
    "proof": frozenset({"base", "evaluation"}),
    # The passes of the other rooms on many machines; none of them knows of it.
    "cluster": frozenset({"base", "data", "annotation", "model", "training", "sampling"}),
    # Measurement of speed; what it measures does not know of it.
    "bench": frozenset({"base", "data", "annotation", "model", "training", "sampling"}),
    "cli": frozenset(
        {"base", "data", "annotation", "model", "training", "sampling", "evaluation", "hub"}
        | {"ablation", "cluster", "bench", "proof"}
    ),
}

# Files and functions that may be larger than the limits, each with its reason.
LARGE_FILES: dict[str, str] = {}
LARGE_FUNCTIONS: dict[str, str] = {
    "v2ir.cli.translate.command": "each option is a line of its signature",
    "v2ir.cli.bench.command": "each option is a line of its signature",
}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

# Packages that cost a second or more to import; the start of the command line does without.
HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "skimage",
    "scipy",
    "tensorboard",
)

MODULES = sorted(SOURCE.rglob("*.py"))


def name_of(path: Path) -> str:
    """Return the dotted name of a module file."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


def room_of(module: str) -> str:
    """Return the room of a dotted name below v2ir; files beside the rooms are `base`."""
    parts = module.split(".")
    if len(parts) == 1:
        return "face"
    return parts[1] if (SOURCE / parts[1]).is_dir() else "base"


def imported(path: Path, *, top_level: bool = False) -> Iterator[str]:
    """Yield the dotted names that a file imports, inside functions too unless `top_level`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in NAMES else base


def own_imports(path: Path) -> set[str]:
    """Return the modules of v2ir that a file imports."""
    return {name for name in imported(path) if name.split(".")[0] == "v2ir"}


def test_every_folder_is_a_room_of_the_table() -> None:
    folders = {path.name for path in SOURCE.iterdir() if any(path.glob("*.py"))}
    assert folders <= ROOMS.keys(), "a new room needs a row in the table ROOMS"


def test_the_table_has_one_direction() -> None:
    graphlib.TopologicalSorter(ROOMS).prepare()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_room_imports_only_what_the_table_allows(path: Path) -> None:
    room = room_of(name_of(path))
    if room == "face":
        return
    allowed = ROOMS[room] | {room}
    for name in own_imports(path):
        if name == "v2ir":
            continue  # only the version stands there for the rooms; see the next test
        assert room_of(name) in allowed, f"{name_of(path)} ({room}) may not import {name}"


def test_rooms_take_nothing_but_the_version_from_the_facade() -> None:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "v2ir":
                taken = {a.name for a in node.names if f"v2ir.{a.name}" not in NAMES}
                assert taken <= {"__version__"}, f"{name_of(path)} imports {taken} from v2ir"


def test_no_import_cycles() -> None:
    graph = {name: own_imports(path) - {name} for name, path in NAMES.items() if name != "v2ir"}
    graph = {name: {n for n in needs if n != "v2ir"} for name, needs in graph.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_torchvision_is_never_imported_at_module_level() -> None:
    for path in MODULES:
        names = {name.split(".")[0] for name in imported(path, top_level=True)}
        assert "torchvision" not in names, name_of(path)


def declared_packages(*, dev: bool) -> set[str]:
    """Return the normalised names of the packages that pyproject.toml declares."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = list(project["dependencies"])
    for extra, rows in project.get("optional-dependencies", {}).items():
        lines += rows if dev or extra != "dev" else []
    return {re.split(r"[<>=\[;~! ]", line)[0].lower().replace("_", "-") for line in lines}


@pytest.mark.parametrize("part", ["src", "tests"])
def test_every_imported_package_is_declared(part: str) -> None:
    providers = importlib.metadata.packages_distributions()
    declared = declared_packages(dev=part == "tests")
    # A test may name these only to show that they are absent or to skip without them.
    own = {path.stem for path in (REPOSITORY / part).rglob("*.py")} | {"v2ir", "tests"}
    for path in sorted((REPOSITORY / part).rglob("*.py")):
        tops = {name.split(".")[0] for name in imported_anywhere(path)}
        for top in tops - own - set(sys.stdlib_module_names):
            packages = {p.lower().replace("_", "-") for p in providers.get(top, [top])}
            assert packages & declared, f"{path.name} imports {top}, which pyproject.toml lacks"


def imported_anywhere(path: Path) -> Iterator[str]:
    """Yield the absolute names that any file of the repository imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_no_file_is_too_long() -> None:
    lengths = {name: len(p.read_text(encoding="utf-8").splitlines()) for name, p in NAMES.items()}
    large = {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES}
    # An exception that is not needed any more has to go, too.
    assert large.keys() == LARGE_FILES.keys(), large


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function without its docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return lines - ((first.end_lineno or 0) - first.lineno + 1 if is_text else 0)


def test_no_function_is_too_long() -> None:
    large = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if is_function and code_lines(node) > MAX_FUNCTION_LINES:
                large[f"{name_of(path)}.{node.name}"] = code_lines(node)
    assert large.keys() == LARGE_FUNCTIONS.keys(), large


def test_the_registries_that_contributing_names_exist() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`(v2ir(?:\.\w+)+)\.([A-Z_]+)`", text)
    assert len(named) >= 8
    for module, registry in named:
        rows = getattr(importlib.import_module(module), registry)
        assert isinstance(rows, dict) and rows, f"{module}.{registry}"


def test_the_tests_that_contributing_names_exist() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    patterns = set(re.findall(r"`(tests/[\w*]+\.py)`", text))
    missing = [pattern for pattern in patterns if not list(REPOSITORY.glob(pattern))]
    assert patterns and missing == []


def heavy_after(code: str) -> set[str]:
    """Return the heavy packages that a fresh interpreter has loaded after `code`."""
    report = f"import sys; print('HEAVY', *sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_importing_v2ir_is_light() -> None:
    assert heavy_after("import v2ir, v2ir.records, v2ir.files, v2ir.images") == set()


def test_the_command_line_starts_light() -> None:
    verbs = sorted(path.stem for path in (SOURCE / "cli").glob("[!_]*.py"))
    calls = [["--help"], *([verb, "--help"] for verb in verbs if verb != "console")]
    code = f"""
import contextlib, io
from v2ir.cli import app
for call in {calls!r}:
    with contextlib.redirect_stdout(io.StringIO()):
        app(call, standalone_mode=False)
"""
    assert heavy_after(code) == set()


def test_the_measure_of_lightness_can_fail() -> None:
    assert "scipy" in heavy_after("import scipy")
