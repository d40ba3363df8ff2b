"""What the calls about people, logins and tokens take and give."""

from typing import Annotated

from pydantic import Field

from http_api.schemas import Body, View
from hub.logins import USED_WITHIN
from hub.models import Login, Person, Token
from hub.passwords import LONGEST, SHORTEST
from hub.people import MOST_ROLES, Grant
from hub.protocol.messages import NO_NUL
from hub.protocol.times import Stored
from hub.protocol.topics import Id
from hub.rights import Caller, Role

DAYS_OF_A_TOKEN = 3660
_WITHIN = f"within {USED_WITHIN.seconds} s"
LoginName = Annotated[str, Field(min_length=1, max_length=64, pattern=NO_NUL, examples=["anna"])]
AnyPassword = Annotated[str, Field(max_length=LONGEST, pattern=NO_NUL)]
NewPassword = Annotated[
    str,
    Field(
        min_length=SHORTEST, max_length=LONGEST, pattern=NO_NUL, description="not little more than the login",
        examples=["correct horse battery"],
    ),
]  # fmt: skip
PersonName = Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL, examples=["Anna Berg"])]


class LoginBody(Body):
    login: LoginName
    password: AnyPassword


class PasswordBody(Body):
    """A person's own password."""

    old: AnyPassword
    new: NewPassword


class NewPasswordBody(Body):
    """Somebody else's password, set by an administrator."""

    new: NewPassword


class GrantBody(Body):
    role: Annotated[Role, Field(strict=False)]
    site: Id | None = Field(None, description="where; null: at every site, and for what is about none")

    def to_grant(self) -> Grant:
        return Grant(self.site, self.role)


Grants = Annotated[list[GrantBody], Field(max_length=MOST_ROLES)]


class PersonBody(Body):
    login: LoginName
    name: PersonName
    password: NewPassword
    roles: Grants = Field(default_factory=list)


class PersonPatch(Body):
    name: PersonName


class RolesBody(Body):
    """All that the person is from now on."""

    roles: Grants


class TokenBody(Body):
    name: str = Field(min_length=1, max_length=64, pattern=NO_NUL, examples=["feeding plan"])
    role: Annotated[Role, Field(strict=False)]
    site: Id | None = Field(None, description="for this site only; null: for every one")
    expires_in_days: int | None = Field(None, ge=1, le=DAYS_OF_A_TOKEN, description="null: never")


class GrantView(View):
    role: Role
    site: str | None

    @classmethod
    def of(cls, grant: Grant) -> "GrantView":
        return cls(role=grant.role, site=grant.site)


class PersonView(View):
    id: str
    login: str
    name: str
    roles: list[GrantView]
    created_at: Stored

    @classmethod
    def of(cls, person: Person, grants: list[Grant]) -> "PersonView":
        return cls(
            id=person.id,
            login=person.login,
            name=person.name,
            roles=[GrantView.of(grant) for grant in grants],
            created_at=person.created_at,
        )


class WhoView(View):
    """Who calls. `login_id` null: a token."""

    id: str
    actor: str
    roles: list[GrantView]
    login_id: str | None

    @classmethod
    def of(cls, caller: Caller) -> "WhoView":
        grants = sorted(
            (Grant(site, role) for site, roles in caller.roles.items() for role in roles),
            key=lambda grant: (grant.site or "", grant.role),
        )
        return cls(
            id=caller.id,
            actor=caller.actor,
            roles=[GrantView.of(grant) for grant in grants],
            login_id=caller.login_id,
        )


class LoginView(View):
    """One device that a person is logged in at. `is_this`: the one that asks."""

    id: str
    created_at: Stored
    last_used_at: Stored = Field(description=_WITHIN)
    expires_at: Stored
    address: str
    agent: str
    is_this: bool

    @classmethod
    def of(cls, login: Login, caller: Caller) -> "LoginView":
        told = {name: getattr(login, name) for name in cls.model_fields if name != "is_this"}
        return cls(**told, is_this=login.id == caller.login_id)


class LoginsView(View):
    items: list[LoginView]


class TokenView(View):
    id: str
    name: str
    role: Role
    site: str | None
    created_at: Stored
    expires_at: Stored | None
    last_used_at: Stored | None = Field(description=_WITHIN)

    @classmethod
    def of(cls, token: Token) -> "TokenView":
        return cls(
            id=token.id,
            name=token.name,
            role=Role(token.role),
            site=token.site_id,
            created_at=token.created_at,
            expires_at=token.expires_at,
            last_used_at=token.last_used_at,
        )


class NewTokenView(TokenView):
    token: str = Field(description="shown this once, kept nowhere")
