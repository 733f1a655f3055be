"""The import rules of ARCHITECTURE.md, read from the source, so that imports inside functions count too."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from nvfp4.problem import Op

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "nvfp4"
TESTS = ROOT / "tests"

CUDA = ("cuda", "cupy", "pynvml", "triton", "nvfp4.jit", "nvfp4.executors", "nvfp4.backends")
"""What loads a driver or a compiler for GPUs, or exists to do so."""


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


class Imports(ast.NodeVisitor):
    """Everything a module imports when it runs: names below TYPE_CHECKING are left out."""

    def __init__(self, name: str, is_package: bool) -> None:
        self.package = name if is_package else name.rpartition(".")[0]
        self.found: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.orelse:
                self.visit(child)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found.update(alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parents = self.package.split(".")
            parents = parents[: len(parents) - node.level + 1]
            base = ".".join([*parents, *([node.module] if node.module else [])])
        self.found.add(base)
        self.found.update(f"{base}.{alias.name}" for alias in node.names)

    def visit_Call(self, node: ast.Call) -> None:
        """importlib.import_module("literal") and __import__("literal")."""
        called = ast.unparse(node.func).rpartition(".")[2]
        if called in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
            self.found.add(str(node.args[0].value))
        self.generic_visit(node)


def imports_of(source: str, name: str, is_package: bool = False) -> set[str]:
    visitor = Imports(name, is_package)
    visitor.visit(ast.parse(source))
    return visitor.found


@cache
def imported(name: str) -> set[str]:
    """What a module of nvfp4 imports: many others reach it, and it is read once."""
    path = modules()[name]
    return imports_of(path.read_text(), name, path.name == "__init__.py")


def below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def reachable(name: str) -> set[str]:
    """Every name that importing a module of nvfp4 imports, through modules of nvfp4.

    The lazy exports of ``nvfp4/__init__.py`` are not followed: they load on first use.
    """
    seen: set[str] = set()
    todo = [name]
    while todo:
        for found in imported(todo.pop()):
            if found not in seen:
                seen.add(found)
                if found in modules() and found != "nvfp4":
                    todo.append(found)
    return seen


PURE = [
    name
    for name in ("formats", "layouts", "quantize", "tensor", "problem", "errors", "config", "device")
    if (SOURCE / f"{name}.py").exists()
]


@pytest.mark.parametrize("room", [*PURE, "reference", "emulator"])
def test_rooms_that_never_import_cuda(room: str) -> None:
    members = [name for name in modules() if below(name, f"nvfp4.{room}")]
    assert members, f"no module in {room}"
    for name in members:
        forbidden = {found for found in reachable(name) if any(below(found, cuda) for cuda in CUDA)}
        assert not forbidden, f"{name} imports {sorted(forbidden)}"


def test_the_emulator_imports_nothing_else_of_nvfp4() -> None:
    for name in modules():
        if below(name, "nvfp4.emulator"):
            ours = {each for each in imported(name) if below(each, "nvfp4") and not below(each, "nvfp4.emulator")}
            assert not ours, f"{name} imports {sorted(ours)}"


def environment_uses(source: str) -> list[int]:
    """Lines that read the environment of the process."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "getenvb"):
            lines.append(node.lineno)
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            lines.extend(node.lineno for alias in node.names if alias.name in ("environ", "getenv"))
    return lines


def test_only_config_reads_the_environment() -> None:
    for name, path in modules().items():
        lines = environment_uses(path.read_text())
        if name == "nvfp4.config":
            assert lines
        else:
            assert not lines, f"{name} reads the environment in lines {lines}"


@pytest.mark.parametrize("op", [op.value for op in Op])
def test_every_operation_has_its_reference_and_its_tests(op: str) -> None:
    for path in (SOURCE / "ops", SOURCE / "reference"):
        assert (path / f"{op}.py").is_file(), f"{path.name}/{op}.py is missing"
    for path in (TESTS / "ops", TESTS / "reference"):
        assert (path / f"test_{op}.py").is_file(), f"{path}/test_{op}.py is missing"


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_loads_neither_torch_nor_cuda() -> None:
    loaded = run("import nvfp4, sys; print([m for m in ('torch', 'cuda.bindings', 'triton') if m in sys.modules])")
    assert loaded == "[]"


def test_every_module_imports_without_touching_a_gpu() -> None:
    names = [name for name in modules() if not name.endswith("__main__")]
    program = f"""
import importlib, torch
for name in {names!r}:
    importlib.import_module(name)
print(torch.cuda.is_initialized())
"""
    assert run(program) == "False"


# The rules above are only as good as what reads the source.


def test_the_reader_sees_every_kind_of_import() -> None:
    source = """
import a.b as c
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import hidden
else:
    import shown
def f():
    from x.y import z
    importlib.import_module("late")
    from . import near
    from ..up import far
"""
    found = imports_of(source, "nvfp4.room.module")
    assert {"a.b", "shown", "x.y", "x.y.z", "late", "nvfp4.room.near", "nvfp4.up", "nvfp4.up.far"} <= found
    assert "hidden" not in found
    assert "nvfp4.room.package.near" in imports_of("from . import near", "nvfp4.room.package", is_package=True)


def test_the_reader_sees_every_way_to_the_environment() -> None:
    assert environment_uses("import os\nos.environ['A']\nos.getenv('B')") == [2, 3]
    assert environment_uses("from os import environ") == [1]
    assert environment_uses("import os\nos.path.join('environ')") == []
