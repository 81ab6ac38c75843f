"""The command `terse`."""

import argparse
import sys
from pathlib import Path

from terse import launch
from terse.errors import TerseError


def main(words: list[str] | None = None) -> int:
    """Run a subcommand and return its exit status."""
    parser = argparse.ArgumentParser(prog="terse", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    # No character begins an option of its own: every word after `run` is for Snakemake.
    run = commands.add_parser(
        "run",
        help="run the workflow here, write its report, and name the files to open",
        prefix_chars="\0",
        add_help=False,
    )
    run.add_argument("snakemake", nargs=argparse.REMAINDER, help="arguments for snakemake")
    commands.add_parser("schema", help="write config/schema.json and the keys in config/README.md")
    commands.add_parser("dag", help="print the graph of the rules as Mermaid text")
    importer = commands.add_parser(
        "import", help="print another system's configuration as an overlay for --configfile"
    )
    importer.add_argument("file", type=Path, help="such as hyperparameters.json")
    given = parser.parse_args(words)
    try:
        if given.command == "run":
            return launch.run_workflow(Path.cwd(), given.snakemake)
        if given.command == "import":
            _print_overlay(given.file)
        elif given.command == "dag":
            sys.stdout.write(launch.rule_graph(Path.cwd()))
        else:
            _write_schema(Path("config"))
    except TerseError as error:
        print(f"terse: {error}", file=sys.stderr)
        return 1
    return 0


def _print_overlay(path: Path) -> None:
    from terse.importer import import_file

    overlay = import_file(path)
    sys.stdout.write(overlay.text())
    for key, why in overlay.unknown.items():
        print(f"terse: {path}: {key} is not imported: {why}", file=sys.stderr)


def _write_schema(folder: Path) -> None:
    from terse.config.schema import readme_text, schema_text

    (folder / "schema.json").write_text(schema_text())
    (folder / "README.md").write_text(readme_text(folder.parent))
