from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from crab_lightning.commands import main
from crab_lightning.dashboards import MaskSheets
from crab_lightning.evaluation import Evaluator
from crab_lightning.segmentation import Overlay, Prompt, best_median_worst, contact_sheet, overlay_figure
from crab_lightning.segmentation.overlays import figure_png
from crab_lightning.structures import DatasetSpec
from crab_lightning.tasks import Segmentation
from tests.evaluation.fakes import Parrot, Rows
from tests.quiet import quiet_trainer
from tests.segmentation.test_test_loop import Rectangle, box_mask, row


def pixels(figure: object) -> np.ndarray:
    import io

    return np.array(Image.open(io.BytesIO(figure_png(figure))).convert("RGB")).astype(int)


def test_an_overlay_shows_mask_box_points_and_scores() -> None:
    image = torch.full((3, 224, 224), 128, dtype=torch.uint8)
    mask = box_mask([60, 60, 160, 160])
    prompt = Prompt((60, 60, 160, 160), ((100, 100),))
    plain = pixels(overlay_figure(Overlay(image)))
    for change in (
        Overlay(image, pred=mask),
        Overlay(image, truth=mask),
        Overlay(image, prompt=prompt),
        Overlay(image, scores={"J": 0.5}),
        Overlay(image, note="[60,60,160,160]"),
    ):
        drawn = pixels(overlay_figure(change))
        assert drawn.shape != plain.shape or (drawn != plain).any()
    orange = pixels(overlay_figure(Overlay(image, pred=mask)))
    assert ((orange[..., 0] - orange[..., 2]) > 40).sum() > 10_000


def test_an_empty_mask_is_drawn_and_said() -> None:
    nothing = torch.zeros(30, 40, dtype=torch.bool)
    figure = overlay_figure(Overlay(torch.zeros(3, 30, 40, dtype=torch.uint8), nothing, nothing))
    texts = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert texts == ["answered mask", "true mask"]
    assert figure.axes[0].get_xlabel() == "answered and true masks: empty"


def test_a_sheet_explains_its_colours_once() -> None:
    image, mask = torch.zeros(3, 30, 40, dtype=torch.uint8), torch.ones(30, 40, dtype=torch.bool)
    overlay = Overlay(image, mask, mask, Prompt((1, 2, 9, 9), ((4, 4),)), scores={"J": 1.0})
    figure = contact_sheet([("best", [overlay, overlay])])
    texts = [t.get_text() for t in figure.legends[0].get_texts()]
    assert texts == ["answered mask", "true mask", "answered box and points"]
    assert all(axes.get_legend() is None for axes in figure.axes)
    assert figure.axes[0].get_xlabel() == "J 100.0"


@pytest.mark.parametrize("count", [1, 2, 5, 9, 20])
def test_no_answer_stands_in_two_rows(count: int) -> None:
    scores = [((i * 7) % count) / count for i in range(count)]
    rows = best_median_worst(scores)
    chosen = [i for row in rows.values() for i in row]
    assert len(chosen) == len(set(chosen)) == min(count, 9)
    assert scores[rows["best"][0]] == max(scores)
    if count > 3:
        assert scores[rows["worst"][0]] == min(scores)


def test_a_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="a contact sheet needs at least one overlay"):
        contact_sheet([("best", [])])


def test_a_test_run_leaves_sheets_and_overlays(tmp_path: Path) -> None:
    truth = box_mask([20, 30, 100, 120])
    says = ["[20,30,100,120],[50,50]", "[20,30,60,120],[50,50]", "nothing to see"]
    rows = [row(tmp_path, i, text, truth) for i, text in enumerate(says)]
    data = Rows({"train": [], "val": [], "test": rows})
    data.tasks = {"spatial": Segmentation(mask_decoder=Rectangle())}
    data.datasets = {"spatial": DatasetSpec(task="spatial", layout="s4")}
    logger = TensorBoardLogger(tmp_path, name="run", version="")
    trainer = quiet_trainer(logger=logger, callbacks=[Evaluator(print_table=False), MaskSheets(each=1)])
    trainer.test(Parrot(), data, verbose=False)
    figures = tmp_path / "run" / "figures"
    assert Image.open(figures / "spatial_masks.png").size[0] > 300
    assert sorted(p.name for p in (figures / "spatial").iterdir()) == [
        "best_0.png",
        "median_0.png",
        "worst_0.png",
    ]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert events.Tags()["images"] == ["test/spatial/spatial/masks"]
    assert main(["report", str(tmp_path / "run")]) == 0
    assert 'class="sheet" src="data:image/jpeg' in (tmp_path / "run" / "report.html").read_text()
