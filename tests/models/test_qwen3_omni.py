"""Qwen3-Omni's thinker reads, learns and answers as transformers' own class does, and trains its adapters."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3OmniMoeThinkerForConditionalGeneration

from crab_lightning.adapters import AdapterConfig
from crab_lightning.adapters.export import ExportError, write_merged, write_peft
from crab_lightning.commands import main
from crab_lightning.compat import qwen3_routers
from crab_lightning.distributed.shard_files import fill_shards, parameters_on_meta
from crab_lightning.mini import TinyQwen3OmniConfig, make_tiny_qwen3_omni
from crab_lightning.models import LlmVaModule, OmniModule, Qwen3OmniModule, VllmAModule
from crab_lightning.models.losses import last_hidden_states
from crab_lightning.planning.shape import measure
from crab_lightning.processing import GeometryError, Qwen3OmniProcessor
from crab_lightning.processing.qwen3_omni import qwen3_audio_tokens
from crab_lightning.structures import Batch, Example, Media
from tests.processing.examples import frames, image_example, sample, sound, video_example

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


@pytest.fixture(scope="module")
def tiny3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_qwen3_omni(tmp_path_factory.mktemp("qwen3") / "tiny")


@pytest.fixture(scope="module")
def reader(tiny3: Path) -> Qwen3OmniProcessor:
    return Qwen3OmniProcessor(tiny3, "plain")


@pytest.fixture(scope="module")
def theirs(tiny3: Path) -> Any:
    return Qwen3OmniMoeThinkerForConditionalGeneration.from_pretrained(tiny3, dtype=torch.float32).eval()


def built(tiny3: Path, **options: Any) -> Qwen3OmniModule:
    torch.manual_seed(0)
    given: dict[str, Any] = {"geometry": "plain", "dtype": "float32", "max_new_tokens": 8} | options
    module = Qwen3OmniModule(str(tiny3), **given)
    module.configure_model()
    return module.eval()


def examples(*, target: bool = True) -> list[Example]:
    """A clip whose frames lie a fraction of a position apart, a picture, and two videos with two sounds."""
    talk = ("Two:", Media.AUDIO, Media.VIDEO, "and", Media.VIDEO, Media.AUDIO, "Which?")
    made = [
        dataclasses.replace(video_example(count=5, seconds=1.37), seconds_per_grid=[1.07]),
        image_example(),
        Example(
            sample("ab", "a2v"),
            talk,
            "the first",
            [frames(2, 1, 64), frames(3, 2, 96)],
            [],
            [sound(0.31), sound(2.0)],
            [0.5, 2.53],
        ),
    ]
    return made if target else [dataclasses.replace(e, target=None) for e in made]


def batch_of(reader: Qwen3OmniProcessor, *, target: bool = True) -> Batch:
    return reader.collate([reader.encode(e) for e in examples(target=target)])


def without_positions(batch: Batch) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch.inputs.items() if name != "position_ids"}


@pytest.mark.parametrize("number", [0, 1, 2])
def test_inputs_equal_those_of_the_stock_processor(reader: Qwen3OmniProcessor, number: int) -> None:
    example = examples()[number]
    ours = reader.encode(example).inputs
    stock = reader.stock(
        text=[reader.render(example.conversation, example.target)],
        images=example.images or None,
        videos=example.videos or None,
        audio=[a.numpy() for a in example.audios],
        videos_kwargs={"do_resize": False, "fps": 1.0},
        images_kwargs={"do_resize": False},
        return_tensors="pt",
    )
    assert torch.equal(ours["input_ids"], stock["input_ids"][0])
    for key in {"pixel_values_videos", "pixel_values", "video_grid_thw", "image_grid_thw"} & stock.keys():
        assert torch.equal(ours[key], stock[key]), key
    assert torch.equal(ours["feature_attention_mask"].sum(1), stock["feature_attention_mask"].sum(1))
    if len(example.audios) == 1:  # beside a longer sound, the stock processor adds zeros to a shorter one
        torch.testing.assert_close(ours["input_features"], stock["input_features"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("target", [True, False])
def test_positions_equal_the_models_with_their_fractions(
    reader: Qwen3OmniProcessor, theirs: Any, target: bool
) -> None:
    batch = batch_of(reader, target=target)
    i = batch.inputs
    wanted, _ = theirs.get_rope_index(
        i["input_ids"],
        i.get("image_grid_thw"),
        i.get("video_grid_thw"),
        i["attention_mask"],
        False,
        i["feature_attention_mask"].sum(1),
        i.get("video_second_per_grid"),
    )
    real = i["attention_mask"].bool()
    assert torch.equal(i["position_ids"][:, real], wanted[:, real])
    assert (wanted[:, real] % 1 > 0).any()


def test_loss_logits_and_answers_equal_those_of_transformers(
    tiny3: Path, reader: Qwen3OmniProcessor, theirs: Any
) -> None:
    module, batch, prompts = built(tiny3), batch_of(reader), batch_of(reader, target=False)
    with torch.no_grad():
        wanted = theirs(**without_positions(batch), labels=batch.labels, use_cache=False)
        sums, counts = module.losses(batch)
        states = last_hidden_states(module.model, **batch.inputs, use_cache=False)
        real = batch.inputs["attention_mask"].bool()
        logits = module.answer_head()(states)[real]
        torch.testing.assert_close(logits, wanted.logits[real], atol=1e-5, rtol=1e-5)
        assert float(sums.sum() / counts.sum()) == pytest.approx(float(wanted.loss), abs=1e-5)
        ids = theirs.generate(**without_positions(prompts), max_new_tokens=8, do_sample=False)
    new = ids[:, prompts.inputs["input_ids"].shape[1] :].tolist()
    answers = module.answer(prompts).tokens
    assert answers == [row[: len(found)] for row, found in zip(new, answers, strict=True)]
    assert all(answers)


@pytest.mark.parametrize(("kind", "expert_rank"), [("ilora", 2), ("lora", None)])
def test_answers_of_slots_equal_those_of_each_prompt_alone(
    tiny3: Path, reader: Qwen3OmniProcessor, kind: str, expert_rank: int | None
) -> None:
    adapter = AdapterConfig(kind=kind, rank=4, expert_rank=expert_rank, target_modules=ATTENTION)
    module = built(tiny3, adapter=adapter)
    torch.manual_seed(1)
    for name, parameter in module.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    alone = [reader.collate([reader.encode(e)]) for e in examples(target=False)]
    wanted = [module.answer(batch).tokens[0] for batch in alone]
    engine = module.engine(2)
    answers: list[Any] = []
    with torch.no_grad():
        for batch in alone:
            answers += module.queue(engine, batch)
            engine.step()
        for _ in range(100):
            engine.step()
    assert [answer.tokens for answer in answers] == wanted
    together = module.generate(batch_of(reader, target=False))
    assert [p.text for p in together] == [reader.decode(tokens) for tokens in wanted]


def test_training_moves_every_adapter_and_no_base_weight(tiny3: Path, reader: Qwen3OmniProcessor) -> None:
    adapter = AdapterConfig(rank=4, expert_rank=2, target_modules=ATTENTION)
    module = built(tiny3, adapter=adapter, gradient_checkpointing=True).train()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=100.0)
    for _ in range(2):  # A has no gradient before B has moved
        optimizer.zero_grad()
        module.training_step(batch_of(reader), 0).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, before[name]) == ("lora_" not in name), name


def test_merged_checkpoint_gives_the_logits_of_the_adapted_experts(
    tiny3: Path, reader: Qwen3OmniProcessor, tmp_path: Path
) -> None:
    module = built(
        tiny3, adapter=AdapterConfig(kind="lora", rank=4, expert_rank=2, target_modules=["q_proj"])
    )
    for name, parameter in module.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    batch = batch_of(reader)
    ours, fresh = module.losses(batch)[0], built(tiny3).losses(batch)[0]
    assert (ours - fresh).abs().min() > 1e-2
    with pytest.raises(ExportError, match=r"6 of the adapters are on experts .*Export with --merge"):
        write_peft(module.model, str(tiny3), tmp_path / "peft")
    assert write_merged(module.model, reader.stock, tmp_path / "merged") == 9
    torch.testing.assert_close(built(tmp_path / "merged").losses(batch)[0], ours, atol=1e-3, rtol=1e-4)


def test_plan_counts_the_adapters_of_experts_and_those_that_a_token_uses() -> None:
    config = AdapterConfig(kind="lora", rank=8, expert_rank=4, target_modules=["q_proj"])
    shape = measure("Qwen/Qwen3-Omni-30B-A3B-Instruct", config, Qwen3OmniModule)
    expert = 4 * (2048 + 2 * 768) + 4 * (768 + 2048)
    assert shape.adapters == 48 * (8 * (2048 + 32 * 128) + 128 * expert)
    assert shape.idle_adapters == 48 * 120 * expert
    assert shape.expert_values == 8 * (2048 + 768 + 2 * 2 * 4)


@pytest.mark.parametrize("target", ["gate_proj", "down_proj", "mlp.experts.up_proj"])
def test_target_inside_the_experts_is_refused(tiny3: Path, target: str) -> None:
    adapter = AdapterConfig(rank=4, target_modules=["q_proj", target])
    with pytest.raises(
        ValueError, match=r"one parameter of three dimensions for all experts.*Leave .*expert_rank"
    ):
        built(tiny3, adapter=adapter)


def test_four_bits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"quantization is '4bit'.*trainer\.strategy to fsdp2"):
        Qwen3OmniModule("x", adapter=AdapterConfig(), quantization="4bit")


@pytest.mark.parametrize("frames_of_mel", [1, 7, 8, 9, 99, 100, 101, 250, 1000, 3000])
def test_audio_tokens_follow_the_published_formula(frames_of_mel: int) -> None:
    from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import _get_feat_extract_output_lengths

    wanted = int(_get_feat_extract_output_lengths(torch.tensor(frames_of_mel)))
    assert qwen3_audio_tokens(frames_of_mel) == wanted


def test_sizes_and_sounds_that_the_model_cannot_read_are_refused(reader: Qwen3OmniProcessor) -> None:
    example = video_example(count=2, seconds=1.0)
    with pytest.raises(GeometryError, match="multiples of 32 px"):
        reader.encode(dataclasses.replace(example, videos=[frames(2, 0, 84)]))
    with pytest.raises(GeometryError, match=r"the model reads 0\.03 s"):
        reader.encode(dataclasses.replace(example, audios=[torch.zeros(200)]))


def test_whole_omni_checkpoint_gives_its_thinker(
    tiny3: Path, reader: Qwen3OmniProcessor, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(tiny3, whole)
    weights = {f"thinker.{name}": value for name, value in load_file(tiny3 / "model.safetensors").items()}
    more = {"talker.x": torch.zeros(1), "code2wav.y": torch.zeros(1)}
    save_file(weights | more, whole / "model.safetensors", {"format": "pt"})
    config = {
        "model_type": "qwen3_omni_moe",
        "thinker_config": json.loads((tiny3 / "config.json").read_text()),
    }
    (whole / "config.json").write_text(json.dumps(config))
    batch = batch_of(reader)
    assert torch.equal(built(whole).losses(batch)[0], built(tiny3).losses(batch)[0])


@pytest.mark.parametrize("stacked", [False, True])
def test_base_filled_from_its_files_equals_the_loaded_one(
    tiny3: Path, theirs: Any, tmp_path: Path, stacked: bool
) -> None:
    """Files hold experts one by one, as published, or all of a layer in one tensor."""
    folder = tmp_path / "copy"
    shutil.copytree(tiny3, folder)
    if stacked:
        save_file(
            {name: p.detach().contiguous() for name, p in theirs.named_parameters()},
            folder / "model.safetensors",
            {"format": "pt"},
        )
    with parameters_on_meta():
        model = Qwen3OmniMoeThinkerForConditionalGeneration._from_config(theirs.config)
    fill_shards(model, str(folder), torch.device("cpu"))
    found = dict(model.named_parameters())
    for name, weight in theirs.named_parameters():
        assert torch.equal(found[name], weight), name
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if ".experts." in name and "down_proj" in name)
    del weights[lost]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with parameters_on_meta():
        model = Qwen3OmniMoeThinkerForConditionalGeneration._from_config(theirs.config)
    with pytest.raises(
        ValueError, match=r"weights of the thinker are missing: 1 .first: .'layers.*down_proj'"
    ):
        fill_shards(model, str(folder), torch.device("cpu"))


@pytest.mark.parametrize("kind", [OmniModule, VllmAModule, LlmVaModule])
def test_checkpoint_of_another_family_names_the_class_that_reads_it(
    tiny3: Path, kind: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    said = r"model_type of its config.json is 'qwen3_omni_moe_thinker'; .*crab_lightning\.models\.Qwen3Omni"
    module = kind(str(tiny3))
    with pytest.raises(ValueError, match=said):
        module.processor  # noqa: B018
    with pytest.raises(ValueError, match=said):
        module.configure_model()
    config = {"OmniModule": "omni", "VllmAModule": "vllm_a", "LlmVaModule": "llm_va_llama3"}[kind.__name__]
    assert main(["plan", "--config", f"{config}.yaml", f"--model.init_args.pretrained={tiny3}"]) != 0
    assert "'qwen3_omni_moe_thinker'" in capsys.readouterr().err


def test_checkpoint_of_no_known_family_lists_those_that_are(tiny: Path, tmp_path: Path) -> None:
    for found in ("gemma4", None, "siglip"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": found} if found else {}))
        kinds = [OmniModule, Qwen3OmniModule, VllmAModule, LlmVaModule]
        for kind in kinds[: 3 if found == "gemma4" else 4]:  # the last takes any text model
            with pytest.raises(ValueError, match=rf"the model_type of its config.json is {found!r}"):
                kind(str(tmp_path)).processor  # noqa: B018
    with pytest.raises(ValueError, match=r"Set model.class_path to crab_lightning\.models\.OmniModule"):
        Qwen3OmniModule(str(tiny)).configure_model()


def test_sizes_that_cannot_be_laid_out_are_refused() -> None:
    for options in ({"head_width": 12}, {"experts_per_token": 5}, {"vision_layers": 5}, {"heads": 3}):
        with pytest.raises(ValueError, match=next(iter(options))):
            TinyQwen3OmniConfig(**options)


def test_a_run_is_planned_trained_tested_and_asked(
    small: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, run = tmp_path / "tiny", tmp_path / "run"
    assert main(["model", "tiny", "--paradigm", "qwen3_omni", "--out", str(made)]) == 0
    assert main(["plan", "--config", "qwen3_omni.yaml"]) == 0
    assert "31.72 B weights" in capsys.readouterr().out
    model = [f"--model.init_args.pretrained={made}", "--model.init_args.max_new_tokens=4"]
    model += ["--model.init_args.adapter.expert_rank=2"]
    assert main(["plan", "--config", "qwen3_omni.yaml", *model]) == 0
    words = ["--trainer.limit_train_batches=1", "--trainer.max_epochs=1", "--trainer.limit_val_batches=1"]
    words += ["--trainer.limit_test_batches=1", "--trainer.strategy=auto", "--trainer.accelerator=cpu"]
    words += ["--trainer.devices=1", "--trainer.callbacks=null", "--model.init_args.dtype=float32"]
    words += [f"--data.root={small['mini']}", "--only=ave,ks,s4,a2v", f"--run.folder={run}"]
    words += ["--data.num_workers=0", "--data.val_generate_per_dataset=0", "--data.batch_size=2"]
    assert main(["fit", "--config", "qwen3_omni.yaml", *model, *words]) == 0
    assert main(["test", "--ckpt_path", str(run)]) == 0
    capsys.readouterr()
    assert main(["adapter", "inspect", str(run), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["towers"]["language"]
    assert (shown["layers"], shown["ranks"], len(shown["max_abs_b_by_head"])) == (3 * 6, [2, 128], 3)
    video = next((small["mini"] / "AVUIE_2").rglob("*.mp4"))
    assert main(["ask", "--checkpoint", str(run), "--video", str(video), "--task", "ave", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["task"] == "event_localization"


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_of_the_router_is_that_of_transformers_and_moves_the_adapters(
    tiny3: Path, reader: Qwen3OmniProcessor, theirs: Any, checkpointing: bool
) -> None:
    batch = batch_of(reader)
    adapter = AdapterConfig(rank=4, target_modules=ATTENTION)
    plain, module = (
        built(tiny3, adapter=adapter, router_loss=weight, gradient_checkpointing=checkpointing).train()
        for weight in (0.0, 0.5)
    )
    with torch.no_grad():  # fresh adapters change nothing yet
        found = theirs(**without_positions(batch), use_cache=False, output_router_logits=True)
    balance = sum(
        m.training_step(batch, 0) * sign
        for m, sign in ((module, 1), (plain, -1))  # type: ignore[operator]
    )
    torch.testing.assert_close(balance, 0.5 * found.aux_loss, atol=1e-4, rtol=1e-3)
    balance.backward()  # type: ignore[union-attr]
    moved = [p.grad for name, p in module.named_parameters() if name.endswith("lora_B")]
    first = [p.grad for name, p in plain.named_parameters() if name.endswith("lora_B")]
    assert any(not torch.allclose(a, -b) for a, b in zip(moved, first, strict=True) if b is not None)
    assert len(qwen3_routers(module.decoder())[0]) == module.text_config().num_hidden_layers
    with pytest.raises(ValueError, match=r"router_loss is 0\.5; .* 0 without model\.adapter"):
        Qwen3OmniModule(str(tiny3), router_loss=0.5)
