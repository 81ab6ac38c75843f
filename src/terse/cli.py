"""The command `terse`."""

import argparse
import sys
from pathlib import Path

from terse.errors import TerseError
from terse.launch.run import rule_graph, run_workflow


def main(words: list[str] | None = None) -> int:
    """Run a subcommand and return its exit status."""
    parser = argparse.ArgumentParser(prog="terse", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    # No character starts an option of `run` itself: every word after it is for Snakemake.
    run = commands.add_parser(
        "run",
        help="run the workflow here, write its report, and name the files to open",
        prefix_chars="\0",
        add_help=False,
    )
    run.add_argument("snakemake", nargs=argparse.REMAINDER, help="arguments for snakemake")
    commands.add_parser("schema", help="write config/schema.json and the keys in config/README.md")
    commands.add_parser("dag", help="write the graph of the rules into docs/rules.md")
    verify = commands.add_parser("verify", help="compare cached activations with their checksums")
    verify.add_argument("folders", nargs="+", type=Path, help="such as cache/activations/base")
    export = commands.add_parser("export", help="write cached activations in ID_scaling's layout")
    export.add_argument("folder", type=Path, help="such as cache/activations/base")
    export.add_argument("out", type=Path, help="folder to create")
    export.add_argument("--ids", type=Path, help="such as results/ids/base.parquet")
    importer = commands.add_parser(
        "import", help="print another system's configuration as an overlay for --configfile"
    )
    importer.add_argument("file", type=Path, help="such as hyperparameters.json")
    importer.add_argument(
        "--load-base-from",
        metavar="RUN",
        help="run that a second stage of an exp_config starts from",
    )
    importer.add_argument(
        "--roots", action="store_true", help="also store the workflow's folders where FILE says"
    )
    plan = commands.add_parser(
        "plan", help="print the sizes, hours and memory of the workflow before anything runs"
    )
    plan.add_argument("models", nargs="*", help="instead of those that are selected")
    plan.add_argument(
        "--configfile", nargs="+", default=[], type=Path, help="files on top of config/config.yaml"
    )
    plan.add_argument("--tflops", type=float, help="what the device of a job sustains")
    given = parser.parse_args(words)
    try:
        if given.command == "run":
            return run_workflow(Path.cwd(), given.snakemake)
        if given.command == "dag":
            _write_rule_graph(Path("docs/rules.md"))
        elif given.command == "plan":
            _print_plan(given.models, given.configfile, given.tflops)
        elif given.command == "import":
            _print_overlay(given.file, given.load_base_from, given.roots)
        elif given.command == "verify":
            return max(map(_verify, given.folders))
        elif given.command == "export":
            _export(given.folder, given.out, given.ids)
        else:
            _write_schema(Path("config"))
    except TerseError as error:
        print(f"terse: {error}", file=sys.stderr)
        return 1
    return 0


def _print_plan(models: list[str], overlays: list[Path], tflops: float | None) -> None:
    from terse.launch.planning import plan_text

    sys.stdout.write(plan_text(Path.cwd(), overlays, models, tflops))


def _print_overlay(path: Path, load_base_from: str | None, roots: bool) -> None:
    from terse.importer import import_file

    overlay = import_file(path, roots=roots, load_base_from=load_base_from)
    sys.stdout.write(overlay.text())
    for key, why in overlay.unknown.items():
        print(f"terse: {path}: {key} is not imported: {why}", file=sys.stderr)
    for question in overlay.questions:
        print(f"terse: {path}: {question}", file=sys.stderr)


def _write_rule_graph(page: Path) -> None:
    text = page.read_text()
    before, _, rest = text.partition("```mermaid\n")
    _, _, after = rest.partition("```\n")
    page.write_text(f"{before}```mermaid\n{rule_graph(Path.cwd())}```\n{after}")


def _verify(folder: Path) -> int:
    """Return 0 if all shards of a folder match their checksums, else print which rows do not."""
    from terse.activations import cache

    try:
        rows = cache.verify(folder)
    except TerseError as error:
        print(f"terse: {error}", file=sys.stderr)
        return 1
    print(f"{folder}: all {rows} rows match their checksums")
    return 0


def _export(folder: Path, out: Path, ids: Path | None) -> None:
    from terse.activations.export import export_id_scaling, read_table

    if ids is not None and not ids.is_file():
        raise TerseError(f"there is no table of dimensions {ids}")
    if out.exists():
        raise TerseError(f"{out} already exists: choose a new folder")
    export_id_scaling(folder, out, ids=None if ids is None else read_table(ids))
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def _write_schema(folder: Path) -> None:
    from terse.config.schema import readme_text, schema_text

    (folder / "schema.json").write_text(schema_text())
    (folder / "README.md").write_text(readme_text(folder.parent))


if __name__ == "__main__":
    sys.exit(main())
