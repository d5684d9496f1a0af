"""Fine-tune, evaluate and understand one audio-visual LLM on many audio-visual tasks.

    from crab_lightning import load_run

    run = load_run("runs/omni/version_0")
    run.ask("qa", video="clip.mp4", question="Which instrument plays first?").value

Names below are imported when they are first used, so importing the package takes no time.
"""

from typing import TYPE_CHECKING

from crab_lightning.lazy import lazy_exports

if TYPE_CHECKING:
    from crab_lightning.adapters import AdapterConfig as AdapterConfig
    from crab_lightning.commands.python_door import fit as fit
    from crab_lightning.commands.python_door import run_test as run_test
    from crab_lightning.data import AVDataModule as AVDataModule
    from crab_lightning.evaluation import Evaluator as Evaluator
    from crab_lightning.inference.answer import Answer as Answer
    from crab_lightning.inference.loading import TrainedRun as TrainedRun
    from crab_lightning.inference.loading import load_data as load_data
    from crab_lightning.inference.loading import load_run as load_run
    from crab_lightning.models import LlmVaModule as LlmVaModule
    from crab_lightning.models import OmniModule as OmniModule
    from crab_lightning.models import Qwen3OmniModule as Qwen3OmniModule
    from crab_lightning.models import VllmAModule as VllmAModule
    from crab_lightning.reports.run_page import write_report as write_report
    from crab_lightning.runs import RunCheckpoint as RunCheckpoint

__version__ = "0.1.0"

__getattr__, __all__ = lazy_exports(__name__, __file__)
