"""Output never ends a command, and the configs travel in the wheel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crab_lightning.commands import main
from crab_lightning.commands.errors import place_of
from crab_lightning.configuration.files import compose, found_path

REPO = Path(__file__).resolve().parents[2]
SAY = (
    "import sys; from crab_lightning.commands.output import keep_output_open; keep_output_open()\n"
    "for _ in range(5000): print('a … b ✓')\n"
    "print('whole', file=sys.stderr)"
)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_terminal_without_a_character_or_a_reader_ends_nothing(encoding: str) -> None:
    line = f'"{sys.executable}" -c "$SAY" | head -1; exit ${{PIPESTATUS[0]}}'
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(REPO), "SAY": SAY}
    done = subprocess.run(["bash", "-c", line], capture_output=True, env=env, check=False)
    assert done.returncode == 0
    assert done.stderr == b"whole\n"
    assert done.stdout.startswith(b"a ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_results_that_a_full_disk_loses_are_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "crab_lightning", "score", "--help"],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=REPO, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: the output is incomplete: ")
    assert "No space left" in done.stderr


def test_an_error_that_nobody_foresaw_names_the_file_and_the_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(words: list[str]) -> int:
        return len(words) + None  # type: ignore[operator]

    monkeypatch.setattr("crab_lightning.commands.compare.run", run)
    assert main(["compare"]) == 1
    said = capsys.readouterr().err
    assert (
        f"(this is probably a fault of the code in {__file__}, line {run.__code__.co_firstlineno + 1};"
        in said
    )


def test_a_syntax_error_names_the_file_that_has_it(tmp_path: Path) -> None:
    (tmp_path / "broken_module.py").write_text("ok = 1\nclass Mine(Task:\n")
    with pytest.raises(SyntaxError) as caught:
        compile((tmp_path / "broken_module.py").read_text(), str(tmp_path / "broken_module.py"), "exec")
    assert place_of(caught.value) == f"{tmp_path / 'broken_module.py'}, line {caught.value.lineno}"


def test_copied_config_finds_its_parts_among_the_shipped(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text((REPO / "configs/demo.yaml").read_text())
    assert compose([tmp_path / "mine.yaml"]) == compose([REPO / "configs/demo.yaml"])


def test_shipped_model_is_found_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (Path(found_path("crab_lightning/assets/mini_omni")) / "config.json").is_file()
    assert found_path("Qwen/Qwen2.5-Omni-7B") == "Qwen/Qwen2.5-Omni-7B"
    (tmp_path / "mine").mkdir()
    assert found_path("mine") == str(tmp_path / "mine")
