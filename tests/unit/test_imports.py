"""Imports go one way through the house, as CONTRIBUTING.md says."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "schnetpack_tpainn"
ANYWHERE = {"errors", "files", ""}  # "" is the package itself
MAY_IMPORT = {
    "errors": set(),
    "files": set(),
    "irreps": set(),
    "nn": {"irreps"},
    "representation": {"irreps", "nn"},
    "model": {"nn", "representation"},
    "data": set(),
    "transfer": {"data"},
    "md": {"data", "transfer"},
    "analysis": {"data", "md"},
    "study": {"data", "transfer"},
    "ensemble": {"data", "transfer", "study"},
    "selection": {"data", "transfer", "md", "study"},
    "ladder": {"data", "transfer", "md", "study", "selection"},
    "cli": {"data", "transfer", "md", "analysis", "study", "ensemble", "selection"},
    "testing": set(),
}


def imports(file: Path) -> set[str]:
    """First names below the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "schnetpack_tpainn":
                names = [f"schnetpack_tpainn.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {
            n.split(".")[1] if "." in n else "" for n in names if n.split(".")[0] == PACKAGE.name
        }
    return found


def home(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def files() -> list[Path]:
    return [f for f in sorted(PACKAGE.rglob("*.py")) if home(f) != "__init__"]


@pytest.mark.parametrize("file", files(), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_before_it(file: Path) -> None:
    allowed = MAY_IMPORT[home(file)] | ANYWHERE | {home(file)}
    assert imports(file) <= allowed


def test_files_and_functions_stay_small() -> None:
    for file in files():
        text = file.read_text()
        assert text.count("\n") <= 300, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{file}: {node.name}"


def test_workers_that_sample_or_label_do_not_load_torch() -> None:
    names = ("sampling", "displacement", "label", "relabel", "rdkit", "pyscf", "espresso")
    code = "import sys\n" + "\n".join(f"import schnetpack_tpainn.data.{n}" for n in names)
    code += "\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
