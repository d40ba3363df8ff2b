"""Who may do what: one table of roles and rights, and one of commands. No I/O here."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from hub.errors import NotAllowed


class Role(StrEnum):
    """What somebody is, at one site or at all of them."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    TECHNICIAN = "technician"
    ADMIN = "admin"


class Right(StrEnum):
    READ = "read"
    STOP = "stop"
    """Order an emergency stop. Who may do anything to a farm may do that."""
    HANDLE = "handle"
    """Pause, resume and calibrate a feeder; ask a desktop whether it hears."""
    OPERATE = "operate"
    """Change configs, feed, release a stop, close what is unresolved, roll out."""
    SERVICE = "service"
    """A site's credentials and claim codes: connect a farm."""
    ADMINISTER = "administer"
    """Create, change and delete sites; people, tokens, grants, webhooks, the audit."""


RIGHTS: Final[Mapping[Role, frozenset[Right]]] = {
    Role.VIEWER: frozenset({Right.READ}),
    Role.OPERATOR: frozenset({Right.READ, Right.STOP, Right.HANDLE, Right.OPERATE}),
    Role.TECHNICIAN: frozenset({Right.READ, Right.STOP, Right.HANDLE, Right.SERVICE}),
    Role.ADMIN: frozenset(Right),
}
"""The whole table of who may do what. It counts at the site that a role was granted at; granted hub-wide, at each."""

OF_COMMANDS: Final[Mapping[str, Right]] = {
    "stop_all": Right.STOP,
    "release": Right.OPERATE,
    "feed": Right.OPERATE,
    "set_config": Right.OPERATE,
    "pause": Right.HANDLE,
    "resume": Right.HANDLE,
    "calibrate": Right.HANDLE,
    "ping": Right.HANDLE,
    "report": Right.HANDLE,
}
"""What each command needs."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. `id` is the token's or the person's, `actor` what people read.

    roles: by site what was granted there; under None what was granted hub-wide.
    """

    id: str
    actor: str
    roles: Mapping[str | None, frozenset[Role]]
    login_id: str | None = None
    """Of a person: which login it is."""

    def may(self, right: Right, site: str | None) -> bool:
        """Whether at that site; site None: at every one, and where it is about none."""
        granted = self.roles.get(None, frozenset()) | self.roles.get(site, frozenset())
        return any(right in RIGHTS[role] for role in granted)

    def may_somewhere(self, right: Right) -> bool:
        return any(self.may(right, site) for site in self.roles)

    def sees(self, site: str) -> bool:
        """A site that is not yours does not exist for you."""
        return self.may(Right.READ, site)

    @property
    def sites(self) -> frozenset[str] | None:
        """The sites that exist for this caller; None: all."""
        if self.may(Right.READ, None):
            return None
        return frozenset(site for site in self.roles if site is not None)

    def require(self, right: Right, site: str | None) -> None:
        """Raises NotAllowed."""
        if not self.may(right, site):
            raise NotAllowed(
                f"This needs the right to {right}{'' if site is None else f' at {site}'}; {self.is_what()}."
            )

    def is_what(self) -> str:
        """Its roles, in words."""
        told = [
            f"{role}{'' if site is None else f' at {site}'}"
            for site, roles in sorted(self.roles.items(), key=lambda item: item[0] or "")
            for role in sorted(roles)
        ]
        return f"you are {', '.join(told)}" if told else "you have no role"
