"""Action recognition: Kinetics-Sounds (``ks``) and UCF51 (``ucf``)."""

from __future__ import annotations

from crab_lightning.tasks.recognition import Recognition


class ActionRecognition(Recognition):
    """Names the action of a clip, one of a closed set.

    Reads the field ``class_name``; UCF51's names are in lower case, as in its released reference strings.
    Scored by accuracy over all samples (``valid`` in GeWu-Lab/OGM-GE_CVPR2022 main.py).
    """

    instruction = "Please identify the action taking place in the video."
