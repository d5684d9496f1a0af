"""YAML of one's own is read the same with and without libyaml, which not every PyYAML has."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from crab_lightning.configuration.files import ConfigError, compose
from crab_lightning.files import parsed_yaml


def test_yaml_is_read_the_same_without_libyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a: {b: [1, 2.5, null, true]}\nc: 'd'\n"
    found = parsed_yaml(text)
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert parsed_yaml(text) == found == {"a": {"b": [1, 2.5, None, True]}, "c": "d"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("010", "YAML reads 010 as 8, a number in base 8; write 8, or '010' in quotes"),
        ("-007", "YAML reads -007 as -7"),
        ("1:30", "YAML reads 1:30 as 90, a number in base 60; write 90, or '1:30' in quotes"),
        ("1:30.5", "YAML reads 1:30.5 as 90.5"),
    ],
)
def test_a_number_in_an_unexpected_base_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(yaml.YAMLError, match=said):
        parsed_yaml(f"a: {text}")
    (tmp_path / "a.yaml").write_text(f"run:\n  name: {text}\n")
    with pytest.raises(ConfigError, match=rf"a\.yaml, line 2, column 9: .*{said}"):
        compose([tmp_path / "a.yaml"])


def test_other_forms_of_numbers_are_read() -> None:
    assert parsed_yaml("[0, -0, 00, 1_000, 0x1f, '010', 0.5, +7, 10]") == [
        0,
        0,
        0,
        1000,
        31,
        "010",
        0.5,
        7,
        10,
    ]
