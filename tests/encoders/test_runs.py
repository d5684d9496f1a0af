"""Every shipped encoder through the real commands: a step of training, a test, a question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from crab_lightning.commands import main
from crab_lightning.mini import TinyLlmVaConfig, make_tiny_llm_va, make_tiny_vllm_a
from crab_lightning.models import LlmVaModule
from tests.encoders.checkpoints import write

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# paradigm, vision and audio encoder, each with its tiny checkpoint; without one, that of the paper
PAIRS = [
    ("llm_va", ("SiglipVision", "siglip"), ("WhisperAudio", "whisper")),
    ("llm_va", ("SiglipVision", "siglip2"), ("PeAudio", "pe_av")),
    ("llm_va", ("DinoVision", "dinov3"), None),
    ("llm_va", ("PeVision", "pe_av"), ("PeAudio", "pe_av")),
    ("vllm_a", None, ("WhisperAudio", "whisper")),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("encoders")
    make_tiny_llm_va(out / "llm_va", config=TinyLlmVaConfig(patch_px=56))
    make_tiny_vllm_a(out / "vllm_a")
    for name in ("siglip", "siglip2", "dinov3", "whisper"):
        write(name, out, 224, 56)
    return out


@pytest.mark.parametrize(
    ("paradigm", "visual", "audio"), PAIRS, ids=lambda part: part if isinstance(part, str) else str(part)
)
def test_encoder_learns_is_tested_and_answers(
    paradigm: str,
    visual: tuple[str, str] | None,
    audio: tuple[str, str] | None,
    folder: Path,
    small: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "pe_av" in str((visual, audio)):
        pytest.importorskip("timm")
        if not (folder / "pe_av").exists():
            write("pe_av", folder, 224, 56)
    own = folder / paradigm
    text = "llm" if paradigm == "llm_va" else "vllm"
    init: dict[str, object] = {"pretrained": str(own / text), "audio_connector": None}
    init |= {"train_connectors": ["audio", "visual"][: 1 + (paradigm == "llm_va")], "max_new_tokens": 4}
    init |= {"visual_connector": None, "vision": str(own / "clip")} if paradigm == "llm_va" else {}
    init |= {"beats": str(own / "beats")}
    for key, chosen in (("visual_encoder", visual), ("audio_encoder", audio)):
        if chosen is not None:
            path = f"crab_lightning.encoders.{chosen[0]}"
            init[key] = {"class_path": path, "init_args": {"pretrained": str(folder / chosen[1])}}
    config = tmp_path / "run.yaml"
    base = "demo_llm_va_llama3.yaml" if paradigm == "llm_va" else "demo_vllm_a.yaml"
    config.write_text(yaml.safe_dump({"include": str(CONFIGS / base), "model": {"init_args": init}}))
    words = ["--only=ave", f"--data.root={small['mini']}", "--data.num_workers=0", "--trainer.max_steps=1"]
    words += ["--data.val_generate_per_dataset=0", f"--run.folder={tmp_path / 'run'}"]
    assert main(["plan", "--config", str(config)]) == 0
    assert main(["fit", "--config", str(config), *words]) == 0
    run = tmp_path / "run"
    assert main(["test", "--ckpt_path", str(run), "--trainer.limit_test_batches=1"]) == 0
    video = sorted(small["mini"].rglob("*.mp4"))[0]
    capsys.readouterr()
    assert main(["ask", "--checkpoint", str(run), "--video", str(video), "--task", "ave", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["task"] == "event_localization"
    if visual is None or visual[0] != "DinoVision":
        return
    saved = run / "checkpoints" / "last.ckpt"
    again = LlmVaModule.load_from_checkpoint(saved)
    assert again.visual_encoder.arguments()["size_px"] == 224
    with pytest.raises(ValueError, match=r"with the visual encoder DinoVision, but this run has Clip"):
        LlmVaModule.load_from_checkpoint(saved, visual_encoder=None)
    file = run / "adapter" / "visual_connector.safetensors"
    module = LlmVaModule(
        str(own / "llm"),
        vision=str(own / "clip"),
        beats=str(own / "beats"),
        visual_connector=file,
        connector=again.connector,
    )
    with pytest.raises(ValueError, match=r"encoder is 'DinoVision', the model has 'ClipVision'"):
        module.configure_model()
