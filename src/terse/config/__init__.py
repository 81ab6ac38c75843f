"""The typed configuration: the only owner of keys, defaults and checks. Imports no torch."""

from terse.config.load import checked_yaml, end_with, load, put_in_order, read_yaml
from terse.config.workflow import Workflow

__all__ = ["Workflow", "checked_yaml", "end_with", "load", "put_in_order", "read_yaml"]
