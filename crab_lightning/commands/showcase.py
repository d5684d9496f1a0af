"""``showcase``: ask about one clip with every task, and write the answers on one page."""

from __future__ import annotations

import argparse
import base64
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crab_lightning.commands.file_arguments import config_file, file_to_read, folder_to_write, model_folder
from crab_lightning.commands.help_text import CHECKPOINT, DEVICE, RUN_CONFIG, Options
from crab_lightning.files import replace_json, replace_text

if TYPE_CHECKING:
    from crab_lightning.data import AVDataModule
    from crab_lightning.reports.showcase_page import Lane, Panel, Showcase
    from crab_lightning.structures import DatasetSpec, Sample, Windows
    from crab_lightning.tasks.base import Task

_PLAYED = {".mp4": "video/mp4", ".webm": "video/webm", ".mov": "video/mp4"}
_PLAYED_BYTES = 12 * 2**20
"""Larger clips are not put into the page."""
_STILLS = 7


@dataclass
class Asker:
    """A run, and the clip and options that a user gave."""

    model: Any
    data: AVDataModule
    args: argparse.Namespace
    scratch: Path
    windows: Windows | None = None

    def panel(self, key: str, dataset: str) -> Panel:
        """Ask the question of one task, and return its panel for the page."""
        from crab_lightning.inference.answer import ask_once, put_windows
        from crab_lightning.inference.question_files import AskError
        from crab_lightning.media import MediaError
        from crab_lightning.reports.showcase_page import Panel

        task, spec = self.data.tasks[key], self.data.datasets[dataset]
        panel = Panel(key, dataset)
        try:
            sample = self._sample(dataset, spec)
            panel.asked = question_of(task, sample)
            answer = None
            if self.windows is not None and task.has_times:
                answer = put_windows(self.model, self.data, sample, self.windows)
            answer = answer or ask_once(self.model, self.data, sample)
        except (AskError, MediaError) as err:
            panel.why_not = str(err.as_options() if isinstance(err, AskError) else err)
            return panel
        parsed = answer.parsed
        panel.answer = told_by_window(answer.windows) or answer.text
        panel.truncated, panel.note, panel.seconds = answer.truncated, answer.note, round(answer.seconds, 2)
        if parsed is not None:
            panel.said = said_of(task, spec, sample, parsed)
        panel.lanes = lanes_of(task, parsed)
        if dataset not in self.data.taught:
            panel.note = f"This run was not trained on {dataset}. {panel.note}".strip()
        if sample.images:
            self._picture(panel, task, parsed, sample)
        if len(sample.videos) > 1 or len(sample.audios) > 1:
            judged = "" if parsed is None else (": right" if parsed == 1 else ": wrong")
            panel.note = f"{panel.note} One is this clip{judged}".strip()
        return panel

    def _sample(self, dataset: str, spec: DatasetSpec) -> Sample:
        from crab_lightning.inference.question import make_sample, needs
        from crab_lightning.inference.question_files import AskError

        args = self.args
        needed = needs(spec)
        if needed is None:
            raise AskError(f"the questions of layout {spec.layout!r} differ from row to row; use `ask`")
        if max(needed.videos, needed.audios) > 1 and args.other is None:
            raise AskError("needs --other, another clip")
        given = {"question": args.question, "expression": args.expression}
        texts = {name: given[name] for name in needed.texts if given.get(name) is not None}
        if missing := sorted(needed.texts - set(texts)):
            raise AskError(f"needs --{' and --'.join(missing)}")
        sounds = [args.audio or args.video, *([args.other] if needed.audios > 1 else [])]
        return make_sample(
            dataset,
            spec,
            [args.video, args.other] if needed.videos > 1 else [args.video],
            None,
            [] if args.silent else sounds,
            args.at_s,
            texts,
            self.scratch,
            silent=args.silent,
        )

    def _picture(self, panel: Panel, task: Task[Any], parsed: Any, sample: Sample) -> None:
        """Draw the box and points of the answer, and the mask if there is a mask decoder."""
        from crab_lightning.media import read_image
        from crab_lightning.segmentation import Overlay, Sam2Decoder
        from crab_lightning.tasks import ImageGrounding
        from crab_lightning.tasks.masks import MaskMaker
        from crab_lightning.tasks.spatial_text import SpatialPrompt

        picture = read_image(sample.images[0], None)
        if isinstance(task, ImageGrounding):
            parsed = None if parsed is None else SpatialPrompt(tuple(parsed))
            decoder: Any = None
        else:
            own = getattr(task, "masks", None)
            decoder = own.decoder if own is not None else None
            if self.args.sam2 is not None:
                decoder = Sam2Decoder(self.args.sam2, self.args.device)
            if decoder is None:
                panel.note = f"{panel.note} This run has no mask decoder, so no mask is drawn.".strip()
                print(f"{panel.task}: give --sam2 to draw masks", file=sys.stderr)
        prompt = None if parsed is None or parsed.absent else MaskMaker.prompt(parsed, picture)
        mask = None
        if decoder is not None:
            mask = MaskMaker(decoder, "native").mask(parsed, sample)
            mask = mask if str(mask.dtype) == "torch.bool" else mask > 0
        panel.overlay = Overlay(picture, mask, None, prompt)


def run(words: Sequence[str]) -> None:
    """Ask a trained run about one clip: one question for each task on which the run was trained.

    The answers are written on one page, with events on a timeline and masks on a picture. The page is written
    as a picture (showcase.png) and as showcase.html, which plays the clip and needs no network. All answers
    are also written to showcase.json.

    Raises:
        ValueError: If no task could be asked, or ``--dataset`` names a dataset that the run does not have.
    """
    parser = Options("showcase", run)
    add, switch = parser.option, parser.switch
    add("--video", "the clip", file_to_read, required=True)
    add("--checkpoint", CHECKPOINT, Path, required=True)
    add("--audio", "sound file (default: the clip's own track)", file_to_read)
    switch("--silent", "replace all sound by silence")
    add("--other", "second clip for the matching task; that task is left out without it", file_to_read)
    add("--question", "question to be answered", default="What makes the sound in this video?")
    add("--expression", "object for the referring task to find; that task is left out without it")
    add("--at_s", "second of the clip whose frame is segmented (default: the middle)", float)
    add("--sam2", "SAM2 folder, hub name or mini_sam2 (default: the run's own mask decoder)", model_folder)
    add(
        "--dataset",
        "use the settings of these datasets, instead of the first one of each task",
        default=[],
        nargs="+",
    )
    add(
        "--windows",
        "ask about the events of a long clip in windows of LENGTH seconds, which start every HOP seconds;"
        " by default, one question is asked about the whole clip",
        metavar="LENGTH[,HOP]",
    )
    switch("--untaught", "also ask the tasks and datasets on which the run was not trained")
    add("--out", "folder to write", folder_to_write, Path("showcase"))
    add("--config", RUN_CONFIG, config_file)
    add("--device", DEVICE, default="auto")
    args = parser.parse_args(words)
    from crab_lightning.inference.answer import windows_of_text

    windows = None if args.windows is None else windows_of_text(args.windows)
    from crab_lightning.inference.loading import load_run
    from crab_lightning.inference.question_files import check_clips
    from crab_lightning.reports.showcase_page import TITLES, html_page, page_figure
    from crab_lightning.segmentation import save_figure

    def check(data: AVDataModule) -> None:
        datasets_of(data, args.dataset, untaught=args.untaught)
        check_clips([args.video, *([args.other] if args.other else [])], args.audio, silent=args.silent)

    model, data = load_run(args.checkpoint, args.config, args.device, check=check)
    chosen = datasets_of(data, args.dataset, untaught=args.untaught)
    if left := [key for key in data.tasks if key not in {key for key, _ in chosen}]:
        print(f"not asked, because this run was not trained on them: {', '.join(left)}", file=sys.stderr)
    panels, order = [], {key: place for place, key in enumerate(TITLES)}
    with tempfile.TemporaryDirectory() as scratch:
        asker = Asker(model, data, args, Path(scratch), windows)
        for key, dataset in sorted(chosen, key=lambda pair: order.get(pair[0], len(order))):
            panels.append(asker.panel(key, dataset))
            print(f"{key} as {dataset}: {panels[-1].told}", file=sys.stderr, flush=True)
        if all(panel.why_not for panel in panels):
            raise ValueError(f"no task could be asked about {args.video}: {panels[0].why_not}")
        show = gather(args, panels)
        save_figure(page_figure(show), args.out / "showcase.png")
        replace_text(args.out / "showcase.html", html_page(show))
    records = [panel.record() for panel in panels]
    content = {"video": str(args.video), "checkpoint": str(args.checkpoint), "answers": records}
    replace_json(args.out / "showcase.json", content, indent=1)
    asked = sum(not panel.why_not for panel in panels)
    print(
        f"{args.out}: showcase.png, showcase.html and showcase.json, {asked} of {len(panels)} questions asked"
    )


def datasets_of(
    data: AVDataModule, wanted: Sequence[str], *, untaught: bool = False
) -> list[tuple[str, str]]:
    """Return the task and dataset of each question: the first dataset of a task, or two for matching.

    Args:
        data: Tasks and datasets of the run.
        wanted: Datasets that the user names.
        untaught: Also use datasets on which the run was not trained.

    Raises:
        ValueError: If ``wanted`` names a dataset that does not exist, or on which the run was not trained.
    """
    from crab_lightning.inference.question import choose_dataset, needs

    for name in wanted:
        choose_dataset(data, name, name, 1, 0, {}, untaught=untaught)
    pairs: list[tuple[str, str]] = []
    for key in data.tasks:
        rows = [name for name, spec in data.datasets.items() if spec.task == key]
        rows = [name for name in rows if name in data.taught] or (rows if untaught else [])
        named = [name for name in wanted if data.datasets[name].task == key]
        if key == "question_answering" and not named:  # a question without options
            needed = {name: needs(data.datasets[name]) for name in rows}
            named = [name for name, one in needed.items() if one is None or "options" not in one.texts][:1]
        count = 2 if key == "cross_modal_matching" else 1
        pairs += [(key, name) for name in named or rows[:count]]
    return pairs


def question_of(task: Task[Any], sample: Sample) -> str:
    """Return the last text of the prompt, which contains the question."""
    parts = [part for part in task.prompt(sample) if isinstance(part, str)]
    return parts[-1].strip()


def said_of(task: Task[Any], spec: DatasetSpec, sample: Sample, parsed: Any) -> str:
    """Return a parsed answer as a short text."""
    from crab_lightning.tasks.event_text import EventSpan, ModalEvents

    if isinstance(parsed, ModalEvents):
        seen, heard = (
            ", ".join(_span(e) for e in side) or "nothing" for side in (parsed.visual, parsed.audio)
        )
        return f"seen: {seen}; heard: {heard}"
    if isinstance(parsed, tuple) and all(isinstance(e, EventSpan) for e in parsed):
        return ", ".join(_span(e) for e in parsed) or "no event"
    plain = task.jsonable(parsed)
    if isinstance(plain, dict) and "absent" in plain:
        if plain["absent"]:
            return "absent"
        return f"box {plain['box_xyxy_px'] or '–'}, {len(plain['points_xy_px'])} points"
    if len(sample.videos) > 1 or len(sample.audios) > 1:
        return f"{'video' if len(sample.videos) > 1 else 'sound'} {'one' if plain == 1 else 'two'}"
    if isinstance(plain, int) and spec.classes:
        return spec.classes[plain]
    return f"box {plain}" if isinstance(plain, list) else str(plain)


def _span(event: Any) -> str:
    return f"{event.name} {event.start_s:g}–{event.end_s:g} s"


def told_by_window(windows: Sequence[Mapping[str, Any]]) -> str:
    """Return the answers about the windows of a clip, each with its times."""
    return " ".join(f"[{w['start_s']:g}–{w['end_s']:g} s] {w['answer']}" for w in windows)


def lanes_of(task: Task[Any], parsed: Any) -> list[Lane]:
    """Return the rows of the timeline for an answer. An answer about events always has a row."""
    from crab_lightning.reports.showcase_page import Lane
    from crab_lightning.tasks import EventLocalization, EventParsing
    from crab_lightning.tasks.event_text import EventSpan, ModalEvents

    sides: Mapping[str, Sequence[EventSpan]] = {}
    if parsed is None and isinstance(task, EventLocalization | EventParsing):
        return [Lane("event", [], "The answer about events could not be read.")]
    if isinstance(parsed, ModalEvents):
        sides = {"seen": parsed.visual, "heard": parsed.audio}
    elif isinstance(parsed, tuple) and all(isinstance(e, EventSpan) for e in parsed):
        sides = {"event": parsed}
    return [Lane(name, [(e.name, e.start_s, e.end_s) for e in side]) for name, side in sides.items()]


def gather(args: argparse.Namespace, panels: Sequence[Panel]) -> Showcase:
    """Read the frames, the sound and the facts of the clip for the page."""
    import torch

    from crab_lightning.media import log_mel, probe, read_audio, read_video
    from crab_lightning.reports.showcase_page import Showcase
    from crab_lightning.structures import SAMPLE_RATE_HZ

    clip, heard = read_video(args.video, _STILLS, None), args.audio or args.video
    sound = torch.zeros(round(clip.duration_s * SAMPLE_RATE_HZ)) if args.silent else read_audio(heard)
    played = None
    kind = _PLAYED.get(args.video.suffix.lower())
    if kind is not None and args.video.stat().st_size <= _PLAYED_BYTES:
        played = f"data:{kind};base64," + base64.b64encode(args.video.read_bytes()).decode()
    info = probe(args.video)
    return Showcase(
        title=args.video.name,
        facts={
            "run": str(args.checkpoint),
            "length": f"{clip.duration_s:.1f} s",
            "size": f"{info.width} × {info.height}",
            **({"asked": "with silence"} if args.silent else {}),
        },
        stills=clip.frames,
        times_s=clip.times_s.tolist(),
        duration_s=max(clip.duration_s, len(sound) / SAMPLE_RATE_HZ),
        sound_s=len(sound) / SAMPLE_RATE_HZ,
        mel=log_mel(sound),
        panels=panels,
        played=played,
    )
