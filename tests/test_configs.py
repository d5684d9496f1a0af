"""Every config of the repository goes through the real parser; test_shipped_configs runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crab_lightning.commands.trainer import one_config

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
WHOLE = sorted(CONFIGS.glob("*.yaml"))
PARTS = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent not in (CONFIGS, CONFIGS / "studies"))
STUDIES = sorted((CONFIGS / "studies").glob("*.yaml"))


def parse(words: list[str]) -> Any:
    """Parse as the command line does, building nothing."""
    from crab_lightning.commands.lightning_cli import cli_for

    options = one_config(words)

    class Parsed(cli_for(options.words)):  # type: ignore[misc]  # a class made on the spot
        def instantiate_classes(self) -> None:
            """Stop at the parsed config."""

    cli = Parsed("fit", *options)
    cli.close()  # the run folder is taken with the config
    return cli.config


def test_there_are_configs_to_check() -> None:
    assert {path.name for path in WHOLE} >= {"omni.yaml", "omni_r16.yaml", "demo.yaml"}
    assert PARTS


def is_stage_1(path: Path) -> bool:
    return "stage1" in path.name


@pytest.mark.parametrize("path", [p for p in WHOLE if not is_stage_1(p)], ids=lambda path: path.name)
def test_config_parses_with_all_datasets(path: Path) -> None:
    config = parse(["--config", str(path)])
    assert len(config.data.datasets) == 19
    assert config.run.name == path.stem


@pytest.mark.parametrize("path", [p for p in WHOLE if is_stage_1(p)], ids=lambda path: path.name)
def test_stage_1_trains_one_connector_whose_file_stage_2_names(path: Path) -> None:
    config = parse(["--config", str(path)])
    assert config.data.sources
    (modality,) = config.model.init_args.train_connectors
    assert config.model.init_args.adapter is None
    written = f"{config.run.folder}/adapter/{modality}_connector.safetensors"
    named = [second.read_text() for second in WHOLE if not is_stage_1(second)]
    assert any(written in text for text in named)


def test_every_stage_config_has_a_demo_twin() -> None:
    names = {path.name for path in WHOLE}
    stages = {
        "stage1_visual",
        "stage1_audio",
        "stage1_audio_vllm",
        "llm_va_llama2",
        "llm_va_llama3",
        "vllm_a",
    }
    assert names >= {f"{prefix}{stage}.yaml" for stage in stages for prefix in ("", "demo_")}


@pytest.mark.parametrize("path", PARTS, ids=lambda path: path.name)
def test_part_fits_its_section(path: Path, tmp_path: Path) -> None:
    (tmp_path / "over.yaml").write_text(f"{path.parent.name}: {path}\n")
    over = (
        path if path.parent.name == "strategy" else tmp_path / "over.yaml"
    )  # those are overlays as they stand
    parse(["--config", "omni.yaml", "--config", str(over)])


def test_every_strategy_is_one_key() -> None:
    from lightning.pytorch.strategies import StrategyRegistry

    named = [line.split()[1] for line in (CONFIGS / "omni.yaml").read_text().splitlines() if "  #   " in line]
    assert named == ["auto", "fsdp2", "fsdp2_hybrid", "fsdp2_offload", "fsdp1"]
    for name in named:
        config = parse(["--config", "omni.yaml", f"--trainer.strategy={name}"])
        assert config.trainer.strategy == name
        assert name == "auto" or name in StrategyRegistry
    for path in sorted((CONFIGS / "strategy").glob("*.yaml")):
        strategy = parse(["--config", "omni.yaml", "--config", str(path)]).trainer.strategy
        options = StrategyRegistry[path.stem]["init_params"]
        given = {"cpu_offload", "hybrid"} & {k for k, v in strategy.init_args.items() if v is True}
        assert given == set(options)


@pytest.mark.parametrize("path", [*WHOLE, *PARTS, *STUDIES], ids=lambda path: path.name)
def test_config_begins_with_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("# ")


def test_omni_is_the_papers_recipe() -> None:
    config = parse(["--config", "omni.yaml"])
    init, trainer = config.model.init_args, config.trainer
    adapter = {key: init.adapter[key] for key in ("kind", "rank", "alpha", "dropout", "heads", "router")}
    wanted = {"kind": "ilora", "rank": 128, "alpha": 256, "dropout": 0.1, "heads": 3, "router": "latent"}
    assert adapter == wanted
    assert init.optimizer.class_path == "torch.optim.AdamW"
    assert init.optimizer.init_args.lr == 1e-4
    assert (init.warmup_share, init.dtype) == (0.03, "bfloat16")
    assert (trainer.gradient_clip_val, trainer.max_epochs) == (1.0, 5)
    frames = {name: row.frames for name, row in config.data.datasets.items()}
    assert {name for name, count in frames.items() if count == 4} == {
        "meld",
        "mer24",
        "cremad",
        "mafw",
        "dfew",
    }


@pytest.mark.parametrize("name", ["omni", "vllm_a", "llm_va_llama2", "llm_va_llama3"])
def test_analysis_config_of_each_paradigm_has_the_papers_small_adapters(name: str) -> None:
    large, small = (parse(["--config", f"{name}{end}.yaml"]) for end in ("", "_r16"))
    adapter = small.model.init_args.adapter
    assert (adapter.rank, adapter.alpha, adapter.dropout) == (16, 32, 0.05)
    adapter.rank, adapter.alpha, adapter.dropout = 128, 256.0, 0.1
    assert small.model == large.model
    assert small.data == large.data


@pytest.mark.parametrize("path", [p for p in WHOLE if not is_stage_1(p)], ids=lambda path: path.name)
def test_masks_are_made_by_sam2_large_and_in_demos_by_the_shipped_one(path: Path) -> None:
    tasks = parse(["--config", str(path)]).data.tasks
    for name in ("segmentation", "referring_segmentation"):
        init = tasks[name].init_args
        demo = path.name.startswith("demo")
        assert init.mask_decoder.init_args.pretrained == (
            "mini_sam2" if demo else "facebook/sam2.1-hiera-large"
        )
        assert init.mask_decoder_optional is not demo


def test_flag_wins_over_configs_wherever_it_stands() -> None:
    assert parse(["--data.seed=7", "--config", "omni.yaml"]).data.seed == 7


def test_one_value_of_one_row_is_changed_by_its_key() -> None:
    rows = parse(["--config", "omni.yaml", "--data.datasets.ave.weight=2"]).data.datasets
    assert len(rows) == 19
    assert rows["ave"].weight == 2


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_every_arm_of_a_study_parses(path: Path, tmp_path: Path) -> None:
    import yaml

    from crab_lightning.studies.study import read_study

    study = read_study(path)
    few = {"demo_transfer_long": 6, "demo_ranks": 4}
    assert len(study.datasets) == few.get(path.stem, 16)
    for arm in study.arms:
        cell = next(cell for cell in study.cells() if cell.arm == arm)
        (tmp_path / "cell.yaml").write_text(yaml.safe_dump(dict(cell.config), sort_keys=False))
        config = parse(["--config", str(tmp_path / "cell.yaml")])
        assert config.seed_everything == 0
        assert config.trainer.max_epochs == study.equal[1]


def test_every_study_has_a_demo_twin() -> None:
    assert {path.name for path in STUDIES} >= {
        f"{prefix}{name}.yaml" for prefix in ("", "demo_") for name in ("transfer", "heads")
    }


def test_rivals_train_as_many_parameters() -> None:
    from crab_lightning.adapters import LoRALinear
    from crab_lightning.adapters.kinds import make_config
    from crab_lightning.models import OmniModule
    from crab_lightning.studies.study import read_study

    counts = {}
    for arm, config in read_study("demo_rivals.yaml").arms.items():
        init = config["model"]["init_args"]
        adapter = make_config(**init["adapter"])
        module = OmniModule(init["pretrained"], adapter=adapter, dtype="float32")
        module.configure_model()
        assert any(isinstance(m, LoRALinear) for m in module.model.modules()), arm
        counts[arm] = sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert set(counts) == {"lora", "ilora", "hydra_lora", "moe_lora", "moka"}
    assert max(counts.values()) < 1.02 * min(counts.values()), counts
