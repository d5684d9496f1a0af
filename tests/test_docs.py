"""Commands on the pages of the documentation and in the README exist, with all their options."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import yaml
from torch import nn

from crab_lightning.adapters import ADAPTERS, AdapterConfig
from crab_lightning.commands import COMMANDS, main

REPO = Path(__file__).resolve().parents[1]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
TRAINER = ("fit", "validate", "test", "predict")


def commands(page: Path) -> list[str]:
    """Return the commands on a page, with continued lines joined and comments taken off."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in re.findall(r"python cli\.py [^\n`]*", text)]
    return [re.split(r"\s+#|\s+&&|\s+\|\s|; done", line)[0] for line in lines]


ALL = sorted(
    {
        (page.relative_to(REPO).as_posix(), line)
        for page in PAGES
        if "reference" not in page.parts
        for line in commands(page)
    }
)


@cache
def help_of(command: str, paradigm: str) -> str:
    """Return what ``--help`` of a command prints; the options of ``model tiny`` depend on the paradigm."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*command.split(), *(["--paradigm", paradigm] if paradigm else []), "--help"])
    return out.getvalue()


def test_the_pages_hold_commands() -> None:
    assert len(ALL) > 50


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if "reference" not in page.parts],
    ids=lambda page: page.relative_to(REPO).as_posix(),
)
def test_no_wrapped_line_becomes_an_item_of_a_list(page: Path) -> None:
    lines, last = page.read_text(encoding="utf-8").splitlines(), 0
    for number, line in enumerate(lines):
        if item := re.match(r" *(\d+)\. ", line):
            expected = {1} if number == 0 or not lines[number - 1].strip() else set()
            assert int(item[1]) in expected | {last + 1}, (
                f"{page.name}: {line!r} is shown as an item of a list"
            )
            last = int(item[1])


@pytest.mark.parametrize(("page", "line"), ALL)
def test_command_on_a_page_exists_with_its_options(page: str, line: str) -> None:
    words = shlex.split(line)[2:]
    name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in COMMANDS), None)
    if name is None:  # `python cli.py --help`, `python cli.py COMMAND --help`
        assert words[0] in ("--help", "--version", "COMMAND"), f"there is no command {words[:2]}"
        return
    paradigm = words[words.index("--paradigm") + 1] if "--paradigm" in words else ""
    known = set(re.findall(r"--[\w.+-]+", help_of(name, paradigm)))
    for config in re.findall(r"--config (\w+\.yaml)", line):
        assert (REPO / "configs" / config).is_file() or config == "mine.yaml", f"{page}: {config}"
    for option in (word.split("=")[0] for word in words if re.match(r"--[a-z]", word)):
        if name in TRAINER and re.match(r"--(model|data|trainer)\.", option):
            # Keys below a class or a dictionary are not in the help of their parent.
            parents = {option.rsplit(".", n)[0] for n in range(option.count("."))}
            assert parents & known or option.startswith("--model."), f"{page}: {option}"
        else:
            everywhere = ("--debug", "--allow-code-of")
            assert option in known or option in everywhere, f"{page}: {name} has no option {option}"


def test_the_table_of_adapter_kinds_is_that_of_the_registry() -> None:
    page = (REPO / "docs/adapters.md").read_text(encoding="utf-8")
    sizes = {"r": 4, "h": 6, "d": 10, "n": 3, "k": 2, "t": 2}
    found = set()
    for row in re.findall(r"^\|.*`\.kind .*\|$", page, re.MULTILINE):
        _, _, settings, formula, _ = row.split("|")
        keys = {key: sizes.get(value, value) for key, value in re.findall(r"`\.(\w+) ([\w.]+)`", settings)}
        keys = {key: float(value) if key in ("mixing", "balance") else value for key, value in keys.items()}
        found.add(kind := str(keys["kind"]))
        layer_class = ADAPTERS[kind]
        own = {key.name for key in fields(layer_class.config_class)} - {
            key.name for key in fields(AdapterConfig)
        }
        assert {key for key in own if f".{key}" not in page} == set(), "the page does not name a key"
        if "tasks" in own:
            keys["tasks"] = ["a", "b"]
        layer = layer_class(nn.Linear(sizes["h"], sizes["d"]), AdapterConfig(**{"rank": sizes["r"], **keys}))
        count = sum(p.numel() for p in layer.parameters(recurse=False))
        assert eval(re.sub(r"(?<=[\w)]) (?=[\w(])", "*", formula.strip()), sizes) == count, row
    assert found == set(ADAPTERS)


def test_the_citation_has_what_its_format_asks_for_and_no_version_of_its_own() -> None:
    content = yaml.safe_load((REPO / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= content.keys()
    assert all({"type", "title", "authors"} <= reference.keys() for reference in content["references"])
    assert "version" not in content, "the version stands in crab_lightning/__init__.py alone"
    assert "version = attr: crab_lightning.__version__" in (REPO / "setup.cfg").read_text(encoding="utf-8")
    assert (REPO / "CHANGELOG.md").read_text(encoding="utf-8").count("\n## Unreleased\n") == 1
