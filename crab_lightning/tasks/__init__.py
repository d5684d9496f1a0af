"""The tasks: each class makes the prompt and the target text, and reads and scores answers."""

from typing import TYPE_CHECKING

from crab_lightning.lazy import lazy_exports

if TYPE_CHECKING:
    from crab_lightning.tasks.base import Task as Task
    from crab_lightning.tasks.captioning import Captioning as Captioning
    from crab_lightning.tasks.cross_modal_matching import CrossModalMatching as CrossModalMatching
    from crab_lightning.tasks.event_localization import EventLocalization as EventLocalization
    from crab_lightning.tasks.event_parsing import EventParsing as EventParsing
    from crab_lightning.tasks.event_text import EventSpan as EventSpan
    from crab_lightning.tasks.event_text import ModalEvents as ModalEvents
    from crab_lightning.tasks.image_grounding import ImageGrounding as ImageGrounding
    from crab_lightning.tasks.open_answer import OpenAnswer as OpenAnswer
    from crab_lightning.tasks.question_answering import QuestionAnswering as QuestionAnswering
    from crab_lightning.tasks.recognition import ActionRecognition as ActionRecognition
    from crab_lightning.tasks.recognition import EmotionRecognition as EmotionRecognition
    from crab_lightning.tasks.referring_segmentation import ReferringSegmentation as ReferringSegmentation
    from crab_lightning.tasks.segmentation import Segmentation as Segmentation
    from crab_lightning.tasks.spatial_text import SpatialPrompt as SpatialPrompt

__getattr__, __all__ = lazy_exports(__name__, __file__)
