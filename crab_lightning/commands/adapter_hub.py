"""``adapter push`` and ``adapter pull``: upload adapters to a model hub and download them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from crab_lightning.commands.help_text import Options
from crab_lightning.configuration.allowed_code import other_packages
from crab_lightning.runs.hub import PULLED, HubError, clear_errors

_CARD, _CONFIG = "README.md", "config.yaml"
_BASE_KEY = "model.init_args.pretrained"


def push(words: Sequence[str]) -> None:
    """Upload the adapters of a run to a model hub (huggingface.co, or the address in HF_ENDPOINT).

    The hub gets the weights, the part of the config that `ask`, `serve` and `test` need, and a model card
    with the scores of the run's test. Answers, media and training settings are not uploaded.

    Raises:
        ValueError: If the config names a folder of this machine that other users do not have, or the hub does
            not know the licence.
        HubError: If there is no access token, or the hub refuses the upload.
    """
    parser = Options("adapter push", push)
    add, switch = parser.option, parser.switch
    add("source", "a run folder or an adapter folder", Path)
    add("--to", "repository; it is made when it is absent", required=True, metavar="OWNER/NAME")
    add("--license", "identifier of the licence of the adapters, such as apache-2.0 or cc-by-nc-4.0")
    add("--base", "hub name of the base weights, needed if the run read them from a folder", metavar="NAME")
    add(
        "--set",
        "name to publish for another key of the config whose value is a folder of this machine; may be"
        " repeated",
        default=[],
        action="append",
        metavar="KEY=NAME",
    )
    switch("--private", "make a private repository")
    switch("--dry-run", "show the card and the files, and upload nothing")
    args = parser.parse_args(words)
    if args.license is not None:
        _check_licence(args.license)
    with tempfile.TemporaryDirectory(prefix="crab-push-") as scratch:
        folder = Path(scratch)
        notes = _prepare(args.source, folder, args)
        files = sorted(path for path in folder.iterdir())
        if args.dry_run:
            print((folder / _CARD).read_text(encoding="utf-8"))
        print(f"Files for {args.to}:")
        for path in files:
            print(f"  {path.name:<24}{path.stat().st_size:>14,} bytes")
        for note in notes:
            print(f"Note: {note}")
        if args.dry_run:
            print("Nothing was uploaded, because of --dry-run")
            return
        from huggingface_hub import HfApi, get_token

        if get_token() is None:
            raise HubError(
                "there is no access token for the hub. Run `hf auth login`, or set HF_TOKEN to a token that "
                "may write; --dry-run shows the card and the files without one"
            )
        api = HfApi(library_name="crab_lightning")
        with clear_errors(api.endpoint, args.to):
            api.create_repo(args.to, private=args.private or None, exist_ok=True)
            done = api.upload_folder(
                repo_id=args.to, folder_path=folder, commit_message="Upload adapters with crab_lightning"
            )
        print(f"Uploaded: {done.commit_url}")


def pull(words: Sequence[str]) -> None:
    """Download adapters that `adapter push` has uploaded.

    `ask`, `serve` and `test` accept the folder as a checkpoint. Only weights, texts and the config
    are read, never code.

    Raises:
        FileExistsError: If the folder exists.
        HubError: If the hub has no such repository, or if it contains no adapters.
        AdapterError: If files are missing or damaged, or come from different saves.
    """
    parser = Options("adapter pull", pull)
    add = parser.option
    add("source", "repository on the hub", metavar="OWNER/NAME")
    add("--out", "folder to write; it must not exist", Path, required=True)
    add("--revision", "branch, tag or commit (default: the newest state of the main branch)")
    args = parser.parse_args(words)
    if args.out.exists():
        raise FileExistsError(f"{args.out} exists already; name a folder that does not")
    from huggingface_hub import constants, snapshot_download

    from crab_lightning.adapters import read_adapter_config, read_adapter_metadata
    from crab_lightning.adapters.checkpoint import AdapterError, read_weights
    from crab_lightning.files import new_folder

    with new_folder(args.out) as folder:
        with clear_errors(constants.ENDPOINT, args.source), tempfile.TemporaryDirectory() as cache:
            found = snapshot_download(
                args.source, revision=args.revision, cache_dir=cache, allow_patterns=PULLED
            )
            for path in Path(found).glob("*"):  # the folder is absent if nothing matched
                if path.is_file():
                    shutil.copyfile(path, folder / path.name)
        if not (folder / "adapter.json").is_file():
            raise AdapterError(f"{args.source} has no adapter.json, so it has no adapters of this package")
        config, metadata = read_adapter_config(folder), read_adapter_metadata(folder)
        read_weights(folder)  # checks that the files are complete and from one save
    more = "" if (args.out / _CONFIG).is_file() else " --config CONFIG (the repository contains none)"
    print(f"Wrote {args.out}: {config}")
    print(f"They need the base weights {metadata.get('base_model')}.")
    print(f"Use them with `ask --checkpoint {args.out}{more}` or `test --ckpt_path {args.out}{more}`")


def _prepare(source: Path, folder: Path, args: Any) -> list[str]:
    """Write the files for the hub into ``folder``, and return notes for the user."""
    from crab_lightning.adapters import ADAPTERS, read_adapter_config
    from crab_lightning.adapters.checkpoint import read_weights, rewrite_base
    from crab_lightning.reports.model_card import CardFacts, model_card
    from crab_lightning.reports.runs import is_synthetic
    from crab_lightning.runs.run_folder import find_adapter, find_run

    adapter = find_adapter(source)
    config = read_adapter_config(adapter)
    read_weights(adapter)  # checks that the files are complete and from one save
    run = find_run(adapter)
    notes: list[str] = []
    given = dict(_pair(word) for word in args.set) | ({_BASE_KEY: args.base} if args.base else {})
    tasks: dict[str, str] = {}
    packages = {ADAPTERS[config.kind].__module__.partition(".")[0]} - {"crab_lightning"}
    base = args.base
    if run is not None:
        content = _portable(run / _CONFIG, adapter, given)
        base = base or content["model"]["init_args"].get("pretrained")
        tasks = _taught(content["data"])
        packages |= other_packages(content)
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (folder / _CONFIG).write_text(text, encoding="utf-8")
    else:
        notes.append(f"{adapter} is not in a run folder, so users have to give their own config")
    about = rewrite_base(adapter, folder, base)
    base = about["metadata"]["base_model"]
    if Path(base).is_absolute() and not args.base:
        raise ValueError(
            f"the base weights are the folder {base} of this machine; give their hub name as --base"
        )
    results, made = _results(run, adapter, notes)
    if args.license is None:
        notes.append("no --license was given, and the card says so")
    facts = CardFacts(
        args.to, base, config, about["metadata"], about["parameters"], tasks, results, made, args.license,
        has_config=run is not None, packages=sorted(packages),
        synthetic=run is not None and bool(is_synthetic(run)),
    )  # fmt: skip
    (folder / _CARD).write_text(model_card(facts), encoding="utf-8")
    return notes


def _check_licence(name: str) -> None:
    from difflib import get_close_matches

    from crab_lightning.reports.model_card import LICENCES

    if name not in LICENCES:
        near = get_close_matches(name.lower(), LICENCES, 3) or ["apache-2.0", "mit", "cc-by-nc-4.0"]
        raise ValueError(
            f"--license {name}: the hub does not know this licence; it knows {', '.join(near)} "
            "and others (https://huggingface.co/docs/hub/repositories-licenses). For a licence without an "
            "identifier, give `other`"
        )


def _pair(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise ValueError(f"--set {word}: KEY=NAME is expected, such as {_BASE_KEY}=Qwen/Qwen2.5-Omni-7B")
    return key, value


def _taught(data: dict[str, Any]) -> dict[str, str]:
    from crab_lightning.data.manifests.keys import chosen_datasets

    rows = data.get("datasets") or {}
    return {name: rows[name]["task"] for name in chosen_datasets(rows, data.get("only"))}


def _portable(path: Path, adapter: Path, given: dict[str, str]) -> dict[str, Any]:
    """Return the model and data sections of a run's config, without paths of this machine."""
    from crab_lightning.configuration.allowed_code import without_training
    from crab_lightning.configuration.files import compose, portable_path

    content, _ = without_training(compose([path], of_run=True), of_run=True)
    content = {"model": content["model"], "data": {**content["data"], "root": "data", "cache": None}}
    init = content["model"].get("init_args") or {}
    init["load_adapter"] = None
    local: list[str] = []

    def seen(node: Any, key: str) -> Any:
        if key in given:
            return given[key]
        if isinstance(node, dict):
            return {name: seen(value, f"{key}.{name}" if key else str(name)) for name, value in node.items()}
        if isinstance(node, list):
            return [seen(value, f"{key}[{number}]") for number, value in enumerate(node)]
        if not isinstance(node, str) or not Path(node).is_absolute():
            return node
        leaf = key.rpartition(".")[2]
        if (adapter / f"{leaf}.safetensors").is_file():
            return None  # the weights of this encoder are next to the adapters
        if (shipped := portable_path(node)) is not None:
            return shipped
        local.append(f"{key} ({node})")
        return node

    portable: dict[str, Any] = seen(content, "")
    if local:
        known = [f"--set {name.split(' ')[0]}=NAME" for name in local]
        known = [word.replace(f"--set {_BASE_KEY}=", "--base ") for word in known]
        raise ValueError(
            f"the config names files of this machine: {', '.join(local)}. State names that other users "
            f"can load: {' '.join(known)}"
        )
    return portable


def _results(run: Path | None, adapter: Path, notes: list[str]) -> tuple[dict[str, Any] | None, str]:
    """Return the test results of these weights and their date, or add a note that says why there are none."""
    path = None if run is None else run / "metrics.json"
    if path is None or not path.is_file():
        notes.append("the run has no test results, so the card has no scores; run `test` first")
        return None, ""
    results: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")).get("test")
    if results is None:
        notes.append("metrics.json contains no test results, so the card has no scores; run `test` first")
        return None, ""
    if by_file := results.get("scored_without_model"):
        notes.append(
            f"the card has no scores, because `score` has written those of {', '.join(by_file)} from an"
            " answer file. Run `test` with these weights first"
        )
        return None, ""
    identity = results.get("identity", {})
    checkpoint = identity.get("checkpoint")
    wanted = "best.ckpt" if adapter.name == "best" else "last.ckpt"
    tested = Path(checkpoint[0]) if checkpoint else None
    ours = tested.name == wanted if tested else identity.get("adapter") == str(adapter.resolve())
    if tested is not None and tested.is_file():
        now = tested.stat()
        ours = ours and [now.st_size, now.st_mtime_ns] == checkpoint[1:]
    if not ours:
        notes.append(
            f"the card has no scores, because the test results are of {tested or identity.get('adapter')},"
            f" which is not {adapter} or was replaced since. Run `test` with these weights first"
        )
        return None, ""
    date = results.get("made", {}).get("date")
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat()
    return results, str(date or written)[:10]
