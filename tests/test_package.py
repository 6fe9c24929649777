"""Tests of the package as a whole."""

import ast

import pytest
from conftest import PROJECT

# Each module may import these of the package, and no other.
MAY_IMPORT = {
    "__init__": set(),
    "data": {"demo", "download", "reading", "sources"},
    "reading": {"sources"},
    "sources": {"download"},
    "download": set(),
    "demo": set(),
    "pipeline": {"data"},
    "models": set(),
    "files": set(),
    "checkpoint": {"data", "files"},
    "training": {"checkpoint", "data", "models", "pipeline"},
    "transfer": {"data", "models", "pipeline", "training"},
    "tuning": {"data", "files", "models", "pipeline", "training"},
    "features": set(),
    "ensemble": {"data", "models", "pipeline"},
    "evaluation": set(),
    "runs": {"data", "evaluation", "files", "pipeline"},
    "artifact": {"classifier", "files", "models"},
    "classifier": set(),
    "plots": set(),
}


def test_every_module_is_in_the_table():
    assert {path.stem for path in PROJECT.glob("eurosat_helpers/*.py")} == set(MAY_IMPORT)


def test_every_module_has_a_test_file():
    for module in MAY_IMPORT.keys() - {"__init__"}:
        assert (PROJECT / f"tests/test_{module}.py").is_file(), module


@pytest.mark.parametrize("module", MAY_IMPORT)
def test_module_imports_only_what_it_may(module):
    tree = ast.parse((PROJECT / f"eurosat_helpers/{module}.py").read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("eurosat_helpers"):
            rest = node.module.partition(".")[2]
            imported |= {rest} if rest else {alias.name for alias in node.names}
        assert not (isinstance(node, ast.ImportFrom) and node.level), "relative import"
    assert imported <= MAY_IMPORT[module]
