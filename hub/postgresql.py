"""Connections to PostgreSQL of which no wait is without an end.

The server itself ends a statement, or a wait for a lock, that takes too long. A server that is frozen or out of reach
does not: then the connection is given up here.
"""

from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import URL, Engine, create_engine, event

if TYPE_CHECKING:
    from psycopg import Connection

CONNECT_WITHIN_S: Final = 3
LOCK_WITHIN_S: Final = 0.5
"""Transactions that go on take milliseconds. Whoever waits for a lock holds up what is to be written after it."""
STATEMENT_WITHIN_S: Final = 15
GOES_ON_WITHIN_S: Final = 3
"""The server ends a transaction whose hub is frozen, or gone, so that it holds up nobody else with its locks."""
ANSWER_WITHIN_S: Final = 20
"""Longer than any statement may take: a server that is not heard of for so long does not work."""

_PEER: Final = {
    "connect_timeout": CONNECT_WITHIN_S,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": ANSWER_WITHIN_S * 1000,
}
"""libpq's, for a machine that is gone; what the URL says of them counts."""
T = TypeVar("T")


def postgresql_engine(url: URL, *, patient: bool, **options: Any) -> Engine:
    """patient: for what may take as long as it takes, such as a migration; only a machine that is gone ends it."""
    peer = {name: value for name, value in _PEER.items() if name not in url.query}
    engine = create_engine(url, connect_args=peer, **options)

    @event.listens_for(engine, "connect")
    def _speak_utc(connection: "Connection[Any]", _record: object) -> None:
        # Else times come in the server's zone, where the last ones of UTC are in no year that Python has.
        connection.execute("SET TIME ZONE 'UTC'")
        connection.commit()

    if not patient:
        impatient = _impatient()

        @event.listens_for(engine, "do_connect")
        def _connect(_dialect: object, _record: object, arguments: Any, parameters: Any) -> "Connection[Any]":
            connection = impatient.connect(*arguments, **parameters, autocommit=True)
            limits = {
                "statement_timeout": STATEMENT_WITHIN_S,
                "lock_timeout": LOCK_WITHIN_S,
                "idle_in_transaction_session_timeout": GOES_ON_WITHIN_S,
            }
            settings = (f"SET {name} = {round(limit_s * 1000)}" for name, limit_s in limits.items())
            connection.execute("; ".join(settings).encode())
            connection.autocommit = False
            return connection

    return engine


def _impatient() -> "type[Connection[Any]]":
    import psycopg  # an extra of the product: only who has PostgreSQL needs it

    class Impatient(psycopg.Connection[Any]):
        """Gives itself up where it is not answered."""

        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            try:
                return super().wait(gen, interval, ANSWER_WITHIN_S if timeout is None else timeout)
            except psycopg.OperationalError as error:
                if self.info.transaction_status is not psycopg.pq.TransactionStatus.ACTIVE:
                    raise
                self.close()
                raise psycopg.OperationalError(f"PostgreSQL has not answered within {ANSWER_WITHIN_S} s") from error

    return Impatient
