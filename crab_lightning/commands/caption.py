"""``data caption``: let a model write captions of sounds, which stage 1 of an audio connector reads."""

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
        CaptionsMissing: If more sounds than allowed got no caption. The captions of the others are in the
            file.
    """
    parser = Options("data caption", run)
    add = parser.option
    add("--audio", "folder of sound files; its sub-folders are read too", Path, required=True, metavar="DIR")
    add(
        "--audioset",
        "AudioSet segment list: only its recordings are described, in the order of the list; the files must"
        " be named after them",
        file_to_read,
        metavar="CSV",
    )
    add(
        "--out",
        "JSONL file to write; data.root of stage 1 is a good place",
        Path,
        required=True,
        metavar="FILE",
    )
    add(
        "--captioner",
        "folder of Qwen2-Audio or Qwen3-Omni, or the address of an OpenAI-compatible endpoint that takes"
        " sound, such as http://127.0.0.1:8000/v1; the environment variable OPENAI_API_KEY contains its key",
        required=True,
        metavar="WHO",
    )
    add("--model", "name of the model at the endpoint", default="")
    add(
        "--prompt",
        "question that is asked about each sound; '' asks nothing, for models that take sound alone",
        default="Describe this audio in one sentence.",
    )
    add("--max-new-tokens", "longest caption in tokens", positive, 100)
    add("--limit", "describe the first N sounds only", int)
    add("--batch-size", "number of sounds that Qwen2-Audio describes at the same time", positive, 8)
    add("--device", "device of Qwen2-Audio: cpu, cuda, ...; auto uses a GPU if there is one", default="auto")
    add("--parallel", "number of requests that are sent to an endpoint at the same time", positive, 4)
    add("--timeout", "longest time to wait for an endpoint in seconds", float, 60.0, metavar="S")
    add("--retries", "how often a failed request is sent again", int, 4)
    add("--allow-broken", "number of sounds that may stay without a caption", int, 0)
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
                f"{said}\nThe same command asks about them again; --allow-broken {len(report.refused)} "
                "continues without them"
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
