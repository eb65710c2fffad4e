"""`pip install` into an empty environment gives `fallthrough`; every extra that is named exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from workers.check import PACKAGES

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    files = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    for name in filter(None, files):  # a build in the clone would leave its folders there
        if not name.startswith(("tests/", "docs/", "benchmarks/", "helm/")):
            place = source / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((ROOT / name).read_bytes())
    run(
        *(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", str(target), str(source)),
    )
    [built] = target.iterdir()
    return built


def test_one_distribution_holds_all_of_it_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0].removesuffix(".py") for name in names if ".dist-info/" not in name}
    assert tops == set(PACKAGES)
    assert any(name.endswith("tasks/store/lua/_keys.lua") for name in names)
    assert "cli/demo_prompts.jsonl" in names


def test_an_empty_environment_gets_the_command(wheel, tmp_path):
    run(sys.executable, "-m", "venv", str(tmp_path / "env"))
    python = tmp_path / "env" / "bin" / "python"
    run(str(python), "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel))
    # What it needs comes from where the tests run: a .pth reads no .pth, so our clone is not found.
    site = run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(site, "needs.pth").write_text(sysconfig.get_path("purelib") + "\n")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FALLTHROUGH_", "PYTHON"))}
    fallthrough = str(tmp_path / "env" / "bin" / "fallthrough")
    assert "FALLTHROUGH_GPU_URL" in run(fallthrough, "config", cwd=tmp_path, env=clean)
    code = "import api, cli.main, tasks, workers; print(tasks.__file__)"
    assert run(str(python), "-c", code, cwd=tmp_path, env=clean).startswith(str(tmp_path))


def test_every_extra_that_is_named_exists():
    texts = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "Dockerfile"]
    texts += [file for name in PACKAGES for file in (ROOT / name).rglob("*.py")]
    named = {
        extra
        for file in texts
        for extras in re.findall(r"(?:fallthrough|'\.)\[([\w,]+)\]", file.read_text())
        for extra in extras.split(",")
    }
    assert {"embedded", "s3"} <= named
    assert named <= set(PROJECT["optional-dependencies"])
