"""``evaluate``: ask any model behind an OpenAI-compatible address the questions of the test sets."""

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
    add, switch = parser.option, parser.switch
    add("--endpoint", "base address of the API, such as http://127.0.0.1:8000/v1", web_address, required=True)
    add("--model", "name of the model at the endpoint", required=True)
    add("--data.root", "folder with AVUIE_2/ and the media", dest="root", required=True)
    add(
        "--config",
        "config file with the tasks and datasets; a file without `model` is added to endpoint.yaml",
        config_file,
        "endpoint.yaml",
    )
    add("--only", "keys of the datasets to use, comma-separated")
    add(
        "--video",
        "`frames` sends sampled frames as pictures, `file` sends the video file, which `serve` reads as"
        " training does",
        default="frames",
        choices=["frames", "file"],
    )
    switch(
        "--explain",
        "end each question with an explanation of how to write the answer, and read answers leniently, for"
        " models that were not trained on these tasks; the results say so",
    )
    add("--parallel", "number of requests that are sent at the same time", positive, 8)
    add("--max_new_tokens", "longest answer in tokens", positive, 512)
    add("--folder", "run folder (default: runs/endpoint/ and the name of the model)", folder_to_write)
    known = {option for action in parser._actions for option in action.option_strings}
    given, rest = _split(list(words), known)
    args = parser.parse_args(given)
    from crab_lightning.commands.trainer import run as run_trainer
    from crab_lightning.configuration.files import compose
    from crab_lightning.configuration.objects import class_of
    from crab_lightning.models import EndpointModule

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
    if whole and not issubclass(class_of(str(whole.get("class_path"))), EndpointModule):
        raise ValueError(
            f"--config {args.config} has the model {whole.get('class_path')}, which runs on this machine."
            " Give a config without `model`, which has only the tasks and datasets"
        )
    configs = [args.config] if whole else ["endpoint.yaml", args.config]
    pairs = [*(("--config", name) for name in configs), *options.items()]
    run_trainer(["test", *(word for pair in pairs for word in pair), *rest])


def _split(words: list[str], known: set[str]) -> tuple[list[str], list[str]]:
    """Return the own options, and the dotted keys that go to ``test``."""
    own: list[str] = []
    rest: list[str] = []
    target = own
    for word in words:
        if word.startswith("--"):
            name = word.partition("=")[0]
            target = rest if "." in name and name not in known else own
        target.append(word)
    return own, rest
