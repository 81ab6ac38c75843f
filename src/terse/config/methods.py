"""The registry of methods: ours, two lines each, and those of installed packages."""

import pkgutil
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from terse.config.messages import lines
from terse.errors import TerseError
from terse.methods.blotching.spec import BLOTCHING
from terse.methods.causal_lm.spec import CAUSAL_LM
from terse.methods.compression.spec import COMPRESSION
from terse.methods.forgetting.spec import FORGETTING
from terse.methods.hierarchical.spec import HIERARCHICAL
from terse.settings.method_spec import MethodSpec
from terse.settings.run import Run
from terse.settings.strict import NAME_PATTERN

if TYPE_CHECKING:  # it needs torch
    from terse.training.method import Inputs, Method

OURS: tuple[MethodSpec[Any], ...] = (
    BLOTCHING,
    CAUSAL_LM,
    COMPRESSION,
    FORGETTING,
    HIERARCHICAL,
)
GROUP = "terse.methods"  # of the entry points: the method's name = "module:object", a MethodSpec


@cache
def methods() -> Mapping[str, MethodSpec[Any]]:
    """Return all methods by name, ours first.

    Raises TerseError, with the package's name, for an external one that can't be used.
    """
    found = {spec.name: spec for spec in OURS}
    owners = dict.fromkeys(found, "terse")
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        package = entry.dist.name if entry.dist else entry.module
        if entry.name in found:
            raise TerseError(
                f"package {package}: the method {entry.name!r} already exists, from "
                f"{owners[entry.name]}: rename or uninstall one of them"
            )
        found[entry.name], owners[entry.name] = _spec_at(entry, package), package
    return found


def _spec_at(entry: EntryPoint, package: str) -> MethodSpec[Any]:
    """Return the spec that a package registers; TerseError if there is none."""
    where = f"package {package}: the method {entry.name!r} at {entry.value}"
    try:
        spec = entry.load()
        name = spec.name if isinstance(spec, MethodSpec) else None
    except Exception as error:  # an external module can raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TerseError(f"{where} does not load ({reason}): fix or uninstall it") from error
    if name is None:
        raise TerseError(f"{where} is not a MethodSpec but {spec!r}: register an instance of one")
    if name != entry.name or not re.fullmatch(NAME_PATTERN, name):
        raise TerseError(
            f"{where} calls itself {name!r}: use one name, such as my-method (a-z, 0-9, .-)"
        )
    return spec


def spec_of(run: Run) -> MethodSpec[Any]:
    """Return the spec of a run's method."""
    return methods()[run.method]


def settings_of(params: Mapping[str, Any]) -> Run:
    """Return the typed settings of a run from the params of its rule."""
    return methods()[params["method"]].settings_from(params)


def method_of(params: Mapping[str, Any], inputs: "Inputs") -> "Method[Any]":
    """Return the implementation of a run's method, from the params of its rule. Imports torch.

    Where the tokens are among the inputs, the run's epochs become steps. Raises TerseError if
    another setting does not fit that number of steps.
    """
    implementation = pkgutil.resolve_name(methods()[params["method"]].implementation)
    settings = settings_of(params)
    method = implementation(settings, inputs)
    if settings.max_steps is not None or inputs.tokens is None:
        return method
    try:
        counted = settings.with_steps(method.rows_of_epoch())
    except ValidationError as error:
        raise TerseError("; ".join(lines(error))) from None
    return implementation(counted, inputs)
