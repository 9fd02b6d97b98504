"""The configs are found from a wheel and from an editable install, and by SchNetPack alone."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAIN = "from schnetpack.cli import train; train()"
OTHER_APP = """
import hydra
@hydra.main(config_path=None, version_base="1.2")
def main(config):
    pass
main()
"""


def call(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    call(*pip, "--wheel-dir", folder, ROOT, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module", params=["wheel", "editable"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with our package alone, the others borrowed from this one."""
    folder = tmp_path_factory.mktemp(request.param)
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    site = next(folder.glob("lib/python*/site-packages"))
    borrowed = next(Path(p) for p in sys.path if p.endswith("site-packages"))
    # a path in a .pth file is searched last, and .pth files in it (our own) are not followed
    (site / "borrowed.pth").write_text(f"{borrowed}\n")
    what = [request.getfixturevalue("wheel")] if request.param == "wheel" else ["--editable", ROOT]
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps"]
    # --ignore-installed: pip sees the borrowed package and would leave it or remove it
    call(*pip, "--no-build-isolation", "--ignore-installed", *what, cwd=folder)
    home = call(python, "-c", "import schnetpack_tpainn as t; print(t.__file__)", cwd=folder)
    expected = site if request.param == "wheel" else ROOT
    assert Path(home.strip()).is_relative_to(expected)
    return python


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["tpainn_pretrain", "tpainn_autotune"])
def test_spktrain_finds_the_experiments_anywhere(
    python: Path, experiment: str, tmp_path: Path
) -> None:
    printed = call(
        python, "-c", TRAIN, f"experiment={experiment}", "--cfg", "job", "--resolve", cwd=tmp_path
    )
    assert "_target_: schnetpack_tpainn.transfer.task.TransferTask" in printed
    assert "_target_: schnetpack_tpainn.representation.TPaiNN" in printed
    assert not any(tmp_path.iterdir())


def test_other_hydra_applications_are_left_alone(python: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(OTHER_APP)
    printed = call(python, "app.py", "--info", "searchpath", cwd=tmp_path)
    assert "hydra" in printed
    assert "schnetpack-tpainn" not in printed


def test_the_plugin_imports_nothing_heavy(python: Path, tmp_path: Path) -> None:
    code = (
        "import sys, hydra_plugins.schnetpack_tpainn.searchpath, schnetpack_tpainn; "
        "print([m for m in ('torch', 'schnetpack', 'e3nn', 'ase') if m in sys.modules])"
    )
    assert call(python, "-c", code, cwd=tmp_path).strip() == "[]"


def test_the_wheel_is_complete(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {p.relative_to(ROOT).as_posix() for p in (ROOT / "configs").rglob("*.yaml")}
    assert configs
    assert {f"schnetpack_tpainn/{name}" for name in configs} <= names
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "schnetpack_tpainn").rglob("*.py")}
    assert modules <= names
    assert "hydra_plugins/schnetpack_tpainn/searchpath.py" in names
    assert "hydra_plugins/__init__.py" not in names  # a namespace, shared with other plugins
