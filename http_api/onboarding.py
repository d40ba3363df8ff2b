"""How a farm gets its MQTT credentials: new ones that cut nobody off, and a code that fetches them on the farm."""

from datetime import timedelta
from typing import Final

import structlog
from pydantic import ConfigDict, Field
from sqlmodel import Session
from starlette.responses import Response

from http_api import problems
from http_api.doorkeeper import address_of
from http_api.operations import Call, Operation, json_answer
from http_api.schemas import Body, MqttCredentials, Query, View
from hub.audit import By, Trail
from hub.claims import COUNTS_FOR, ClaimThrottle, claim, make_code
from hub.protocol.messages import NO_NUL
from hub.protocol.times import Stored, utc_now
from hub.rights import Right
from hub.site_secrets import MAX_OVERLAP_S, OVERLAP_S, NewSecret, rotate_secret

_EXPORT: Final = "Write its files again (`feeder-hub export mosquitto`) and have it read them."
TELL_BROKER: Final = (
    f"The broker is an external one, which knows one secret of each user. {_EXPORT} From then on the new secret counts "
    "there, and the old one no more, whatever its overlap; end the site's session there if it goes on."
)
TELL_BROKER_GONE: Final = (
    f"The broker is an external one, which lets the site's user in still. {_EXPORT} End its session there if need be."
)
_CODE: Final = "7Q2K-M9RT-0XVB-4HDN"
_SECRET: Final = {"Cache-Control": "no-store"}
_WHO_HAS_A_CODE: Final = "claim-code"
"""The actor of a claim, in the audit: nobody knows who typed it."""

log = structlog.get_logger()


class OverlapQuery(Query):
    overlap: int = Field(
        OVERLAP_S,
        ge=0,
        le=MAX_OVERLAP_S,
        description="seconds that the old secret goes on counting, or until the desktop has connected with the new "
        "one; 0: it ends at once, and so do the connections",
    )


class CredentialsView(View):
    mqtt: MqttCredentials
    old_secret_ends_at: Stored | None = Field(
        description="null: it has ended. It ends before, as soon as the desktop has connected with the new one"
    )
    session_ended: bool | None = Field(
        description="whether an open connection was ended; null: the broker is an external one, see `to_do`"
    )
    to_do: str | None = Field(description="what an administrator has to do at an external broker")


class ClaimCodeView(View):
    code: str = Field(examples=[_CODE], description="shown this once; it counts once")
    expires_at: Stored


class ClaimBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"code": _CODE}]})

    code: str = Field(max_length=64, pattern=NO_NUL, description="capitals and dashes do not matter")


class ClaimedMqtt(MqttCredentials):
    client_id: str
    url: str
    topic_prefix: str = Field(description="what the topics of the site begin with", examples=["fh/v1/pond7"])


class ClaimView(View):
    """All that a desktop needs. The secret is shown this once."""

    site: str
    mqtt: ClaimedMqtt
    old_secret_ends_at: Stored | None
    to_do: str | None = Field(description="what an administrator has to do at an external broker")


async def rotate_credentials(call: Call) -> Response:
    overlap, now = timedelta(seconds=call.query.overlap), utc_now()
    made = await call.change(lambda session, _: rotate_secret(session, call.site, now, overlap))
    ended = await _end_session(call, call.site, made)
    view = CredentialsView(
        mqtt=MqttCredentials(username=call.site, secret=made.secret),
        old_secret_ends_at=made.old_ends_at,
        session_ended=ended,
        to_do=TELL_BROKER if ended is None else None,
    )
    return json_answer(view, headers=_SECRET)


async def _end_session(call: Call, site: str, made: NewSecret) -> bool | None:
    """Whether a connection was ended, as the secret that it had; None: nobody here can say."""
    if call.services.broker is None:
        return None
    return made.old_ends_at is None and await call.services.broker.disconnect_user(site)


async def make_claim_code(call: Call) -> Response:
    actor, now = call.caller.actor, utc_now()
    made = await call.change(lambda session, _: make_code(session, call.site, call.query.overlap, actor, now))
    return json_answer(ClaimCodeView(code=made.code, expires_at=made.expires_at), 201, _SECRET)


async def claim_site(call: Call) -> Response:
    address = address_of(call.request)
    await ClaimThrottle(call.services.store).admit(address)
    code, now = call.body.code, utc_now()

    def work(session: Session, trail: Trail) -> tuple[str, NewSecret]:
        site, made = claim(session, code, now)
        trail.note(site=site)
        return site, made

    site, made = await call.change(work, By(_WHO_HAS_A_CODE, address=address))
    log.info("credentials were claimed", site=site, address=address)
    ended, reach = await _end_session(call, site, made), call.services.farms_reach
    view = ClaimView(
        site=site,
        mqtt=ClaimedMqtt(
            username=site,
            secret=made.secret,
            client_id=site,
            url=reach.url,
            topic_prefix=f"{reach.topic_root}/{site}",
        ),
        old_secret_ends_at=made.old_ends_at,
        to_do=TELL_BROKER if ended is None else None,
    )
    return json_answer(view, headers=_SECRET)


OPERATIONS = (
    Operation(
        "POST",
        "/sites/{site}/credentials",
        Right.SERVICE,
        rotate_credentials,
        "A new MQTT secret; the old one counts on for a time",
        {200: ("The new credentials, shown this once", CredentialsView)},
        query=OverlapQuery,
        problems=(problems.NOT_FOUND,),
    ),
    Operation(
        "POST",
        "/sites/{site}/claim-code",
        Right.SERVICE,
        make_claim_code,
        f"A code that fetches the site's credentials, once, within {COUNTS_FOR.seconds // 60} minutes",
        {201: ("The code, shown this once; one that was there before counts no more", ClaimCodeView)},
        query=OverlapQuery,
        problems=(problems.NOT_FOUND,),
    ),
    Operation(
        "POST",
        "/claims",
        None,
        claim_site,
        "Fetch a site's new MQTT credentials by a claim code; no login is needed",
        {200: ("All that a desktop needs", ClaimView)},
        body=ClaimBody,
        problems=(problems.NO_SUCH_CODE, problems.TOO_MANY, problems.STORE_UNREACHABLE),
    ),
)
