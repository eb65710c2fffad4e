"""A plugin of pytest's: one module of fallback_chain is a mutant, which the environment names."""

from __future__ import annotations

import os
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import spec_from_file_location
from typing import TYPE_CHECKING, Any

from mutation import answers

if TYPE_CHECKING:
    from types import CodeType

MUTANT = "FALLTHROUGH_TESTS_MUTANT"  # its module, a colon, its place among the module's mutants


class _Finder:
    """Finds a mutant where its module is looked for."""

    def __init__(self, mutant: answers.Mutant) -> None:
        self._mutant = mutant

    def find_spec(self, name: str, *_: Any) -> Any:
        if name != f"fallback_chain.{self._mutant.module}":
            return None
        path = str(answers.path_of(self._mutant.module))
        return spec_from_file_location(name, path, loader=_Loader(name, path, self._mutant))


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, mutant: answers.Mutant) -> None:
        super().__init__(name, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._mutant.tree(), self.path, "exec")


if MUTANT in os.environ:
    module, _, place = os.environ[MUTANT].partition(":")
    sys.meta_path.insert(0, _Finder(answers.mutants_of(module)[int(place)]))
