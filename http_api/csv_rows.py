"""Lists as CSV (RFC 4180), for spreadsheets."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any, Final

from starlette.requests import Request

MEDIA_TYPE: Final = "text/csv"
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a spreadsheet takes for the beginning of a formula."""


def wants_csv(request: Request) -> bool:
    """Whether `Accept` names CSV, and JSON no more than that."""
    weights: dict[str, float] = {}
    for choice in ",".join(request.headers.getlist("accept")).split(","):
        kind, *parameters = (part.strip().lower() for part in choice.split(";"))
        weights[kind] = _weight(parameters)
    wanted = weights.get(MEDIA_TYPE, 0)
    return wanted > 0 and wanted >= weights.get("application/json", 0)


def _weight(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0
    return 1


def csv_rows(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as text: nothing is None, objects are JSON, and no text is a formula to whoever opens it: such a one begins
    with an apostrophe.
    """
    text = io.StringIO()
    csv.writer(text).writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return value
