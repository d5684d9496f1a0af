"""`evaluate` against `serve` gives the digits of `test`; what an endpoint cannot do is said."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from crab_lightning.commands import main
from crab_lightning.inference.loading import load_run
from crab_lightning.media import read_audio, wav_bytes
from crab_lightning.models.endpoint import EndpointError, EndpointModule
from crab_lightning.structures import Batch, Sample
from tests.conftest import TESTED_SETS
from tests.serving.test_server import Server


def records(run: Path) -> dict[str, dict[str, Any]]:
    """Return what was written down of each question."""
    found = {}
    for file in sorted((run / "predictions").glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            found[record["id"]] = record
    return found


def answers(run: Path) -> dict[str, str]:
    """Return the answer to each question."""
    return {name: record["answer"] for name, record in records(run).items()}


def test_evaluate_against_serve_gives_the_digits_of_test(
    tested: Path, small: dict[str, Path], tmp_path: Path
) -> None:
    model, _ = load_run(tested)
    words = ["--model", "tiny", "--data.root", str(small["mini"]), "--only", TESTED_SETS]
    words += ["--video", "file", "--parallel", "3", "--data.num_workers=0", "--max_new_tokens", "8"]
    words += ["--evaluator.decoding=both"]
    with Server(model, max_new_tokens=8) as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        assert main(["evaluate", "--endpoint", url, *words, "--folder", str(tmp_path / "run")]) == 0
    expected = answers(tested)
    assert len(expected) > 7
    assert answers(tmp_path / "run") == expected
    scores = [json.loads((run / "metrics.json").read_text())["test"] for run in (tested, tmp_path / "run")]
    for name, entry in scores[0]["datasets"].items():
        boxes = {k: v for k, v in scores[1]["datasets"][name]["strict"].items() if v is not None}
        assert boxes.items() <= {k: v for k, v in entry["strict"].items() if v is not None}.items(), name
        assert scores[1]["datasets"][name]["likelihood"] == entry["likelihood"], name
    ours, theirs = records(tested), records(tmp_path / "run")
    weighed = [name for name, record in ours.items() if record.get("candidates")]
    assert {name.partition("/")[0] for name in weighed} == {"ks", "a2v", "v2a", "cremad"}
    for name in weighed:
        for own, over in zip(ours[name]["candidates"], theirs[name]["candidates"], strict=True):
            assert (over["text"], over["tokens"]) == (own["text"], own["tokens"])
            assert over["log_prob"] == pytest.approx(own["log_prob"], abs=1e-3)


class Completions:
    """Replies of an endpoint: of vLLM, which knows likelihoods, or of one that does not."""

    def __init__(self, *, knows: bool) -> None:
        self.knows = knows
        self.asked: list[dict[str, Any]] = []

    def create(self, **asked: Any) -> Any:
        self.asked.append(asked)
        extra: dict[str, Any] = {}
        if self.knows and "prompt_logprobs" in asked["extra_body"]:
            # As vLLM has it: the prompt, the answer, its end, and what the chat template writes behind it.
            likely = -0.5 if asked["messages"][-1]["content"] == "one" else -2.0
            rows = [(likely, "answer"), (-0.25, "<|im_end|>"), (-9.0, "\n")]
            values = [{"7": {"logprob": value, "rank": 1, "decoded_token": text}} for value, text in rows]
            extra["prompt_logprobs"] = [None, {"1": {"logprob": -3.0}}, {"2": {"logprob": -3.0}}, *values]
        choice = SimpleNamespace(message=SimpleNamespace(content="two"), finish_reason="stop")
        usage = SimpleNamespace(prompt_tokens=3, completion_tokens=1)
        return SimpleNamespace(choices=[choice], usage=usage, model_extra=extra)


def asked_of(completions: Completions, **options: Any) -> Any:
    module = EndpointModule("http://127.0.0.1:9/v1", "m", **options)
    module._client = SimpleNamespace(chat=SimpleNamespace(completions=completions))
    module.decoding, module.candidates = "both", lambda sample: ("one", "two")
    data = torch.tensor(list(b'{"content": []}'), dtype=torch.uint8)
    sample = Sample(id="ks/0", dataset="ks", task="action_recognition", split="test", clip="0")
    return module.generate(Batch({"0": data}, None, [sample], [False]))[0]


def test_likelihoods_of_vllm_are_those_of_the_answer_and_its_end() -> None:
    completions = Completions(knows=True)
    found = asked_of(completions)
    assert found.text == "two"
    assert (found.candidates.log_probs, found.candidates.tokens) == ((-0.75, -2.25), (2, 2))
    assert completions.asked[1]["messages"][-1] == {"role": "assistant", "content": "one"}
    assert completions.asked[1]["extra_body"]["add_generation_prompt"] is False


def test_endpoint_without_likelihoods_is_named() -> None:
    with pytest.raises(
        EndpointError, match=r"does not return the probabilities of answers.*decoding generate"
    ):
        asked_of(Completions(knows=False))


def test_large_sets_are_not_weighed_and_that_is_said() -> None:
    completions = Completions(knows=True)
    with pytest.warns(UserWarning, match="has 2 candidate answers, and each needs one request"):
        found = asked_of(completions, max_candidates=1)
    assert found.candidates is None
    assert len(completions.asked) == 1


def test_endpoint_that_is_not_there_is_named(
    small: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--data.root", str(small["mini"])]
    (tmp_path / "mine.yaml").write_text("data: {only: [ks]}")  # it names no model
    keys = ["--config", str(tmp_path / "mine.yaml"), "--data.num_workers=0", "--model.init_args.retries=0"]
    assert main(["evaluate", *words, *keys, "--folder", str(tmp_path / "run")]) == 1
    assert "http://127.0.0.1:9/v1 cannot be reached" in capsys.readouterr().err


def test_config_with_a_model_of_this_machine_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--endpoint",
        "http://127.0.0.1:9/v1",
        "--model",
        "m",
        "--data.root",
        "x",
        "--config",
        "demo.yaml",
    ]
    assert main(["evaluate", *words]) == 1
    said = "--config demo.yaml has the model crab_lightning.models.OmniModule, which runs on this machine"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("lossless", [True, False])
def test_sound_survives_the_way_to_the_endpoint(tmp_path: Path, lossless: bool) -> None:
    sound = torch.sin(torch.arange(16_000) * 0.05) * 0.7
    (tmp_path / "sound.wav").write_bytes(wav_bytes(sound, lossless=lossless))
    back = read_audio(tmp_path / "sound.wav")
    assert back.shape == sound.shape
    torch.testing.assert_close(back, sound, atol=0 if lossless else 1e-4, rtol=0)


def test_frames_are_sent_as_pictures(small: dict[str, Path]) -> None:
    from crab_lightning import load_data
    from crab_lightning.processing.endpoint import EndpointProcessor

    data: Any = load_data("data/av_uie_v2.yaml", root=str(small["mini"]), only=["a2v"])
    data.processor = EndpointProcessor("released")
    data.setup("test")
    encoded = data.dataset(data.samples("test"))[0]
    content = json.loads(bytes(encoded.inputs["request"].numpy()))["content"]
    kinds = [part["type"] for part in content]
    assert kinds.count("image_url") == 20, "two clips of ten frames"
    assert kinds.count("input_audio") == 1
    assert kinds[0] == kinds[-1] == "text"
