"""Every module of the pipeline is imported by a test of its own, by its own name."""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
from pathlib import Path

import pytest

import tasks

TESTS = Path(__file__).parents[1]


def modules() -> list[str]:
    """Return the names of all modules of tasks/ that hold more than a docstring."""
    found = [module.name for module in pkgutil.walk_packages(tasks.__path__, "tasks.")]
    return [name for name in found if len(tree_of(source_of(name)).body) > 1]


def source_of(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported_by(tree: ast.AST, known: set[str]) -> set[str]:
    """Return which of the known modules are imported by name: a package is not its modules."""
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            imported |= names & known
            if names - known:
                imported.add(str(node.module))
    return imported & known


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import tasks.store.jobs", {"tasks.store.jobs"}),
        ("from tasks.store.jobs import JobStore", {"tasks.store.jobs"}),
        ("from tasks.store import Store", {"tasks.store"}),
        ("from tasks.store import jobs", {"tasks.store.jobs"}),
        ("from tasks.store import Store, jobs", {"tasks.store", "tasks.store.jobs"}),
        ("def test():\n    from tasks.store import jobs as j", {"tasks.store.jobs"}),
        ("import tasks", set()),
        ("from tasks import settings", set()),
        ("'import tasks.store.jobs'", set()),
    ],
)
def test_an_import_counts_for_the_module_that_it_names(source, found):
    assert imported_by(ast.parse(source), {"tasks.store", "tasks.store.jobs"}) == found


def test_every_module_is_imported_by_a_unit_or_integration_test():
    known = set(modules())
    imported: set[str] = set()
    for folder in ("unit", "integration"):
        for path in (TESTS / folder).rglob("*.py"):
            imported |= imported_by(tree_of(path), known)
    assert sorted(known - imported) == []
