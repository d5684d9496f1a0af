"""``build reason``: let a multimodal model write reasoning texts for the training rows of a data root."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from crab_lightning.commands.file_arguments import file_to_read, web_address
from crab_lightning.commands.help_text import Options, add_selection, positive
from crab_lightning.commands.output import StepBar

if TYPE_CHECKING:
    from crab_lightning.builder.reasoning import Costs, Estimate, Report, Writer


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``build reason``."""
    made = Options("build reason", run)
    add, switch = made.option, made.switch
    add_selection(made, "keys of data.datasets", required=True)
    add(
        "--endpoint",
        "base address of the API, such as http://127.0.0.1:8000/v1; the environment variable OPENAI_API_KEY"
        " contains the key",
        web_address,
        metavar="URL",
    )
    switch("--local", "load the model on this machine instead of asking an endpoint")
    add("--device", "with --local: cpu, cuda, ...; `auto` uses a GPU if there is one", default="auto")
    add(
        "--model",
        "name of the model at the endpoint; with --local the folder or hub name of a Qwen2.5-Omni or"
        " Qwen3-Omni checkpoint",
        required=True,
        metavar="NAME",
    )
    add(
        "--length",
        "length of the reasoning; with auto, reasoning is written only for rows whose answer in --answers"
        " is wrong or uncertain",
        default="full",
        choices=("short", "full", "auto"),
    )
    add(
        "--answers",
        "for auto: predictions of a small model for the training rows, <dataset>.jsonl or the folder of"
        " such files",
        Path,
        metavar="PATH",
    )
    add(
        "--sure",
        "for auto: an answer with at least this probability counts as certain",
        float,
        0.9,
        metavar="P",
    )
    add("--tries", "number of texts that are asked for before a row is left out", int, 3, metavar="K")
    add(
        "--min-words",
        "smallest number of words in the reasoning (default: 3 for short, 8 for full)",
        int,
        dest="least_words",
    )
    add(
        "--max-words",
        "largest number of words in the reasoning (default: 40 for short, 200 for full)",
        int,
        dest="most_words",
    )
    add(
        "--examples",
        "folder of YAML files that replace the shipped instructions and examples",
        Path,
        metavar="DIR",
    )
    add(
        "--leakage",
        "file with phrases that no text may contain, one in each line",
        file_to_read,
        metavar="FILE",
    )
    add(
        "--discarded",
        "leave out rows without a usable text, or keep them with the bare answer",
        default="drop",
        choices=("drop", "direct"),
    )
    add("--frames", "number of frames of each video (default: the value in the dataset's entry)", int)
    add(
        "--size-px",
        "height and width of the frames in pixels (default: the value in the dataset's entry)",
        int,
    )
    add("--max-new-tokens", "longest text in tokens", positive, 512)
    add("--temperature", "sampling temperature; 0 always chooses the most probable token", float, 0.0)
    add("--parallel", "number of requests that are sent at the same time", positive, 8)
    add("--timeout", "longest time for one request", float, 120.0, metavar="S")
    add("--retries", "how often a request that failed is sent again", int, 5)
    add("--cache", "folder in which replies are kept (default: ROOT/reasoning_cache)", Path, metavar="DIR")
    add("--limit", "use only the first N rows of each dataset, as a trial; no manifest is written", int)
    add(
        "--shard",
        "use every N-th row from the I-th on, to divide the work among machines; no manifest is written",
        metavar="I/N",
    )
    switch("--merge", "do not ask the model, and write the manifests from the results of all shards")
    switch("--restart", "ignore the results of an earlier run; its stored replies are used again")
    switch(
        "--dry-run", "estimate requests, tokens, seconds and costs; do not ask the model and write nothing"
    )
    group = made.add_argument_group("assumptions of --dry-run")
    assume = partial(made.option, kind=float, group=group)
    assume("--price-in", "price of a million input tokens", default=0.0, metavar="X")
    assume("--price-out", "price of a million output tokens", default=0.0, metavar="X")
    assume("--image-tokens", "tokens of one frame", default=258.0, metavar="N")
    assume("--audio-tokens", "tokens of a second of sound", default=32.0, metavar="N")
    assume("--request-s", "seconds of one request", default=4.0, metavar="S")
    return made


def run(words: Sequence[str]) -> None:
    """Let a multimodal model write the reasoning texts of training rows.

    The model gets the frames, the sound, the question and the true answer. A text is kept only if the task's
    parser reads the true answer from it, if it does not reveal that the answer was given, and if its length
    is within the limits. Rows without such a text are left out of the manifest and listed in
    reasoning/discarded.tsv. The earlier manifest is kept next to the new one. After an interruption, start
    the same command again.

    Raises:
        ValueError: If ``--shard`` is not of the form I/N, or a setting is out of range.
    """
    made = parser()
    args = made.parse_args(words)
    from crab_lightning.builder.reasoning import Costs, NoWriter, Settings, estimate, reason, writer_settings
    from crab_lightning.configuration.sections import tasks_and_datasets

    if args.merge and (args.shard or args.limit):
        made.error("--merge joins all shards; leave --shard and --limit out")
    asks = not (args.dry_run or args.merge)
    if asks and (args.endpoint is None) == (not args.local):
        made.error("give --endpoint URL, the address of the model that writes, or --local to load it here")
    tasks, datasets = tasks_and_datasets(args.config, args.datasets)
    own = {field.name: getattr(args, field.name) for field in fields(Settings)}
    settings = Settings(**own)
    told = writer_settings(args.model, args.max_new_tokens, args.temperature)
    shard = _shard(args.shard)
    if args.dry_run:
        costs = Costs(
            args.image_tokens,
            args.audio_tokens,
            request_s=args.request_s,
            price_in=args.price_in,
            price_out=args.price_out,
        )
        found = estimate(
            args.root, tasks, datasets, told, settings, costs,
            parallel=1 if args.local else args.parallel, shard=shard, limit=args.limit,
        )  # fmt: skip
        _print_estimates(found, costs)
        return
    writer: Writer = _writer(args) if asks else NoWriter(told)
    with StepBar() as bar:
        reports = reason(
            args.root, tasks, datasets, writer, settings,
            shard=shard, merge=args.merge, restart=args.restart, limit=args.limit,
            cache=args.cache, progress=bar,
        )  # fmt: skip
    for report in reports:
        _print_report(report)


def _writer(args: argparse.Namespace) -> Writer:
    """Return the client of the endpoint or the local model that writes the texts."""
    from crab_lightning.builder.reasoning import EndpointWriter, LocalWriter

    if args.local:
        return LocalWriter(args.model, args.max_new_tokens, args.temperature, args.device)
    return EndpointWriter(
        args.endpoint,
        args.model,
        args.max_new_tokens,
        args.temperature,
        args.parallel,
        args.timeout,
        args.retries,
    )


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, last = text.partition("/")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise ValueError(f"--shard is {text!r}; I/N is expected, such as 1/4, with I from 1 to N")
    return int(first), int(last)


def _print_report(report: Report) -> None:
    kept = ", ".join(f"{count:,} {length}" for length, count in sorted(report.kept.items()))
    print(
        f"{report.dataset}: {report.rows:,} rows, {report.known:,} decided before, {report.asked:,} requests "
        f"sent; {sum(report.kept.values()):,} texts kept ({kept or 'none'}), "
        f"{sum(report.discarded.values()):,} rows discarded; {report.prompt_tokens:,} input tokens and "
        f"{report.completion_tokens:,} written"
    )
    for name, counts in (
        ("rows discarded because", report.discarded),
        ("tries rejected because", report.rejected),
    ):
        for reason, count in counts.most_common():
            print(f"  {name} {reason}: {count:,}")
    if report.manifest is not None:
        print(f"  wrote {report.manifest}")


def _print_estimates(found: Sequence[Estimate], costs: Costs) -> None:
    print(
        f"{'dataset':<12}{'requests':>10}{'at most':>10}{'tokens read':>14}"
        f"{'written':>12}{'seconds':>10}{'money':>12}"
    )
    for one in found:
        print(
            f"{one.dataset:<12}{one.requests:>10,}{one.most_requests:>10,}{one.prompt_tokens:>14,}"
            f"{one.completion_tokens:>12,}{one.seconds:>10,.0f}{one.price:>12,.2f}"
        )
    print(
        f"Tokens, seconds and money are estimates for one try of each row: {costs.image_tokens:g} tokens a "
        f"frame, {costs.audio_tokens:g} a second of sound, {costs.request_s:g} s a request. No request was "
        "sent and nothing was written."
    )
