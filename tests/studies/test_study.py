"""The file of a study, and the cells that it makes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from crab_lightning.configuration.files import ConfigError
from crab_lightning.studies.cells import identity, state_of
from crab_lightning.studies.study import read_study
from tests.studies.conftest import study_file


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    return {"tiny": tmp_path / "tiny", "mini": tmp_path / "mini"}


def test_a_grid_becomes_cells_seed_by_seed(tmp_path: Path, places: dict[str, Path]) -> None:
    study = read_study(study_file(tmp_path, places, seeds=[3, 1]))
    names = [cell.name for cell in study.cells()]
    assert names[:6] == [
        *(f"lora.single.{name}.seed3" for name in ("avqa", "dfew")),
        "lora.multi.seed3",
        *(f"ilora.single.{name}.seed3" for name in ("avqa", "dfew")),
        "ilora.multi.seed3",
    ]
    assert len(names) == 12
    single, multi = study.cells()[0], study.cells()[2]
    assert single.config["data"]["only"] == ["avqa"]
    assert multi.config["data"]["only"] == ["avqa", "dfew"]
    assert single.config["seed_everything"] == single.config["data"]["order_seed"] == 3
    # Every row is asked for direct answers in the one arm, and the other arm keeps the reasoning.
    assert {row["target"] for row in single.config["data"]["datasets"].values()} == {"direct"}
    assert all("target" not in row for row in study.cells()[3].config["data"]["datasets"].values())


def test_what_is_held_equal_sets_the_length_of_every_cell(tmp_path: Path, places: dict[str, Path]) -> None:
    epochs = read_study(study_file(tmp_path, places, equal={"epochs": 2})).cells()
    steps = read_study(study_file(tmp_path, places, equal={"steps": 30})).cells()
    assert {(c.config["trainer"]["max_epochs"], c.config["trainer"]["max_steps"]) for c in epochs} == {
        (2, -1)
    }
    assert {(c.config["trainer"]["max_epochs"], c.config["trainer"]["max_steps"]) for c in steps} == {
        (-1, 30)
    }
    assert {c.config["trainer"]["val_check_interval"] for c in steps} == {30}
    four = {"a": {"trainer": {"accumulate_grad_batches": 4}}}  # it counts batches, and max_steps steps
    more = read_study(study_file(tmp_path, places, arms=four, equal={"steps": 30})).cells()
    assert {c.config["trainer"]["val_check_interval"] for c in more} == {120}


def test_pairs_and_subsets_are_regimes(tmp_path: Path, places: dict[str, Path]) -> None:
    three = ["avqa", "dfew", "ave"]
    regimes = {"pairs": {"pairs_of": three}, "events": ["ave", "avqa"], "all": "all"}
    more = {"arms": {"lora": {}}, "compare": ["events", "all"]}
    study = read_study(study_file(tmp_path, places, datasets=three, regimes=regimes, **more))
    assert [cell.name for cell in study.cells()] == [
        "lora.pairs.avqa+dfew.seed0",
        "lora.pairs.avqa+ave.seed0",
        "lora.pairs.dfew+ave.seed0",
        "lora.events.seed0",
        "lora.all.seed0",
    ]
    assert study.cells()[3].datasets == ("ave", "avqa")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"regime": {}}, "there is no key regime (did you mean 'regimes'?)"),
        ({"arms": {"a": {"modl": {}}}}, "there is no key arms.a.modl (did you mean 'model'?)"),
        ({"arms": {"a b": {}}}, "an arm is 'a b'"),
        ({"datasets": ["avqa", "kss"]}, "there is no dataset 'kss' (did you mean 'ks'?); there are: a2v"),
        ({"datasets": ["avqa", "avqa"]}, "named twice"),
        ({"regimes": {"single": "every"}}, "regimes.single is 'every'; it may be `each`"),
        ({"regimes": {"x": ["ave"]}}, "there is no dataset 'ave'; there are: avqa, dfew"),
        ({"equal": {"hours": 2}}, "equal is {'hours': 2}"),
        ({"equal": {"steps": 0}}, "equal is {'steps': 0}"),
        ({"seeds": [0, 0]}, "different whole numbers"),
        ({"seeds": [True]}, "different whole numbers"),
        ({"compare": ["single", "joint"]}, "compare: there is no regime 'joint'"),
        ({"base": "nothing"}, "base is 'nothing'"),
        ({"overlay": [1]}, "overlay is [1]"),
        ({"overlay": {"dat": {}}}, "there is no key overlay.dat (did you mean 'data'?)"),
        ({"overlay": {"only": "avqa"}}, "overlay.only: the study sets this key by datasets and regimes"),
        ({"arms": {"a": {"trainer": {"max_steps": 5}}}}, "arms.a.trainer.max_steps: the study sets this key"),
        ({"overlay": {"data": 3}}, "base and overlay: data is 3"),
        ({"overlay": {"trainer": [1]}}, "base and overlay: trainer is [1]"),
        ({"arms": {"a": {"data": {"datasets": []}}}}, "arms.a: data.datasets is []"),
        ({"arms": {"a": {"data": {"datasets": {"*": "direct"}}}}}, "arms.a: data.datasets.* is 'direct'"),
        ({"datasets": []}, "datasets is []"),
        ({"datasets": [["avqa"]]}, "datasets contains ['avqa']; give names"),
        ({"datasets": ["avqa"]}, "single and multi train no dataset of ['avqa'] in two ways"),
        ({"regimes": {"single": "each", "sub": ["avqa"]}, "compare": ["single", "sub"]}, "in two ways"),
        (
            {"regimes": {"single": "each", "joint": "all"}},
            "the regimes are single, joint, and compare is left out",
        ),
        (
            {
                "datasets": ["avqa", "dfew", "ave"],
                "regimes": {"single": "each", "p": {"pairs_of": ["avqa", "dfew", "ave"]}},
                "compare": ["single", "p"],
            },
            "the regime p trains avqa in several cells",
        ),
        ({"arms": {"a": {}, "b": None}}, "the arms a and b have the same settings"),
        (
            {"arms": {"a": {}, "b": {"data": {"datasets": {"*": {}}}}}},
            "the arms a and b have the same settings",
        ),
        ({"overlay": {"data": {"datasets": {"x/y": {}}}}}, "data.datasets has the key 'x/y'"),
        ({"datasets": ["avqa", 1]}, "datasets contains 1; give names; put a number into quotation marks"),
        ({"root": 3}, "root is 3; give the path of a folder"),
        ({"regimes": {"p": {"pairs_of": ["avqa"]}}}, "a pair needs at least two datasets"),
        ({"equal": {"steps": True}}, "equal is {'steps': True}"),
        ({"seeds": [2**32]}, "from 0 to 4294967295"),
        ({"compare": [["single"], "multi"]}, "there is no regime ['single']"),
    ],
)
def test_what_makes_no_sense_is_named(
    tmp_path: Path, places: dict[str, Path], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said.replace("\\", ""))):
        read_study(study_file(tmp_path, places, **changes))


def test_a_study_that_is_not_there_is_said_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no study file nothing\.yaml; configs/studies/ has: demo_heads"):
        read_study("nothing.yaml")
    with pytest.raises(ConfigError, match="is a folder; give the YAML file of a study"):
        read_study(tmp_path)


def test_a_study_without_a_section_says_which(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("arms: {a: {}}\n")
    with pytest.raises(ConfigError, match="has no base and no regimes and no equal"):
        read_study(tmp_path / "s.yaml")


def test_a_finished_cell_without_results_is_made_again(tmp_path: Path, places: dict[str, Path]) -> None:
    cell = read_study(study_file(tmp_path, places)).cells()[0]
    cell.folder.mkdir(parents=True)
    (cell.folder / "cell.json").write_text(json.dumps({"state": "done", "identity": identity(cell)}))
    assert state_of(cell).status == "interrupted"
    (cell.folder / "metrics.json").write_text('{"test": {"datasets": {}}}')
    assert state_of(cell).status == "done"
