"""The chart, read once, and Kubernetes' own schemas of what it makes, each read once as well."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
from kubernetes_validate import utils

CHART = Path(__file__).parents[2] / "helm" / "ai-platform"
# It reads a file of 2 MB for each manifest, and changes nothing of it.
utils.schema_contents = functools.cache(utils.schema_contents)


@functools.cache
def loaded(folder: Path = CHART) -> helm.Chart:
    """Return a chart as it is in a folder that nobody changes."""
    return helm.Chart.load(str(folder))


def check(manifest: dict[str, Any], version: str = "1.37") -> None:
    """Fail unless this version of Kubernetes takes it, to the letter."""
    kubernetes_validate.validate(manifest, version, strict=True)
