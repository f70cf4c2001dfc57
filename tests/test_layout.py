"""The tests mirror the code, and the engine's functions take the values that they read."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {
    ROOT / "core" / "topwork": ROOT / "tests" / "core",
    ROOT / "plugins" / "topwork_plugins": ROOT / "tests" / "plugins",
}

#: Shorter modules are tested through those that use them.
LONG_ENOUGH = 20


def modules() -> list[tuple[Path, Path]]:
    """Every module of over 20 lines, and the test file of its name."""
    found = []
    for source, tests in SOURCES.items():
        for module in sorted(source.rglob("*.py")):
            if len(module.read_text(encoding="utf-8").splitlines()) > LONG_ENOUGH:
                name = "init" if module.stem == "__init__" else module.stem
                found.append((module, tests / module.relative_to(source).with_name(f"test_{name}.py")))
    return found


@pytest.mark.parametrize(("module", "test"), modules(), ids=[str(one.relative_to(ROOT)) for one, _ in modules()])
def test_a_module_has_a_test_file_of_its_name(module: Path, test: Path) -> None:
    if module.parent.name == "testing" and module.stem not in ("tiny",):
        test = test.with_name("test_contracts.py")  # a contract is tested by plugins that break it
    assert test.is_file(), f"{module.relative_to(ROOT)} has no {test.relative_to(ROOT)}"


def test_few_functions_of_the_engine_see_a_whole_experiment() -> None:
    functions = [
        f"{module.stem}.{node.name}"
        for module in (ROOT / "core" / "topwork" / "engine").rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        for argument in [*node.args.args, *node.args.kwonlyargs]
        if argument.annotation is not None and ast.unparse(argument.annotation) == "Experiment"
    ]
    assert len(functions) <= 5, functions


@pytest.mark.parametrize(
    "module", [module for module, _ in modules()], ids=lambda module: str(module.relative_to(ROOT))
)
def test_a_file_stays_under_400_lines(module: Path) -> None:
    assert len(module.read_text(encoding="utf-8").splitlines()) < 400
