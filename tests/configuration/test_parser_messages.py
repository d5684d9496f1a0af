"""What is said about a wrong command line of fit and its siblings, before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from crab_lightning.adapters import ADAPTERS
from crab_lightning.commands import main
from crab_lightning.commands.lightning_cli import CrabCLI
from crab_lightning.commands.trainer import one_config
from crab_lightning.configuration.files import ConfigError
from crab_lightning.configuration.objects import objects_of
from crab_lightning.structures import DatasetSpec

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
        ("--data.datasets.ave.colums={}", "no key 'colums' (did you mean 'columns'?)"),
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
    options = one_config([*DEMO[1:], *flags])
    with pytest.raises(InterruptedError):
        ParsedOnly("fit", *options)
    return found[0]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"colums": {}}, "no key 'colums' (did you mean 'columns'?)"),
        ({"colums": {"fields": {}}}, "no key 'colums' (did you mean 'columns'?)"),
        ({"audio": {"unitz": {}}}, "no key 'audio.unitz' (did you mean 'audio.units'?)"),
    ],
)
def test_misspelt_key_of_an_empty_mapping_is_refused(row: dict[str, Any], said: str) -> None:
    known = {"task": "ave", "columns": {"fields": {}}, "audio": {}, "mask": None}
    places = {"datasets": dict[str, DatasetSpec]}
    assert objects_of({"datasets": {"mine": known}}, places).datasets["mine"].columns == {"fields": {}}
    with pytest.raises(ConfigError, match=re.escape(said)):
        objects_of({"datasets": {"mine": known | row}}, places)


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
        ("adapter.rank=x", "adapter.rank is 'x'; it must be a whole number\n"),
        (
            "adapter.kind=lorra",
            f"is 'lorra' (did you mean 'lora'?); it must be one of {', '.join(ADAPTERS)}. If another package",
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


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("seed_everything=x", "seed_everything is 'x'; it must be true or false, or a whole number"),
        ("run.threads=all", "run.threads is 'all'; it must be a whole number, or null"),
        ("run.replace=x", "run.replace is 'x'; it must be true or false"),
    ],
)
def test_a_wrong_value_outside_the_sections_is_one_line(
    option: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(capsys, [*DEMO, f"--{option}"]) == f"error: {said}\n"


def test_wrong_value_of_a_dataset_row_is_not_taken_for_a_key_of_the_section(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = error_of(capsys, [*DEMO, "--data.datasets.ave.weight=x"])
    assert "data.datasets.ave.weight is 'x'; it must be a number, or null\n" in answer


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("data.datasets.ave.audio=null", "is null; it must be a mapping with arguments of AudioWindow"),
        ("data.datasets.ave.audio=[]", "is []; it must be a mapping with arguments of AudioWindow"),
        ("data.datasets.ave.audio=false", "is False; it must be a mapping with arguments of AudioWindow"),
        ("data.datasets.ave.audio.kind=null", "is null; it must be one of all, units, "),
        ("data.datasets.ave.frames=null", "is null; it must be a whole number"),
        ("data.datasets.ave.frames=false", "is False; it must be a whole number"),
        ("data.datasets.ave=[]", "is []; it must be a mapping with arguments of DatasetSpec"),
        ("data.on_error={}", "is {}; it must be one of fail, or a mapping with arguments of OnError"),
        ("data.tasks.captioning=[]", "is []; it must be the import path of a class derived from Task"),
        ("model.init_args.optimizer=null", "is null; it must be the import path of a class derived from Opt"),
        ("model.init_args.adapter.rank=null", "is null; it must be a whole number"),
        ("run.root=null", "is null; it must be a text"),
    ],
)
def test_an_empty_value_of_a_wrong_type_is_named(
    option: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(capsys, [*DEMO, f"--{option}"]).startswith(f"error: {option.partition('=')[0]} {said}")


def test_empty_values_of_a_right_type_are_accepted() -> None:
    given = ["data.datasets.ave.audio={}", "data.datasets.ave.limit=null", "trainer.callbacks=null"]
    given += ["trainer.logger=false", "data.num_workers=0", "data.datasets.ave.metrics=[]"]
    assert parsed(*(f"--{option}" for option in given)).trainer.logger is False


def test_commands_that_read_a_section_only_name_empty_values_too() -> None:
    spec = {"task": "captioning", "layout": "avcap", "audio": None}
    with pytest.raises(ConfigError, match=r"^datasets\.mine\.audio is null; it must be a mapping"):
        objects_of({"datasets": {"mine": spec}}, {"datasets": dict[str, DatasetSpec]})


OWN = """
from crab_lightning.tasks import OpenAnswer
from crab_lightning.tasks.base import Task
class Mine(OpenAnswer):
    def __init__(self, count: int = 3) -> None:
        super().__init__()
class Half(Task):
    def prompt(self, sample): ...
"""


@pytest.fixture
def own_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the module ``own_tasks`` importable."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_tasks.py").write_text(OWN)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model.class_path", "crab_lightning.models.OmniModul",
         "did you mean 'crab_lightning.models.OmniModule'?"),
        ("model.class_pth", "crab_lightning.models.OmniModule", "did you mean 'class_path'?"),
        ("model.init_arg", {"max_new_tokens": 3}, "did you mean 'init_args'?"),
        ("model.init_args.optimizer.class_pth", "torch.optim.Adam", "did you mean 'class_path'?"),
        ("model.init_args.optimizer.init_args.weigth_decay", 0.1, "did you mean 'weight_decay'?"),
        ("data.tasks.segmentation.class_pth", "own_tasks.Mine", "did you mean 'class_path'?"),
        ("data.datasets.ave.audio.kinds", "units", "did you mean 'audio.kind'?"),
        ("model.init_args.optimizer", "AdmW", "did you mean 'torch.optim.AdamW'?"),
        ("model.init_args.optimizer.class_path", "torch.nn.Linear", "not derived from Optimizer. Give the"),
        ("model.init_args.adapter.kind", "ilroa", "did you mean 'ilora'?"),
        ("data.tasks.segmentation.class_path", "crab_lightning.tasks.segmentatoin.Segmentation",
         "did you mean 'crab_lightning.tasks.Segmentation'?"),
        ("data.tasks.segmentation.class_path", "lightning.pytorch.Trainer", "is not derived from Task. Give"),
        ("data.tasks.segmentation.init_args.mask_decoder", "crab_lightning.segmentation.Sam2Decodr",
         "did you mean 'crab_lightning.segmentation.Sam2Decoder'?"),
        ("data.tasks.mine.class_path", "own_tasks.Mien", "did you mean 'own_tasks.Mine'?"),
        ("data.tasks.mine", {"class_path": "own_tasks.Mine", "init_args": {"count": "x"}},
         "data.tasks.mine.init_args.count is 'x'; it must be a whole number"),
        ("data.tasks.mine.class_path", "broken_tasks.Mine", "cannot be imported (ModuleNotFoundError: "),
        ("data.tasks.mine.class_path", "own_tasks.Half",
         "which is not complete. Define direct, metrics, parse, truth, update in that class"),
        ("data.tasks.mine", {"class_pth": "own_tasks.Mine"}, "it has class_pth (did you mean 'class_path'?)"),
        ("data.datasets.ave.metrics", ["acuracy"], "did you mean 'segment_accuracy'?"),
        ("data.datasets.ave.task", "event_localisation", "did you mean 'event_localization'?"),
        ("data.datasets.ave.layout", "crab_lightning.data.Layot", "did you mean 'Layout'?"),
        ("data.datasets.ave.weigh", 3, "did you mean 'weight'?"),
        ("trainer.callbacks", [{"class_path": "crab_lightning.dashboards.MaskSheet"}],
         "did you mean 'crab_lightning.dashboards.MaskSheets'?"),
        ("trainer.callbacks", ["EarlyStoping"], "did you mean 'lightning.pytorch.callbacks.EarlyStopping'?"),
        ("trainer.logger", {"class_path": "lightning.pytorch.loggers.CSVLoger"},
         "did you mean 'lightning.pytorch.loggers.CSVLogger'?"),
        ("trainer.strategy", "dpp", "did you mean 'ddp'?"),
        ("trainer.strategy", {"class_path": "crab_lightning.distributed.Fsdp2Strateg"},
         "did you mean 'crab_lightning.distributed.Fsdp2Strategy'?"),
        ("trainer.plugins", [{"class_path": "lightning.pytorch.plugins.Precison"}],
         "did you mean 'lightning.pytorch.plugins.Precision'?"),
        ("trainer.profiler", "simpl", "did you mean 'simple'?"),
        ("evaluator.decoding", "both ", "did you mean 'both'?"),
        ("trainr.max_epochs", 3, "did you mean 'trainer.max_epochs'?"),
    ],
)  # fmt: skip
def test_a_wrong_name_in_a_file_is_told_with_the_file_the_key_and_the_nearest_name(
    key: str,
    value: object,
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    own_tasks: None,
) -> None:
    (tmp_path / "broken_tasks.py").write_text("import not_installed_anywhere")
    content: object = value
    for part in reversed(key.split(".")):
        content = {part: content}
    # The key stands in a file that the given one includes.
    (tmp_path / "part.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "mine.yaml").write_text("include: [demo.yaml, part.yaml]")
    words = ["fit", "--config", str(tmp_path / "mine.yaml"), f"--run.folder={tmp_path / 'run'}"]
    answer = error_of(capsys, [*words, "--allow-code-of", "own_tasks,broken_tasks"])
    assert f"error: {tmp_path / 'part.yaml'}: " in answer
    assert said in answer
    named = key.split(".")
    assert ".".join(named) in answer or named[-1] in answer
    for word in ("Namespace", "<class", "Expected", "subclass", "Parser", "typing", "argument"):
        assert word not in answer.replace("init_args", "")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("tasks.t", {"class_path": "own_tasks.Half"}, "Define direct, metrics, parse, truth, update in that"),
        ("tasks.t", {"class_path": "own_tasks.Mine", "init_args": {"cuont": 3}}, "did you mean 'count'?"),
        ("datasets.mine", {"task": "t", "colums": {"target": "x"}}, "did you mean 'columns'?"),
        ("datasets.mine", {"columns": {"media": {}}}, "data.datasets.mine has no task; it has: columns"),
    ],
)
def test_a_command_that_reads_only_the_data_section_says_the_same(
    key: str,
    value: dict[str, object],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    own_tasks: None,
) -> None:
    section, name = key.split(".")
    content = {"datasets": {"mine": {"task": "t", "layout": "plain"}}, section: {name: value}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"data": content}))
    words = ["data", "check", "--config", str(tmp_path / "mine.yaml"), "--root", str(tmp_path)]
    answer = error_of(capsys, [*words, "--allow-code-of", "own_tasks"])
    assert f"error: {tmp_path / 'mine.yaml'}: " in answer
    assert said in answer
    assert "Problem with" not in answer


def test_a_wrong_name_in_an_option_is_no_fault_of_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["--trainer.logger=CSVLoger"],
        ["--trainer.callbacks+=EarlyStoping"],
        ["--model", "OmniModul"],
    ):
        assert "error: /" not in (answer := error_of(capsys, [*DEMO, *words]))
        assert "; there is no such class (did you mean '" in answer


def test_without_a_config_the_error_says_what_to_give(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "give --config demo.yaml" in error_of(capsys, ["fit"])
    said = error_of(capsys, ["test"])
    assert "--ckpt_path RUN" in said
    assert "--config demo.yaml" in said
    (tmp_path / "README.md").write_text("text")
    said = error_of(capsys, ["test", "--ckpt_path", str(tmp_path / "README.md")])
    assert "README.md: this is neither a run folder nor a checkpoint" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{include: demo.yaml, modle: {}}", "there is no key 'modle' (did you mean 'model'?)"),
        ("data: {include: data/av_uie_v2.yaml, val_file: x}", "there is no key 'data.val_file'"),
        ("data: {include: data/av_uie_v2.yaml, only: ave}", "data.only is 'ave'; it must be a list, or null"),
    ],
)
def test_data_check_refuses_the_keys_that_fit_refuses(
    content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (config := tmp_path / "mine.yaml").write_text(content)
    assert main(["data", "check", "--root", str(tmp_path), "--config", str(config), "--workers", "0"]) == 1
    assert said in capsys.readouterr().err
