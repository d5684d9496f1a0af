from __future__ import annotations

import time
from pathlib import Path

import pytest

from crab_lightning.configuration.files import PACKAGE_CONFIGS, ConfigError, compose, find_config, merge


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_section_named_as_a_file_is_that_file(tmp_path: Path) -> None:
    write(tmp_path, main="trainer: parts/cpu.yaml\n", parts__cpu="max_epochs: 2\n")
    assert compose([tmp_path / "main.yaml"]) == {"trainer": {"max_epochs": 2}}


def test_include_is_relative_to_the_including_file(tmp_path: Path) -> None:
    write(tmp_path, sub__main="include: ../base.yaml\n", base="data: parts/d.yaml\n", parts__d="root: x\n")
    assert compose([tmp_path / "sub/main.yaml"]) == {"data": {"root": "x"}}


def test_keys_beside_an_include_win(tmp_path: Path) -> None:
    write(
        tmp_path,
        main="data: {include: d.yaml, root: mine}\n",
        d="{root: theirs, datasets: {a: {weight: 1}}}\n",
    )
    assert compose([tmp_path / "main.yaml"]) == {"data": {"root": "mine", "datasets": {"a": {"weight": 1}}}}


def test_overlay_with_one_dataset_keeps_the_others(tmp_path: Path) -> None:
    write(
        tmp_path,
        main="data: {datasets: {a: {weight: 1}, b: {weight: 1}}}\n",
        over="data: {datasets: {a: {weight: 2}}}\n",
    )
    merged = compose([tmp_path / "main.yaml", tmp_path / "over.yaml"])
    assert merged == {"data": {"datasets": {"a": {"weight": 2}, "b": {"weight": 1}}}}


def test_another_class_path_replaces_the_arguments() -> None:
    below = {"model": {"class_path": "A", "init_args": {"x": 1}}}
    assert merge(below, {"model": {"class_path": "B"}}) == {"model": {"class_path": "B"}}


def test_same_class_path_merges_the_arguments() -> None:
    below = {"class_path": "A", "init_args": {"x": 1, "y": 1}}
    assert merge(below, {"class_path": "A", "init_args": {"y": 2}})["init_args"] == {"x": 1, "y": 2}


def test_number_with_an_exponent_is_a_number(tmp_path: Path) -> None:
    write(tmp_path, main="values: [1e-4, 1.5e3, 2E+2]\nname: 1e-x\n")
    assert compose([tmp_path / "main.yaml"]) == {"values": [1e-4, 1500.0, 200.0], "name": "1e-x"}


def test_interpolation_is_filled_in_after_merging(tmp_path: Path) -> None:
    write(tmp_path, main="data: {seed: 1}\nmodel: {seed: '${data.seed}'}\n", over="data: {seed: 7}\n")
    assert compose([tmp_path / "main.yaml", tmp_path / "over.yaml"])["model"] == {"seed": 7}


def test_unknown_interpolation_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, main="model: {seed: '${data.sead}'}\n")
    with pytest.raises(ConfigError, match="data"):
        compose([tmp_path / "main.yaml"])
    write(tmp_path, main="data: {root: '${oc.env:NOT_SET}'}\n")
    with pytest.raises(ConfigError, match=r"^data\.root cannot be filled in: .*'NOT_SET' not found\"?$"):
        compose([tmp_path / "main.yaml"])


def test_missing_config_names_the_configs_there_are() -> None:
    with pytest.raises(ConfigError, match=r"omnni\.yaml: no such file in .*configs/ has: .*omni\.yaml"):
        find_config("omnni.yaml")
    with pytest.raises(ConfigError, match=r"configs is a folder; give one \.yaml file of it"):
        find_config(PACKAGE_CONFIGS)
    with pytest.raises(ConfigError, match=r"^config https://x\.org/a\.yaml is an address; download the file"):
        find_config("https://x.org/a.yaml")


def test_tabs_of_a_config_are_named(tmp_path: Path) -> None:
    write(tmp_path, main="data:\n\troot: x\n")
    with pytest.raises(ConfigError, match=r"main\.yaml, line 2, column 1: .*; YAML is indented with spaces$"):
        compose([tmp_path / "main.yaml"])


def test_missing_config_names_each_folder_that_was_searched_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PACKAGE_CONFIGS.parent)
    with pytest.raises(ConfigError, match=r"no such file in configs, \.; configs/ has"):
        find_config("nope.yaml")
    (tmp_path / "configs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"no such file in configs, {PACKAGE_CONFIGS}, \.; configs/ has"):
        find_config("nope.yaml")


def test_bare_name_means_the_one_in_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, demo="own: true\n")
    monkeypatch.chdir(tmp_path)
    assert find_config("demo.yaml").parent.name == "configs"


def test_name_with_a_folder_means_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, demo="own: true\n")
    monkeypatch.chdir(tmp_path)
    assert find_config("./demo.yaml").resolve() == tmp_path / "demo.yaml"


def test_missing_include_names_both_files(tmp_path: Path) -> None:
    write(tmp_path, main="data: gone.yaml\n")
    with pytest.raises(ConfigError, match=r"main\.yaml: includes .*gone\.yaml, which does not exist"):
        compose([tmp_path / "main.yaml"])


def test_config_that_includes_itself_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, main="include: other.yaml\n", other="include: main.yaml\n")
    with pytest.raises(ConfigError, match=r"main\.yaml -> other\.yaml -> main\.yaml"):
        compose([tmp_path / "main.yaml"])


def test_keys_are_texts_also_where_values_would_be_something_else(tmp_path: Path) -> None:
    names = ["null", "true", "on", "1", "1.5", "2020-01-01"]
    (tmp_path / "a.yaml").write_text(
        "data:\n  datasets:\n" + "".join(f"    {n}: {{limit: 1}}\n" for n in names)
    )
    assert compose([tmp_path / "a.yaml"])["data"]["datasets"] == {name: {"limit": 1} for name in names}


def test_repeated_key_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, main="data: {seed: 1, seed: 2}\n")
    with pytest.raises(ConfigError, match="'seed' occurs twice"):
        compose([tmp_path / "main.yaml"])


@pytest.mark.parametrize("text", ["trainer: {<<: {max_epochs: 3}}\n", "? [a]\n: 3\n", "? {a: 1}\n: 3\n"])
def test_a_key_that_is_no_name_is_refused(text: str, tmp_path: Path) -> None:
    write(tmp_path, main=text)
    with pytest.raises(ConfigError, match=r"main\.yaml, line 1, column \d+: .* a key must be a name"):
        compose([tmp_path / "main.yaml"])


def test_malformed_yaml_names_the_file(tmp_path: Path) -> None:
    write(tmp_path, main="data: {seed: 1\n")
    with pytest.raises(ConfigError, match=r"main\.yaml, line 2, column 1: not readable as YAML"):
        compose([tmp_path / "main.yaml"])


def test_list_as_config_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, main="- 1\n")
    with pytest.raises(ConfigError, match="contains a list"):
        compose([tmp_path / "main.yaml"])


@pytest.mark.parametrize("value", ["", "3", "[a]", "true"])
@pytest.mark.parametrize("key", ["data", "trainer", "run", "evaluator", "model: {init_args"])
def test_a_section_that_is_no_mapping_is_named_with_its_file(key: str, value: str, tmp_path: Path) -> None:
    write(tmp_path, main="model: {class_path: A}\n", mine=f"{key}: {value}{'}' * key.count('{')}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: [\w.]+ is .*; it must be a mapping, such as"):
        compose([tmp_path / "main.yaml", tmp_path / "mine.yaml"])


def test_configs_that_are_made_to_take_time_are_refused_at_once(tmp_path: Path) -> None:
    deep = "model: " + "[" * 3000 + "]" * 3000
    block = "\n".join("  " * level + "a:" for level in range(500))
    lists = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    merged = "a0: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{', '.join(f'*a{i - 1}' for _ in range(10))}]}}\n" for i in range(1, 30)
    )
    loop = "a: &a [*a]\n"
    for name, text, message in (
        ("deep", deep, "is nested more than"),
        ("block", block, "is nested more than"),
        ("lists", lists, r"with its aliases it has [\d,]+ values"),
        ("merged", merged, "not readable as YAML"),
        ("loop", loop, "is nested more than"),
        ("huge", "a: [" + "1, " * 300_000 + "1]", r"has [\d,]+ bytes; a config has at most"),
    ):
        write(tmp_path, **{name: text})
        began = time.process_time()
        with pytest.raises(ConfigError, match=rf"{name}\.yaml(, line \d+, column \d+)?: .*({message})"):
            compose([tmp_path / f"{name}.yaml"])
        assert time.process_time() - began < 10


def test_configs_that_grow_by_includes_or_by_interpolation_are_refused(tmp_path: Path) -> None:
    for level in range(12):
        below = ", ".join([f"level{level + 1}.yaml"] * 10)
        write(tmp_path, **{f"level{level}": f"include: [{below}]\n" if level < 11 else "a: 1\n"})
    with pytest.raises(ConfigError, match="includes more than 300 files"):
        compose([tmp_path / "level0.yaml"])
    text = "a0: xxxx\n" + "".join(f"a{i}: '${{a{i - 1}}}${{a{i - 1}}}'\n" for i in range(1, 60))
    write(tmp_path, bomb=text)
    with pytest.raises(ConfigError, match=r"the config has [\d,]+ characters with its references filled in"):
        compose([tmp_path / "bomb.yaml"])
    write(tmp_path, loop="a: ${b}\nb: ${a}\n")
    with pytest.raises(ConfigError, match=r"(cannot be filled in|in a circle)"):
        compose([tmp_path / "loop.yaml"])


def test_aliases_of_a_usual_config_are_written_out(tmp_path: Path) -> None:
    write(tmp_path, main="a: &a {x: 1}\nb: *a\nc: [*a, *a]\n")
    assert compose([tmp_path / "main.yaml"]) == {"a": {"x": 1}, "b": {"x": 1}, "c": [{"x": 1}] * 2}
