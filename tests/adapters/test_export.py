"""Plain LoRA in other programs: PEFT gives our logits, merged weights nearly so; other kinds are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from crab_lightning.adapters import AdapterConfig
from crab_lightning.adapters.export import ExportError, write_merged, write_peft
from crab_lightning.commands import main
from crab_lightning.models import OmniModule
from crab_lightning.processing import NativeProcessor
from tests.processing.examples import video_example
from tests.quiet import with_trained_adapters


def trained(tiny: Path, kind: str = "lora") -> Any:
    torch.manual_seed(0)
    module = OmniModule(
        str(tiny), adapter=AdapterConfig(kind=kind, rank=4), dtype="float32", max_new_tokens=4
    )
    module.configure_model()
    return with_trained_adapters(module, std=0.1).eval()


@torch.no_grad()
def logits(model: Any, processor: NativeProcessor) -> torch.Tensor:
    batch = processor.collate([processor.encode(video_example(count=4, seconds=1.0, target=None))])
    found: torch.Tensor = model(**batch.inputs).logits
    return found


def test_peft_gives_our_logits(tiny: Path, processor: NativeProcessor, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    module = trained(tiny)
    assert write_peft(module.model, str(tiny), tmp_path / "peft") == 28
    base = OmniModule(str(tiny), adapter=None, dtype="float32")
    base.configure_model()
    plain = logits(base.model, processor)
    theirs = peft.PeftModel.from_pretrained(base.model, tmp_path / "peft").eval()
    ours = logits(module.model, processor)
    assert not torch.allclose(ours, plain, atol=1e-3), "the adapters do something"
    torch.testing.assert_close(logits(theirs, processor), ours, atol=1e-5, rtol=1e-5)


def test_merged_checkpoint_gives_our_logits_and_is_one(
    tiny: Path, processor: NativeProcessor, tmp_path: Path
) -> None:
    module = trained(tiny)
    ours = logits(module.model, processor)
    write_merged(module.model, processor.stock, tmp_path / "merged")
    merged = OmniModule(str(tmp_path / "merged"), adapter=None, dtype="float32")
    merged.configure_model()
    torch.testing.assert_close(logits(merged.model, processor), ours, atol=1e-4, rtol=1e-4)
    assert NativeProcessor(tmp_path / "merged").end_token == processor.end_token


@pytest.mark.parametrize("kind", ["ilora", "moka"])
def test_adapters_that_depend_on_the_token_are_refused(tiny: Path, tmp_path: Path, kind: str) -> None:
    with pytest.raises(ExportError, match=f"of kind {kind}.*most of them a different one for each token"):
        write_peft(trained(tiny, kind).model, str(tiny), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_not_written_into(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapter", "export", "runs/nothing", "--out", str(tmp_path)]) == 1
    assert "exists already" in capsys.readouterr().err
