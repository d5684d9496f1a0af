"""Emotion recognition: MELD, MER2024, CREMA-D, MAFW and DFEW."""

from __future__ import annotations

from crab_lightning.tasks.recognition import Recognition


class EmotionRecognition(Recognition):
    """Names a person's emotion, one of a closed set.

    Reads the field ``class_name``. A row's ``metrics`` choose between accuracy (CREMA-D), accuracy and
    weighted F1 (MELD), WAR and UAR (DFEW, MAFW, MER2024); WAR and UAR when it names none.
    """

    instruction = "Please judge the person's emotion at the moment."
    default_metrics = ("war", "uar")
