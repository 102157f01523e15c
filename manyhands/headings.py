"""Options under headings, in the `--help` of a command that has many.

In: headings, and which parameters stand under each. Out: what `@click.command(cls=…)` takes; what
stands under no heading comes last, as click shows it.
"""

from collections.abc import Mapping, Sequence

import click


def headed(headings: Mapping[str, Sequence[str]]) -> type[click.Command]:
    """A kind of command that shows its options so; in the order of the lists.

    headings: names of parameters, as the function takes them, by heading.
    """

    class Headed(click.Command):
        def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            records = {
                parameter.name: record
                for parameter in self.get_params(ctx)
                if isinstance(parameter, click.Option)
                and (record := parameter.get_help_record(ctx)) is not None
            }
            for heading, names in headings.items():
                rows = [records.pop(name) for name in names if name in records]
                if rows:
                    with formatter.section(heading):
                        formatter.write_dl(rows)
            if records:
                with formatter.section("Options"):
                    formatter.write_dl(list(records.values()))

    return Headed
