"""YAML of one's own is read the same with and without libyaml, which not every PyYAML has."""

from __future__ import annotations

import pytest
import yaml

from crab_lightning.files import parsed_yaml


def test_yaml_is_read_the_same_without_libyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a: {b: [1, 2.5, null, true]}\nc: 'd'\n"
    found = parsed_yaml(text)
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert parsed_yaml(text) == found == {"a": {"b": [1, 2.5, None, True]}, "c": "d"}
