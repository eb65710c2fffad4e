"""What a pasted command calls instead of what would change this machine.

Each ends with 2 at what the real one would refuse: a service that is not in the compose file, an
option that there is not, a file that is not there, a setting that makes no sense.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from pathlib import Path

import click
import redis
import yaml

from cli.main import main as fallthrough
from tasks.settings import Settings

ROOT = Path(__file__).parents[2]
NEVER_RUN = {"up", "demo"}  # of the command line: a second stack
OF_RUN = {"test", "bench", "check", "docs", "chaos", "simulate", "prove", "soak"}
COMPOSE = {"up", "down", "stop", "logs", "exec", "cp", "build", "pull", "ps", "restart"}
DOCKER = {"build", "push", "compose"}
KUBECTL = {"apply", "cp", "delete", "describe", "exec", "get", "logs", "patch", "port-forward"}
HELM = {"upgrade", "test", "uninstall", "template", "show"}


def refuse(what: str) -> None:
    sys.exit(f"stand-in: {what}")


def demand(fits: object, what: str) -> None:
    if not fits:
        refuse(what)


def run_python(*arguments: str) -> None:
    real = [sys.executable, *arguments]
    if arguments[:1] == ("-m",) and arguments[1] in {"api", "workers"}:
        Settings.from_env(os.environ)  # it would serve until Ctrl-C
        return
    os.execv(real[0], real)  # noqa: S606 - the real one


def run_fallthrough(*arguments: str) -> None:
    name = arguments[0] if arguments else ""
    if name in OF_RUN:  # ./run's own; `bash -n` and its tests look at it
        demand(f"  {name})" in (ROOT / "run").read_text(), f"./run has no {name}")
    elif name in NEVER_RUN:
        Settings.from_env(os.environ)
        command = fallthrough.commands[name]
        command.make_context(name, list(arguments[1:]))
    else:
        fallthrough(list(arguments))


def run_celery(*arguments: str) -> None:
    if "flower" in arguments:
        return
    real = [sys.executable, "-m", "celery", *arguments]
    os.execv(real[0], real)  # noqa: S606 - the real one


def run_docker(*arguments: str) -> None:
    demand(arguments[0] in DOCKER, f"docker {arguments[0]}")
    if arguments[0] != "compose":
        return
    rest = list(arguments[1:])
    services = {}
    files = []
    while rest[0].startswith("-"):
        option, value = rest.pop(0), rest.pop(0)
        demand(option in {"-f", "--profile"}, f"docker compose {option}")
        files += [value] if option == "-f" else []
    for file in files or ["docker-compose.yaml"]:
        services |= yaml.safe_load(Path(file).read_text())["services"]
    command, *operands = rest
    demand(command in COMPOSE, f"docker compose {command}")
    named = [each for each in operands if not each.startswith("-")]
    if command == "exec":
        named = named[:1]
    if command == "cp":
        named = [each.partition(":")[0] for each in named if ":" in each]
    demand(set(named) <= set(services), f"no service {set(named) - set(services)}")


def run_kubectl(*arguments: str) -> None:
    verbs = [each for each in arguments if each in KUBECTL | {"rollout"}]
    demand(verbs, f"kubectl {arguments}")
    for option in ("-k", "-f"):
        if option in arguments and verbs[0] == "apply":
            demand(Path(arguments[arguments.index(option) + 1]).exists(), "no such file")


def run_helm(*arguments: str) -> None:
    demand(arguments[0] in HELM, f"helm {arguments[0]}")
    values = yaml.safe_load((ROOT / "helm" / "ai-platform" / "values.yaml").read_text())
    for option, value in itertools.pairwise(arguments):
        if option == "-f":
            demand(Path(value).is_file(), f"no file {value}")
        if option == "--set":
            path = value.partition("=")[0].split(".")
            known = path[0] == "settings" or _known(values, path)
            demand(known, f"no value {value}")


def _known(values: object, path: list[str]) -> bool:
    for name in path:
        if not isinstance(values, dict) or name not in values:
            return False
        values = values[name]
    return True


def run_redis_cli(*arguments: str) -> None:
    rest = list(arguments)
    demand(rest[:1] == ["-u"] and re.match("rediss?://", rest[1]), f"redis-cli {rest}")
    command = rest[2:]
    with redis.Redis.from_url(rest[1], decode_responses=True) as client:
        if command[0] == "--rdb":
            demand(client.ping() and len(command) == 2, f"redis-cli {command}")
            return
        found = client.execute_command(*command)
    if isinstance(found, dict):
        found = [f"{key}:{value}" for key, value in found.items()]
    sys.stdout.write("\n".join(found) if isinstance(found, list) else str(found))


def main(name: str, *arguments: str) -> None:
    try:
        globals()[f"run_{name.replace('-', '_')}"](*arguments)
    except click.ClickException as error:
        refuse(error.format_message())


if __name__ == "__main__":
    main(*sys.argv[1:])
