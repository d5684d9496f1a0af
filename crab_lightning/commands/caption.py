"""``data caption``: captions of sounds, as stage 1 of an audio connector reads them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crab_lightning.commands.file_arguments import file_to_read
from crab_lightning.commands.help_text import Options, positive

if TYPE_CHECKING:
    from crab_lightning.captioners import Captioner


class CaptionsMissing(ValueError):
    """Some clips got no caption."""


def run(words: Sequence[str]) -> None:
    """Let a model write a caption of each sound in a folder.

    The command writes a JSONL file with the keys id, audio and caption, in a fixed order.
    configs/stage1_audio.yaml reads it (`--data.sources.captions.file`). After an interruption, start the same
    command again.

    Raises:
        CaptionsMissing: If more sounds than allowed got no caption; the others are in the file.
    """
    parser = Options("data caption", run)
    add = parser.add_argument
    add(
        "--audio",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of sound files; its sub-folders are read too",
    )
    add(
        "--audioset",
        type=file_to_read,
        metavar="CSV",
        help="AudioSet segment list: only its recordings are described, in the order of the list; the"
        " files must be named after them",
    )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="JSONL file to write; data.root of stage 1 is a good place",
    )
    add(
        "--captioner",
        required=True,
        metavar="WHO",
        help="folder of Qwen2-Audio or Qwen3-Omni, or the address of an OpenAI-compatible endpoint that"
        " takes sound, such as http://127.0.0.1:8000/v1; the environment variable OPENAI_API_KEY holds"
        " its key",
    )
    add("--model", default="", help="name of the model at the endpoint")
    add(
        "--prompt",
        default="Describe this audio in one sentence.",
        help="question that is asked about each sound; '' asks nothing, for models that take sound alone",
    )
    add("--max-new-tokens", type=positive, default=100, metavar="N", help="longest caption in tokens")
    add("--limit", type=int, metavar="N", help="describe the first N sounds only")
    add(
        "--batch-size",
        type=positive,
        default=8,
        metavar="N",
        help="number of sounds that Qwen2-Audio describes at the same time",
    )
    add(
        "--device",
        default="auto",
        help="device of Qwen2-Audio: cpu, cuda, ...; auto uses a GPU if there is one",
    )
    add(
        "--parallel",
        type=positive,
        default=4,
        metavar="N",
        help="number of requests that are sent to an endpoint at the same time",
    )
    add(
        "--timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="longest time to wait for an endpoint in seconds",
    )
    add("--retries", type=int, default=4, metavar="N", help="how often a failed request is sent again")
    add(
        "--allow-broken",
        type=int,
        default=0,
        metavar="N",
        help="number of sounds that may stay without a caption",
    )
    args = parser.parse_args(words)
    from crab_lightning.captioners import find_clips, write_captions
    from crab_lightning.commands.output import StepBar
    from crab_lightning.data.captions.files import read_segments

    listed = None
    if args.audioset is not None:
        listed = [segment.recording for segment in read_segments(args.audioset)]
    clips, absent = find_clips(args.audio, listed)
    if absent:
        print(f"{absent:,} recordings of {args.audioset} have no file in {args.audio}")
    clips = clips[: args.limit]
    captioner = _captioner(args)
    with StepBar() as bar:
        report = write_captions(clips, captioner, args.out, bar)
    print(f"{args.out}: {report.added:,} captions added to {report.known:,}")
    if report.refused:
        shown = "\n".join(f"  {name}: {why}" for name, why in list(report.refused.items())[:10])
        said = f"{len(report.refused):,} sounds have no caption:\n{shown}"
        if len(report.refused) > args.allow_broken:
            raise CaptionsMissing(
                f"{said}\nThe same command asks about them again; --allow-broken {len(report.refused)} goes"
                " on without them"
            )
        print(said)


def _captioner(args: argparse.Namespace) -> Captioner:
    if "://" in args.captioner:
        from crab_lightning.captioners import EndpointCaptioner

        return EndpointCaptioner(
            args.captioner,
            args.model,
            args.prompt,
            args.max_new_tokens,
            args.parallel,
            args.timeout,
            args.retries,
        )
    from crab_lightning.captioners import local_captioner

    return local_captioner(args.captioner, args.prompt, args.max_new_tokens, args.batch_size, args.device)
