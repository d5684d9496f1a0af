"""``segment``: draw masks of the object that makes the sound, or of an object that the user names."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crab_lightning.commands.file_arguments import (
    check_picture,
    config_file,
    file_to_read,
    folder_to_write,
    model_folder,
)
from crab_lightning.commands.help_text import CHECKPOINT, DEVICE, RUN_CONFIG, Options
from crab_lightning.files import replace_json

if TYPE_CHECKING:
    from crab_lightning.structures import Prediction
    from crab_lightning.tasks.segmentation import Segmentation


def run(words: Sequence[str]) -> None:
    """Draw a mask over the object that makes the sound, or over the object that --expression names.

    The trained run answers with a box and points, and SAM2, SAM3 or EdgeTAM makes the mask from them; with
    --by, SAM3 makes it from the name in the answer. For a picture, and for one second of a video (--at_s),
    the command writes overlay.png, mask.png and answer.json. For a whole video it asks the run about some of
    the frames (--asks), follows the object through the other frames, and writes overlay.mp4 with sound,
    masks/NNNNN.png and answer.json. Without --expression another object may begin to sound, so each answer is
    used only for the frames nearest to it. With --expression all answers are about the same object and are
    used together.

    Raises:
        AskError: If the run has no such task, a file is missing, or there are too many files.
        ValueError: If the answers of the task contain no points, or --asks or --fps is too small.
    """
    parser = Options("segment", run)
    add, switch = parser.option, parser.switch
    add("--checkpoint", CHECKPOINT, Path, required=True)
    add(
        "--sam2",
        "folder of SAM2, SAM3 or EdgeTAM in the transformers layout, or hub name; mini_sam2 for pictures"
        " and --at_s",
        model_folder,
        required=True,
    )
    add(
        "--by",
        "make the mask from the box and points in the answer, from the name in the answer (or from"
        " --expression if there is none), or from both; `name` and `both` need a folder of SAM3",
        default="points",
        choices=["points", "name", "both"],
    )
    add("--image", "picture to segment; the video is segmented when it is left out", file_to_read)
    add("--video", "video; the whole video is segmented without --at_s", file_to_read)
    add("--audio", "sound file (default: the video's own track)", file_to_read)
    add("--at_s", "segment only the frame of the video at this second", float)
    add("--asks", "number of frames of a video about which the run is asked", int, 5)
    add("--fps", "number of frames of each second that get a mask (default: all frames)", float)
    add("--expression", "name of the object to find (default: the object that makes the sound)")
    add("--dataset", "dataset whose task and audio window are used (default: the first that fits)")
    switch("--untaught", "also allow a task or dataset on which the run was not trained")
    add("--out", "folder to write", folder_to_write, Path("segmented"))
    add("--config", RUN_CONFIG, config_file)
    add("--device", DEVICE, default="auto")
    args = parser.parse_args(words)
    from crab_lightning.inference.question_files import check_clip

    if args.video is not None:
        check_clip(args.video, "video")
    if args.audio is not None:
        check_clip(args.audio, "audio")
    check_picture(args.image)
    if args.asks < 1 or (args.fps is not None and args.fps <= 0):
        raise ValueError(
            f"--asks is {args.asks} and --fps is {args.fps}; --asks must be at least 1 and --fps above 0"
        )
    whole = args.video is not None and args.image is None and args.at_s is None
    from crab_lightning.inference.loading import device_of, load_run

    args.device = device_of(args.device)
    from crab_lightning.segmentation import NameTracker, Sam2Tracker, Sam3Decoder

    tracker = (Sam2Tracker if args.by == "points" else NameTracker)(args.sam2, args.device)
    if whole:
        tracker.load()  # unsuitable weights are reported before anything else
    elif args.by != "points":
        Sam3Decoder(args.sam2, args.device).load()

    from crab_lightning.inference.question import choose_dataset, make_sample, put
    from crab_lightning.segmentation import Sam2Decoder, save_figure
    from crab_lightning.tasks import Segmentation
    from crab_lightning.tasks.masks import MaskMaker
    from crab_lightning.tasks.named_masks import NamedMasks

    texts = {} if args.expression is None else {"expression": args.expression}
    kind = "segmentation" if args.expression is None else "referring_segmentation"
    chosen = partial(
        choose_dataset, task=kind, dataset=args.dataset, videos=int(args.video is not None), audios=1,
        texts=texts, untaught=args.untaught,
    )  # fmt: skip
    model, data = load_run(args.checkpoint, args.config, args.device, check=chosen)
    name = chosen(data)
    task = data.tasks[data.datasets[name].task]
    if not isinstance(task, Segmentation):
        raise ValueError(
            f"dataset {name} has the task {data.datasets[name].task}, whose answers contain no points"
        )
    if whole:
        from crab_lightning.inference.segment_video import follow

        follow(args, model, data, name, task, tracker)
        return
    task.masks = MaskMaker(Sam2Decoder(args.sam2, args.device), "native")
    by_name = args.by != "points"
    task.named = NamedMasks(Sam3Decoder(args.sam2, args.device), task.masks) if by_name else None
    with tempfile.TemporaryDirectory() as scratch:
        sample = make_sample(
            name,
            data.datasets[name],
            [] if args.video is None else [args.video],
            args.image,
            [] if args.audio is None else [args.audio],
            args.at_s,
            texts,
            Path(scratch),
        )
        answer = put(model, data, sample)
        title = args.expression or "what sounds"
        figure, mask, record = segmented(task, answer, data.datasets[name], title, args.by)
    import numpy as np
    from PIL import Image

    save_figure(figure, args.out / "overlay.png")
    Image.fromarray(mask.numpy().astype(np.uint8) * 255).save(args.out / "mask.png")
    replace_json(args.out / "answer.json", record, indent=1)
    print(answer.text)
    print(f"{args.out}: overlay.png, mask.png ({record['mask_pixels']:,} pixels), answer.json")


def segmented(
    task: Segmentation, answer: Prediction, spec: Any, title: str, by: str = "points"
) -> tuple[Any, Any, dict[str, Any]]:
    """Turn an answer into a picture, a mask and a record.

    Args:
        task: Task with a mask decoder.
        answer: The answer of the model, with its sample.
        spec: The dataset's entry in the config.
        title: Text above the picture.
        by: The part of the answer from which the mask is made: ``points``, ``name`` or ``both``. ``name`` and
            ``both`` need ``task.named``.

    Returns:
        A matplotlib figure, the mask (bool ``(H, W)`` at the picture's size, empty for an unreadable answer),
        and the record that is written as JSON.
    """
    from crab_lightning.segmentation import Overlay, overlay_figure

    sample = answer.sample
    assert task.masks is not None
    parsed = task.parse(answer.text, sample, spec)
    picture = task.masks.picture(sample)
    names = () if task.named is None else task.names(answer.text, sample)
    if task.named is None or (by == "both" and not names):
        mask = task.masks.mask(parsed, sample)
    else:
        import torch

        absent = parsed is not None and parsed.absent
        pointed = parsed if by == "both" or absent else None
        mask = task.named.mask(names, pointed, sample, torch.zeros(picture.shape[-2:], dtype=torch.bool))
    prompt = None if parsed is None or parsed.absent else task.masks.prompt(parsed, picture)
    record = {
        "task": sample.task,
        "dataset": sample.dataset,
        "answer": answer.text,
        "truncated": answer.truncated,
        "status": task.read(answer.text).status,
        "parsed": None if parsed is None else task.jsonable(parsed),
        "box_xyxy_image_px": None
        if prompt is None or prompt.box_xyxy_px is None
        else list(prompt.box_xyxy_px),
        "points_xy_image_px": [] if prompt is None else [list(point) for point in prompt.points_xy_px],
        **({} if task.named is None else {"mask_made_of": by, "names": list(names)}),
        "image_width_px": picture.shape[2],
        "image_height_px": picture.shape[1],
        "mask_pixels": int(mask.sum()),
    }
    note = answer.text if parsed is not None else f"unreadable ({record['status']}): {answer.text}"
    return overlay_figure(Overlay(picture, mask, None, prompt, title, note=note), 6.0), mask, record
