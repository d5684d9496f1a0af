"""Fixtures that find shared test input; tests that need it skip where it is absent."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports the hub's client
os.environ["CRAB_ALLOW_CODE_OF"] = "tests"  # configs of the tests name classes of the tests

# A shell starts programs in the background with SIGINT ignored, and nohup with SIGHUP ignored. The programs
# that tests start would inherit this, and not end when a test sends the signal.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, lambda *_: None)):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _handler)

TESTED_SETS = "ks,a2v,v2a,avqa,cremad,s4,arig"
"""Datasets of the run ``tested``."""

_SHARED = Path(os.environ.get("CRAB_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Every test draws the same numbers and has as many threads, whichever tests run before it."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        yield
        return
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def _need(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"{path} is absent; set CRAB_SHARED to the folder that contains it")
    return path


@pytest.fixture(scope="session")
def oracles() -> Path:
    """Folder with inputs and the values that official code gives for them."""
    return _need(_SHARED / "oracles")


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """Data root with real media in the released layout."""
    return _need(_SHARED / "real_clips")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The least a command can run on: a ``tiny`` checkpoint and a ``mini`` data root; read-only."""
    from crab_lightning.commands import main

    folder = tmp_path_factory.mktemp("small")
    made = {"tiny": folder / "tiny", "mini": folder / "mini"}
    assert main(["model", "tiny", "--out", str(made["tiny"])]) == 0
    assert main(["data", "mini", "--root", str(made["mini"]), "--clips", "40", "--workers", "0"]) == 0
    return made


@pytest.fixture(scope="session")
def tested(small: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps with its test on some datasets; read-only."""
    from crab_lightning.commands import main

    run = tmp_path_factory.mktemp("tested") / "run"
    words = [
        "--config=demo.yaml",
        f"--model.init_args.pretrained={small['tiny']}",
        f"--data.root={small['mini']}",
        f"--run.folder={run}",
        "--data.num_workers=0",
        "--data.val_generate_per_dataset=0",
        "--model.init_args.max_new_tokens=8",
        "--trainer.callbacks=null",
        "--trainer.max_steps=2",
        f"--only={TESTED_SETS}",
    ]
    assert main(["fit", *words]) == 0
    assert main(["test", "--ckpt_path", str(run), "--evaluator.decoding=both"]) == 0
    return run


@pytest.fixture(scope="session")
def faults() -> ModuleType:
    """``benchmarks/run_faults.py``: short runs, the faults put into them, and what tells two runs apart."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    try:
        return import_module("run_faults")
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from crab_lightning.mini import make_tiny_native

    return make_tiny_native(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
def processor(tiny: Path) -> Any:
    from crab_lightning.processing import NativeProcessor

    return NativeProcessor(tiny)


@pytest.fixture
def build(tiny: Path) -> Any:
    """Return a function that builds a module on the tiny checkpoint, with adapters of rank 4 by default."""
    import torch

    from crab_lightning.adapters import AdapterConfig
    from crab_lightning.models import OmniModule

    def make(**options: Any) -> OmniModule:
        torch.manual_seed(0)
        options = {"adapter": AdapterConfig(rank=4), "dtype": "float32", "max_new_tokens": 6} | options
        module = OmniModule(str(options.pop("pretrained", tiny)), **options)
        module.configure_model()
        return module

    return make
