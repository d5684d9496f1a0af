from __future__ import annotations

import random
import warnings
from typing import Any

import pytest

from crab_lightning.metrics import CaptionScores, caption_tools, captions, ptb_tokenize, python_tokenize
from crab_lightning.metrics.caption_tools import meteor, missing_tool
from crab_lightning.metrics.captions import bleu, cider, rouge_l
from tests.metrics.oracle import approx, oracle_cases

needs_java = pytest.mark.skipif(missing_tool() is not None, reason=str(missing_tool()))


NAMES = {
    "Bleu_1": "bleu_1",
    "Bleu_2": "bleu_2",
    "Bleu_3": "bleu_3",
    "Bleu_4": "bleu_4",
    "ROUGE_L": "rouge_l",
    "CIDEr": "cider",
}


@pytest.mark.parametrize("case", oracle_cases("caption"))
def test_scores_on_tokens_oracle(case: dict[str, Any]) -> None:
    tokens, metric = case["expected"]["tokens"], CaptionScores("none", with_meteor=False)
    metric.update(tokens["candidates"], tokens["references"])
    scores = metric.compute()
    assert set(scores) == set(NAMES.values())
    for published, name in NAMES.items():
        assert scores[name].item() == approx(case["expected"]["scores"][published], case["tolerance"])


@needs_java
@pytest.mark.parametrize("case", oracle_cases("caption"))
def test_meteor_oracle(case: dict[str, Any]) -> None:
    tokens = case["expected"]["tokens"]
    items = list(zip(tokens["candidates"], tokens["references"], strict=True))
    assert meteor(items) == approx(case["expected"]["scores"]["METEOR"], case["meteor_tolerance"])


def _texts_and_tokens(cases: list[Any]) -> tuple[list[str], list[str]]:
    texts, tokens = [], []
    for parameters in cases:
        case = parameters.values[0]
        if case is None:
            pytest.skip("no caption oracle; set CRAB_SHARED")
        for i, item in enumerate(case["inputs"]["items"]):
            texts += [item["candidate"], *item["references"]]
            tokens += [
                case["expected"]["tokens"]["candidates"][i],
                *case["expected"]["tokens"]["references"][i],
            ]
    return texts, tokens


@needs_java
def test_ptb_tokenizer_oracle() -> None:
    texts, tokens = _texts_and_tokens(oracle_cases("caption"))
    assert ptb_tokenize(texts) == tokens


def test_python_tokenizer_equals_ptb_on_plain_captions() -> None:
    texts, tokens = _texts_and_tokens(oracle_cases("caption"))
    assert [python_tokenize(text) for text in texts] == tokens


HARD = [
    'A man (with a hat) says: "Hello, isn\'t it?" -- then leaves...',
    "two-year-old kids don't stop; the dogs' barking is 3.5 times louder",
    "They're at 10:30 near a caf\u00e9, aren't they",
    "",
]


@needs_java
def test_tokenizers_agree_on_clitics_brackets_and_numbers() -> None:
    assert ptb_tokenize(HARD) == [python_tokenize(text) for text in HARD]


@needs_java
def test_ptb_tokenizer_keeps_one_line_for_each_caption() -> None:
    texts = ["a\nb", "", "  ", "caf\u00e9.", ""]
    assert ptb_tokenize(texts) == ["a b", "", "", "caf\u00e9", ""]


WORDS = "a the man plays red guitar two dogs bark near old car"


def _random_items(seed: int) -> list[tuple[str, list[str]]]:
    chance = random.Random(seed)

    def text(least: int) -> str:
        return " ".join(chance.choices(WORDS.split(), k=chance.randint(least, 14)))

    return [(text(0), [text(1) for _ in range(chance.randint(1, 4))]) for _ in range(chance.randint(1, 9))]


@pytest.mark.parametrize("seed", range(8))
def test_scores_equal_the_coco_tools(seed: int) -> None:
    scorers = pytest.importorskip("pycocoevalcap.bleu.bleu", reason="needs the extra 'metrics'")
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    items = _random_items(seed)
    candidates = {i: [candidate] for i, (candidate, _) in enumerate(items)}
    references = {i: others for i, (_, others) in enumerate(items)}
    assert bleu(items) == pytest.approx(
        scorers.Bleu(4).compute_score(references, candidates, verbose=0)[0], rel=1e-13
    )
    assert rouge_l(items) == pytest.approx(Rouge().compute_score(references, candidates)[0], rel=1e-13)
    assert cider(items) == pytest.approx(
        Cider().compute_score(references, candidates)[0], rel=1e-12, abs=1e-15
    )


def test_rouge_worked_by_hand() -> None:
    # Longest common subsequence "a c": precision 2/3, recall 2/4.
    wanted = 2.44 * (2 / 3) * 0.5 / (0.5 + 1.44 * 2 / 3)
    assert rouge_l([("a b c", ["a x c y"])]) == pytest.approx(wanted)


def test_bleu_worked_by_hand() -> None:
    # "the the" clipped to one of two; the closest reference has the same length, so no penalty.
    assert bleu([("the the", ["the cat", "a long other one"])])[0] == pytest.approx(0.5)
    # Two words for four: all of them right, penalty e^(1 - 4/2).
    assert bleu([("the cat", ["the cat sat down"])])[0] == pytest.approx(2.718281828 ** (1 - 2), rel=1e-6)


def test_one_item_has_no_cider() -> None:
    assert cider([("a dog barks", ["a dog barks"])]) == 0.0
    assert cider([("a dog barks loudly", ["a dog barks loudly"]), ("b c d e", ["b c d e"])]) == pytest.approx(
        10
    )


def test_without_java_meteor_is_nan_with_a_reason_and_the_rest_is_scored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(caption_tools.shutil, "which", lambda name: None)
    captions._warn_once.cache_clear()
    metric, another = CaptionScores(), CaptionScores()
    another.update(["A dog, barking."], [["a dog barking"]])
    metric.update(["A dog, barking."], [["a dog barking"]])
    with pytest.warns(UserWarning, match="Java") as warned:
        scores = metric.compute()
    messages = [str(warning.message) for warning in warned]
    assert any(
        "a Java runtime, version 8 or later, on PATH. Captions are split by the plain" in m for m in messages
    )
    assert any("meteor is NaN, but the other caption scores are computed" in m for m in messages)
    assert metric.tokenizer_used == "python"
    assert scores["meteor"].isnan()
    assert scores["rouge_l"].item() == 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        another.compute()  # the next dataset's


def test_ptb_without_java_is_an_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_tools.shutil, "which", lambda name: None)
    monkeypatch.setattr(caption_tools, "RequirementCache", lambda name: False)
    with pytest.raises(
        caption_tools.CaptionToolMissing, match=r"pip install 'crab_lightning\[metrics\]'\) and a Java"
    ):
        ptb_tokenize(["a"])


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        (["a"], [], "1 candidates but 0 lists of references"),
        (["a"], [[]], r"references of 'a' are \[\]"),
        (["a"], ["b"], "references of 'a' are 'b'; give a list"),
    ],
)
def test_malformed_captions_are_refused(candidates: list[str], references: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CaptionScores().update(candidates, references)
