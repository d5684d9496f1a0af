"""One class per task family: what is asked, what is learnt, how an answer is read and scored."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crab_lightning.tasks.action_recognition import ActionRecognition
    from crab_lightning.tasks.base import Task
    from crab_lightning.tasks.captioning import Captioning
    from crab_lightning.tasks.cross_modal_matching import CrossModalMatching
    from crab_lightning.tasks.emotion_recognition import EmotionRecognition
    from crab_lightning.tasks.event_localization import AVE_CLASSES, EventLocalization
    from crab_lightning.tasks.event_parsing import LLP_CLASSES, EventParsing
    from crab_lightning.tasks.event_text import EventSpan, ModalEvents
    from crab_lightning.tasks.image_grounding import ImageGrounding
    from crab_lightning.tasks.question_answering import QuestionAnswering
    from crab_lightning.tasks.referring_segmentation import ReferringSegmentation
    from crab_lightning.tasks.segmentation import Segmentation
    from crab_lightning.tasks.spatial_text import SpatialPrompt

# torchmetrics takes seconds to import (it loads torchvision and transformers); the manifest reader needs only
# the text rules of this room.
_HOMES = {
    "AVE_CLASSES": "event_localization",
    "ActionRecognition": "action_recognition",
    "Captioning": "captioning",
    "CrossModalMatching": "cross_modal_matching",
    "EmotionRecognition": "emotion_recognition",
    "EventLocalization": "event_localization",
    "EventParsing": "event_parsing",
    "EventSpan": "event_text",
    "ImageGrounding": "image_grounding",
    "LLP_CLASSES": "event_parsing",
    "ModalEvents": "event_text",
    "QuestionAnswering": "question_answering",
    "ReferringSegmentation": "referring_segmentation",
    "Segmentation": "segmentation",
    "SpatialPrompt": "spatial_text",
    "Task": "base",
}

__all__ = [
    "AVE_CLASSES",
    "LLP_CLASSES",
    "ActionRecognition",
    "Captioning",
    "CrossModalMatching",
    "EmotionRecognition",
    "EventLocalization",
    "EventParsing",
    "EventSpan",
    "ImageGrounding",
    "ModalEvents",
    "QuestionAnswering",
    "ReferringSegmentation",
    "Segmentation",
    "SpatialPrompt",
    "Task",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
