"""One class per task family: what is asked, what is learnt, how an answer is read and scored."""

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
