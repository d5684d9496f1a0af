"""A class derived from one that ``plan`` knows is planned, with its own family of checkpoints."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from crab_lightning.commands import main
from crab_lightning.processing.families import FAMILIES, check_family, register_family

MODULE = '''
from crab_lightning.models import OmniModule
from crab_lightning.processing import NativeProcessor
from crab_lightning.processing.families import register_family
from transformers import AutoConfig, Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

class WarmConfig(Qwen2_5OmniThinkerConfig):
    model_type = "warm_omni"

class WarmThinker(Qwen2_5OmniThinkerForConditionalGeneration):
    config_class = WarmConfig

class WarmProcessor(NativeProcessor):
    reader = "WarmModule"

class WarmModule(OmniModule):
    """Warm.

    Args:
        pretrained: Folder.
        options: Those of ``OmniModule``.
    """

    thinker_class = WarmThinker
    processor_class = WarmProcessor

    def __init__(self, pretrained: str, **options):
        super().__init__(pretrained, **options)

AutoConfig.register("warm_omni", WarmConfig)
register_family("warm_omni", "WarmModule")
'''


def test_a_model_in_one_file_brings_its_own_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "warm_models.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(FAMILIES, "warm_omni", "WarmModule")  # forgotten again after the test
    said = json.loads(Path("crab_lightning/assets/mini_omni/config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(said | {"model_type": "warm_omni"}))
    words = ["--model.class_path=warm_models.WarmModule", f"--model.init_args.pretrained={tmp_path}"]
    try:
        assert main(["plan", "--config", "demo.yaml", "--allow-code-of", "warm_models", *words]) == 0
    finally:
        sys.modules.pop("warm_models", None)
    assert "It fits" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"OmniModule reads qwen2.*class_path to the class WarmModule"):
        check_family(str(tmp_path), "OmniModule")
    with pytest.raises(ValueError, match="'warm_omni' are read by WarmModule already"):
        register_family("warm_omni", "OmniModule")
