"""Tables as small self-contained web pages, for the report."""

import html

import pandas as pd

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #222; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e4e4e4; }
th { position: sticky; top: 0; background: #fff; border-bottom: 2px solid #999; }
td.text, th.text { text-align: left; }
td.text { min-width: 8rem; }
"""


def page(table: pd.DataFrame, title: str) -> str:
    """Return a table as an HTML page; numbers to four digits, missing values as a dash."""
    text = [not pd.api.types.is_numeric_dtype(table[column]) for column in table]
    head = _row(table.columns, text, "th")
    body = "\n".join(_row(map(_spell, row), text, "td") for row in table.itertuples(index=False))
    title = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>\n"
        f"<table><thead>{head}</thead><tbody>\n{body}\n</tbody></table></body></html>\n"
    )


def _row(values, text: list[bool], tag: str) -> str:
    cells = (
        f"<{tag}{' class=text' if is_text else ''}>{html.escape(str(value))}</{tag}>"
        for value, is_text in zip(values, text, strict=True)
    )
    return f"<tr>{''.join(cells)}</tr>"


def _spell(value: object) -> str:
    if value is None or value is pd.NA or value != value:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
