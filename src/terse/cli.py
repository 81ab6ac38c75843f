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
    commands.add_parser("dag", help="write the graph of the rules into README.md, as Mermaid text")
    given = parser.parse_args(words)
    try:
        if given.command == "run":
            return launch.run_workflow(Path.cwd(), given.snakemake)
        if given.command == "dag":
            _write_rule_graph(Path("README.md"))
        else:
            _write_schema(Path("config"))
    except TerseError as error:
        print(f"terse: {error}", file=sys.stderr)
        return 1
    return 0


def _write_rule_graph(readme: Path) -> None:
    text = readme.read_text()
    before, _, rest = text.partition("```mermaid\n")
    _, _, after = rest.partition("```\n")
    readme.write_text(f"{before}```mermaid\n{launch.rule_graph(Path.cwd())}```\n{after}")


def _write_schema(folder: Path) -> None:
    from terse.config.schema import readme_text, schema_text

    (folder / "schema.json").write_text(schema_text())
    (folder / "README.md").write_text(readme_text(folder.parent))
