"""`exfm ingest`: published data sets into logs, source files into a log's tables, and whether they fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from exfm.events.datasets import NAMES

GuessOption = Annotated[str, typer.Option("--guess", help="The schema's YAML file, which is written.")]
SchemaOption = Annotated[Path, typer.Option("--schema", help="The schema's YAML file.")]


def add_to(app: typer.Typer) -> None:
    """Add the subcommand, with a command for each published data set."""
    group = typer.Typer(
        help="Take new files into a log's tables, check them, or make a log of a published data set.",
        no_args_is_help=True,
    )
    group.command("run")(of_run)
    group.command("check")(check)
    group.command("parquet")(parquet)
    group.command("csv")(of_csv)
    for name, about in NAMES.items():
        group.command(name, help=f"Make a log of {about}", rich_help_panel="Published data sets")(_of_data_set(name))
    app.add_typer(group, name="ingest", rich_help_panel="One stage of a run")


def check(
    impressions: Annotated[str, typer.Argument(help="Parquet file, folder or glob; s3:// too.")],
    schema: SchemaOption,
    feedback: Annotated[str, typer.Option(help="The same of feedback; not given: only impressions are checked.")] = "",
) -> None:
    """Say column by column whether your files fit a schema, and what would help; exit code 0 if all fits."""
    from exfm.events.fitting import fit_feedback, fit_impressions, require_fit
    from exfm.schema import Schema

    read = Schema.read(schema)
    fits = [fit_impressions(impressions, read)]
    if feedback:
        fits.append(fit_feedback(feedback, read, impressions=fits[0]))
    print("\n".join(line for fit in fits for line in fit.lines()))
    require_fit(fits)


def of_run(
    config: Annotated[Path, typer.Option("--config", "-c", help="The run's YAML file.")],
    root: Annotated[str, typer.Option(help="Where outputs go, instead of the file's own root.")] = "",
) -> None:
    """Take the files that have arrived into the tables of a run."""
    from exfm_components.run_config import read_run_config
    from exfm_pipelines.steps import run_step

    run_step("ingest", read_run_config(config, root=root))


def parquet(
    source: Annotated[str, typer.Argument(help="Parquet file, folder or glob of impressions; s3:// too.")],
    guess: GuessOption,
    feedback: Annotated[str, typer.Option(help="The same of feedback, whose kinds become labels.")] = "",
) -> None:
    """Guess a schema to start from, by what the columns of your impressions hold."""
    _guess(source, guess, form="parquet", feedback=feedback)


def of_csv(
    source: Annotated[str, typer.Argument(help="CSV file with a header, maybe .gz or .bz2; s3:// too.")],
    guess: GuessOption,
) -> None:
    """Guess a schema to start from, by what the columns of a CSV file hold."""
    _guess(source, guess, form="csv")


def _guess(source: str, guess: str, *, form: Literal["csv", "parquet"], feedback: str = "") -> None:
    from exfm.cli.output import put, writable
    from exfm.events.column_facts import kinds_in, read_facts
    from exfm.events.guessing import guess_schema

    writable(guess)
    kinds = kinds_in(feedback) if feedback else {}
    put(guess, guess_schema(read_facts(source, form=form), kinds=kinds, of=source).encode())
    print(f"{guess}: a guess; read each line, and correct it")


def _of_data_set(name: str) -> Callable[..., None]:
    """Return the command of a published data set."""

    def of_data_set(
        source: Annotated[str, typer.Argument(help="Folder of its files, or its only file; s3:// too.")],
        out: Annotated[
            str, typer.Option(help="Folder that gets impressions.parquet, feedback.parquet and schema.yaml; s3:// too.")
        ] = f"examples/{name}/data/log",
        mean_delay: Annotated[
            float, typer.Option(min=0, help="Mean of simulated delays of feedback: s, or rows. 0: feedback at once.")
        ] = 0.0,
        seed: Annotated[int, typer.Option(min=0, help="Seed of these delays.")] = 0,
    ) -> None:
        from exfm.events.datasets.conversion import convert
        from exfm.events.datasets.dataset import data_set
        from exfm.events.schemas import FOLDER

        schema = (FOLDER / f"{name}.yaml").read_bytes()
        found = convert(data_set(name), source, out, schema=schema, mean_delay=mean_delay, seed=seed)
        print("\n".join(found.lines()))
        print(f"{out}: read by exfm run -c examples/{name}/run.yaml, whose first lines say when the log is complete")

    return of_data_set
