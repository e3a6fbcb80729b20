"""The files that set a machine up agree with each other."""

import re
import sys
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import baby_mamba

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def pins(name: str, python: str) -> dict[str, str]:
    """Version by package in a requirements file and the files that it includes, on x86-64 Linux."""
    found = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            found |= pins(line.removeprefix("-r ").strip(), python)
        elif line:
            requirement = Requirement(line)
            where = {"python_version": python, "platform_system": "Linux", "platform_machine": "x86_64"}
            if requirement.marker is None or requirement.marker.evaluate(where):
                (specifier,) = requirement.specifier
                assert specifier.operator == "==", f"{line} is not an exact version"
                assert requirement.name not in found, f"{line} is there twice"
                found[requirement.name] = specifier.version
    return found


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("python", PYTHONS)
def test_pins_are_in_the_ranges_that_the_package_accepts(project: dict, python: str) -> None:
    needed = {"requirements.txt": project["dependencies"]}
    needed["requirements-dev.txt"] = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    for name, requirements in needed.items():
        pinned = pins(name, python)
        for requirement in map(Requirement, requirements):
            assert requirement.name in pinned, f"{name} lacks {requirement.name}"
            assert pinned[requirement.name] in requirement.specifier


def test_one_version_of_the_package(project: dict) -> None:
    assert baby_mamba.__version__ == project["version"]


def test_torch_and_triton_are_pinned_together() -> None:
    # The CUDA build of torch 2.13.0 demands exactly triton 3.7.1.
    pinned = pins("requirements.txt", "3.12")
    assert (pinned["torch"], pinned["triton"]) == ("2.13.0", "3.7.1")


def test_one_version_of_ruff() -> None:
    hooks = re.findall(r"ruff==([\d.]+)", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert hooks == [pins("requirements-dev.txt", "3.12")["ruff"]] * 2


def test_conda_environment_installs_the_pins() -> None:
    lines = [line.strip() for line in (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines()]
    assert {"- -r requirements.txt", "- -e ."} <= set(lines)


def test_ci_takes_the_test_command_from_the_readme() -> None:
    (pattern,) = re.findall(r"grep -E '(.*)' README\.md", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    commands = [
        line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if re.search(pattern, line)
    ]
    assert len(commands) == 1
