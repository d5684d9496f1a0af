"""The command line as a user meets it: help, errors, and whole runs on the smallest of everything."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

# Not in a test: lightning's log handler keeps the stderr it finds, and a test's captured one gets closed.
import lightning.pytorch  # noqa: F401
import pytest
import torch

from crab_lightning.commands import COMMANDS, main
from crab_lightning.commands.output import quieten
from crab_lightning.commands.trainer import one_config
from crab_lightning.data.loading import SampleError
from crab_lightning.program import start_is_over, start_quickly

REPO = Path(__file__).resolve().parents[1]
KEPT = "ave,avqa_thu,ref_avs,a2v"


def options(small: dict[str, Path], config: str = "demo.yaml") -> list[str]:
    return [
        "--config",
        config,
        f"--data.root={small['mini']}",
        f"--model.init_args.pretrained={small['tiny']}",
        "--data.num_workers=0",
        "--model.init_args.max_new_tokens=6",
    ]


@pytest.fixture(scope="module")
def trained(small: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder: one epoch on four datasets."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    words = [*options(small), f"--only={KEPT}", "--trainer.max_epochs=1", "--data.val_share=0.3"]
    assert main(["fit", *words, f"--run.folder={folder}"]) == 0
    return folder


def error_of(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """Run a command that has to fail and return what it says."""
    try:
        status = main(words)
    except SystemExit as stop:
        status = int(stop.code or 0)
    said = capsys.readouterr().err
    assert status != 0
    assert "Traceback" not in said
    return said


def test_help_lists_every_command_without_heavy_imports() -> None:
    code = (
        "import sys; sys.argv = ['cli.py', '--help']\n"
        "from crab_lightning.commands import main\n"
        "main()\n"
        "heavy = ('torch', 'lightning', 'transformers', 'jsonargparse', 'rich')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(f"  {name} " in out for name in COMMANDS)
    assert out.splitlines()[-1] == "[]"


def test_help_of_training_does_without_transformers() -> None:
    code = (
        "import contextlib, sys; sys.argv = ['cli.py', 'fit', '--help']\n"
        "from crab_lightning.commands import program\n"
        "with contextlib.suppress(SystemExit): program()\n"
        "print('transformers' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--data.batch_size" in out
    assert out.splitlines()[-1] == "False"


def test_search_for_garbage_waits_for_the_end_of_a_start_and_no_longer() -> None:
    usual = gc.get_threshold()
    try:
        for over in (start_is_over, partial(gc.collect, 0)):  # where a command says so, and in any case
            start_quickly()
            assert gc.get_threshold()[0] > 1000 * usual[0]
            over()
            assert gc.get_threshold() == usual
            assert gc.get_freeze_count() > 10_000
            gc.unfreeze()
        start_is_over()  # says nothing where no start was announced, as in a user's own script
        assert gc.get_freeze_count() == 0
    finally:
        gc.unfreeze()
        gc.set_threshold(*usual)


@pytest.mark.parametrize("name", ["ask", "data mini"])
def test_help_of_a_command_names_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*name.split(), "--help"])
    assert {"ask": "--question", "data mini": "--clips"}[name] in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_begins_with_its_own_name(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*name.split(), "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: cli.py {name} ")
    assert "<function" not in shown
    assert "<class" not in shown


PLAIN = ("data mini", "data cache", "data check", "data points", "data caption", "segment", "showcase")


@pytest.mark.parametrize("name", [*PLAIN, "score", "compare", "report", "model sam2-mini"])
def test_help_shows_defaults_that_say_something(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*name.split(), "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "(default: " in shown
    for nothing in ("None", "False", "[]", ""):
        assert f"(default: {nothing})" not in shown


@pytest.mark.parametrize("function", ["fit", "validate", "test", "predict"])
def test_help_of_a_function_says_what_it_does_before_the_keys(
    function: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([function, "--help"])
    usage, _, about, *_ = capsys.readouterr().out.splitlines()
    source = "--config FILE" if function == "fit" else "--ckpt_path RUN"
    assert usage == f"usage: cli.py {function} {source} [--KEY VALUE ...]"
    assert about.startswith({"fit": "Train", "validate": "Compute"}.get(function, "Answer the test splits"))


def test_group_alone_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 0
    out = capsys.readouterr().out
    assert "data mini" in out
    assert "fit" not in out


def test_unknown_command_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no command 'trian'; there are: fit, validate" in error_of(capsys, ["trian"])


def test_unknown_key_is_refused_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "typo.yaml").write_text("include: demo.yaml\nmodel: {init_args: {max_new_token: 3}}\n")
    for name in ("demo", "data", "trainer"):
        source = REPO / "configs" / (f"{name}.yaml" if name == "demo" else name)
        (tmp_path / source.name).symlink_to(source)
    assert "max_new_token" in error_of(capsys, ["fit", "--config", str(tmp_path / "typo.yaml")])


def test_misspelt_field_of_a_dataset_row_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    said = error_of(capsys, ["fit", "--config", "demo.yaml", "--data.datasets.ave.wieght=2"])
    assert "wieght" in said


def test_misspelt_section_is_refused_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "typo.yaml").write_text("modle: {class_path: x}\n")
    said = error_of(capsys, ["fit", "--config", "demo.yaml", "--config", str(tmp_path / "typo.yaml")])
    assert "modle" in said


@pytest.mark.parametrize("function", ["fit", "validate", "test", "predict"])
def test_unknown_flag_is_one_line_with_the_closest_key_and_where_to_look(
    function: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(capsys, [function, "--data.batch_sizee", "3"]) == (
        "error: there is no key 'data.batch_sizee' (did you mean 'data.batch_size'?); "
        f"`python cli.py {function} --help` lists the keys\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo.yaml"], "'demo.yaml' belongs to no option; a config is given as --config demo.yaml"),
        (["tests"], "'tests' belongs to no option; a run or a checkpoint is given as --ckpt_path tests"),
        (["gone"], "'gone' belongs to no option; `python cli.py test --help` lists the options"),
        (["--trainer.max_epochs", "3", "4"], "'4' belongs to no option"),
        (["--config", "demo.yaml", "batch_size=4"], "'batch_size=4' belongs to no option; did you mean --"),
        (["--checkpoint", "runs/x"], "--checkpoint runs/x: a run or a checkpoint is given as --ckpt_path r"),
        (["--checkpoint=runs/x"], "--checkpoint runs/x: a run or a checkpoint is given as --ckpt_path r"),
        (["--config", os.devnull], f"config {os.devnull} is no regular file; write its content to a .yaml"),
    ],
)
def test_a_word_that_is_no_option_is_told_which_one_is_meant(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    assert error_of(capsys, ["test", *words]).startswith(f"error: {said}")


def test_a_class_may_be_named_after_its_arguments() -> None:
    words = ["--a.b.class_path", "inner", "--a.init_args.x", "2", "--n", "--a.class_path=outer", "--a.y=3"]
    assert one_config(words).words == [
        "--a.class_path=outer", "--a.b.class_path", "inner", "--a.init_args.x", "2", "--n", "--a.y=3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mistyped.key=1"], "there is no key 'mistyped.key'; `python"),
        (["--batch_size=3"], "no key 'batch_size' (did you mean 'data.batch_size'?)"),
        (
            ["--config", "demo.yaml", "--model.init_args.adapter.rnak=3"],
            "'rnak' (did you mean 'rank'?); it has",
        ),
        (
            ["--config", "{trainer: {max_epoch: 3}}"],
            "'trainer.max_epoch' (did you mean 'trainer.max_epochs'?)",
        ),
        (["--config", "{modle: {class_path: x}}"], "'modle.class_path' (did you mean 'model'?)"),
    ],
)
def test_misspelt_key_is_answered_with_the_closest_one(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if words[-1].startswith("{"):
        (tmp_path / "typo.yaml").write_text(words[-1])
        words = ["--config", str(tmp_path / "typo.yaml")]
    answer = error_of(capsys, ["fit", *words])
    assert said in answer
    assert "usage:" not in answer


def test_a_config_without_a_model_is_told_where_to_get_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "few.yaml").write_text("data: {root: x, tasks: {}, datasets: {}}\n")
    words = ["--config", str(tmp_path / "few.yaml")]
    said = "the config has no model; add it, or give a further --config that has it, such as demo.yaml"
    assert error_of(capsys, ["fit", *words]) == f"error: {said}\n"
    of_run = ", or leave --config out to use the config of the run"
    assert error_of(capsys, ["test", *words, "--ckpt_path", "x"]) == f"error: {said}{of_run}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.init_args.optimizer.init_args.lr", "1e-3x"],
         "model.init_args.optimizer.init_args.lr is '1e-3x'; it must be a number"),
        (["--data.batch_size", "2x"], "data.batch_size is '2x'; it must be a whole number"),
        (["--data.geometry", "odd"], "data.geometry is 'odd'; it must be one of released, plain"),
        (["--trainer.max_epochs", "two"], "trainer.max_epochs is 'two'; it must be a whole number, or null"),
        (["--data.limits", "10"],
         "data.limits is 10; it must be a mapping with arguments of MediaLimits, or null"),
        (["--data.tasks.x", "3"],
         "data.tasks.x is 3; it must be the import path of a class derived from Task"),
        (["--data.datasets.ave.classes", "[dog, yes]"],
         "data.datasets.ave.classes.1 is True; it must be a text. Without quotes, YAML reads yes, no, on and"
         " off as true or false; write it in quotes"),
        (["--model", "4"], "model is 4; it must be the import path of a class derived from AskedModule"),
    ],
)  # fmt: skip
def test_value_of_the_wrong_type_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = error_of(capsys, ["fit", "--config", "demo.yaml", *words])
    assert answer == f"error: {said}\n"


def test_unknown_dataset_in_only_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    said = error_of(capsys, ["fit", "--config", "demo.yaml", "--only", "ave,av"])
    assert "--only ave,av: there is no dataset av (did you mean 'ave'?); data.datasets has: a2v, v2a" in said


def test_missing_data_root_is_an_error_without_traceback(
    capsys: pytest.CaptureFixture[str], small: dict[str, Path], tmp_path: Path
) -> None:
    words = [*options(small), f"--data.root={tmp_path / 'gone'}", f"--run.folder={tmp_path / 'run'}"]
    assert str(tmp_path / "gone") in error_of(capsys, ["fit", *words])


def test_threads_of_a_run_reach_torch(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    words = ["fit", "--config", "demo.yaml", f"--data.root={tmp_path / 'gone'}"]
    words.append(f"--run.folder={tmp_path / 'run'}")
    error_of(capsys, [*words, "--run.threads=1"])
    assert asked == [1]
    assert "--run.threads is 0; at least 1" in error_of(capsys, [*words, "--run.threads=0"])


def test_missing_checkpoint_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    said = error_of(capsys, ["test", "--config", "demo.yaml", "--ckpt_path", "runs/gone"])
    assert "no checkpoint at runs/gone: it does not exist" in said


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(FileNotFoundError):
        main(["test", "--ckpt_path", "runs/gone", "--debug"])


def test_fit_fills_the_run_folder(trained: Path) -> None:
    names = {str(p.relative_to(trained)) for p in trained.rglob("*") if p.is_file()}
    assert {
        "config.yaml",
        "metrics.json",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "adapter/adapter.safetensors",
        "adapter/adapter.json",
        "adapter/best/adapter.json",
    } <= names
    assert any(name.startswith("events.out.tfevents") for name in names)


def test_resolved_config_holds_the_closed_sets(trained: Path) -> None:
    from crab_lightning.configuration.files import compose

    data = compose([trained / "config.yaml"])["data"]
    assert data["only"] == ["a2v", "avqa_thu", "ave", "ref_avs"]
    assert len(data["datasets"]["ave"]["classes"]) > 1


def test_resolved_config_keeps_the_rows_left_out_for_later_questions(trained: Path) -> None:
    from crab_lightning.configuration.files import compose

    assert len(compose([trained / "config.yaml"])["data"]["datasets"]) == 19


def test_test_of_a_run_folder_needs_no_config_and_writes_into_it(trained: Path) -> None:
    config = (trained / "config.yaml").read_text()
    assert main(["test", "--ckpt_path", str(trained)]) == 0
    results = json.loads((trained / "metrics.json").read_text())["test"]["datasets"]
    assert set(results) == set(KEPT.split(","))
    for name, result in results.items():
        lines = (trained / f"predictions/{name}.jsonl").read_text().splitlines()
        assert len(lines) == len({json.loads(line)["id"] for line in lines}) == result["counts"]["scored"]
    assert (trained / "config.yaml").read_text() == config
    assert (trained / "config.test.yaml").is_file()


def test_adapter_folder_gives_the_answers_of_the_checkpoint(trained: Path, tmp_path: Path) -> None:
    def answers(checkpoint: Path, folder: Path) -> list[str]:
        words = ["--ckpt_path", str(checkpoint), f"--run.folder={folder}", "--only=ave"]
        assert main(["test", "--config", str(trained / "config.yaml"), *words]) == 0
        lines = (folder / "predictions/ave.jsonl").read_text().splitlines()
        return [json.loads(line)["answer"] for line in lines]

    from_file = answers(trained / "checkpoints/last.ckpt", tmp_path / "a")
    assert from_file == answers(trained / "adapter", tmp_path / "b")


def test_fit_resumes_in_the_same_run_folder(trained: Path) -> None:
    import torch

    last = trained / "checkpoints/last.ckpt"
    before = torch.load(last, weights_only=True)["global_step"]
    assert main(["fit", "--ckpt_path", str(trained), "--trainer.max_epochs=2"]) == 0
    assert torch.load(last, weights_only=True)["global_step"] == 2 * before


def test_fit_does_not_resume_from_adapters_alone(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    said = error_of(capsys, ["fit", "--ckpt_path", str(trained / "adapter")])
    assert "--model.init_args.load_adapter" in said


def ask(trained: Path, capsys: pytest.CaptureFixture[str], *words: Any) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["ask", "--checkpoint", str(trained), "--json", *map(str, words)]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return answer


def clip(small: dict[str, Path]) -> Path:
    return next((small["mini"] / "AVUIE_2").glob("ave/video/**/*.mp4"))


def test_ask_answers_about_a_video_with_its_own_sound(
    trained: Path, small: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    answer = ask(trained, capsys, "--video", clip(small), "--task", "event_localization")
    assert answer["dataset"] == "ave"
    assert 0 < answer["tokens"] <= 6


def test_ask_shows_what_was_said_before_training(
    trained: Path, small: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--video", clip(small), "--task", "event_localization", "--before"]
    capsys.readouterr()
    assert main(["ask", "--checkpoint", str(trained), "--json", *map(str, words)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["moment"] for line in lines] == ["before training", "after training"]
    assert all(line["tokens"] for line in lines)


def test_ask_takes_initials_and_options(
    trained: Path, small: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--task", "qa", "--question", "What rings?", "--options", "a bell", "a dog", "a horn", "rain"]
    assert ask(trained, capsys, "--video", clip(small), *words)["dataset"] == "avqa_thu"


def test_ask_takes_a_frame_of_the_video_for_an_image_task(
    trained: Path, small: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--task", "ref_avs", "--expression", "the ringing bell", "--at_s", "1"]
    assert ask(trained, capsys, "--video", clip(small), *words)["task"] == "referring_segmentation"


def test_ask_compares_two_videos(
    trained: Path, small: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    both = [clip(small), clip(small)]
    assert ask(trained, capsys, "--task", "a2v", "--video", *both, "--audio", clip(small))["dataset"] == "a2v"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "qa"], "needs --options and --question"),
        (["--task", "ave", "--question", "why?"], "takes no --question"),
        (["--task", "dance"], "--task dance: this run has action_recognition"),
        (["--task", "a2v"], "takes 2 --video"),
        (["--task", "ms3"], "this run was not trained on the dataset ms3. It was trained on"),
        (["--task", "captioning"], "not trained on the task captioning"),
        (["--task", "ref_avs", "--expression", "x", "--at_s", "99"], "--at_s 99: the clip lasts"),
    ],
)
def test_ask_says_what_is_missing(
    words: list[str], said: str, trained: Path, small: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["ask", "--checkpoint", str(trained), "--video", str(clip(small)), *words]
    assert said in error_of(capsys, command)


def test_ask_goes_beyond_what_was_taught_and_heard_when_it_is_told(
    trained: Path, small: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = ask(trained, capsys, "--video", clip(small), "--task", "captioning", "--untaught", "--silent")
    assert answer["dataset"] == "avcap"
    # What cannot be asked is told before any weight is read.
    monkeypatch.setattr("crab_lightning.models.OmniModule.configure_model", lambda _: pytest.fail("loaded"))
    picture = next(
        path for path in (small["mini"] / "AVUIE_2").rglob("*.*") if path.suffix in (".jpg", ".png")
    )
    command = ["ask", "--checkpoint", str(trained), "--task", "ave", "--video", str(picture)]
    assert f"{picture} is a picture and was given as --video" in error_of(capsys, command)


def test_ask_names_a_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    said = error_of(capsys, ["ask", "--checkpoint", "x", "--task", "qa", "--video", "gone.mp4"])
    assert "gone.mp4 is not a file" in said


def test_real_clips_need_only_another_root_and_dataset_list(
    small: dict[str, Path], real_clips: Path, tmp_path: Path
) -> None:
    """Fit, test and predict on six real datasets, then ask about one of their clips."""
    run = tmp_path / "run"
    words = [f"--data.root={real_clips}", "--only=ave,avvp,arig,s4,ms3,ref_avs", "--data.val_share=0"]
    assert main(["fit", *options(small), *words, f"--run.folder={run}", "--trainer.max_epochs=1"]) == 0
    assert main(["test", "--ckpt_path", str(run)]) == 0
    assert main(["predict", "--ckpt_path", str(run)]) == 0
    assert len(list((run / "predictions").glob("*.jsonl"))) == 6
    assert len(list((run / "predictions/predict").glob("*.jsonl"))) == 6
    video = next((real_clips / "AVUIE_2/ave/video").glob("*.mp4"))
    assert main(["ask", "--checkpoint", str(run), "--video", str(video), "--task", "ave"]) == 0


def test_error_of_a_loader_process_is_what_it_says(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    class Broken(torch.utils.data.Dataset[int]):
        def __getitem__(self, index: int) -> int:
            raise SampleError("clip.mp4: it is empty\nWrite it again.")

        def __len__(self) -> int:
            return 1

    def run(words: Sequence[str]) -> None:
        list(torch.utils.data.DataLoader(Broken(), num_workers=1))

    monkeypatch.setattr("crab_lightning.commands.score.run", run)
    assert main(["score"]) == 1
    assert capsys.readouterr().err == "error: clip.mp4: it is empty\nWrite it again.\n"


def test_ctrl_c_ends_a_command_without_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def run(words: Sequence[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crab_lightning.commands.score.run", run)
    assert main(["score"]) == 130
    assert capsys.readouterr().err == "\nscore: stopped by Ctrl-C\n"


def test_warning_that_nobody_can_act_on_is_left_out() -> None:
    name = "'val/mean/headline'"
    said = f"It is recommended to use `self.log({name}, ..., sync_dist=True)` when logging on epoch level"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quieten()
        warnings.warn(said, UserWarning, stacklevel=1)


@pytest.mark.parametrize("package", ["crab_lightning", "json"])
def test_warnings_of_this_package_are_printed_without_a_file(package: str) -> None:
    lines = (
        "import sys, warnings, lightning.pytorch, crab_lightning.commands as commands",
        f"import {package}",
        f"warn = lambda: warnings.warn_explicit('too short', UserWarning, {package}.__file__, 7)",
        "commands.main = warn",
        "commands.program()",
    )
    ended = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert ended.returncode == 0
    said = ended.stderr.splitlines()[0]
    assert (said == "warning: too short") == (package == "crab_lightning")
    assert package in said or package == "crab_lightning"
