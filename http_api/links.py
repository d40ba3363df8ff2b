"""Where an answer leads on: the links of the OpenAPI document, by the model that an answer has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from http_api.schemas import AcceptedView, CommandView, FeederView, NewSiteView, Page, RevisionView, SiteView

_SITE: Final = {"site": "$response.body#/site"}
_FIRST_SITE: Final = {"site": "$response.body#/items/0/site"}
_FIRST_FEEDER: Final = _FIRST_SITE | {"feeder": "$response.body#/items/0/feeder"}


_FIRST_REVISION: Final = {
    "site": "$request.path.site",
    "feeder": "$request.path.feeder",
    "revision": "$response.body#/items/0/revision",
}


@dataclass(frozen=True, slots=True)
class Link:
    """`operation`: the id of the call that may follow; parameters: name -> where in this answer its value stands."""

    operation: str
    parameters: Mapping[str, str]


_SITE_CALLS: Final = ("get_site", "list_feeders", "get_liveness", "list_site_commands", "command_site", "delete_site")
_FEEDER_CALLS: Final = (
    *("get_feeder", "get_config", "patch_config", "list_revisions"),
    *("command_feeder", "list_feeder_commands", "list_events", "get_daily"),
)

LINKS: Final[Mapping[type[BaseModel], tuple[Link, ...]]] = {
    AcceptedView: (Link("get_command", {"command": "$response.body#/command_id"}),),
    CommandView: (Link("get_command", {"command": "$response.body#/id"}),),
    Page[CommandView]: (Link("get_command", {"command": "$response.body#/items/0/id"}),),
    NewSiteView: (
        *(Link(call, _SITE) for call in _SITE_CALLS),
        Link("get_feeder", _SITE | {"feeder": "$response.body#/feeders/0"}),
    ),
    Page[SiteView]: tuple(Link(call, _FIRST_SITE) for call in _SITE_CALLS if call != "delete_site"),
    Page[RevisionView]: (Link("restore_revision", _FIRST_REVISION),),
    Page[FeederView]: tuple(Link(call, _FIRST_FEEDER) for call in _FEEDER_CALLS),
}


def links_of(model: type[BaseModel] | None) -> dict[str, Any]:
    """The `links` of an answer with that model, by name."""
    found = () if model is None else LINKS.get(model, ())
    return {link.operation: {"operationId": link.operation, "parameters": dict(link.parameters)} for link in found}
