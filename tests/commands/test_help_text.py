"""Options of the commands: taken by their whole name only."""

from __future__ import annotations

import pytest

from crab_lightning.commands import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data", "mini", "--rot", "x"], "there is no option --rot (did you mean --root?)"),
        (["data", "check", "--data=x"], "there is no option --data"),
        (["compare", "a", "--form=csv"], "there is no option --form (did you mean --format?)"),
        (["report", "--zzzz"], "there is no option --zzzz; `python cli.py report --help` says more"),
        (["model", "tiny", "--ou", "x"], "--ou"),
        (["ask", "--vide=x"], "there is no option --vide (did you mean --video?)"),
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
