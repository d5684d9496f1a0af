"""``heads``: what each head of a run is worth, by testing the run without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from crab_lightning.commands.file_arguments import folder_to_write
from crab_lightning.commands.help_text import CHECKPOINT, Options
from crab_lightning.files import replace_text


def run(words: Sequence[str]) -> None:
    """Run the tests, print the table and write it.

    Args:
        words: The command's name and its options.

    Raises:
        ValueError: If the run has no heads to leave out, or an option would change what is compared.
    """
    parser = Options(
        "heads",
        "Test an I-LoRA run with all its heads, and once more without each of them. Each test without a head "
        "is compared with the test with all heads, with paired intervals (Table 7 of the Crab+ paper). "
        "Further options go to `test`, e.g. --only ave,avqa.",
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help=CHECKPOINT)
    add(
        "--modules",
        default="*",
        help="layers in which a head is left out, as a pattern such as '*.layers.3.*'",
    )
    add(
        "--out",
        type=folder_to_write,
        help="folder in which the tests are written (default: heads/ in the run folder)",
    )
    add("--reuse", action="store_true", help="keep the complete tests of the same weights and options")
    args, rest = parser.parse_known_args(list(words[1:]))
    if wrong := [word for word in rest if word.startswith(("--run.", "--ckpt_path", "--config"))]:
        raise ValueError(f"{wrong[0].split('=')[0]} is set by `heads` itself; leave it out")
    from crab_lightning.commands.compare import comparison
    from crab_lightning.commands.probe import run_condition
    from crab_lightning.configuration.files import compose
    from crab_lightning.reports.runs import find_results
    from crab_lightning.reports.tables import to_csv, to_markdown, to_text
    from crab_lightning.runs.run_folder import find_checkpoint, find_run, results_folder

    checkpoint = find_checkpoint(args.run)
    folder = find_run(checkpoint)
    if folder is None:
        raise ValueError(f"{checkpoint} belongs to no run folder with a config.yaml")
    config = compose([folder / "config.yaml"])
    adapter = ((config.get("model") or {}).get("init_args") or {}).get("adapter", {})
    if adapter is None:
        raise ValueError(f"{folder}: this run has no adapters, and so no heads that can be left out")
    if adapter.get("kind", "ilora") not in ("ilora", "hydra_lora"):
        raise ValueError(
            f"{folder}: its adapters are of kind {adapter.get('kind')}, which has no heads that can be"
            " left out; I-LoRA (`ilora`) and HydraLoRA (`hydra_lora`) have such heads"
        )
    count = int(adapter.get("heads", 3))
    home = results_folder(checkpoint, args.out, "heads")
    home.mkdir(parents=True, exist_ok=True)
    names = ["no drop", *(f"drop head {i}" for i in range(1, count + 1))]
    # The complete model last: a pattern that fits no layer is then refused before anything is tested.
    for head in (*range(1, count + 1), 0):
        name = names[head]
        place = home / name.replace(" ", "-")
        callbacks = list((config.get("trainer") or {}).get("callbacks") or [])
        if head:
            drop = {"head": head, "modules": args.modules}
            callbacks.append({"class_path": "crab_lightning.studies.heads.DropHead", "init_args": drop})
        path = home / f"{place.name}.yaml"
        own = config | {"trainer": (config.get("trainer") or {}) | {"callbacks": callbacks or None}}
        text = yaml.safe_dump(own, sort_keys=False, allow_unicode=True)
        replace_text(path, text)
        options = ["--config", str(path), *rest]
        run_condition(name, place, checkpoint, options, reuse=args.reuse, asked=text)
    table = comparison([replace(find_results(home / n.replace(" ", "-")), name=n) for n in names])
    table.title = f"{table.title}; heads dropped in {'all layers' if args.modules == '*' else args.modules}"
    for ending, form in (("md", to_markdown), ("csv", to_csv)):
        replace_text(home / f"heads.{ending}", form(table) + "\n")
    print(to_text(table))
    print(f"\nWrote {home / 'heads.md'} and heads.csv")
