"""Masks of names: SAM3's detector, the names in answers, and the curves of points, name and both."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from crab_lightning.metrics import RightPrompts
from crab_lightning.segmentation import MaskRequest, Prompt, Sam2Decoder, Sam3Decoder
from crab_lightning.segmentation.sam3 import pointed_at
from crab_lightning.tasks import ReferringSegmentation, Segmentation
from crab_lightning.tasks.named_masks import named_objects
from tests.segmentation.test_test_loop import Rectangle, box_mask, row, run_test

IMAGE = torch.randint(0, 255, (3, 90, 120), dtype=torch.uint8, generator=torch.manual_seed(3))
BOX = (10.0, 20.0, 59.0, 79.0)


def test_masks_of_a_name_are_those_of_transformers(sam3: Path) -> None:
    from transformers import AutoTokenizer, Sam3ImageProcessor, Sam3Model, Sam3Processor

    decoder = Sam3Decoder(str(sam3), "cpu", min_score=0.2, logits=True)
    processor = Sam3Processor(Sam3ImageProcessor.from_pretrained(sam3), AutoTokenizer.from_pretrained(sam3))
    model = Sam3Model.from_pretrained(sam3).eval()
    square = torch.randint(0, 255, (3, 112, 112), dtype=torch.uint8, generator=torch.manual_seed(4))
    for box in (None, BOX):
        corners = (
            None if box is None else [[[*box[:2], box[2] + 1, box[3] + 1]]]
        )  # theirs ends behind the last pixel
        inputs = processor(images=square, text="lawn mower", input_boxes=corners, return_tensors="pt")
        with torch.no_grad():
            out = model(**inputs)
        (found,) = processor.post_process_instance_segmentation(out, 0.2, target_sizes=[(112, 112)])
        assert len(found["masks"]), "the random detector must find something, or nothing is compared"
        prompt = Prompt(box, names=("lawn mower",))
        kept = [mask for mask in found["masks"].bool() if pointed_at(mask, prompt)]
        expected = torch.stack([*kept, torch.zeros(112, 112, dtype=torch.bool)]).any(0)
        (logits,) = decoder.decode([MaskRequest(square, prompt)])
        sure = logits.abs() > 1e-3
        assert torch.equal((logits > 0)[sure], expected[sure])


def test_names_are_joined_and_each_picture_is_encoded_once(
    sam3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = Sam3Decoder.weights(str(sam3), "cpu", "float32")
    seen: list[int] = []
    pixels = loaded.pixels
    monkeypatch.setattr(loaded, "pixels", lambda images: seen.append(len(images)) or pixels(images))
    decoder = Sam3Decoder(str(sam3), "cpu", min_score=0.0)
    man, dulcimer, both = decoder.decode(
        [MaskRequest(IMAGE, Prompt(names=names)) for names in (("man",), ("dulcimer",), ("man", "dulcimer"))]
    )
    assert both.shape == (90, 120)
    assert torch.equal(both, man | dulcimer)
    assert seen == [1]
    assert not decoder.decode([MaskRequest(IMAGE, Prompt(names=("x",)))])[0].any() or both.any()
    (none,) = Sam3Decoder(str(sam3), "cpu", min_score=0.999).decode(
        [MaskRequest(IMAGE, Prompt(names=("man",)))]
    )
    assert not none.any()
    assert len(pickle.dumps(decoder)) < 1000


def test_what_cannot_be_served_is_named(sam3: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the prompt has no name"):
        Sam3Decoder(str(sam3)).decode([MaskRequest(IMAGE, Prompt(BOX))])
    with pytest.raises(ValueError, match=r"min_score is 1\.0; .* at least 0 and below 1"):
        Sam3Decoder(str(sam3), min_score=1.0)
    with pytest.raises(ValueError, match="name_decoder needs a mask_decoder"):
        Segmentation(name_decoder=Sam3Decoder(str(sam3)))
    with pytest.raises(ValueError, match="mask_decoder is Sam3Decoder, which reads names"):
        Segmentation(mask_decoder=Sam3Decoder(str(sam3)))
    with pytest.raises(ValueError, match="name_decoder is Sam2Decoder, which reads boxes and points"):
        Segmentation(mask_decoder=Rectangle(), name_decoder=Sam2Decoder("mini_sam2"))
    with pytest.raises(ValueError, match="only a name, which this decoder cannot read"):
        Sam2Decoder("mini_sam2", "cpu").decode([MaskRequest(IMAGE, Prompt(names=("dog",)))])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam2"}))
    with pytest.raises(
        ValueError, match="type 'sam2', which does not find named objects; known types: sam3, sam3_video"
    ):
        Sam3Decoder(str(tmp_path)).load()
    task = Segmentation(mask_decoder=Rectangle(), name_decoder=Sam3Decoder(str(tmp_path / "nowhere")))
    with pytest.raises(
        OSError, match=r"^name_decoder: there are no weights of .*Without name_decoder the task scores"
    ):
        task.ready()


def test_things_are_kept_that_box_or_points_mean() -> None:
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[5:10, 5:15] = True
    assert pointed_at(mask, Prompt(names=("x",)))
    assert pointed_at(mask, Prompt((5.0, 5.0, 10.0, 9.0), ((0.0, 0.0),)))  # 30 of 50 pixels
    assert not pointed_at(mask, Prompt((5.0, 5.0, 9.0, 9.0)))  # half of them
    assert pointed_at(mask, Prompt(None, ((0.0, 0.0), (7.0, 7.0))))
    assert not pointed_at(mask, Prompt(None, ((25.0, 25.0),)))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            "The object making the sound is the lawn mower. Its bounding box is [53,59,153,177].",
            ["lawn mower"],
        ),
        ("The objects making the sound are the man and the dulcimer. Their box", ["man", "dulcimer"]),
        ("The object making the sound in the video is violin_fiddle.", ["violin fiddle"]),
        ("I hear a dog. The object is absent. <answer>false</answer>", []),
        ("<answer>true</answer>. The object is the tram. Its bounding box is [1,2,3,4]", ["tram"]),
        ("The sounding object is ambulance. Its coordinates are <obj>(1,2)(3,4)</obj>.", ["ambulance"]),
        ("The object is a cat. No: the object is a dog, a cow, and a dog.", ["dog", "cow"]),
        ("The object that is making a sound is a guitar, with its box [1,2,3,4]", ["guitar"]),
        ("The object making the sound is the guitar and its bounding box is [1,2,3,4]", ["guitar"]),
        ("The object making the sound is in the middle.", []),
        ("[1,2,3,4],[5,6]", []),
        ("", []),
    ],
)
def test_names_are_read_from_answers(text: str, names: list[str]) -> None:
    assert list(named_objects(text)) == names


def test_right_prompts_are_counted_by_hand() -> None:
    metric = RightPrompts()
    assert metric.compute()["none_right"].isnan()
    truth, wrong = torch.zeros(4, 4, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool)
    truth[:2] = True  # 8 of 16 pixels, so that the full mask has J = 0.5 and is right
    little = torch.zeros_like(truth)
    little[0] = True  # J = 0.5
    none = torch.zeros_like(truth)
    metric.update(truth, none, wrong, truth, True)
    metric.update(none, little, none, truth, True)
    metric.update(none, none, none, truth, False)
    metric.update(truth, truth, truth, truth, True)
    found = {key: float(value) for key, value in metric.compute().items()}
    assert found == {
        "right_from_points": 0.5,
        "right_from_name": 0.5,
        "right_from_both": 0.5,
        "only_points_right": 0.0,
        "only_name_right": 0.25,
        "only_both_right": 0.0,
        "none_right": 0.25,
        "unnamed": 0.25,
    }


class Known:
    """Masks of names that are known: each fills its box, cut to the box of the prompt where there is one."""

    reads_names = True
    boxes: ClassVar = {"dog": [0, 0, 9, 9], "cat": [20, 20, 39, 39], "it": [0, 0, 19, 9]}

    def decode(self, requests: Sequence[MaskRequest]) -> list[Tensor]:
        masks = []
        for request in requests:
            found = torch.zeros(request.image.shape[-2:], dtype=torch.bool)
            for name in request.prompt.names:
                found |= box_mask(self.boxes[name])
            if request.prompt.box_xyxy_px is not None:
                found &= box_mask([int(side) for side in request.prompt.box_xyxy_px])
            masks.append(found)
        return masks


def test_a_test_scores_points_name_and_both(tmp_path: Path) -> None:
    dog = box_mask([0, 0, 9, 9])
    said = "The object making the sound is the dog. "
    rows = [
        row(tmp_path, 0, said + "Its box is [0,0,9,9],[1,1]", dog),  # all three
        row(tmp_path, 1, said, dog),  # the name alone: unreadable, as without a name decoder
        row(tmp_path, 2, "[0,0,9,9],[1,1]", dog),  # the box alone
        row(tmp_path, 3, "The object is the cat. [0,0,9,4],[1,1]", dog),  # half the box; another name
        row(tmp_path, 4, "I cannot say.", dog),
    ]
    names: Any = Known()
    without = run_test(tmp_path / "without", Segmentation(mask_decoder=Rectangle()), rows)
    task = Segmentation(mask_decoder=Rectangle(), name_decoder=names)
    result = run_test(tmp_path / "with", task, rows)
    strict = result["strict"]
    assert (result["counts"], result["headline"]) == (without["counts"], "crabplus_j")
    assert {key: strict[key] for key in without["strict"]} == without["strict"]
    assert strict["crabplus_j"] == pytest.approx((1 + 0 + 1 + 0.5 + 0) / 5)
    assert strict["crabplus_name_j"] == pytest.approx((1 + 1 + 0 + 0 + 0) / 5)
    assert strict["crabplus_both_j"] == pytest.approx((1 + 1 + 1 + 0 + 0) / 5)
    assert strict["right_from_points"] == strict["right_from_both"] == pytest.approx(3 / 5)
    assert strict["only_points_right"] == strict["none_right"] == pytest.approx(1 / 5)
    assert strict["unnamed"] == pytest.approx(2 / 5)
    assert result["valid_only"]["crabplus_name_j"] == pytest.approx(1 / 3)
    assert result["scales"]["unnamed"]["higher_is_better"] is False
    again = run_test(tmp_path / "again", pickle.loads(pickle.dumps(task)), rows)
    assert again["strict"] == strict


def test_a_referred_object_is_found_by_its_expression_where_the_answer_names_none(tmp_path: Path) -> None:
    dog = box_mask([0, 0, 9, 9])
    rows = [
        row(tmp_path, 0, "<answer>true</answer> [0,0,9,9]", dog),  # "it", cut to the box
        row(tmp_path, 1, "<answer>true</answer>. The object is the dog. [0,0,9,9]", dog),
        row(tmp_path, 2, "<answer>false</answer>. The object is absent.", dog),
        row(tmp_path, 3, "<answer>true</answer> [0,0,9,9]", None, subset="test_n"),  # no part of the curves
        row(tmp_path, 4, " ", dog),  # the expression earns nothing where nothing was answered
    ]
    names: Any = Known()
    strict = run_test(tmp_path, ReferringSegmentation(mask_decoder=Rectangle(), name_decoder=names), rows)[
        "strict"
    ]
    assert strict["crabplus_name_j"] == pytest.approx((0.5 + 1 + 0 + 0) / 4)
    assert strict["crabplus_both_j"] == pytest.approx((1 + 1 + 0 + 0) / 4)
    assert strict["unnamed"] == pytest.approx(1 / 4)


def test_a_test_with_the_real_detector_writes_all_three_curves(sam3: Path, tmp_path: Path) -> None:
    rows = [
        row(tmp_path, 0, "The object making the sound is the dog. [0,0,9,9],[1,1]", box_mask([0, 0, 9, 9]))
    ]
    task = Segmentation(mask_decoder=Rectangle(), name_decoder=Sam3Decoder(str(sam3), "cpu", min_score=0.0))
    strict = run_test(tmp_path, task, rows)["strict"]
    assert strict["crabplus_j"] == 1.0
    assert 0 <= strict["crabplus_name_j"] <= 1
    assert 0 <= strict["crabplus_both_j"] <= 1
    assert strict["unnamed"] == 0.0
