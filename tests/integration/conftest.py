"""Short fits of tiny models, shared by the tests of this folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fits import Fit, fit, make_labels, make_task, save_pretrained, strategy

STEPS = 12


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuning")


@pytest.fixture(scope="session")
def labels(place: Path) -> Path:
    return make_labels(place)


@pytest.fixture(scope="session")
def pretrained(place: Path) -> Callable[[str], Path]:
    """Weights of each kind of model, written when they are first asked for."""

    def write(kind: str) -> Path:
        path = place / f"{kind}.safetensors"
        return path if path.exists() else save_pretrained(place, kind)

    return write


@pytest.fixture(scope="session")
def fitted(place: Path, labels: Path, pretrained: Callable[[str], Path]) -> Callable[..., Fit]:
    """Fits by kind and strategy, each made once."""
    made: dict[tuple[str, str], Fit] = {}

    def get(kind: str, name: str) -> Fit:
        if (kind, name) not in made:
            task = make_task(kind, strategy(name, pretrained(kind)))
            made[kind, name] = fit(place / f"{kind}-{name}", labels, task, STEPS, validate=4)
        return made[kind, name]

    return get
