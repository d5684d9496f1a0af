"""Runs every shipped config a step on tiny checkpoints: by test_shipped_configs, and by its two processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from crab_lightning.commands import main
from crab_lightning.configuration.files import compose

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
WHOLE = sorted(
    path.name
    for path in CONFIGS.rglob("*.yaml")
    if path.parent == CONFIGS and path.name != "endpoint.yaml"  # it trains nothing and needs a server
)
ONLY = "ks,ms3,ref_avs"


def write_world(folder: Path) -> None:
    """Write a data root with captions, a tiny checkpoint of each paradigm, and connectors of stage 1."""
    root = folder / "mini"
    words = ["--root", str(root), "--clips", "150", "--captions", "8", "--workers", "0"]
    assert main(["data", "mini", *words]) == 0
    for paradigm in ("native", "qwen3_omni", "llm_va", "vllm_a"):
        out = str(folder / paradigm)
        sizes = ["--sizes.patch_px=56"] if paradigm == "llm_va" else []
        assert main(["model", "tiny", "--paradigm", paradigm, "--out", out, *sizes]) == 0


def stage_1(name: str) -> bool:
    """Tell whether a config trains a connector alone."""
    return "stage1" in name


def paradigm_of(name: str) -> str:
    """Return the paradigm of a config."""
    path = compose([CONFIGS / name])["model"]["class_path"]
    known = {"OmniModule": "native", "Qwen3OmniModule": "qwen3_omni", "LlmVaModule": "llm_va"}
    return (known | {"VllmAModule": "vllm_a"})[path.rpartition(".")[2]]


def words_of(name: str, world: Path, run: Path) -> list[str]:
    """Return what ``fit`` is given beside a config to run a step here: paths, and less of everything."""
    paradigm = paradigm_of(name)
    folder = world / paradigm
    model: dict[str, object] = {"pretrained": folder, "max_new_tokens": 4}
    whole = paradigm in ("native", "qwen3_omni")  # one folder holds all
    if not whole:
        text_model = "llm" if paradigm == "llm_va" else "vllm"
        model |= {"pretrained": folder / text_model, "beats": folder / "beats"}
        # Small, as the checkpoints are; their file is the next config's to load.
        model |= {"connector.hidden": 16, "connector.heads": 2, "connector.ffn": 24, "connector.queries": 1}
    if paradigm == "llm_va":
        model |= {"vision": folder / "clip", "chat_template": "null"}
    if not whole and not stage_1(name):
        for modality in ("audio", "visual")[: 1 + (paradigm == "llm_va")]:
            model[f"{modality}_connector"] = world / f"stage1_{paradigm}_{modality}.safetensors"
    config = compose([CONFIGS / name])
    if config["model"]["init_args"].get("load_adapter"):
        model["load_adapter"] = world / "adapter"
    words = [f"--model.init_args.{key}={value}" for key, value in model.items()]
    words += [f"--data.root={world / 'mini'}", "--data.num_workers=0", f"--run.folder={run}"]
    words += ["--data.batch_size=1", "--data.eval_batch_size=1"]
    words += ["--trainer.max_steps=1", "--trainer.limit_val_batches=1", "--trainer.enable_progress_bar=false"]
    if not stage_1(name):
        return [*words, f"--only={ONLY}", "--data.val_generate_per_dataset=1"]
    for source, options in config["data"]["sources"].items():
        file = "sounds.jsonl" if options["format"] == "audio_captions" else "pictures.json"
        words += [f"--data.sources.{source}.file=captions/{file}", f"--data.sources.{source}.media=captions"]
    return [*words, "--data.val_share=0.3"]


def write_connectors(world: Path) -> None:
    """Train the connectors of stage 1 a step, by the shipped configs, for those of stage 2."""
    for name, modality in (
        ("demo_stage1_audio.yaml", "audio"),
        ("demo_stage1_visual.yaml", "visual"),
        ("demo_stage1_audio_vllm.yaml", "audio"),
    ):
        run = world / name
        assert main(["fit", "--config", name, *words_of(name, world, run)]) == 0
        found = run / "adapter" / f"{modality}_connector.safetensors"
        found.rename(world / f"stage1_{paradigm_of(name)}_{modality}.safetensors")


def fit_and_test(name: str, world: Path, run: Path, *more: str) -> dict[str, dict[str, object]]:
    """Take a step and test what came of it; return the scores of each dataset, none for stage 1."""
    assert main(["fit", "--config", name, *words_of(name, world, run), *more]) == 0
    if stage_1(name):
        return {}
    assert main(["test", "--ckpt_path", str(run), "--trainer.limit_val_batches=1.0"]) == 0
    content = json.loads((run / "metrics.json").read_text())
    datasets: dict[str, dict[str, object]] = content["test"]["datasets"]
    return datasets


if __name__ == "__main__":
    for word in sys.argv[3:]:
        config, strategy = word.split(":")
        place = Path(sys.argv[2]) / f"{config}_{strategy}"
        shared = ["--trainer.devices=2", f"--trainer.strategy={strategy}"]
        fit_and_test(config, Path(sys.argv[1]), place, *shared)
