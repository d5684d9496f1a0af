"""A base model in one file, derived from a shipped architecture, is planned, trained, tested and asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from crab_lightning.commands import main
from crab_lightning.mini import (
    TinyLlmVaConfig,
    make_tiny_llm_va,
    make_tiny_native,
    make_tiny_qwen3_omni,
    make_tiny_vllm_a,
)
from crab_lightning.processing import NativeProcessor
from crab_lightning.processing.families import FAMILIES, check_family, register_family

FILE = '''
import transformers
from crab_lightning import models, processing
from crab_lightning.processing.families import register_family


class WarmConfig(transformers.{config}):
    model_type = "warm_{module}"


class WarmModel(transformers.{model}):
    config_class = WarmConfig


class WarmProcessor(processing.{processor}):
    reader = "WarmModule"


class WarmModule(models.{module}):
    """Warm.

    Args:
        pretrained: Folder.
        warmth: A key of its own.
        options: Those of the parent.
    """

    {member} = WarmModel
    processor_class = WarmProcessor

    def __init__(self, pretrained: str, *, warmth: float = 1.0, **options):
        super().__init__(pretrained, **options)
        self.warmth = warmth


transformers.AutoConfig.register("warm_{module}", WarmConfig)
register_family("warm_{module}", "WarmModule")
'''

PARENTS = {
    "OmniModule": ("Qwen2_5OmniThinkerConfig", "Qwen2_5OmniThinkerForConditionalGeneration"),
    "Qwen3OmniModule": ("Qwen3OmniMoeThinkerConfig", "Qwen3OmniMoeThinkerForConditionalGeneration"),
    "LlmVaModule": ("LlamaConfig", "LlamaForCausalLM"),
    "VllmAModule": ("Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration"),
}
PROCESSORS = {"OmniModule": "NativeProcessor"}
CONFIGS = {"LlmVaModule": "demo_llm_va_llama3.yaml", "VllmAModule": "demo_vllm_a.yaml"}
"""Where it is not the name with another ending, and not ``demo.yaml``."""


def make_checkpoint(parent: str, out: Path) -> tuple[Path, dict[str, object]]:
    """Write a tiny checkpoint of an architecture; return the folder of its model, and other keys."""
    if parent == "LlmVaModule":
        made = make_tiny_llm_va(out, config=TinyLlmVaConfig(patch_px=56))
        files = {"vision": made / "clip", "beats": made / "beats"}
        return made / "llm", files | dict.fromkeys(("visual_connector", "audio_connector"), "null")
    if parent == "VllmAModule":
        made = make_tiny_vllm_a(out)
        return made / "vllm", {
            "beats": made / "beats",
            "audio_connector": "null",
            "train_connectors": "[audio]",
        }
    if parent == "Qwen3OmniModule":
        return make_tiny_qwen3_omni(out), {"adapter.target_modules": "[q_proj, v_proj]"}
    return make_tiny_native(out), {}


@pytest.fixture
def warm(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    """The module of a contributor who derives from one class; forgotten again after the test."""
    parent: str = request.param
    config, model = PARENTS[parent]
    words = {"module": parent, "config": config, "model": model}
    words["processor"] = PROCESSORS.get(parent, parent.replace("Module", "Processor"))
    words["member"] = "thinker_class" if "Omni" in parent else "model_class"
    (tmp_path / "warm_models.py").write_text(FILE.format(**words))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(FAMILIES, f"warm_{parent}", "WarmModule")
    import warm_models  # type: ignore[import-not-found]

    yield warm_models
    sys.modules.pop("warm_models", None)


@pytest.mark.parametrize("warm", PARENTS, indirect=True)
def test_a_derived_base_model_is_planned_trained_tested_and_asked(
    warm: ModuleType, small: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = warm.WarmModule.__mro__[1]
    folder, keys = make_checkpoint(parent.__name__, tmp_path / "made")
    (parent.thinker_class if "Omni" in parent.__name__ else warm.WarmModel).from_pretrained(
        folder
    ).save_pretrained(folder)
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | {"model_type": f"warm_{parent.__name__}"}))

    code = ["--allow-code-of", "warm_models"]
    words = ["--config", CONFIGS.get(parent.__name__, "demo.yaml"), *code]
    words += ["--model.class_path=warm_models.WarmModule", "--model.init_args.warmth=2"]
    words += [f"--model.init_args.{key}={value}" for key, value in keys.items()]
    words += [f"--model.init_args.pretrained={folder}", "--model.init_args.max_new_tokens=2"]
    assert main(["plan", *words]) == 0
    assert "It fits" in capsys.readouterr().out
    run = tmp_path / "run"
    words += [f"--data.root={small['mini']}", "--only=ave", "--data.num_workers=0", f"--run.folder={run}"]
    words += ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.callbacks=null"]
    assert main(["fit", *words]) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["warmth"] == 2
    assert main(["test", "--ckpt_path", str(run), "--trainer.limit_test_batches=1", *code]) == 0
    capsys.readouterr()
    video = next((small["mini"] / "AVUIE_2").rglob("*.mp4"))
    asked = ["ask", "--checkpoint", str(run), "--video", str(video), "--task", "ave", "--json", *code]
    assert main(asked) == 0
    assert json.loads(capsys.readouterr().out)["task"] == "event_localization"

    if parent.__name__ != "LlmVaModule":  # transformers finds the class of a text model by its config
        member = "thinker_class" if "Omni" in parent.__name__ else "model_class"
        delattr(warm.WarmModule, member)
        lost = rf"has a WarmConfig, but WarmModule\.{member} is inherited: Qwen.*Set {member} in WarmModule"
        with pytest.raises(ValueError, match=lost):
            warm.WarmModule(str(folder), **({} if "Omni" in parent.__name__ else {"beats": "x"})).load_base()
    with pytest.raises(ValueError, match=r"OmniModule reads qwen2.*class_path to the class Warm.*reader ="):
        check_family(str(folder), NativeProcessor)
    warm.WarmProcessor.reader = "Forgotten"
    (folder / "config.json").write_text(json.dumps(said | {"model_type": "cold"}))
    with pytest.raises(ValueError, match=r"Call register_family\('cold', 'Forgotten'\) in the file of that"):
        check_family(str(folder), warm.WarmProcessor)
    with pytest.raises(ValueError, match=f"'warm_{parent.__name__}' are read by WarmModule already"):
        register_family(f"warm_{parent.__name__}", "OmniModule")
