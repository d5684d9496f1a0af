"""The adapter commands: convert and inspect, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from crab_lightning.adapters.released_table import ThinkerSizes, released_table
from crab_lightning.commands import main
from crab_lightning.mini import TinyNativeConfig, make_tiny_native
from tests.adapters.test_released import write

SMALL = TinyNativeConfig(hidden=32, layers=1, heads=4, kv_heads=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_native(tmp_path_factory.mktemp("base") / "tiny", config=SMALL)


@pytest.fixture
def file(base: Path, tmp_path: Path) -> Path:
    from crab_lightning.commands.adapter import _sizes

    table = released_table(_sizes(str(base)), rank=4)
    state = {
        n: torch.randn(s).bfloat16() * (0 if "visual" in n and "lora_B" in n else 1) for n, s in table.items()
    }
    return write(tmp_path / "finetune_weights.bin", state)


SETTINGS = ["--rank", "4", "--alpha", "8"]


def test_sizes_of_the_published_model_are_the_defaults() -> None:
    from transformers import Qwen2_5OmniThinkerConfig

    from crab_lightning.commands.adapter import _sizes

    vision = {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584, "depth": 32}
    config = Qwen2_5OmniThinkerConfig(vision_config=vision)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.AutoConfig.from_pretrained", lambda *_, **__: config)
        assert _sizes("published") == ThinkerSizes()


def test_convert_inspect_and_back(
    base: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, back = tmp_path / "adapter", tmp_path / "back.bin"
    assert main(["adapter", "convert", str(file), "--out", str(out), "--base", str(base), *SETTINGS]) == 0
    said = capsys.readouterr().out
    assert "6 adapters are zero and change nothing; --drop-zero" in said
    assert f"--model.init_args.load_adapter {out}" in said.replace("\n", "")
    assert main(["adapter", "inspect", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["router"], found["alpha"], found["metadata"]["geometry"]) == (
        "ilora",
        "input",
        8.0,
        "released",
    )
    visual, language = found["towers"]["visual"], found["towers"]["language"]
    assert (visual["max_abs_b"], len(visual["dead"])) == (0.0, visual["layers"])
    state = torch.load(file, weights_only=True)
    largest = max(float(v.abs().max()) for n, v in state.items() if ".model.layers" in n and "lora_B2" in n)
    assert language["max_abs_b_by_head"][2] == largest
    assert language["dead"] == []
    assert main(["adapter", "convert", str(out), "--reverse", "--out", str(back), "--base", str(base)]) == 0
    again = torch.load(back, weights_only=True)
    assert all(torch.equal(again[n], v) for n, v in state.items())


def test_inspect_finds_the_adapters_of_a_run_folder(
    base: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    out = run / "version_0" / "adapter"
    assert main(["adapter", "convert", str(file), "--out", str(out), "--base", str(base), *SETTINGS]) == 0
    for source in (run, run / "version_0"):
        capsys.readouterr()
        assert main(["adapter", "inspect", str(source), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["source"] == str(out)
    (out / "adapter.json").unlink()
    assert main(["adapter", "inspect", str(run)]) == 1
    assert f"no adapter.json in {run}, nor in adapter/ of it" in capsys.readouterr().err


def test_weights_of_another_rank_than_the_one_beside_them_are_refused(
    base: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "adapter"
    assert main(["adapter", "convert", str(file), "--out", str(out), "--base", str(base), *SETTINGS]) == 0
    about = out / "adapter.json"
    about.write_text(about.read_text().replace('"rank": 4', '"rank": 16'))
    capsys.readouterr()
    assert main(["adapter", "inspect", str(out)]) == 1
    said = capsys.readouterr().err
    assert f"{about}: adapter.rank is 16, and " in said
    assert "adapter.safetensors has the rank 4" in said


def test_inspect_reads_a_released_file_as_it_is(
    file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["adapter", "inspect", str(file), "--json"]) == 0
    towers = json.loads(capsys.readouterr().out)["towers"]
    assert {name: row["routers"] for name, row in towers.items()} == {
        name: ["input"] for name in ("audio", "visual", "language")
    }
    assert main(["adapter", "inspect", str(file)]) == 0
    said = capsys.readouterr().out
    assert "visual: 6 dead, first visual.blocks.0.mlp.gate_proj" in said
    assert "rank 4; router: input" in said
    values = sum(row["parameters"] for row in towers.values())
    assert f"{values:,}" in said  # not cut off


def test_dropped_zeros_are_said(
    base: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "adapter",
        "convert",
        str(file),
        "--out",
        str(tmp_path / "a"),
        "--base",
        str(base),
        "--drop-zero",
    ]
    assert main([*words, *SETTINGS]) == 0
    assert "Left out 6 adapters that are zero" in capsys.readouterr().out


def test_the_wrong_base_is_refused_with_names(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapter", "convert", str(file), "--out", str(tmp_path / "a")]) == 1
    said = capsys.readouterr().err
    assert "does not contain the 1940 weights of this base model" in said
    assert "model.layers.2" not in said.partition("missing: ")[0]
    assert "--base" in said


def test_alpha_must_be_said_for_another_rank(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["adapter", "convert", str(file), "--out", str(tmp_path / "a"), "--rank", "4"])
    assert "--alpha: give it with --rank" in capsys.readouterr().err


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapter", "inspect", str(tmp_path / "none.bin")]) == 1
    assert f"there is no file or folder {tmp_path / 'none.bin'}; give" in capsys.readouterr().err
