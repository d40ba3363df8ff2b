"""What schemathesis is not to do: it would call in vain, were the site whose desktop is alive gone or cut off."""

import schemathesis
from hypothesis import strategies as st

LIVE_SITE = "pond7"
_ENDS_IT = ("delete_site", "rotate_credentials")

schemathesis.openapi.format("time-zone", st.sampled_from(["UTC", "Europe/Oslo", "America/Santiago"]))


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, object]) -> None:
    operation_id = case.operation.definition.raw.get("operationId")
    if operation_id in _ENDS_IT and (case.path_parameters or {}).get("site") == LIVE_SITE:
        case.path_parameters["site"] = "spare"
