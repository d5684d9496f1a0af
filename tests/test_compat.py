"""What is private in other libraries does what we use it for; a failure here means that a library changed."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Union

import pytest
import torch
import torchmetrics
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from crab_lightning import compat

SMALL = Qwen2Config(
    vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2,
)  # fmt: skip


def test_lightning_trainer_has_its_data_module_callbacks_and_log_interval() -> None:
    trainer = Trainer(logger=False, enable_checkpointing=False, log_every_n_steps=7, accelerator="cpu")
    assert compat.datamodule_of(trainer) is None
    data = LightningDataModule()
    trainer.datamodule = data  # type: ignore[attr-defined]
    assert compat.datamodule_of(trainer) is data
    assert compat.log_interval(trainer) == 7
    assert compat.callbacks_of(trainer)


def test_lightning_lets_something_be_said_before_its_launcher_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.fabric.strategies.launchers import subprocess_script

    done: list[Any] = []
    monkeypatch.setattr(subprocess_script.os, "kill", lambda *_: done.append("killed"))
    observer = subprocess_script._ChildProcessObserver(
        1, [subprocess.Popen([sys.executable, "-c", "exit(3)"])], 1
    )
    observer.start()
    compat.before_launcher_kills(lambda: done.append("said"))
    observer.join(30)
    assert done == ["said", "killed"]


def test_gradients_of_a_fused_optimizer_can_be_clipped_under_mixed_precision() -> None:
    from lightning.pytorch.plugins.precision import MixedPrecision

    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.full((2,), 8.0)
    optimizer = torch.optim.AdamW([weight], fused=True)
    plugin = MixedPrecision("bf16-mixed", "cpu")
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        plugin.clip_gradients(optimizer, 1.0)
    compat.unscale_outside(optimizer)
    plugin.clip_gradients(optimizer, 1.0)
    assert float(weight.grad.norm()) == pytest.approx(1.0, rel=1e-4)


def test_torch_tells_a_forward_that_runs_again_inside_backward() -> None:
    seen: list[bool] = []

    def forward(x: Tensor) -> Tensor:
        seen.append(compat.recomputing())
        return x.square()

    checkpoint(forward, torch.ones(2, requires_grad=True), use_reentrant=False).sum().backward()
    assert seen == [False, True]
    assert not compat.recomputing()


def test_torch_softmax_gradient_is_autograds() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    grad = torch.randn(4, 3)
    y = x.softmax(1)
    (wanted,) = torch.autograd.grad(y, x, grad)
    torch.testing.assert_close(compat.softmax_backward(grad, y.detach(), 1), wanted)


def test_transformers_builds_a_model_of_a_config_and_says_what_a_checkpoint_lacked(tmp_path: Path) -> None:
    model = compat.from_config(Qwen2ForCausalLM, SMALL, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    state = model.state_dict()
    del state["model.norm.weight"]
    model.save_pretrained(tmp_path, state_dict=state)
    loaded, info = compat.load_with_info(Qwen2ForCausalLM, str(tmp_path))
    assert isinstance(loaded, nn.Module)
    assert set(info["missing_keys"]) == {"model.norm.weight"}
    assert not info["mismatched_keys"]


def test_transformers_renames_the_weights_of_a_derived_class_as_those_of_its_parent() -> None:
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker
    from transformers import conversion_mapping as rules

    Derived = type("DerivedThinker", (Thinker,), {"__module__": "theirs"})
    compat.inherit_names_of_weights(Derived)
    compat.inherit_names_of_weights(Derived)
    parents = rules.get_checkpoint_conversion_mapping("Qwen2_5OmniThinkerForConditionalGeneration")
    parents = parents or rules.get_checkpoint_conversion_mapping("qwen2_5_omni_thinker")  # until 5.23
    assert repr(rules.get_checkpoint_conversion_mapping("DerivedThinker")) == repr(parents)


@dataclass
class Inner:
    """A class inside a class of a config."""

    text: str | None = "a"
    texts: list[str | None] | None = None


class Outer:
    """What a config names by its class path."""

    def __init__(self, inner: Inner) -> None:
        self.inner = inner


@pytest.mark.parametrize(
    ("word", "expected"),
    [("text=null", (None, None)), ("text=None", ("None", None)), ("texts=[b, null]", ("a", ["b", None]))],
)
def test_jsonargparse_takes_null_for_a_key_of_a_class_inside_a_class(
    word: str, expected: tuple[object, object]
) -> None:
    from jsonargparse import ArgumentParser

    compat.keep_nulls()
    compat.keep_nulls()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Outer, "outer")
    found = parser.parse_args([f"--outer={__name__}.Outer", f"--outer.inner.{word}"]).outer.init_args.inner
    assert (found.text, found.texts) == expected


def test_jsonargparse_reads_one_as_a_whole_number_where_fractions_are_allowed_too() -> None:
    def limited(batches: Union[float, int, str, None] = None) -> None:  # noqa: UP007
        """Stand for a setting of the Trainer."""

    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(limited)
    assert isinstance(parser.parse_args(["--batches", "1"]).batches, float)  # or the function can go
    compat.whole_numbers_first(parser)
    for word, value in (("1", 1), ("1.0", 1.0), ("0.5", 0.5), ("null", None), ("all", "all")):
        found = parser.parse_args(["--batches", word]).batches
        assert (found, type(found)) == (value, type(value)), word


def test_lightning_module_is_told_its_device() -> None:
    module = LightningModule()
    compat.tell_device(module, torch.device("meta"))
    assert module.device == torch.device("meta")


@pytest.mark.parametrize("wrapped", [False, True])
def test_transformers_takes_past_tokens_under_the_name_that_it_does_not_warn_about(wrapped: bool) -> None:
    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *args: Any, **options: Any) -> Any:
            return self.inner(*args, **options)

    plain = compat.from_config(Qwen2ForCausalLM, SMALL).eval()
    model, past = Wrapper(plain) if wrapped else plain, DynamicCache(config=SMALL)
    ids = torch.tensor([[1, 2, 3]])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        name = compat.cache_argument(model)
        model(input_ids=ids[:, :2], use_cache=True, **{name: past})
        continued = model(input_ids=ids[:, 2:], use_cache=True, **{name: past}).logits
    torch.testing.assert_close(continued, plain(input_ids=ids).logits[:, 2:])
    with pytest.raises(TypeError, match=r"Linear\.forward takes neither cache nor past_key_values"):
        compat.cache_argument(nn.Linear(2, 2))


def test_transformers_loads_and_writes_without_a_bar(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    compat.save_model(compat.from_config(Qwen2ForCausalLM, SMALL), tmp_path)
    compat.load_model(Qwen2ForCausalLM, tmp_path)
    assert capfd.readouterr() == ("", "")
    list(logging.tqdm(range(2), desc="a user's own"))
    assert "a user's own" in capfd.readouterr().err


def test_lightning_asks_whether_max_steps_is_set_only_when_it_resumes() -> None:
    trainer = Trainer(max_steps=3, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    assert trainer.fit_loop._iteration_based_training()
    compat.resume_by_epochs(trainer)
    assert not trainer.fit_loop._iteration_based_training()
    source = inspect.getsource(type(trainer.fit_loop))
    assert source.count("_iteration_based_training()") == 2, "in `restarting` and in `on_run_start`"


def test_experts_say_how_they_are_laid_out_and_apply_their_gate() -> None:
    from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as theirs

    sizes = {"num_experts": 2, "hidden_size": 3, "moe_intermediate_size": 4, "hidden_act": "silu"}
    experts = theirs.Qwen3OmniMoeThinkerTextExperts(SimpleNamespace(**sizes))
    assert compat.other_layout(experts) == []
    assert {p.shape for p in experts.parameters()} == {(2, 8, 3), (2, 3, 4)}
    gate, up = torch.randn(2, 5, 4)
    wanted = nn.functional.silu(gate) * up
    torch.testing.assert_close(compat.apply_gate(experts, torch.cat((gate, up), 1)), wanted)
    experts.has_bias = True
    assert compat.other_layout(experts) == ["has_bias is True"]
    assert compat.other_layout(nn.Linear(2, 2)) == ["they are not those of transformers"]


def test_routers_of_qwen3_omni_return_their_logits_first_and_have_a_balance_loss() -> None:
    from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as theirs

    sizes = SimpleNamespace(num_experts_per_tok=2, num_experts=4, norm_topk_prob=True, hidden_size=3)
    model = nn.Sequential(nn.Linear(3, 3), theirs.Qwen3OmniMoeThinkerTextTopKRouter(sizes))
    routers, balance = compat.qwen3_routers(model)
    assert routers == [model[1]]
    assert routers[0](torch.randn(5, 3))[0].shape == (5, 4)
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    assert balance((torch.zeros(5, 4),), 4, 2, mask).item() == pytest.approx(2.0)  # all experts alike


def test_torchmetrics_gives_its_base_classes_alone_and_the_rest_when_asked() -> None:
    code = (
        "import sys\n"
        "from crab_lightning.lazy import lazy_torchmetrics\n"
        "lazy_torchmetrics()\n"
        "import lightning.pytorch, torchmetrics\n"
        "rest = ('scipy.signal', 'torchmetrics.functional')\n"
        "print([name for name in rest if name in sys.modules], torchmetrics.__version__)\n"
        "from torchmetrics.text import Perplexity\n"
        "from torchmetrics import Metric, MetricCollection, Accuracy\n"
        "print(issubclass(Perplexity, Metric), issubclass(Accuracy, Metric), rest[1] in sys.modules)\n"
        "assert Metric is torchmetrics.metric.Metric and hasattr(torchmetrics, 'MeanMetric')\n"
        "assert not hasattr(torchmetrics, 'NoSuchMetric') and torchmetrics.__all__\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.splitlines() == [f"[] {torchmetrics.__version__}", "True True True"], out.stderr


def test_products_of_onednn_equal_those_of_torch() -> None:
    assert compat._has_onednn() == torch.backends.mkldnn.is_available()
    x, weight, bias = torch.randn(2, 300, 24), torch.randn(40, 24), torch.randn(40)
    for given in (bias, None):
        for rows in (x, x[:, :3], x[:, ::2], x.double()):
            w, b = weight.to(rows.dtype), None if given is None else given.to(rows.dtype)
            torch.testing.assert_close(compat.linear(rows, w, b), nn.functional.linear(rows, w, b))


def test_transformers_cleans_masks_of_sam3_with_our_functions() -> None:
    """Double finds go, and holes and sprinkles of up to the given size; nothing is asked of a hub."""
    from transformers.models.sam3_video import modeling_sam3_video as theirs

    compat.clean_masks_here()
    masks = torch.full((3, 8, 9), -1.0)  # an odd width is padded
    masks[0, 1:7, 1:7] = masks[1, 1:7, 1:6] = masks[2, 7:, 7:] = 1.0
    kept = theirs.nms_masks(torch.tensor([0.6, 0.9, 0.8]), masks, prob_threshold=0.5, iou_threshold=0.5)
    assert kept.tolist() == [False, True, True]
    dirty = masks[:1, None].clone()
    dirty[0, 0, 3:5, 3] = -1.0  # a hole of 2 pixels
    dirty[0, 0, 7, 7] = 1.0  # touches the square with a corner; the other sprinkle touches nothing
    dirty[0, 0, 0, 8] = 1.0
    clean = theirs.fill_holes_in_mask_scores(dirty, max_area=2)
    expected = masks[0] > 0
    expected[7, 7] = True
    assert torch.equal(clean[0, 0] > 0, expected)
