"""People and their roles: for administrators of the whole hub."""

from sqlmodel import Session
from starlette.responses import Response

from http_api import problems
from http_api.operations import Call, Operation, json_answer
from http_api.people_schemas import NewPasswordBody, PersonBody, PersonPatch, PersonView, RolesBody
from http_api.schemas import Page, PageQuery
from hub import people
from hub.logins import end_logins
from hub.models import Person
from hub.passwords import check_password
from hub.people import Grant
from hub.protocol.times import utc_now
from hub.rights import Right

Known = tuple[Person, list[Grant]]


async def list_people(call: Call) -> Response:
    query: PageQuery = call.query
    found = await call.services.database.read(
        lambda session: people.list_people(session, query.cursor, query.limit + 1)
    )
    page, more = found[: query.limit], len(found) > query.limit
    items = [PersonView.of(person, grants) for person, grants in page]
    return json_answer(Page[PersonView](items=items, next=items[-1].login if more else None))


async def create_person(call: Call) -> Response:
    body: PersonBody = call.body
    people.check_login(body.login)
    check_password(body.password, body.login)
    hashed, now = await call.services.passwords.hash(body.password), utc_now()
    grants = [grant.to_grant() for grant in body.roles]

    def work(session: Session) -> Known:
        row = people.add_person(session, body.login, body.name, hashed, grants, now)
        session.flush()
        return row, people.grants_of(session, row.id)

    row, kept = await call.services.database.write(work)
    return json_answer(PersonView.of(row, kept), 201, {"Location": f"/api/v1/people/{row.id}"})


async def get_person(call: Call) -> Response:
    return json_answer(PersonView.of(*await call.services.database.read(lambda session: _known(session, call))))


async def patch_person(call: Call) -> Response:
    body: PersonPatch = call.body

    def work(session: Session) -> Known:
        row, grants = _known(session, call)
        row.name = body.name
        return row, grants

    return json_answer(PersonView.of(*await call.services.database.write(work)))


async def set_roles(call: Call) -> Response:
    body: RolesBody = call.body

    def work(session: Session) -> Known:
        row, _ = _known(session, call)
        people.set_roles(session, row.id, [grant.to_grant() for grant in body.roles])
        session.flush()
        return row, people.grants_of(session, row.id)

    known = await call.services.database.write(work)
    call.doorkeeper.forget()
    return json_answer(PersonView.of(*known))


async def set_password(call: Call) -> Response:
    body: NewPasswordBody = call.body
    person, _ = await call.services.database.read(lambda session: _known(session, call))
    check_password(body.new, person.login)
    hashed = await call.services.passwords.hash(body.new)

    def work(session: Session) -> None:
        row, _ = _known(session, call)
        row.password_hash = hashed
        end_logins(session, row.id)

    await call.services.database.write(work)
    call.doorkeeper.forget()
    return Response(status_code=204)


async def delete_person(call: Call) -> Response:
    await call.services.database.write(lambda session: people.delete_person(session, _id(call)))
    call.doorkeeper.forget()
    return Response(status_code=204)


def _known(session: Session, call: Call) -> Known:
    """Raises NotFound."""
    row = people.get_person(session, _id(call))
    return row, people.grants_of(session, row.id)


def _id(call: Call) -> str:
    return str(call.request.path_params["person"])


_PEOPLE = "/people"
_PERSON = _PEOPLE + "/{person}"
_GONE = (problems.NOT_FOUND, problems.OTHER_ORIGIN)
_AS_IT_IS = {200: ("The person as it is now", PersonView)}

OPERATIONS = (
    Operation(
        "GET",
        _PEOPLE,
        Right.ADMINISTER,
        list_people,
        "People and their roles",
        {200: ("A page of people", Page[PersonView])},
        query=PageQuery,
        hub_wide=True,
    ),
    Operation(
        "POST",
        _PEOPLE,
        Right.ADMINISTER,
        create_person,
        "A new person, with a password and roles",
        {201: ("The person", PersonView)},
        body=PersonBody,
        problems=(problems.ALREADY_EXISTS, *_GONE),
        hub_wide=True,
    ),
    Operation("GET", _PERSON, Right.ADMINISTER, get_person, "A person", _AS_IT_IS, problems=_GONE, hub_wide=True),
    Operation(
        "PATCH",
        _PERSON,
        Right.ADMINISTER,
        patch_person,
        "Change a person's name",
        _AS_IT_IS,
        body=PersonPatch,
        problems=_GONE,
        hub_wide=True,
    ),
    Operation(
        "DELETE",
        _PERSON,
        Right.ADMINISTER,
        delete_person,
        "Take a person away: roles and logins end at once, what was done stays",
        {204: ("Gone", None)},
        problems=_GONE,
        hub_wide=True,
    ),
    Operation(
        "PUT",
        _PERSON + "/roles",
        Right.ADMINISTER,
        set_roles,
        "All that a person is from now on, and where",
        _AS_IT_IS,
        body=RolesBody,
        problems=_GONE,
        hub_wide=True,
    ),
    Operation(
        "PUT",
        _PERSON + "/password",
        Right.ADMINISTER,
        set_password,
        "Give a person a new password; their logins end",
        {204: ("It is changed", None)},
        body=NewPasswordBody,
        problems=_GONE,
        hub_wide=True,
    ),
)
