"""Which head works on which token: planted routes, and those of a real answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from crab_lightning.adapters import record_routes
from crab_lightning.adapters.names import depth_of
from crab_lightning.commands import main
from crab_lightning.inference.answer import Answer
from crab_lightning.inference.loading import load_run
from crab_lightning.inference.question import Question, put
from crab_lightning.structures import AUDIO, TEXT
from crab_lightning.studies.routes import Routes
from crab_lightning.studies.study import read_study
from crab_lightning.studies.token_routes import (
    COLOURS,
    TokenLikes,
    TokenRoutes,
    answer_page,
    likes_page,
    routes_of_answer,
)

EVIL = '<img src="x" onerror="alert(1)">'


def planted() -> TokenRoutes:
    """Two layers, two heads: head 1 takes "dog" and the sound, head 2 takes "barks" and the hostile token."""
    one = [[0.9, 0.1], [0.5, 0.5], [0.7, 0.3], [0.7, 0.3], [0.1, 0.9], [0.3, 0.7]]
    two = [[0.7, 0.3], [0.5, 0.5], [0.7, 0.3], [0.7, 0.3], [0.3, 0.7], [0.3, 0.7]]
    kinds = np.array([TEXT, TEXT, AUDIO, AUDIO, TEXT, TEXT])
    answer = np.array([False, False, False, False, True, True])
    return TokenRoutes(
        ("dog", " and", "<a>", "<a>", " barks", EVIL), kinds, answer, np.array([one, two], np.float64)
    )


def test_each_head_likes_the_tokens_that_were_planted() -> None:
    likes = TokenLikes(shown=1)
    for _ in range(3):
        likes.add("avqa/1", "avqa", planted())
    first, second = likes.best()
    assert likes.mean() == pytest.approx([(0.8 + 0.5 + 0.2 + 0.3) / 4, (0.2 + 0.5 + 0.8 + 0.7) / 4])
    assert [one["token"] for one in first] == ["dog", " and"]
    assert [one["token"] for one in second] == [" barks", EVIL]
    assert first[0]["preference"] == pytest.approx(0.8 / 0.45 - 1)
    assert first[0]["times"] == 3
    likes.add(
        "avqa/2", "avqa", TokenRoutes(("once",), np.array([TEXT]), np.array([False]), np.ones((1, 1, 2)) / 2)
    )
    assert all(one["token"] != "once" for row in likes.best() for one in row)  # too rare to say anything
    assert [name for name, _ in likes.texts] == ["avqa/1"]
    page = likes_page(likes, "a & b")
    assert EVIL not in page
    assert "&lt;img src=" in page
    assert f"rgba({COLOURS[0]}," in page


def test_a_page_shows_one_medium_as_one_block_and_escapes_every_text() -> None:
    answer = Answer(EVIL, EVIL, "question_answering", "avqa", False, 2, 0.1)
    page = answer_page(answer, planted(), ["layers.0.q_proj", "layers.1.q_proj"], [0, 1])
    assert EVIL not in page
    assert "sound, 2 tokens" in page
    assert "head 1: 70.0 %, head 2: 30.0 %" in page
    barks = page.split("> barks</span>")[0].rsplit("<span", 1)[1]
    assert f"rgba({COLOURS[1]},0.75)" in barks  # the strongest token of the answer, and head 2's
    assert page.count("<th>layer ") == 2


def test_routes_of_the_question_are_those_with_which_the_answer_began(
    finished: Path, small: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = read_study(finished).folder / "cells/ilora.multi.seed0"
    row = json.loads((small["mini"] / "AVUIE_2/avqa/test.json").read_text())[0]
    clip = small["mini"] / "AVUIE_2/avqa" / "video" / Path(row["video_path"]).name
    run = load_run(cell, device="cpu")
    for layer in run.model.modules():
        if getattr(layer, "lora_route", None) is not None:
            layer.lora_route.data.normal_()  # the steps of a tiny cell leave the routes nearly even
    question = Question("avqa", [clip], texts={"question": "What is heard?"})
    with record_routes(run.model.model) as live:
        asked = put(run.model, run.data, question.sample(run.data, tmp_path))
    found, names = routes_of_answer(run, question, asked.text)
    assert found.routes.shape[0] == len(names)
    assert np.allclose(found.routes.sum(-1), 1, atol=1e-5)
    assert "".join(p for p, kind in zip(found.pieces, found.kinds, strict=True) if kind == TEXT).count(
        "What is heard?"
    )
    assert {depth_of(name) for name in names} == set(range(4))
    calls = torch.cat([c.flatten(0, -2) for c in live[names[-1]]]).double().numpy()
    prompt = int((~found.answer).sum())
    assert np.allclose(calls[:prompt], found.routes[-1][:prompt], atol=1e-4)
    assert np.ptp(found.routes) > 0.05

    page = tmp_path / "page.html"
    words = [
        "ask",
        "--checkpoint",
        str(cell),
        "--task",
        "avqa",
        "--video",
        str(clip),
        "--question",
        "What is heard?",
    ]
    assert main([*words, "--routes", str(page)]) == 0
    assert "Which head worked on which token" in page.read_text()
    lora = read_study(finished).folder / "cells/lora.multi.seed0"
    capsys.readouterr()
    assert main(["ask", "--checkpoint", str(lora), *words[3:], "--routes", str(page)]) == 1
    assert main(["routes", str(lora), "--out", str(tmp_path / "none")]) == 1
    said, told = capsys.readouterr()
    assert "--routes needs adapters with a router, such as I-LoRA; this run has none" in told
    assert "has no adapters with a router" in told
    assert said == ""  # nothing was asked before


def test_routes_can_be_written_as_parquet(finished: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run = read_study(finished).folder / "cells/ilora.multi.seed0"
    assert main(["routes", str(run), "--out", str(tmp_path), "--samples", "2", "--parquet"]) == 0
    table = parquet.read_table(tmp_path / "routes.parquet").to_pylist()
    found = Routes.load(tmp_path / "routes.npz")
    assert len(table) == int(np.isfinite(found.routes).all(-1).sum())
    first = table[0]
    assert (first["id"], first["tokens"], first["module"]) == (found.ids[0], "all", found.modules[0])
    assert [first[f"head_{i + 1}"] for i in range(found.heads)] == pytest.approx(
        found.routes[0, 0, 0].tolist()
    )
