"""Adapters go to a hub and come back: the card says what was measured, and no path of this machine leaves."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from crab_lightning import load_run
from crab_lightning.commands import main
from tests.commands.stub_hub import COMMIT, TOKEN, StubHub, running_hub
from tests.conftest import TESTED_SETS

REPO = "someone/my-adapter"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StubHub]:
    with running_hub() as running:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub_cache"))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            running.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


def push(run: Path, *more: str) -> int:
    return main(["adapter", "push", str(run), "--to", REPO, *more])


def pull(out: Path, *more: str, repo: str = REPO) -> int:
    return main(["adapter", "pull", repo, "--out", str(out), *more])


def answers(run: Path) -> dict[str, str]:
    lines = [line for file in sorted(run.glob("predictions/*.jsonl")) for line in file.open(encoding="utf-8")]
    return {record["id"]: record["answer"] for record in map(json.loads, lines)}


def test_pushed_adapters_come_back_and_give_the_same_answers(
    tested: Path, small: dict[str, Path], hub: StubHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = str(small["tiny"])  # stands for a hub name that its readers have
    assert push(tested, "--base", base, "--license", "apache-2.0", "--private") == 0
    assert f"Uploaded: {hub.url}/{REPO}/commit/" in capsys.readouterr().out
    assert sorted(hub.repos[REPO]) == ["README.md", "adapter.json", "adapter.safetensors", "config.yaml"]
    assert hub.private == {REPO}
    back = tmp_path / "back"
    assert pull(back) == 0
    assert "They need the base weights" in capsys.readouterr().out
    assert main(["test", "--ckpt_path", str(back), "--data.root", str(small["mini"])]) == 0
    assert len(answers(tested)) > 7
    assert answers(back) == answers(tested)


def test_card_says_what_was_measured_and_when(
    tested: Path, hub: StubHub, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--base", "someone/base", "--license", "cc-by-nc-4.0", "--dry-run"]
    assert push(tested, *words) == 0
    assert hub.repos == {}, "a dry run asks the hub nothing"
    said = capsys.readouterr().out
    front = yaml.safe_load(said.split("---")[1])
    results = json.loads((tested / "metrics.json").read_text())["test"]
    assert (front["license"], front["base_model"]) == ("cc-by-nc-4.0", "someone/base")
    found = {
        result["dataset"]["type"]: result["metrics"][0]["value"]
        for result in front["model-index"][0]["results"]
    }
    entries = results["datasets"].items()
    expected = {name: entry["strict"][entry["headline"]] for name, entry in entries}
    assert found == {name: round(value, 6) for name, value in expected.items() if value is not None}
    assert f"Measured on {results['made']['date'][:10]}" in said
    assert "ilora: rank 32, alpha 64" in said
    assert "The clips are the synthetic ones of Mini AV-UIE" in said
    assert "| trained on | a2v (cross_modal_matching), v2a" in said
    assert "adapter.safetensors" in said.split("Files for")[1]


def test_card_marks_validation_rows_and_scores_that_are_no_fraction(
    tested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(tested, tmp_path / "run")
    content = json.loads((run / "metrics.json").read_text())
    held_out, other = list(content["test"]["datasets"])[:2]
    entry = content["test"]["datasets"][held_out]
    entry["splits"] = ["val"]
    entry["scales"] = {entry["headline"]: {"high": 10.0}}
    (run / "metrics.json").write_text(json.dumps(content))
    assert push(run, "--base", "someone/base", "--dry-run") == 0
    said = capsys.readouterr().out
    results = yaml.safe_load(said.split("---")[1])["model-index"][0]["results"]
    splits = {result["dataset"]["type"]: result["dataset"]["split"] for result in results}
    assert (splits[held_out], splits[other]) == ("val", "test")
    assert "were tested on a part of their training file" in said
    row = next(line for line in said.splitlines() if line.startswith(f"| {held_out} |"))
    assert "(times 100)" in row
    assert "%" not in row
    assert row.endswith(" (validation) |")


def test_card_names_the_packages_that_the_run_needs(
    tested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(tested, tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["tasks"]["count"] = {"class_path": "their_tasks.Counting"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert push(run, "--base", "someone/base", "--dry-run") == 0
    assert "needs the package `their_tasks` too: install it, and add `--allow-code-of their_tasks`" in (
        capsys.readouterr().out
    )


def test_no_path_of_this_machine_leaves(tested: Path, small: dict[str, Path], hub: StubHub) -> None:
    assert push(tested, "--base", "someone/base") == 0
    for name, content in hub.repos[REPO].items():
        for place in (small["tiny"].parent, tested.parent, Path(__file__).parents[2]):
            assert str(place).encode() not in content, name
    config = yaml.safe_load(hub.repos[REPO]["config.yaml"])
    assert config.keys() == {"model", "data"}
    assert config["model"]["init_args"]["pretrained"] == "someone/base"
    assert "optimizer" not in config["model"]["init_args"]
    assert "has not stated a licence" in hub.repos[REPO]["README.md"].decode()


def test_folder_of_this_machine_needs_a_name_for_others(
    tested: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(tested, "--dry-run") == 1
    said = capsys.readouterr().err
    assert "model.init_args.pretrained (" in said
    assert "--base NAME" in said


def test_scores_of_other_weights_are_left_out(
    tested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tested / "adapter", run / "adapter" / "best", ignore=shutil.ignore_patterns("best"))
    for name in ("config.yaml", "metrics.json"):
        shutil.copy(tested / name, run / name)
    assert push(run / "adapter" / "best", "--base", "someone/base", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "## Scores" not in said
    content = json.loads((run / "metrics.json").read_text())
    content["test"]["scored_without_model"] = {"ave": {}}
    (run / "metrics.json").write_text(json.dumps(content))
    assert push(run / "adapter" / "best", "--base", "someone/base", "--dry-run") == 0
    scored = capsys.readouterr().out
    assert "## Scores" not in scored
    assert "`score` has written those of ave from an answer file" in scored
    assert "last.ckpt, which is not" in " ".join(said.split())


def test_what_the_hub_refuses_is_said_in_one_line(
    tested: Path,
    hub: StubHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def said() -> str:
        return capsys.readouterr().err

    assert pull(tmp_path / "a", repo="someone/nothing") == 1
    assert f"{hub.url} has no repository someone/nothing" in said()
    hub.repos["someone/other"] = {"model.bin": b"x"}
    assert pull(tmp_path / "a", repo="someone/other") == 1
    assert "someone/other has no adapter.json" in said()
    assert pull(tmp_path / "a", "--revision", "v9", repo="someone/other") == 1
    assert "someone/other has no such revision" in said()
    assert pull(tmp_path / "a", repo="not a name") == 1
    assert "OWNER/NAME is expected" in said()
    hub.repos["someone/cut"] = {"adapter.json": (tested / "adapter/adapter.json").read_bytes()}
    hub.repos["someone/cut"]["adapter.safetensors"] = b"cut"
    assert pull(tmp_path / "a", repo="someone/cut") == 1
    assert "adapter.safetensors cannot be read" in said()
    assert [path.name for path in tmp_path.iterdir()] in ([], ["hub_cache"]), "nothing is left behind"
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert push(tested, "--base", "b") == 1
    assert "refused with status 401" in said()
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert push(tested, "--base", "b") == 1
    assert "there is no access token for the hub. Run `hf auth login`" in said()


def test_hub_that_is_not_there_is_named(
    hub: StubHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert pull(tmp_path / "a") == 1
    assert "http://127.0.0.1:9 cannot be reached" in capsys.readouterr().err


def test_existing_folder_is_not_written_into(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pull(tmp_path) == 1
    assert f"{tmp_path} exists already" in capsys.readouterr().err


def test_commands_take_the_address_of_adapters_on_a_hub(
    tested: Path,
    small: dict[str, Path],
    hub: StubHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert push(tested, "--base", str(small["tiny"])) == 0
    address, cache = f"hf://{REPO}", tmp_path / "hub_cache"
    assert main(["test", f"--ckpt_path={address}", f"--data.root={small['mini']}"]) == 0
    said = capsys.readouterr().err
    assert f"Using {REPO} at commit {COMMIT[:12]} from {cache}" in said
    assert said.count("Using someone") == 1
    run = tmp_path / "runs/my-adapter/version_0"
    assert answers(run) == answers(tested)
    assert not list(cache.rglob("predictions")), "nothing is written into the cache"

    clip = next((small["mini"] / "AVUIE_2").glob("*/video/*.mp4"))
    question = ["--task=ks", f"--video={clip}", "--silent", "--json"]
    heard = {}
    for checkpoint in (address, str(tested / "adapter"), f"{address}@{COMMIT}"):
        assert main(["ask", "--checkpoint", checkpoint, *question]) == 0
        heard[checkpoint] = json.loads(capsys.readouterr().out)["answer"]
    assert len(set(heard.values())) == 1
    assert main(["probe", address, f"--data.root={small['mini']}"]) == 1
    assert "give --out FOLDER" in capsys.readouterr().err
    assert main(["adapter", "inspect", address, "--json"]) == 0
    capsys.readouterr()

    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    data = load_run(address, device="cpu").data
    said = capsys.readouterr().err
    assert "http://127.0.0.1:9 cannot be reached" in said
    assert "this is an earlier download" in said
    assert sorted(data.taught) == sorted(TESTED_SETS.split(","))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["serve", "--checkpoint", "hf://someone/never"]) == 1
    said = capsys.readouterr().err
    assert (
        "HF_HUB_OFFLINE is set, so the hub is not asked, and someone/never was not downloaded earlier" in said
    )


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("hf://someone/nothing", "has no repository someone/nothing"),
        ("hf://someone/my-adapter@v9", "someone/my-adapter has no such revision"),
        ("hf://someone", "hf://someone is not an address of adapters; give hf://OWNER/NAME or"),
        ("hf://someone/other/folder", "hf://someone/other/folder is not an address of adapters"),
        ("hf://someone/other", "someone/other on the hub has no adapter.json"),
        ("hf://no name/at all", "no name/at all is not a name of a repository"),
    ],
)
def test_address_without_adapters_is_named(
    address: str, expected: str, hub: StubHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repos = {"someone/other": {"model.bin": b"x"}, REPO: {"adapter.json": b"{}"}}
    for words in (
        ["ask", "--task=ks", "--video", __file__, "--checkpoint", address],
        ["demo", "--checkpoint", address],
        ["test", "--ckpt_path", address],
    ):
        assert main(words) == 1
        assert expected in capsys.readouterr().err
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(expected)):
        load_run(address)


def test_licence_that_the_hub_does_not_know_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for name, near in (("apache2", "apache-2.0"), ("nonsense", "mit"), ("CC-BY-NC-4.0", "cc-by-nc-4.0")):
        assert push(Path("x"), "--license", name) == 1
        said = capsys.readouterr().err
        assert f"--license {name}: the hub does not know this licence" in said
        assert near in said
