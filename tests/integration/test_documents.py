"""What README and docs tell a user to type exists and is accepted."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from tests.configs.test_configs import composed

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands() -> list[tuple[str, list[str]]]:
    """Every command in a bash block, continued lines joined."""
    found = []
    for document in DOCUMENTS:
        for block in re.findall(r"```bash\n(.*?)```", document.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    found.append((document.name, words))
    return found


TRAINING = [(name, words) for name, words in commands() if words[0] == "spktrain"]


@pytest.mark.parametrize(("name", "words"), TRAINING, ids=lambda x: " ".join(x)[:60])
def test_spktrain_commands_compose(name: str, words: list[str]) -> None:
    config = composed(*(w for w in words[1:] if w != "..."))
    assert config.task._target_ == "schnetpack_tpainn.transfer.task.TransferTask"


def test_the_other_commands_exist() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known = {"apt-get", "git", "cd", "export", "pip", "python", "spktrain", *scripts}
    for name, words in commands():
        if words[0] == "make":
            assert words[1] in targets, name
        else:
            assert Path(words[0]).name in known, (name, words)
        if words[0] == "python":
            file = f"{words[2]}/__main__.py" if words[1] == "-m" else words[1]
            assert (ROOT / file).is_file(), (name, words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target
