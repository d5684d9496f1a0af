"""Logs pictures and texts to the loggers that can show them: TensorBoard, Weights & Biases and MLflow.

Numbers are logged with ``self.log`` and ``logger.log_metrics``, which every logger has.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~$-])")


def log_picture(loggers: Iterable[Any], tag: str, png: bytes, step: int) -> None:
    """Log a picture.

    Args:
        loggers: Loggers of the trainer. Loggers that cannot show pictures are ignored.
        tag: Name of the picture, such as ``val/qa/samples``.
        png: The picture as PNG.
        step: Number of the optimizer step.
    """
    for logger in loggers:
        match logger:
            case TensorBoardLogger():
                from tensorboard.compat.proto.summary_pb2 import Summary

                width, height = _opened(png).size
                image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
                summary = Summary(value=[Summary.Value(tag=tag, image=image)])
                logger.experiment._get_file_writer().add_summary(summary, step)
            case WandbLogger():
                logger.log_image(tag, [_opened(png)], step=step)
            case MLFlowLogger():
                place = f"{tag}/step-{step:06d}.png"
                logger.experiment.log_image(logger.run_id, _opened(png), artifact_file=place)


def log_table(
    loggers: Iterable[Any], tag: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int
) -> None:
    """Log a table of texts.

    Args:
        loggers: Loggers of the trainer. Loggers that cannot show text are ignored.
        tag: Name of the table.
        columns: Headings.
        rows: Cells, as plain text.
        step: Number of the optimizer step.
    """
    for logger in loggers:
        match logger:
            case TensorBoardLogger():
                logger.experiment.add_text(tag, markdown(columns, rows), step)
            case WandbLogger():
                logger.log_text(tag, columns=list(columns), data=[list(row) for row in rows], step=step)
            case MLFlowLogger():
                data = {name: [row[i] for row in rows] for i, name in enumerate(columns)}
                logger.experiment.log_table(logger.run_id, data, artifact_file=f"{tag}/step-{step:06d}.json")


def log_text(loggers: Iterable[Any], tag: str, text: str, step: int) -> None:
    """Log a text.

    Args:
        loggers: Loggers of the trainer. Loggers that cannot show text are ignored.
        tag: Name of the text.
        text: Plain text. TensorBoard shows it unchanged, in a font of fixed width.
        step: Number of the optimizer step.
    """
    for logger in loggers:
        match logger:
            case TensorBoardLogger():
                logger.experiment.add_text(tag, "\n".join(f"    {line}" for line in text.splitlines()), step)
            case WandbLogger():
                logger.log_text(tag, columns=["text"], data=[[text]], step=step)
            case MLFlowLogger():
                logger.experiment.log_text(logger.run_id, text, artifact_file=f"{tag}/step-{step:06d}.txt")


def log_scalar_layout(loggers: Iterable[Any], layout: dict[str, dict[str, list[Any]]]) -> None:
    """Group curves on TensorBoard's Custom Scalars tab; other loggers group curves by their names."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_custom_scalars(layout)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown with escaped cells, because answers contain tags and underscores."""
    lines = [list(columns), ["---"] * len(columns), *([_cell(text) for text in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    flat = html.escape(" ".join(str(text).split()), quote=False)
    return _MARKDOWN.sub(lambda m: f"&#{ord(m[1])};", flat)


def _opened(png: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(png))
