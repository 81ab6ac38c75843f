"""Tables as small self-contained web pages, for the report."""

import html

import pandas as pd

LONG = 30
"""Characters of a text that would need several lines in a narrow column."""

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #222; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e4e4e4; }
th { position: sticky; top: 0; background: #fff; border-bottom: 2px solid #999; }
td.text, th.text { text-align: left; }
td.text { min-width: 6rem; max-width: 24rem; }
td.long { min-width: 20rem; }
"""


def page(table: pd.DataFrame, title: str) -> str:
    """Return a table as an HTML page; numbers to four digits, missing values as a dash.

    A long text that is the same in all of several rows stands once, above the table.
    """
    same = [name for name, column in table.items() if _is_long(column) and _is_one(column)]
    notes = "".join(
        f"<p>{html.escape(str(name))}: {html.escape(str(table[name].iloc[0]))}</p>\n"
        for name in same
    )
    table = table.drop(columns=same)
    text = [not pd.api.types.is_numeric_dtype(table[column]) for column in table]
    head = _row(table.columns, text, "th")
    body = "\n".join(_row(map(_spell, row), text, "td") for row in table.itertuples(index=False))
    title = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>\n"
        f"{notes}<table><thead>{head}</thead><tbody>\n{body}\n</tbody></table></body></html>\n"
    )


def _row(values, text: list[bool], tag: str) -> str:
    cells = (
        f"<{tag}{_kind(str(value)) if is_text else ''}>{_breakable(str(value), tag)}</{tag}>"
        for value, is_text in zip(values, text, strict=True)
    )
    return f"<tr>{''.join(cells)}</tr>"


def _kind(value: str) -> str:
    return ' class="text long"' if len(value) > LONG else " class=text"


def _breakable(value: str, tag: str) -> str:
    """Return a cell's text as HTML; a head may be broken after each underscore."""
    text = html.escape(value)
    return text.replace("_", "_<wbr>") if tag == "th" else text


def _is_long(column: pd.Series) -> bool:
    return any(isinstance(value, str) and len(value) > LONG for value in column)


def _is_one(column: pd.Series) -> bool:
    return len(column) > 1 and column.nunique(dropna=False) == 1


def _spell(value: object) -> str:
    if value is None or value is pd.NA or value != value:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
