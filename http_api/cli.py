"""`feeder-hub api`: calls of the HTTP API from a terminal or a script."""

import json
import sys
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import httpx
import typer
from httpx_sse import ServerSentEvent
from ulid import ULID

from http_api.client import Client, OutcomeUnknown, Refused, Request, Unreachable, below_prefix, takes_key
from http_api.problems import MEDIA_TYPE


class Exit(IntEnum):
    """How a call ended, for scripts. 2 is a command line that is wrong."""

    DONE = 0
    REFUSED = 3
    UNKNOWN = 4
    UNREACHABLE = 5


app = typer.Typer(
    no_args_is_help=True,
    help="Call the HTTP API: `feeder-hub api get sites/pond7`. Exit codes: 0 done (2xx); 2 the command line is wrong; "
    "3 refused (4xx), nothing was done; 4 the hub or the farm failed, or the outcome is unknown (5xx, or the "
    "connection was cut); 5 the hub cannot be reached, nothing was done.",
)

PathArgument = Annotated[str, typer.Argument(help="Below /api/v1, as in sites/pond7 or sites?limit=5.")]
UrlOption = Annotated[str, typer.Option("--url", envvar="FEEDER_HUB_URL", help="Where the hub is.")]
TokenFileOption = Annotated[
    Path | None,
    typer.Option("--token-file", help="A file with the token; otherwise FEEDER_HUB_TOKEN is it.", show_default=False),
]
TokenOption = Annotated[str | None, typer.Option(envvar="FEEDER_HUB_TOKEN", hidden=True)]
PatienceOption = Annotated[float, typer.Option("--patience", min=0, help="Seconds to try to reach the hub.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print answers and problems as JSON, each in one line.")]
BodyOption = Annotated[
    str | None,
    typer.Option(
        "--body", help="The body: a file, - for standard input, or the first of key=value ...", metavar="BODY"
    ),
]
FieldsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="Fields of the body: meal_g=300 window.end=18:00", metavar="[KEY=VALUE]...", show_default=False
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key", help="The Idempotency-Key; by default a new one where the call knows it.", show_default=False
    ),
]
IfMatchOption = Annotated[str | None, typer.Option("--if-match", help="The ETag that the change is made upon.")]
WaitOption = Annotated[
    int | None, typer.Option("--wait", min=0, help="Seconds to wait for the outcome; 0: not at all (202).")
]
URL: Final = "http://127.0.0.1:8080"
PATIENCE_S: Final = 10.0


@app.command()
def get(
    path: PathArgument,
    url: UrlOption = URL,
    token_file: TokenFileOption = None,
    token: TokenOption = None,
    patience_s: PatienceOption = PATIENCE_S,
    as_json: JsonOption = False,
) -> None:
    """Read something."""
    _call(Request("GET", _path(path)), _client(url, token_file, token, patience_s), as_json=as_json)


@app.command()
def delete(
    path: PathArgument,
    url: UrlOption = URL,
    token_file: TokenFileOption = None,
    token: TokenOption = None,
    patience_s: PatienceOption = PATIENCE_S,
    as_json: JsonOption = False,
) -> None:
    """Delete something."""
    _call(Request("DELETE", _path(path)), _client(url, token_file, token, patience_s), as_json=as_json)


def _changing(method: str, does: str) -> None:
    """Add the command of a method that has a body."""

    @app.command(name=method.lower(), help=does)
    def change(
        path: PathArgument,
        fields: FieldsArgument = None,
        body: BodyOption = None,
        key: KeyOption = None,
        if_match: IfMatchOption = None,
        wait_s: WaitOption = None,
        url: UrlOption = URL,
        token_file: TokenFileOption = None,
        token: TokenOption = None,
        patience_s: PatienceOption = PATIENCE_S,
        as_json: JsonOption = False,
    ) -> None:
        wanted = _path(path)
        headers = {}
        if key is None and takes_key(method, wanted):
            key = str(ULID())
        if key is not None:
            headers["Idempotency-Key"] = _visible(key, "--key")
        if if_match is not None:
            headers["If-Match"] = _visible(if_match, "--if-match")
        if wait_s is not None:
            headers["Prefer"] = f"wait={wait_s}" if wait_s else "respond-async"
        request = Request(method, wanted, _body(body, fields or []), headers)
        _call(request, _client(url, token_file, token, patience_s), as_json=as_json)


_changing("PUT", "Put something in the place of what is there.")
_changing("PATCH", "Change some fields.")
_changing("POST", "Make something, or order it: post sites/pond7/feeders/f1/commands name=feed args.grams=250")


@app.command()
def watch(
    site: Annotated[str | None, typer.Option(help="This site only.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many events.")] = None,
    after: Annotated[str | None, typer.Option(help="The id of the last event seen; what came after it first.")] = None,
    url: UrlOption = URL,
    token_file: TokenFileOption = None,
    token: TokenOption = None,
    patience_s: PatienceOption = PATIENCE_S,
    as_json: JsonOption = False,
) -> None:
    """Print what happens, a line for each event, until Ctrl-C. After a cut it goes on where it was."""
    with _client(url, token_file, token, patience_s) as client:
        try:
            for number, event in enumerate(client.watch(site, after), 1):
                sys.stdout.write((_event_json(event) if as_json else _event_words(event)) + "\n")
                sys.stdout.flush()
                if number == count:
                    return
        except Refused as error:
            _show(error.answer, as_json=as_json)
        except Unreachable as error:
            _end(Exit.UNREACHABLE, str(error))
        except KeyboardInterrupt:
            return


def _client(url: str, token_file: Path | None, token: str | None, patience_s: float) -> Client:
    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter("it begins with http:// or https://", param_hint="--url")
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"{token_file}: {error}", param_hint="--token-file") from error
    token = (token or "").strip()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise typer.BadParameter("what is there is no token", param_hint="--token-file or FEEDER_HUB_TOKEN")
    try:
        return Client(url, token or None, patience_s)
    except httpx.InvalidURL as error:
        raise typer.BadParameter(str(error), param_hint="--url") from error


def _path(path: str) -> str:
    if "://" in path.partition("?")[0]:
        raise typer.BadParameter("only the path below /api/v1; --url says where the hub is", param_hint="PATH")
    return below_prefix(_visible(path, "PATH"))


def _visible(text: str, where: str) -> str:
    """What may stand in the head of a request."""
    if not (text.isascii() and text.isprintable()):
        raise typer.BadParameter("only visible ASCII characters; others as %XX", param_hint=where)
    return text


def _body(source: str | None, fields: list[str]) -> bytes | None:
    """The file's or standard input's bytes as they are, or an object of the fields."""
    if source is not None and "=" in source and not Path(source).exists():
        fields = [source, *fields]
    elif source is not None:
        if fields:
            raise typer.BadParameter("a body comes from a file or from fields, not from both", param_hint="--body")
        if source == "-":
            return sys.stdin.buffer.read()
        try:
            return Path(source).read_bytes()
        except OSError as error:
            raise typer.BadParameter(f"{source}: {error.strerror}", param_hint="--body") from error
    return json.dumps(object_of(fields)).encode() if fields else None


def object_of(fields: list[str]) -> dict[str, Any]:
    """`meal_g=300 window.end=18:00` as an object: what is JSON is JSON, the rest is text. Raises BadParameter."""
    made: dict[str, Any] = {}
    for text in fields:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="KEY=VALUE")
        *outer, last = name.split(".")
        inside = made
        for part in outer:
            inside = inside.setdefault(part, {})
            if not isinstance(inside, dict):
                raise typer.BadParameter(f"{part} of {text!r} has a value already", param_hint="KEY=VALUE")
        if last in inside:
            raise typer.BadParameter(f"{name} is there twice", param_hint="KEY=VALUE")
        try:
            inside[last] = json.loads(value)
        except ValueError:
            inside[last] = value
    return made


def _call(request: Request, client: Client, *, as_json: bool) -> None:
    with client:
        try:
            answer = client.call(request)
        except Unreachable as error:
            _end(Exit.UNREACHABLE, str(error))
        except OutcomeUnknown as error:
            key = request.headers.get("Idempotency-Key")
            how = "Look before you repeat it."
            if request.may_be_repeated:
                how = f"Repeat it with --key {key}: with the same key it is never done twice."
            _end(Exit.UNKNOWN, f"{error} {how}")
    _show(answer, as_json=as_json)


def _show(answer: httpx.Response, *, as_json: bool) -> None:
    """Print it, and end with its code where it is no success."""
    told = _json_of(answer)
    is_problem = answer.headers.get("Content-Type") == MEDIA_TYPE and isinstance(told, dict)
    if is_problem and not as_json:
        typer.echo(problem_words(told), err=True)
    elif answer.content:
        text = answer.text if told is None else json.dumps(told, ensure_ascii=False, indent=None if as_json else 2)
        typer.echo(text.rstrip("\n"))
    if not as_json:
        for name in ("ETag", "Command-Id", "Location"):
            if answer.is_success and name in answer.headers:
                typer.echo(f"{name}: {_printable(answer.headers[name])}", err=True)
    if answer.is_success:
        return
    if not is_problem:
        typer.echo(f"The answer is {answer.status_code}, and not Feeder Hub's: is --url right?", err=True)
    raise typer.Exit(Exit.UNKNOWN if answer.is_server_error else Exit.REFUSED)


def _json_of(answer: httpx.Response) -> Any:
    """What it says in JSON; None for anything else."""
    if "json" not in answer.headers.get("Content-Type", ""):
        return None
    try:
        return answer.json()
    except ValueError:
        return None


def problem_words(problem: dict[str, Any]) -> str:
    """A problem as a person reads it: what it is, each fault, and whatever else it carries."""
    slug = str(problem.get("type", "")).partition("#")[2]
    lines = [f"{problem.get('title')} ({problem.get('status')} {slug})", f"  {problem.get('detail')}"]
    for fault in problem.get("faults") or ():
        more = [f"{name} {fault[name]:g}" for name in ("value", "limit", "left_today_g") if fault.get(name) is not None]
        lines.append(f"  {fault['field']}: {fault['message']}" + (f" ({', '.join(more)})" if more else ""))
    standard = ("type", "title", "status", "detail", "faults")
    for name, value in problem.items():
        if name not in standard and value is not None:
            lines.append(f"  {name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    return "\n".join(_printable(line) for line in lines)


def _event_json(event: ServerSentEvent) -> str:
    return json.dumps({"id": event.id, "event": event.event, "data": event.json()}, ensure_ascii=False)


def _event_words(event: ServerSentEvent) -> str:
    """`command pond7 id=01K… feeder=f1 state=applied`"""
    data: dict[str, Any] = event.json()
    rest = [f"{name}={_short(value)}" for name, value in data.items() if name != "site" and value is not None]
    return _printable(" ".join([event.event, str(data.get("site") or "-"), *rest]))


def _short(value: object) -> str:
    return value if isinstance(value, str) and " " not in value else json.dumps(value, ensure_ascii=False)


def _printable(text: str) -> str:
    """Nothing that a farm says can steer the terminal."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def _end(code: Exit, said: str) -> NoReturn:
    typer.echo(_printable(said), err=True)
    raise typer.Exit(code)
