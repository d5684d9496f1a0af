from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor, nn

from crab_lightning.adapters import AdapterConfig, insert_adapters
from crab_lightning.dashboards import Pictures
from crab_lightning.dashboards.figures.clips import ClipCard, clip_sheet, events_of, lanes, true_text
from crab_lightning.dashboards.figures.matrices import confusion_figure, confusion_of, routes_figure
from crab_lightning.dashboards.figures.media import ClipMedia, Sound, Strip, mel_row
from crab_lightning.dashboards.figures.sheet import Sheet, png, verdict, wrap
from crab_lightning.dashboards.figures.spatial import FrameCard, frame_sheet
from crab_lightning.dashboards.pictures import ANSWER_COLUMNS, answer_cells
from crab_lightning.dashboards.routing import RouteMeans
from crab_lightning.evaluation import Evaluator
from crab_lightning.runs.boards import markdown
from tests.evaluation.fakes import Parrot, Rows, collate, sample
from tests.quiet import quiet_trainer


def record(**given: Any) -> dict[str, Any]:
    made = {"id": "a/test/0", "dataset": "a", "task": "naming", "prompt": "Look: <video>what is it?"}
    made |= {"reference": "bell", "truth": "bell", "answer": "bell", "parsed": "bell", "score": 1.0}
    return made | {"truncated": False, "tokens": 3} | given


def size_of(content: bytes, path: Path) -> tuple[int, int]:
    path.write_bytes(content)
    with Image.open(path) as picture:
        assert np.asarray(picture).std() > 0
        return picture.size


def rows() -> Rows:
    train = [sample("a", i, "train", "bell", "bell") for i in range(2)]
    train.append(sample("b", 0, "train", "horn", "horn"))
    said = ["bell", "dog", "???", "horn"]
    val = [sample("a", i, "val", said[i % 4], ["bell", "dog", "horn"][i % 3]) for i in range(12)]
    val += [sample("b", i, "val", "horn", "horn") for i in range(3)]
    return Rows({"train": train, "val": val, "test": val})


def run(folder: Path, pictures: Pictures, **options: Any) -> Trainer:
    trainer = quiet_trainer(run=folder, callbacks=[Evaluator(print_table=False), pictures], **options)
    trainer.validate(Parrot(), datamodule=rows(), verbose=False)
    return trainer


def test_validation_leaves_the_same_pictures_in_the_run_folder_and_in_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path / "run", Pictures(per_task=2))
    files = {p.name: p for p in (tmp_path / "run/figures/val/step-000000").iterdir()}
    assert files.keys() == {"naming-a-confusion.png", "naming-samples.png"}
    board = EventAccumulator(str(tmp_path / "run")).Reload()
    assert set(board.Tags()["images"]) == {"val/naming/a/confusion", "val/naming/samples"}
    assert (
        board.Images("val/naming/samples")[0].encoded_image_string == files["naming-samples.png"].read_bytes()
    )
    assert "val/naming/answers/text_summary" in board.Tags()["tensors"]
    assert board.Scalars("val/pictures_s")[0].value > 0


def test_a_sanity_check_and_a_fast_dev_run_draw_nothing(tmp_path: Path) -> None:
    run(tmp_path / "run", Pictures(), fast_dev_run=True)
    assert not (tmp_path / "run/figures").exists()


def test_samples_are_the_same_every_time_and_from_every_dataset(tmp_path: Path) -> None:
    run(tmp_path / "run", Pictures(per_task=2))
    answers = tmp_path / "run/predictions/val"
    chosen = [
        [r["id"] for r in Pictures(3, seed=seed)._chosen(rows(), answers)["naming"]] for seed in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    assert {i.partition("/")[0] for i in chosen[0]} == {"a", "b"}


def test_without_an_evaluator_that_writes_answers_the_remedy_is_named() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[Evaluator(predictions=False), Pictures()])
    with pytest.raises(ValueError, match=r"Set evaluator\.predictions to true"):
        trainer.validate(Parrot(), datamodule=rows(), verbose=False)


def test_sheet_says_what_the_model_was_kept_from(tmp_path: Path) -> None:
    run(tmp_path / "run", Pictures(per_task=1))
    data, answers = rows(), tmp_path / "run/predictions/val"
    titles = []
    for data.drop_modality, data.audio_swap in ((None, False), ("audio", False), (None, True)):
        figures = dict(Pictures(per_task=1)._figures(data, answers, "val"))
        titles.append(figures["val/naming/samples"].texts[0].get_text())
    assert titles[0] == "naming, val"
    assert titles[1].endswith("the model got no audio")
    assert titles[2].endswith("the model heard the sound of other clips")


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="per_task is -1"):
        Pictures(per_task=-1)


# Sheets


def clip(videos: int = 1) -> ClipMedia:
    noise = np.random.default_rng(0).integers(0, 255, (96, 768, 3), np.uint8)
    return ClipMedia([Strip(noise, 10.0)] * videos, [], [Sound(noise[:, :128, 0].repeat(2, 0)[:128], 10.0)])


def test_clip_sheet_draws_spans_beside_frames_and_sound(tmp_path: Path) -> None:
    truth = [{"event": "Bark", "start_s": 0, "end_s": 4}]
    spans = record(
        truth=truth, parsed=[*truth, {"event": "Cat, $5$ of_it", "start_s": 2, "end_s": 9}], score=0.4
    )
    plain = record(answer="$x^ costs \\$ <answer>bell</answer>" * 20, score=None, parsed="bell")
    broken = ClipMedia(lost=["x.mp4: no video track"])
    sheet = clip_sheet("t", [ClipCard(spans, clip()), ClipCard(plain, clip(2), 4.0), ClipCard(plain, broken)])
    width, height = size_of(png(sheet), tmp_path / "a.png")
    assert width == 1085
    assert height > 500
    words = [text.get_text() for text in sheet.texts]
    assert any("x.mp4: no video track" in text for text in words)
    assert {"Bark", "Cat, $5$ of_it"} <= set(words)


def test_events_of_both_forms_become_lanes_of_true_and_answered_spans() -> None:
    parsing = {"visual": [["Dog", 0, 4], ["Dog", 6, 8]], "audio": [["Dog", 1, 3]]}
    assert events_of(parsing) == [("seen: Dog", 0, 4), ("seen: Dog", 6, 8), ("heard: Dog", 1, 3)]
    assert events_of("dog") is None
    assert events_of([1, 2, 3, 4]) is None
    said = record(truth=parsing, parsed={"visual": [["dog", 1, 2]], "audio": []})
    assert [(lane.name, lane.true, lane.said) for lane in lanes(said)] == [
        ("seen: Dog", [(0, 4), (6, 8)], [(1, 2)]),
        ("heard: Dog", [(1, 3)], []),
    ]


def test_true_answer_is_worded_with_the_manifests_words() -> None:
    assert true_text(record(truth=2, reference="never")) == "2  (never)"
    assert true_text(record(truth=None, reference="the dog")) == "the dog"
    assert true_text(record(truth={"visual": [], "audio": []})) == "no event"


def test_verdict_says_what_the_score_counts() -> None:
    assert verdict(record())[0] == "✓ right"
    assert verdict(record(score=0.0))[0] == "✗ wrong"
    assert verdict(record(score=0.25))[0] == "≈ partly right, 25 of 100"
    assert verdict(record(score=0.0, parsed=None))[0] == "✗ unreadable"
    assert verdict(record(score=0.0, parsed=None, truncated=True))[0].startswith("✗ cut off")
    assert verdict(record(score=1.0, truncated=True))[0] == "✓ right"
    assert verdict(record(score=None))[0].startswith("–")


def test_text_of_another_script_is_drawn_with_an_installed_font_and_without_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from matplotlib import rcParams

    monkeypatch.setattr("crab_lightning.fonts._installed", lambda: ("DejaVu Sans Mono",))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        sheet = Sheet(3, 1)
        sheet.text(0.1, 0.1, "\u5c0f\u72d7.mp4 \u0e2a\u0e38\u0e19\u0e31\u0e02")
        assert png(sheet.figure)
    assert [str(warning.message) for warning in said] == []
    assert rcParams["font.family"][-1] == "DejaVu Sans Mono"
    rcParams["font.family"].remove("DejaVu Sans Mono")


def test_long_answer_keeps_its_end_and_its_label() -> None:
    words = wrap("reason " * 200 + "<answer>bell</answer>", 3.0, 8, 4, keep_end=True, label="answer:  ")
    assert words.startswith("answer:  … ")
    assert words.endswith("<answer>bell</answer>")
    assert words.count("\n") <= 3
    assert wrap("x" * 500, 1.0, 8, 2, keep_end=True, label="answer: ").count("\n") <= 1


def test_frame_sheet_draws_boxes_points_masks_and_absence(tmp_path: Path) -> None:
    media = ClipMedia(images=[np.full((224, 224, 3), 90, np.uint8)])
    mask = np.zeros((224, 224), bool)
    mask[100:224, :60] = True
    found = {"box_xyxy_px": [10, 20, 60, 90], "points_xy_px": [[20, 30], [40, 50]], "absent": False}
    cards = [
        FrameCard(record(truth=found, parsed=[5, 5, 999, 60]), media, mask, ~mask),
        FrameCard(record(truth={"absent": True}, parsed={"absent": True}), media, asked="the dog"),
        FrameCard(record(truth=None, parsed=None), ClipMedia(lost=["gone.jpg"]), np.zeros((224, 224), bool)),
    ]
    sheet = frame_sheet("t", cards)
    size_of(png(sheet), tmp_path / "a.png")
    legend = [text.get_text() for text in sheet.legends[0].get_texts()]
    assert legend == ["true box", "true points", "true mask", "answered box", "answered mask"]
    words = " ".join(text.get_text() for text in sheet.texts)
    assert words.count("there is no such object") == 2
    assert "gone.jpg" in words


# Confusion, routes, text


def test_confusion_counts_other_and_unreadable_answers_apart(tmp_path: Path) -> None:
    said = [("a", "a")] * 6 + [("a", "b"), ("b", "z"), ("b", None), ("b", "b")]
    found = confusion_of(record(truth=t, parsed=p) for t, p in said)
    assert found is not None
    assert found.columns == ["a", "b", "another answer", "unreadable"]
    assert found.counts.tolist() == [[6, 1, 0, 0], [0, 1, 1, 1]]
    size_of(png(confusion_figure("t", found)), tmp_path / "a.png")


@pytest.mark.parametrize(
    "truth", [[1, 2, 3, 4], None, "a sentence of a caption, longer than a class name is.", 3]
)
def test_answers_without_a_closed_set_have_no_confusion_matrix(truth: Any) -> None:
    assert confusion_of([record(truth=truth)] * 20) is None


def test_a_few_answers_have_no_confusion_matrix() -> None:
    assert confusion_of([record(truth="a"), record(truth="b")] * 4) is None
    assert confusion_of([record(truth="a")] * 20) is None


class Routed(nn.Module):
    """Two layers that route what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"q_proj": nn.Linear(4, 4)}) for _ in range(2))
        config = AdapterConfig(kind="ilora", rank=2, heads=3, target_modules=["q_proj"], within=None)
        insert_adapters(self, config)
        for layer in self.layers:
            nn.init.normal_(layer["q_proj"].lora_route)  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer["q_proj"](x)  # type: ignore[index]
        return x


def test_routes_are_means_over_tokens_of_the_first_samples_of_each_dataset() -> None:
    from crab_lightning.adapters import record_routes

    torch.manual_seed(0)
    model, x = Routed(), torch.randn(3, 5, 4)
    batch = collate(
        [sample("a", 0, "val", "", ""), sample("b", 0, "val", "", ""), sample("a", 1, "val", "", "")], False
    )
    mask = torch.ones(3, 5, dtype=torch.int64)
    mask[1, 2:] = 0  # padding
    batch.inputs["attention_mask"] = mask
    means = RouteMeans(samples=1)
    for _ in range(2):  # the second is one too many
        means.start(model, batch)
        model(x)
        means.stop(batch)
    with record_routes(model) as routes:
        model(x)
    found = means.result()
    whole = torch.stack([calls[0] for calls in routes.values()])  # (layers, B, T, n)
    assert np.allclose(found["a"], whole[:, 0].mean(1).detach().numpy(), atol=1e-6)
    assert np.allclose(found["b"], whole[:, 1, :2].mean(1).detach().numpy(), atol=1e-6)
    assert not any(layer["q_proj"].route_sinks for layer in model.layers)  # type: ignore[index]


def test_routes_figure_has_a_row_for_each_dataset(tmp_path: Path) -> None:
    even = np.full((4, 3), 1 / 3)
    figure = routes_figure("t", {"ave": even, "s4": even + np.array([0.1, -0.1, 0])}, {"ave": "x", "s4": "y"})
    size_of(png(figure), tmp_path / "a.png")
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["ave  (x)", "s4  (y)"]


def test_answers_table_keeps_tags_and_pipes_in_their_cells() -> None:
    cells = answer_cells(record(answer="<answer>a|b</answer>\n*c*"))
    assert cells[-1] == verdict(record(answer="<answer>a|b</answer>\n*c*"))[0]
    table = markdown(ANSWER_COLUMNS, [cells])
    row = table.splitlines()[-1]
    assert row.count("|") == 6
    assert "&lt;answer&gt;a&#124;b&lt;/answer&gt; &#42;c&#42;" in row


def test_pitch_marks_fall_on_the_mel_bands_of_the_spectrogram() -> None:
    from crab_lightning.media import log_mel

    time_s = torch.arange(16_000) / 16_000
    for hz in (500, 2000):
        loudest = log_mel(torch.sin(2 * torch.pi * hz * time_s)).mean(1).argmax().item()
        assert loudest == pytest.approx(mel_row(hz), abs=1)
