"""What a list of sites or feeders is narrowed to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, or_
from sqlalchemy import select as sa_select
from sqlmodel import col

from hub.models import Feeder, Site


@dataclass(frozen=True, slots=True)
class Search:
    """tags: it has all of them. text: a part of its id or name, whatever the case. condition: of a feeder."""

    tags: Sequence[str] = ()
    text: str | None = None
    condition: str | None = None


EVERYTHING: Final = Search()


def site_says(text: str) -> ColumnElement[bool]:
    """Of a row of Site: whether the text is a part of its id or name."""
    return col(Site.sought).contains(text.casefold(), autoescape=True)


def as_sought(site: str, name: str) -> str:
    """What is kept of a site to be searched. A line's end in between: no text that is sought reaches over it."""
    return f"{site}\n{name}".casefold()


def feeder_says(text: str) -> ColumnElement[bool]:
    """Of a row of Feeder: whether the text is a part of its id, or of its site's id or name."""
    return or_(
        col(Feeder.id).contains(text.casefold(), autoescape=True),
        col(Feeder.site_id).in_(sa_select(col(Site.id)).where(site_says(text))),
    )
