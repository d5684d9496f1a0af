"""Read the file that describes a study (arms, regimes, seeds), and build the cells of the study."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from crab_lightning.configuration.files import (
    PACKAGE_CONFIGS,
    ConfigError,
    compose,
    find_config,
    merge,
)
from crab_lightning.data.manifests.layout import display_name
from crab_lightning.spelling import did_you_mean

EVERY_ROW = "*"
"""Key of ``data.datasets`` whose values replace those of every dataset's entry."""

_KEYS = ("name", "root", "base", "overlay", "datasets", "arms", "regimes", "seeds", "equal", "compare")
_SECTIONS = ("model", "data", "trainer", "evaluator", "checkpoint", "run")
_SET_BY_STUDY = {
    "only": "datasets and regimes",
    "seed_everything": "seeds",
    "data.only": "datasets and regimes",
    "data.order_seed": "seeds",
    "trainer.max_steps": "equal",
    "trainer.max_epochs": "equal",
    "run.name": "arms and regimes",
    "run.folder": "root and name",
}
"""Keys that must not stand in an arm, and the keys of the study that set them."""
_MAPPINGS = ("model", "trainer", "evaluator", "checkpoint", "run")
_LARGEST_SEED = 2**32 - 1  # the largest seed of Lightning's seed_everything
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_LOSSES = "crab_lightning.evaluation.SampleLosses"


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Args:
        name: Name of the cell and of its run folder.
        arm: Key of the arm.
        regime: Key of the regime.
        datasets: Keys of the datasets on which the cell trains, in the order of the study.
        seed: Seed of the initial weights, of the dropout and of the order of the samples.
        folder: The run folder.
        config: The complete config of the cell, for ``fit``.
    """

    name: str
    arm: str
    regime: str
    datasets: tuple[str, ...]
    seed: int
    folder: Path
    config: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Study:
    """A grid of runs.

    Args:
        name: Name of the study.
        folder: Folder that contains ``cells/`` and ``report/``.
        datasets: Keys of the datasets that are compared.
        arms: For each arm, the complete config without the keys that depend on the regime or the seed.
        regimes: For each regime, the sets of datasets of its cells.
        seeds: The seeds.
        equal: Length of the training of every cell: ``("epochs", n)`` or ``("steps", n)``.
        compare: The regime that is the baseline, and the regime that is compared with it.
    """

    name: str
    folder: Path
    datasets: tuple[str, ...]
    arms: Mapping[str, Mapping[str, Any]]
    regimes: Mapping[str, tuple[tuple[str, ...], ...]]
    seeds: tuple[int, ...]
    equal: tuple[str, int]
    compare: tuple[str, str] = ("single", "multi")

    @property
    def names(self) -> dict[str, str]:
        """The names of the datasets in tables and pictures, by key."""
        rows = next(iter(self.arms.values()))["data"]["datasets"]
        return {key: display_name(key, str(rows[key].get("layout"))) for key in self.datasets}

    def cells(self) -> list[Cell]:
        """Return all cells, ordered by seed, so that a study that is stopped early has complete seeds."""
        return [
            self._cell(arm, regime, sets, seed)
            for seed in self.seeds
            for arm in self.arms
            for regime, groups in self.regimes.items()
            for sets in groups
        ]

    def _cell(self, arm: str, regime: str, sets: tuple[str, ...], seed: int) -> Cell:
        alone = len(self.regimes[regime]) == 1
        name = ".".join([arm, regime, *([] if alone else ["+".join(sets)]), f"seed{seed}"])
        config = dict(self.arms[arm])
        data = dict(config.get("data", {}))
        data |= {"only": list(sets), "order_seed": seed}
        trainer = dict(config.get("trainer", {}))
        trainer |= _length(*self.equal, int(trainer.get("accumulate_grad_batches") or 1))
        callbacks = list(trainer.get("callbacks") or [])
        known = [entry.get("class_path") if isinstance(entry, dict) else entry for entry in callbacks]
        if _LOSSES not in known:
            callbacks.append(_LOSSES)
        trainer["callbacks"] = callbacks
        config |= {"data": data, "trainer": trainer, "seed_everything": seed}
        config["run"] = dict(config.get("run") or {}) | {"name": name}
        return Cell(name, arm, regime, sets, seed, self.folder / "cells" / name, config)


def read_study(path: str | Path, *, root: Path | None = None) -> Study:
    """Read the file of a study.

    Args:
        path: Path of the file, or the name of a file in ``configs/studies/``.
        root: Folder that contains the folder of the study; by default, the key ``root`` of the file, or
            ``studies``.

    Raises:
        ConfigError: If there is no such file, if a key is unknown or missing, or if a value is wrong; the
            message names the key.
    """
    found = _find(path)
    content = compose([found])
    _refuse_unknown(found, content, _KEYS)
    if missing := [key for key in ("base", "arms", "regimes", "equal") if key not in content]:
        raise ConfigError(f"{found}: the study has no {' and no '.join(missing)}")
    if not isinstance(content["base"], dict):
        raise ConfigError(
            f"{found}: base is {content['base']!r}; give the path of a config, relative to this file, or keys"
        )
    overlay = {} if content.get("overlay") is None else content["overlay"]
    if not isinstance(overlay, dict):
        raise ConfigError(f"{found}: overlay is {overlay!r}; give the keys that replace those of base")
    _check_overlay(found, overlay, "overlay")
    if content["base"].get("only") is not None:  # it would apply to every cell
        raise ConfigError(f"{found}: base has the key only; remove it and name the datasets in datasets")
    base = merge(content["base"], overlay)
    _check_mappings(found, "base and overlay", base)
    rows = base["data"]["datasets"]
    wanted = content.get("datasets")
    datasets = _datasets(found, "datasets", list(rows) if wanted is None else wanted, rows)
    name = str(content.get("name") or found.stem)
    regimes = _regimes(found, content["regimes"], datasets)
    compare = _compare(found, content.get("compare"), content["regimes"])
    _check_compared(found, regimes, compare, datasets)
    return Study(
        name=_checked_name(found, "name", name),
        folder=_root(found, root, content.get("root")) / name,
        datasets=datasets,
        arms=_arms(found, content["arms"], base),
        regimes=regimes,
        seeds=_seeds(found, content.get("seeds", [0])),
        equal=_equal(found, content["equal"]),
        compare=compare,
    )


def _find(path: str | Path) -> Path:
    for place in (path, Path("studies") / path):
        with suppress(ConfigError):
            return find_config(place)
    if Path(path).is_dir():
        raise ConfigError(f"{path} is a folder; give the YAML file of a study")
    folders = (Path("configs/studies"), PACKAGE_CONFIGS / "studies")
    known = sorted({file.name for folder in folders for file in folder.glob("*.yaml")})
    raise ConfigError(f"there is no study file {path}; configs/studies/ has: {', '.join(known) or 'nothing'}")


def _root(path: Path, chosen: Path | None, stated: Any) -> Path:
    if chosen is not None:
        return chosen
    if stated is not None and not isinstance(stated, str):
        raise ConfigError(f"{path}: root is {stated!r}; give the path of a folder")
    return Path(stated or "studies")


def _refuse_unknown(path: Path, content: Mapping[str, Any], known: Sequence[str], where: str = "") -> None:
    for key in content:
        if key not in known:
            near = did_you_mean(key, known)
            raise ConfigError(f"{path}: there is no key {where}{key}{near}; there are: {', '.join(known)}")


def _checked_name(path: Path, key: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{path}: {key} is {name!r}; folders are named by it, so use letters, digits, - and _ only"
        )
    return name


def _datasets(path: Path, key: str, names: Any, known: Mapping[str, Any] | Sequence[str]) -> tuple[str, ...]:
    if not isinstance(names, list) or not names:
        raise ConfigError(f"{path}: {key} is {names!r}; give a list of dataset keys")
    for name in names:
        if not isinstance(name, str):
            raise ConfigError(
                f"{path}: {key} contains {name!r}; give names; put a number into quotation marks"
            )
        if name not in known:
            near = did_you_mean(name, known)
            raise ConfigError(
                f"{path}: {key}: there is no dataset {name!r}{near}; there are: {', '.join(known)}"
            )
    if len(set(names)) < len(names):
        raise ConfigError(f"{path}: {key}: a dataset is named twice in {names}")
    return tuple(names)


def _arms(path: Path, arms: Any, base: dict[str, Any]) -> dict[str, dict[str, Any]]:
    if not isinstance(arms, dict) or not arms:
        raise ConfigError(f"{path}: arms is {arms!r}; give a name and a part of a config for each arm")
    made = {}
    for name, overlay in arms.items():
        _checked_name(path, "an arm", str(name))
        if overlay is not None and not isinstance(overlay, dict):
            raise ConfigError(f"{path}: arms.{name} is {overlay!r}; give the keys in which it differs")
        _check_overlay(path, overlay or {}, f"arms.{name}")
        merged = merge(base, overlay or {})
        _check_mappings(path, f"arms.{name}", merged)
        made[str(name)] = _with_rows(merged)
        for other, config in list(made.items())[:-1]:
            if config == made[str(name)]:
                raise ConfigError(
                    f"{path}: the arms {other} and {name} have the same settings, so they would train the"
                    " same runs; change a key in one of them or remove one"
                )
    return made


def _check_overlay(path: Path, overlay: Mapping[str, Any], where: str) -> None:
    """Refuse keys that no config has, and keys that the study itself sets in every cell."""
    for key, ruled_by in _SET_BY_STUDY.items():
        section, _, leaf = key.rpartition(".")
        part = overlay.get(section) if section else overlay
        if isinstance(part, Mapping) and leaf in part:
            raise ConfigError(f"{path}: {where}.{key}: the study sets this key by {ruled_by}; remove it here")
    _refuse_unknown(path, overlay, _SECTIONS, f"{where}.")


def _check_mappings(path: Path, where: str, config: Mapping[str, Any]) -> None:
    """Refuse a section, or an entry of ``data.datasets``, that is not a mapping."""
    found: dict[str, Any] = {key: config[key] for key in _MAPPINGS if key in config}
    data = config.get("data")
    rows = data.get("datasets") if isinstance(data, Mapping) else None
    if isinstance(rows, Mapping):
        found |= {f"data.datasets.{key}": row for key, row in rows.items()}
    for key, value in ({"data": data, "data.datasets": rows} | found).items():
        if not isinstance(value, Mapping) and (value is not None or key.startswith("data")):
            raise ConfigError(f"{path}: {where}: {key} is {value!r}; give keys with their values")
    if not rows:
        raise ConfigError(f"{path}: {where}: data.datasets is empty; name the datasets to study")
    for key in rows or ():
        if not key or "/" in key:
            raise ConfigError(
                f"{path}: {where}: data.datasets has the key {key!r}; it becomes a part of file names, so it"
                " must not be empty or contain '/'"
            )


def _with_rows(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with the values of ``data.datasets.*`` merged into the entry of every dataset."""
    rows = dict(config["data"]["datasets"])
    over = rows.pop(EVERY_ROW, None)
    if over is None:
        return config
    return config | {
        "data": config["data"] | {"datasets": {key: merge(row, over) for key, row in rows.items()}}
    }


def _regimes(path: Path, regimes: Any, datasets: tuple[str, ...]) -> dict[str, tuple[tuple[str, ...], ...]]:
    if not isinstance(regimes, dict) or not regimes:
        raise ConfigError(f"{path}: regimes is {regimes!r}; give at least one, e.g. single: each")
    return {
        _checked_name(path, "a regime", str(name)): _groups(path, f"regimes.{name}", value, datasets)
        for name, value in regimes.items()
    }


def _groups(path: Path, key: str, value: Any, datasets: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    if value == "each":
        return tuple((name,) for name in datasets)
    if value == "all":
        return (datasets,)
    if isinstance(value, list):
        return (_datasets(path, key, value, datasets),)
    if isinstance(value, dict) and list(value) == ["pairs_of"]:
        names = _datasets(path, f"{key}.pairs_of", value["pairs_of"], datasets)
        if len(names) < 2:
            raise ConfigError(f"{path}: {key}.pairs_of is {list(names)}; a pair needs at least two datasets")
        return tuple(combinations(names, 2))
    raise ConfigError(
        f"{path}: {key} is {value!r}; it may be `each` (a run for each dataset), `all` (one run on all), a "
        "list of dataset keys (one run on these), or {pairs_of: [dataset keys]} (a run for every two of them)"
    )


def _seeds(path: Path, seeds: Any) -> tuple[int, ...]:
    numbers = seeds if isinstance(seeds, list) else [seeds]
    whole = all(type(seed) is int and 0 <= seed <= _LARGEST_SEED for seed in numbers)
    if not numbers or not whole or len(set(numbers)) < len(numbers):
        raise ConfigError(
            f"{path}: seeds is {seeds!r}; give a list of different whole numbers from 0 to {_LARGEST_SEED}"
        )
    return tuple(numbers)


def _equal(path: Path, value: Any) -> tuple[str, int]:
    if isinstance(value, dict) and len(value) == 1:
        kind, count = next(iter(value.items()))
        if kind in ("epochs", "steps") and type(count) is int and count > 0:
            return kind, count
    raise ConfigError(
        f"{path}: equal is {value!r}; it states what is the same in every cell: {{epochs: 2}} or"
        f" {{steps: 300}}"
    )


def _compare(path: Path, value: Any, regimes: Mapping[str, Any]) -> tuple[str, str]:
    pair = ["single", "multi"] if value is None else value
    pairs = any(isinstance(regime, dict) for regime in regimes.values())  # compared with the baseline alone
    wanted = pair[:1] if pairs else pair
    if value is None and len(regimes) > 1 and any(name not in regimes for name in wanted):
        raise ConfigError(
            f"{path}: the regimes are {', '.join(map(str, regimes))}, and compare is left out, which means"
            " [single, multi]; name in compare the baseline and the regime that is compared with it"
        )
    if not isinstance(pair, list) or len(pair) != 2 or pair[0] == pair[1]:
        raise ConfigError(f"{path}: compare is {value!r}; give two regimes, the baseline first")
    if value is not None and (unknown := [name for name in pair if name not in list(regimes)]):
        raise ConfigError(
            f"{path}: compare: there is no regime {unknown[0]!r}{did_you_mean(unknown[0], regimes)};"
            f" there are: {', '.join(regimes)}"
        )
    return str(pair[0]), str(pair[1])


def _check_compared(
    path: Path,
    regimes: Mapping[str, tuple[tuple[str, ...], ...]],
    compare: tuple[str, str],
    datasets: tuple[str, ...],
) -> None:
    """Refuse two regimes that cannot be compared."""
    before, after = (regimes.get(regime, ()) for regime in compare)
    if not before or not after:
        return
    for regime in compare:
        held = [name for group in regimes[regime] for name in group]
        if several := [name for name in datasets if held.count(name) > 1]:
            raise ConfigError(
                f"{path}: compare: the regime {regime} trains {several[0]} in several cells; name regimes"
                " that train each dataset in one cell. Pairs are compared with the baseline without being"
                " named here"
            )
    for name in datasets:
        first, second = ({frozenset(g) for g in groups if name in g} for groups in (before, after))
        if first and second and first != second:
            return
    raise ConfigError(
        f"{path}: the regimes {' and '.join(compare)} train no dataset of {list(datasets)} in two ways, so"
        " there is nothing to compare; name at least two datasets, or other regimes in compare"
    )


def _length(kind: str, count: int, batches: int) -> dict[str, Any]:
    """Return the trainer's keys for the length of the training; a step takes ``batches`` batches."""
    if kind == "epochs":
        return {"max_epochs": count, "max_steps": -1}
    # One validation after the last step: otherwise, a small dataset would be validated after each of its many
    # epochs.
    return {
        "max_epochs": -1,
        "max_steps": count,
        "val_check_interval": count * batches,
        "check_val_every_n_epoch": None,
    }
