"""What a data-efficiency study compares, as the `study` section of the configuration says."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import to_absolute_path

from schnetpack_tpainn.errors import StudyError, refuse_unknown

__all__ = ["METRICS", "PLACEHOLDERS", "Branch", "StudySettings"]

METRICS = {
    "energy": ("energy_mae_mev", "energy MAE (meV)"),
    "forces": ("forces_mae_mev_per_ang", "forces MAE (meV/Å)"),
}
PLACEHOLDERS = ("{n_train}", "{seed}", "{split}")
# what the study sets itself, the same for every strategy
OWN = (
    "trainer",
    "seed",
    "globals.lr",
    "data.num_",
    "data.batch_size",
    "data.split",
    "run.",
    "hydra",
)
KEYS = {
    *(
        "compare",
        "directory",
        "n_train",
        "seeds",
        "seeds_at",
        "teacher",
        "metric",
        "reference",
        "rates",
        "rate_seeds",
    ),
    *("further_rates", "stages", "strategies", "baselines", "test_seed", "parallel"),
}


@dataclass(frozen=True)
class Branch:
    """A stage that strategies begin from, or a strategy.

    Attributes:
        name: its name.
        overrides: Hydra overrides; ``{n_train}``, ``{seed}`` and ``{split}`` (file with the indices
            of the labels) stand for those of a run.
        checkpoint: name of a stage, or path of a pretrained model; None: a random start.
    """

    name: str
    overrides: tuple[str, ...]
    checkpoint: str | None = None

    @property
    def uses_labels(self) -> bool:
        """Whether its overrides depend on the labels of a run."""
        return any(p in o for p in PLACEHOLDERS for o in self.overrides)


@dataclass(frozen=True)
class StudySettings:
    """A checked ``study`` section; its keys are described in ``configs/study/default.yaml``.

    Attributes:
        directory: where everything goes.
        n_train: numbers of labels, ascending.
        seeds: number of labels -> seeds.
        metric: what the learning rates are chosen by, ``energy`` or ``forces``.
        reference: strategy that the others are compared with.
        rates: learning rates to begin with, ascending.
        rate_seeds: seeds that choose, the first of all.
        further_rates: further rates at most, where the best one is an edge.
        stages: stages by name, in an order in which each comes after the one it begins from.
        strategies: strategies by name.
        baselines: schemes of linear regression to show beside.
        test_seed: seed of the test frames, the same for all runs.
        parallel: runs at once on this machine; None: one per core.
    """

    directory: Path
    n_train: tuple[int, ...]
    seeds: dict[int, tuple[int, ...]]
    metric: str
    reference: str
    rates: tuple[float, ...]
    rate_seeds: int
    further_rates: int
    stages: dict[str, Branch]
    strategies: dict[str, Branch]
    baselines: tuple[str, ...]
    test_seed: int
    parallel: int | None

    @classmethod
    def read(cls, node: Mapping[str, Any]) -> "StudySettings":
        """Check a ``study`` section.

        Args:
            node: the section, plain.

        Returns:
            The settings.

        Raises:
            StudyError: a key is not known, or a value makes no sense.
        """
        refuse_unknown(node, KEYS, "study", StudyError)
        n_train = tuple(sorted({int(n) for n in _list(node, "n_train")}))
        if n_train[0] < 1:
            raise StudyError(f"expected study.n_train of at least 1, got {n_train[0]}")
        rates = tuple(sorted({float(r) for r in _list(node, "rates")}))
        if rates[0] <= 0:
            raise StudyError(f"expected study.rates above 0, got {rates[0]:g}")
        seeds = _seeds(node, n_train)
        rate_seeds = int(node["rate_seeds"])
        if not 1 <= rate_seeds <= min(map(len, seeds.values())):
            raise StudyError(
                "expected study.rate_seeds between 1 and the number of seeds "
                f"{min(map(len, seeds.values()))}, got {rate_seeds}"
            )
        if node["metric"] not in METRICS:
            raise StudyError(f"expected study.metric energy or forces, got {node['metric']!r}")
        stages, defined = _branches(node, "stages"), _branches(node, "strategies")
        names = list(dict.fromkeys(node["compare"]))
        refuse_unknown(names, defined, "study.strategies", StudyError)
        if len(names) < 2 or node["reference"] not in names:
            raise StudyError(
                "expected study.compare to name two strategies or more, the reference "
                f"{node['reference']!r} among them, got {names}"
            )
        strategies = {name: defined[name] for name in names}
        _check_branches(stages, strategies)
        return cls(
            directory=Path(to_absolute_path(str(Path(node["directory"]).expanduser()))),
            n_train=n_train,
            seeds=seeds,
            metric=node["metric"],
            reference=node["reference"],
            rates=rates,
            rate_seeds=rate_seeds,
            further_rates=int(node["further_rates"]),
            stages={name: stages[name] for name in _needed(stages, strategies)},
            strategies=strategies,
            baselines=tuple(node["baselines"] or ()),
            test_seed=int(node["test_seed"]),
            parallel=node["parallel"],
        )

    def of_labels(self, branch: Branch) -> bool:
        """Whether a stage is run anew for every choice of labels.

        Args:
            branch: the stage.

        Returns:
            True if it, or what it begins from, depends on the labels.
        """
        before = self.stages.get(branch.checkpoint or "")
        return branch.uses_labels or (before is not None and self.of_labels(before))


def _list(node: Mapping[str, Any], key: str) -> list[Any]:
    value = node[key]
    values = [value] if isinstance(value, int | float) else list(value or ())
    if not values:
        raise StudyError(f"expected study.{key} to name at least one value, got {value}")
    return values


def _seeds(node: Mapping[str, Any], n_train: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
    """Seeds of each number of labels, two or more."""
    special = {int(n): s for n, s in (node["seeds_at"] or {}).items()}
    found = {}
    for n in n_train:
        seeds = tuple(dict.fromkeys(int(s) for s in special.get(n, node["seeds"])))
        if len(seeds) < 2:
            raise StudyError(
                f"expected at least two seeds for {n} labels, as intervals come from their spread, "
                f"got {list(seeds)}; set study.seeds=[0,1,2]"
            )
        found[n] = seeds
    return found


def _branches(node: Mapping[str, Any], key: str) -> dict[str, Branch]:
    """Stages or strategies; an entry that is null is left out, so that overrides can drop one."""
    found = {}
    for name, content in (node[key] or {}).items():
        if content is None:
            continue
        refuse_unknown(content, ("checkpoint", "overrides"), f"study.{key}.{name}", StudyError)
        overrides = tuple(str(o) for o in content.get("overrides") or ())
        found[str(name)] = Branch(str(name), overrides, content.get("checkpoint"))
    return found


def _check_branches(stages: Mapping[str, Branch], strategies: Mapping[str, Branch]) -> None:
    for branch in (*stages.values(), *strategies.values()):
        start = branch.checkpoint
        if start is not None and start not in stages and not Path(start).exists():
            raise StudyError(
                f"{branch.name} begins from {start!r}: expected one of study.stages {[*stages]} or "
                "the path of a pretrained model"
            )
    for stage in stages.values():
        if not any(o.startswith("experiment=") for o in stage.overrides):
            raise StudyError(
                f"expected study.stages.{stage.name}.overrides to name an experiment=, got "
                f"{list(stage.overrides)}"
            )
    for strategy in strategies.values():
        for override in strategy.overrides:
            if override.lstrip("+~").startswith(OWN):
                raise StudyError(
                    f"study.strategies.{strategy.name} sets {override!r}: budget, batches, labels, "
                    "seeds and learning rates are the same for every strategy; set them for all on "
                    "the command line, rates with study.rates"
                )


def _needed(stages: Mapping[str, Branch], strategies: Mapping[str, Branch]) -> list[str]:
    """Names of the stages that the strategies need, each after the one it begins from."""
    order: list[str] = []
    for strategy in strategies.values():
        chain: list[str] = []
        at = strategy.checkpoint
        while at is not None and at in stages and at not in order:
            if at in chain:
                raise StudyError(f"study.stages begin from each other in a circle: {chain}")
            chain.append(at)
            at = stages[at].checkpoint
        order += reversed(chain)
    return order
