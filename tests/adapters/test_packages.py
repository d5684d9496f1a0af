"""Another package adds a kind of adapters with an entry point."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from crab_lightning.adapters import AdapterError, read_adapter_config

REPO = Path(__file__).resolve().parents[2]
SCALED = (
    "from dataclasses import dataclass\n"
    "from typing import Literal\n"
    "from crab_lightning.adapters import AdapterConfig, LoRALinear\n"
    "from crab_lightning.models import OmniModule\n"  # a package may hold more than the kind
    "@dataclass\n"
    "class ScaledConfig(AdapterConfig):\n"
    '    """adds its update several times.\n\n'
    "    Args:\n"
    "        times: How often.\n"
    '    """\n'
    '    decisive = (*AdapterConfig.decisive, "times")\n'
    '    kind: Literal["scaled"] = "scaled"\n'
    "    times: int = 2\n"
    "class ScaledLinear(LoRALinear):\n"
    "    config_class = ScaledConfig\n"
    "    def add_parameters(self):\n"
    "        self.gain_of_all = self._parameter()\n"
    "    def reset_parameters(self):\n"
    "        super().reset_parameters()\n"
    "        self.gain_of_all.detach().fill_(1.5)\n"
    "    def update(self, x):\n"
    "        scale = self.config.times * self.scaling * self.gain_of_all\n"
    "        return scale * self.dropped(x) @ self.lora_A.T @ self.lora_B.T\n"
)


def install(folder: Path, module: str, source: str, point: str) -> None:
    """Write a module and what an installation records of it."""
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[crab_lightning.adapters]\n{point}\n")


def run_in(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python where the packages of a folder are installed, in a process without their modules."""
    path = os.pathsep.join([str(folder), str(REPO)])
    env = os.environ | {"PYTHONPATH": path}
    return subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True)


def test_another_package_adds_a_kind_with_one_file_and_an_entry_point(tmp_path: Path) -> None:
    install(tmp_path, "their_package", SCALED, "scaled = their_package:ScaledLinear")
    code = (
        "import torch\n"
        "from torch import nn\n"
        "from crab_lightning.commands import main\n"
        "kind = ['--model.init_args.adapter.kind=scaled', '--model.init_args.adapter.times=3']\n"
        "assert main(['plan', '--config', 'demo.yaml', *kind]) == 0\n"
        "from crab_lightning.adapters import AdapterConfig, insert_adapters\n"
        "from crab_lightning.adapters import read_adapter_config, save_adapters\n"
        "assert 'scaled' in AdapterConfig.__doc__\n"
        "model = nn.ModuleDict({'language_model': nn.ModuleDict({'q_proj': nn.Linear(8, 20)})})\n"
        "config = AdapterConfig(kind='scaled', times=3, target_modules=['q_proj'])\n"
        "insert_adapters(model, config)\n"
        "assert model['language_model']['q_proj'](torch.randn(2, 3, 8)).shape == (2, 3, 20)\n"
        "save_adapters(model, 'saved', {})\n"
        "assert read_adapter_config('saved') == config\n"
        "assert main(['adapter', 'inspect', 'saved']) == 0\n"
    )
    done = run_in(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert "\ntimes: 3\n" in done.stdout
    assert "\nlanguage: max|gain_of_all| 1.5\n" in done.stdout
    with pytest.raises(
        AdapterError, match=r"adapter\.kind is 'scaled'.*another package adds this kind, install that"
    ):
        read_adapter_config(tmp_path / "saved")


def test_a_fault_in_the_code_of_a_kind_names_its_file(tmp_path: Path) -> None:
    source = SCALED.replace("    def update(self, x):\n", "    def update(self, x):\n        {}[len(x)]\n")
    install(tmp_path, "their_package", source, "scaled = their_package:ScaledLinear")
    code = (
        "import torch, their_package\n"
        "from crab_lightning.commands.errors import place_of\n"
        "layer = their_package.ScaledLinear(torch.nn.Linear(8, 8), their_package.ScaledConfig(rank=2))\n"
        "try:\n"
        "    layer(torch.ones(1, 3, 8))\n"
        "except KeyError as err:\n"
        "    print(place_of(err))\n"
    )
    line = source[: source.index("{}[len")].count("\n") + 1
    assert run_in(tmp_path, "-c", code).stdout == f"{tmp_path / 'their_package.py'}, line {line}\n"


def test_a_broken_package_stops_only_runs_that_need_its_kind(tmp_path: Path) -> None:
    install(tmp_path, "broken_package", "import no_such_thing\n", "odd = broken_package:Odd")
    code = (
        "from crab_lightning.adapters import AdapterConfig\n"
        "assert AdapterConfig(kind='lora').kind == 'lora'\n"
        "try:\n"
        "    AdapterConfig(kind='odd')\n"
        "except ValueError as err:\n"
        "    print(err)\n"
        "from crab_lightning.commands import main\n"
        "assert main(['plan', '--config', 'demo.yaml', '--model.init_args.adapter.kind=lora']) == 0\n"
        "raise SystemExit(main(['plan', '--config', 'demo.yaml', '--model.init_args.adapter.kind=odd']))\n"
    )
    done = run_in(tmp_path, "-c", code)
    assert done.returncode == 2, done.stderr
    said = "n installed package adds the adapter kind 'odd' ('broken_package:Odd'), which cannot be loaded"
    assert said in done.stdout
    assert "No module named 'no_such_thing'" in done.stdout
    assert done.stderr.count(f"arning: a{said}") == 1
    error = done.stderr.partition("error: ")[2]
    assert f"A{said} (ModuleNotFoundError" in error


def test_the_package_on_the_contributing_page_is_installed_and_its_tests_pass(tmp_path: Path) -> None:
    page = (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = [dedent(block) for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", page, re.MULTILINE)]
    (project,) = (block for block in blocks if "[build-system]" in block)
    (tests,) = (block for block in blocks if "import try_layer" in block)
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (source / "pyproject.toml").write_text(project)
    (source / "their_package.py").write_text(
        f"{SCALED}from tests.evaluation.fakes import Naming as Counting\n"
    )
    pip = ("-m", "pip", "install", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(site))
    done = run_in(tmp_path, *pip, str(source))
    assert done.returncode == 0, done.stderr
    (site / "test_theirs.py").write_text(tests)
    done = run_in(site, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_theirs.py")
    assert "2 passed" in done.stdout, done.stdout
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(REPO), "-k", "scaled and saved")
    done = run_in(site, *words, str(REPO / "tests/models/test_every_adapter.py"))
    assert "1 passed" in done.stdout, done.stdout
