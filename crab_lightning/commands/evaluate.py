"""``evaluate``: the test sets, put to any model behind an OpenAI-compatible address."""

from __future__ import annotations

from collections.abc import Sequence

from crab_lightning.commands.file_arguments import config_file, folder_to_write, web_address
from crab_lightning.commands.help_text import Options, positive


def run(words: Sequence[str]) -> None:
    """Ask a model behind an OpenAI-compatible address every question of the test sets.

    The address may be that of vLLM, of a hosted service or of `serve`. The answers are scored with the same
    metrics as those of `test`. The run folder is like that of a test, so `compare` and `report` read it.
    After an interruption, start the same command again. Any key of `test` may follow, such as
    --evaluator.majority.
    """
    parser = Options("evaluate", run)
    add = parser.add_argument
    add(
        "--endpoint",
        required=True,
        type=web_address,
        help="base address of the API, such as http://127.0.0.1:8000/v1",
    )
    add("--model", required=True, help="name of the model at the endpoint")
    add("--data.root", dest="root", required=True, help="folder with AVUIE_2/ and the media")
    add(
        "--config",
        type=config_file,
        default="endpoint.yaml",
        help="config file with the tasks and datasets; a file without `model` is added to endpoint.yaml",
    )
    add("--only", help="keys of the datasets to use, comma-separated")
    add(
        "--video",
        choices=["frames", "file"],
        default="frames",
        help="`frames` sends sampled frames as pictures, `file` sends the video file, which `serve`"
        " reads as training does",
    )
    add(
        "--explain",
        action="store_true",
        help="end each question with an explanation of how to write the answer, and read answers leniently, "
        "for models that were not trained on these tasks; the results say so",
    )
    add("--parallel", type=positive, default=8, help="number of requests that are sent at the same time")
    add("--max_new_tokens", type=positive, default=512, help="longest answer in tokens")
    add("--folder", type=folder_to_write, help="run folder; runs/endpoint/NAME of the model when left out")
    known = {option for action in parser._actions for option in action.option_strings}
    given, rest = _split(list(words), known)
    args = parser.parse_args(given)
    from crab_lightning.commands.trainer import run as run_trainer
    from crab_lightning.configuration.files import compose

    folder = args.folder or f"runs/endpoint/{args.model.replace('/', '_')}"
    options = {
        "--model.init_args.url": args.endpoint,
        "--model.init_args.name": args.model,
        "--model.init_args.video": args.video,
        "--model.init_args.parallel": str(args.parallel),
        "--model.init_args.max_new_tokens": str(args.max_new_tokens),
        "--data.root": args.root,
        "--run.folder": str(folder),
    } | ({"--only": args.only} if args.only else {})
    if args.explain:
        options["--data.explain_answers"] = "true"
    whole = compose([args.config], of_run=True).get("model")
    configs = [args.config] if whole else ["endpoint.yaml", args.config]
    pairs = [*(("--config", name) for name in configs), *options.items()]
    run_trainer(["test", *(word for pair in pairs for word in pair), *rest])


def _split(words: list[str], known: set[str]) -> tuple[list[str], list[str]]:
    """Split off the dotted keys that belong to ``test``."""
    own: list[str] = []
    rest: list[str] = []
    target = own
    for word in words:
        if word.startswith("--"):
            name = word.partition("=")[0]
            target = rest if "." in name and name not in known else own
        target.append(word)
    return own, rest
