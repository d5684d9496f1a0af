"""What is said about a wrong command line of fit and its siblings, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crab_lightning.adapters import ADAPTERS
from crab_lightning.commands import main
from crab_lightning.commands.lightning_cli import CrabCLI
from crab_lightning.commands.trainer import one_config

DEMO = ["fit", "--config", "demo.yaml"]


def error_of(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """Return what a command line that fails prints on standard error."""
    try:
        status: object = main(words)
    except SystemExit as stop:
        status = stop.code
    assert status in (1, 2)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (
            "--trainer.limit_train_batch=3",
            "'trainer.limit_train_batch' (did you mean 'trainer.limit_train_batches'?)",
        ),
        ("--model.init_args.adapter.ran=3", "no key 'ran' (did you mean 'rank'?)"),
        ("--model.init_args.adaptor.rank=3", "no key 'adaptor' (did you mean 'adapter'?)"),
        ("--model.adaptor.rank=3", "no key 'adaptor' (did you mean 'adapter'?)"),
        ("--trainr.max_epochs=3", "no key 'trainr.max_epochs' (did you mean 'trainer.max_epochs'?)"),
        ("--data.datasets.ave.weigh=3", "no key 'weigh' (did you mean 'weight'?)"),
        (
            "--data.datasets.avee.weight=3",
            "no dataset 'avee' in data.datasets (did you mean 'ave'?); there are: a2v,",
        ),
    ],
)
def test_key_is_never_taken_for_one_that_begins_like_it(
    flag: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in error_of(capsys, [*DEMO, flag])


def parsed(*flags: str) -> Any:
    """Return the config of the demo with some flags, nothing built."""

    class ParsedOnly(CrabCLI):
        def before_instantiate_classes(self) -> None:
            raise InterruptedError

        def parse_arguments(self, parser: object, args: object) -> None:
            super().parse_arguments(parser, args)  # type: ignore[arg-type]
            found.append(self.config)

    found: list[Any] = []
    options, name = one_config([*DEMO[1:], *flags])
    with pytest.raises(InterruptedError):
        ParsedOnly("fit", options, name)
    return found[0]


def test_new_row_with_task_and_layout_is_taken() -> None:
    row = [f"--data.datasets.mine.{key}" for key in ("weight=2", "task=ave", "layout=ave")]
    assert {"mine", "ave"} <= parsed(*row).data.datasets.keys()


def test_null_is_nothing_and_no_text_however_deep_its_key_lies() -> None:
    init = "--model.init_args."
    deep = [f"{init}adapter.within", "null", f"{init}adapter.expert_rank=null", f"{init}adapter.tasks=~"]
    config = parsed(*deep, f"{init}load_adapter=null", "--data.datasets.ave.test_file=null")
    adapter = config.model.init_args.adapter
    assert (adapter.within, adapter.expert_rank, adapter.tasks) == (None, None, None)
    assert config.model.init_args.load_adapter is None
    assert config.data.datasets["ave"].test_file is None
    assert parsed(f"{init}adapter.within=None").model.init_args.adapter.within == "None"


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("adapter.rank=0", "error: adapter.rank is 0; it must be a whole number of at least 1\n"),
        ("adapter.rank=x", "error: model.adapter.rank: Expected int. Got value: x\n"),
        (
            "adapter.kind=foo",
            f"model.adapter.kind: Expected one of {list(ADAPTERS)}. Got value: foo. If another package adds",
        ),
    ],
)
def test_wrong_value_is_one_line_with_its_key(
    flag: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = error_of(capsys, [*DEMO, f"--model.init_args.{flag}"])
    assert said in answer
    assert "Union" not in answer
    assert "Namespace" not in answer


def test_wrong_value_of_a_dataset_row_is_not_taken_for_a_key_of_the_section(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = error_of(capsys, [*DEMO, "--data.datasets.ave.weight=x"])
    assert "data.datasets.ROW.weight: Expected float. Got value: x\n" in answer


def test_without_a_config_the_error_says_what_to_give(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "give --config demo.yaml" in error_of(capsys, ["fit"])
    said = error_of(capsys, ["test"])
    assert "--ckpt_path RUN" in said
    assert "--config demo.yaml" in said
    (tmp_path / "README.md").write_text("text")
    said = error_of(capsys, ["test", "--ckpt_path", str(tmp_path / "README.md")])
    assert "README.md: this is no run folder and no checkpoint" in said
