"""The README's commands and its Python example run as they are printed."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import v2ir
from v2ir import cli
from v2ir.images import image_size
from v2ir.model import bundled_models

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")

needs_model = pytest.mark.skipif(
    "mini" not in bundled_models(), reason="the bundled model mini is not in the package yet"
)


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of one language in the order of the page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Return the arguments of every `v2ir` command of the README's bash blocks."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line and line[0] == "v2ir"]


def run(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> int:
    """Run one command through the entry point of the installed script."""
    monkeypatch.setattr(sys, "argv", ["v2ir", *arguments])
    try:
        cli.main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def test_the_readme_shows_the_verbs_in_use() -> None:
    shown = {arguments[0] for arguments in commands()}
    assert {"translate", "index", "check", "annotate", "train", "evaluate"} <= shown
    assert len(blocks("python")) == 1


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_pairs: Callable[..., Path]) -> Path:
    """Go to a folder with the `photos/` and the `data/` that the README speaks of."""
    make_pairs(3, folder=tmp_path / "data")
    shutil.copytree(tmp_path / "data" / "rgb", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@needs_model
def test_the_commands_run(monkeypatch: pytest.MonkeyPatch, desk: Path) -> None:
    for arguments in commands():
        assert run(monkeypatch, arguments) == 0, f"v2ir {shlex.join(arguments)}"
    photos = {path.stem: image_size(path) for path in (desk / "photos").iterdir()}
    assert {path.stem: image_size(path) for path in (desk / "infrared").glob("*.png")} == photos


@needs_model
def test_the_python_example_runs(desk: Path) -> None:
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    assert image_size(desk / "one.png") == image_size(next((desk / "photos").iterdir()))


def test_links_lead_to_files() -> None:
    for page in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")]:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_in_the_index() -> None:
    index = (REPOSITORY / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in REPOSITORY.glob("docs/*.md")} - {"README.md"}
    assert {page for page in pages if f"]({page})" not in index} == set()


def test_every_name_of_the_facade_exists() -> None:
    assert all(hasattr(v2ir, name) for name in v2ir.__all__)
    assert set(v2ir.__all__) <= set(dir(v2ir))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = v2ir.no_such_name


def test_the_facade_is_what_the_readme_imports() -> None:
    imported = re.findall(r"^from v2ir import (.+)$", "\n".join(blocks("python")), re.MULTILINE)
    names = {name.strip() for line in imported for name in line.split(",")}
    assert names == set(v2ir.__all__) - {"__version__"}
