from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crab_lightning.metrics import MaskJF, NullMaskS
from crab_lightning.metrics.mask_scores import f_curves
from tests.metrics.oracle import approx, mask, oracle_cases


def _values(metric: Any) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.mark.parametrize("case", oracle_cases("avs_jf_crabplus"))
def test_crabplus_oracle(case: dict[str, Any]) -> None:
    shape, expected = case["inputs"]["shape"], case["expected"]
    whole = MaskJF("crabplus")
    for i, (pred, true) in enumerate(zip(case["inputs"]["pred"], case["inputs"]["gt"], strict=True)):
        single = MaskJF("crabplus")
        for metric in (single, whole):
            metric.update(mask(pred, shape)[None], mask(true, shape)[None])
        assert _values(single)["j"] == approx(expected["J_per_sample"][i], case["tolerance"])
        assert _values(single)["f"] == approx(expected["F_per_sample"][i], case["tolerance"])
    assert _values(whole)["j"] == approx(expected["J"], case["tolerance"])
    assert _values(whole)["f"] == approx(expected["F"], case["tolerance"])


def _frames(batch: dict[str, Any], shape: list[int], as_logits: bool) -> tuple[Tensor, Tensor]:
    """Predictions and truth of a batch; binary predictions stay bool unless logits are asked."""
    true = torch.stack([mask(runs, shape) for runs in batch["gt"]])
    if not as_logits and not any(isinstance(entry, dict) for entry in batch["pred"]):
        return torch.stack([mask(runs, shape) for runs in batch["pred"]]), true
    logits = [
        torch.tensor(entry["logits"]) if isinstance(entry, dict) else 20.0 * mask(entry, shape) - 10
        for entry in batch["pred"]
    ]
    return torch.stack(logits), true


@pytest.mark.parametrize("as_logits", [True, False], ids=["logits", "masks"])
@pytest.mark.parametrize("case", oracle_cases("avs_jf_official"))
def test_avsbench_and_framewise_oracle(case: dict[str, Any], as_logits: bool) -> None:
    expected, tolerance = case["expected"], case["tolerance"]
    batches = [_frames(batch, case["inputs"]["shape"], as_logits) for batch in case["inputs"]["batches"]]
    whole, frames, per_frame = MaskJF("avsbench", frames_per_batch=0), MaskJF("framewise"), []
    for (pred, true), values in zip(batches, expected["avsbench"]["per_batch"], strict=True):
        single = MaskJF("avsbench", frames_per_batch=len(pred))
        for metric in (single, whole, frames):
            metric.update(pred, true)
        assert _values(single)["j"] == approx(values["J"], tolerance)
        assert _values(single)["f"] == approx(values["F"], tolerance)
        for i in range(len(pred)):
            alone = MaskJF("framewise")
            alone.update(pred[i : i + 1], true[i : i + 1])
            per_frame.append(_values(alone))
    for name, key in (("j", "J"), ("f", "F")):
        assert _values(whole)[name] == approx(expected["avsbench"][key], tolerance)
        assert _values(frames)[name] == approx(expected["framewise"][key], tolerance)
        assert [v[name] for v in per_frame] == approx(expected["framewise"][f"{key}_per_frame"], tolerance)


def _logits(batch: dict[str, Any]) -> Tensor:
    return torch.tensor(batch["logits"], dtype=torch.float32)


@pytest.mark.parametrize("case", oracle_cases("refavs_official"))
def test_refavs_oracle(case: dict[str, Any]) -> None:
    inputs, expected, tolerance = case["inputs"], case["expected"], case["tolerance"]
    if inputs["mode"] == "jf":
        whole = MaskJF("refavs", frames_per_batch=0)
        for i, batch in enumerate(inputs["batches"]):
            single = MaskJF("refavs", frames_per_batch=0)
            for metric in (single, whole):
                metric.update(_logits(batch), torch.stack([mask(r, inputs["shape"]) for r in batch["gt"]]))
            assert _values(single)["j"] == approx(expected["J_per_batch"][i], tolerance)
            assert _values(single)["f"] == approx(expected["F_per_batch"][i], tolerance)
        assert _values(whole)["j"] == approx(expected["J"], tolerance)
        assert _values(whole)["f"] == approx(expected["F"], tolerance)
        return
    pooled, frames, crabplus = NullMaskS("refavs", frames_per_batch=0), NullMaskS("framewise"), NullMaskS()
    per_frame = []
    for i, batch in enumerate(inputs["batches"]):
        single = NullMaskS("refavs", frames_per_batch=0)
        for metric in (single, pooled, frames):
            metric.update(_logits(batch))
        assert _values(single)["s"] == approx(expected["S_per_batch"][i], tolerance)
        crabplus.update(_logits(batch) > 0)
        for frame in _logits(batch) > 0:
            alone = NullMaskS()
            alone.update(frame[None])
            per_frame.append(None if _values(alone)["s_infinite"] else _values(alone)["s"])
    assert _values(pooled)["s"] == approx(expected["S_refavs"], tolerance)
    assert _values(frames)["s"] == approx(expected["S_crab_framewise"], tolerance)
    assert _values(crabplus)["s"] == approx(expected["S_crabplus"], tolerance)
    assert [v is None for v in per_frame] == [v is None for v in expected["S_crabplus_per_frame"]]
    for found, wanted in zip(per_frame, expected["S_crabplus_per_frame"], strict=True):
        assert found is None or found == approx(wanted, tolerance)


def _rectangle(box: list[int] | None) -> Tensor:
    frame = torch.zeros(1, 224, 224, dtype=torch.bool)
    if box is not None:
        frame[:, box[1] : box[3] + 1, box[0] : box[2] + 1] = True
    return frame


@pytest.mark.parametrize("case", oracle_cases("seg_pipeline_crabplus"))
def test_crabplus_pipeline_means_over_the_valid_samples(case: dict[str, Any]) -> None:
    # The reading of answers belongs to the tasks; the rejected rows are taken from the file.
    expected = case["expected"]
    rejected = {index for index, _ in expected["invalid"]}
    scores, null = MaskJF("crabplus"), NullMaskS("crabplus")
    for i, item in enumerate(case["inputs"]["items"]):
        if i in rejected:
            continue
        box = re.search(r"\[(\d+),(\d+),(\d+),(\d+)\]", item["text"])
        pred = _rectangle(None if box is None else [int(n) for n in box.groups()])
        null.update(pred)
        scores.update(pred, _rectangle(item["gt_box"]))
    if expected.get("no_result"):
        assert all(value != value for value in _values(scores).values())
    elif "mean_s_metric" in expected:
        assert _values(null)["s"] == approx(expected["mean_s_metric"], case["tolerance"])
        assert _values(null)["s_infinite"] == expected["infinite_s_metric_count"]
    else:
        assert _values(scores)["j"] == approx(expected["mean_jaccard"], case["tolerance"])
        assert _values(scores)["f"] == approx(expected["mean_f_score"], case["tolerance"])


def _row(text: str) -> Tensor:
    return torch.tensor([[[character == "x" for character in text]]])


def test_crabplus_worked_by_hand() -> None:
    # 2 of 3 predicted pixels right, 2 of 4 true pixels found: J 2/5, F 1.3 * 2/3 * 1/2 / (0.3 * 2/3 + 1/2)
    metric = MaskJF("crabplus")
    metric.update(_row("xxx..."), _row(".xxxx."))
    assert _values(metric) == {"j": pytest.approx(0.4), "f": pytest.approx(1.3 / 3 / 0.7)}


def test_empty_truth_scores_by_protocol() -> None:
    found = {}
    for protocol in ("crabplus", "framewise", "avsbench"):
        metric = MaskJF(protocol)
        metric.update(torch.cat([_row("x..."), _row("x...")]), torch.cat([_row("...."), _row("x...")]))
        found[protocol] = _values(metric)
    assert found["crabplus"] == {"j": 0.5, "f": 0.5}  # wrong, then right
    assert found["framewise"] == {"j": pytest.approx(0.875), "f": 0.5}  # share of background; F adds 0
    assert found["avsbench"] == {"j": pytest.approx(0.875), "f": 1.0, "frames_per_batch": 2.0}  # F skips it


def test_short_last_batch_weighs_as_much_as_a_full_one() -> None:
    metric = MaskJF("avsbench", frames_per_batch=2)
    metric.update(torch.cat([_row("x.")] * 3), torch.cat([_row("x."), _row("x."), _row(".x")]))
    assert _values(metric) == {
        "j": pytest.approx(0.5),
        "f": pytest.approx((1 + 1.3 * 0.5 / (0.3 * 0.5 + 1)) / 2),  # the floor of an all-ones mask
        "frames_per_batch": 1.5,
    }


def _plain_curves(probability: Tensor, true: Tensor) -> Tensor:
    curves = []
    for frame, truth in zip(probability, true, strict=True):
        curve = []
        for threshold in torch.linspace(0, 1, 255):
            positive = frame >= threshold
            hits = float((positive & truth).sum())
            precision = hits / max(float(positive.sum()), 1.0)
            recall = hits / max(float(truth.sum()), 1.0)
            below = 0.3 * precision + recall
            curve.append(1.3 * precision * recall / below if below else 0.0)
        curves.append(curve)
    return torch.tensor(curves, dtype=torch.float64)


def test_histogram_gives_the_curves_of_255_comparisons() -> None:
    generator = torch.Generator().manual_seed(0)
    # Steep logits put many probabilities at exactly 0 and 1; some more lie on and beside every threshold.
    probability = torch.sigmoid(30 * torch.randn(4, 30, 31, generator=generator) ** 3)
    levels = torch.linspace(0, 1, 255)
    near = [torch.nextafter(levels, torch.tensor(to)) for to in (0.0, 1.0)]
    probability[3, :25, :30] = torch.cat([levels[5:], *near])[:750].clamp(0, 1).reshape(25, 30)
    true = torch.rand(4, 30, 31, generator=generator) > 0.6
    true[2] = False
    torch.testing.assert_close(
        f_curves(probability, true), _plain_curves(probability, true), atol=1e-12, rtol=0
    )


masks = st.lists(st.booleans(), min_size=12, max_size=12).map(lambda row: torch.tensor(row).reshape(1, 3, 4))


@settings(deadline=None)  # a busy machine is no failure
@given(pred=masks, true=masks)
def test_scores_stay_between_zero_and_one_and_j_is_symmetric(pred: Tensor, true: Tensor) -> None:
    forth, back = MaskJF(), MaskJF()
    forth.update(pred, true)
    back.update(true, pred)
    assert _values(forth)["j"] == _values(back)["j"]
    assert all(0 <= value <= 1 for value in _values(forth).values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: MaskJF("davis"),
            "there is no mask protocol 'davis'; known: crabplus, avsbench, framewise, refavs",
        ),
        (
            lambda: MaskJF("framewise", 5),
            "frames_per_batch is 5; protocol 'framewise' scores single frames, so it must be 1",
        ),
        (lambda: NullMaskS("avsbench"), "the protocol 'avsbench' does not define S"),
        (
            lambda: MaskJF().update(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2) > 0),
            "this protocol takes bool masks",
        ),
        (
            lambda: MaskJF("framewise").update(
                torch.zeros(1, 2, 2, dtype=torch.uint8), torch.zeros(1, 2, 2) > 0
            ),
            "torch.uint8; this protocol takes bool masks or floating-point logits",
        ),
        (lambda: MaskJF().update(_row("x."), _row("x..")), r"it must be bool and \(1, 1, 2\)"),
        (lambda: NullMaskS("refavs").update(torch.full((1, 2, 2), float("nan"))), "pred contains NaN logits"),
    ],
)
def test_wrong_use_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
