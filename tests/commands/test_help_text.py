"""Options of the commands: taken by their whole name only."""

from __future__ import annotations

import contextlib
import sys

import pytest

from crab_lightning.commands import main
from crab_lightning.program import told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data", "mini", "--rot", "x"], "there is no option --rot (did you mean '--root'?)"),
        (["data", "check", "--data=x"], "there is no option --data"),
        (["compare", "a", "--form=csv"], "there is no option --form (did you mean '--format'?)"),
        (["report", "--zzzz"], "there is no option --zzzz; `python cli.py report --help` says more"),
        (["model", "tiny", "--ou", "x"], "--ou"),
        (["ask", "--vide=x"], "there is no option --vide (did you mean '--video'?)"),
        (["plan", "--config", "demo.yaml", "--sample=3"], "there is no key 'sample'"),
    ],
)
def test_shortened_option_is_refused_by_name(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = main(words)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.help", "OmniModule"], "--model.adapter"),
        (["--model.help", "crab_lightning.models.OmniModule"], "--model.adapter"),
        (["--data.tasks.help", "Captioning"], "--data.tasks.tokenizer"),
    ],
)
def test_a_class_is_helped_by_its_name(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *words])
    assert not stop.value.code
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("command", ["plan", "build import", "data check"])
def test_help_fits_a_terminal_and_keeps_paragraphs_and_lists(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    shown = capsys.readouterr().out
    assert "\n\n" in shown.partition("\n\n")[2].partition("options:")[0]  # a paragraph of its own
    long = [line for line in shown.splitlines() if len(line) > 80]
    assert all(line.startswith(("  python ", "            ")) for line in long), long


@pytest.mark.parametrize("words", [["fit"], ["fit", "--config", "stage1_audio.yaml"], ["test"]])
def test_help_of_a_run_and_the_headings_of_its_sections_fit_a_terminal(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    shown = capsys.readouterr().out
    assert "\nFolder and processor threads of a run:\n" in shown
    assert [line for line in shown.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize(
    ("started", "shown"),
    [
        ("/usr/bin/crab-lightning", "crab-lightning"),
        ("C:/venv/Scripts/crab-lightning.exe", "crab-lightning"),
        ("/site-packages/crab_lightning/__main__.py", "python -m crab_lightning"),
        ("cli.py", "python cli.py"),
        ("../my work/cli.py", "python '../my work/cli.py'"),
    ],
)
def test_program_is_named_as_it_was_started(
    started: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    assert told("run `python cli.py test`") == f"run `{shown} test`"
    assert main([]) == 0
    assert f"`{shown} COMMAND --help` explains a command" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["report", "--zzzz"])
    assert f"`{shown} report --help` says more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan", "--config", "demo.yaml", "--memory", "x"], "error: --memory is 'x'; it must be a number;"),
        (
            ["plan", "--config", "demo.yaml", "--devices", "1.5"],
            "--devices is '1.5'; it must be a whole number;",
        ),
        (["plan", "--config"], "error: --config/-c needs one value;"),
        (
            ["model", "beats-convert", "--checkpoint", "none", "--out", "x"],
            "error: --checkpoint: none is not a file;",
        ),
        (["adapter", "inspect", "none"], "error: there is no file or folder none; give an adapter folder"),
        (["compare", "none", "none"], "error: there is no run folder none"),
        (["report", ""], "error: no metrics.json in"),
        (["plan", "--config", ""], "error: the name of the config is empty; give a file"),
    ],
)
def test_a_wrong_value_of_an_option_is_told_in_usual_words(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit):
        assert main(words) == 1
    assert said in capsys.readouterr().err
