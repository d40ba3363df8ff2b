"""What schemathesis is not to do: it would call in vain, were its token revoked or the one live desktop cut off."""

import os

import schemathesis
from hypothesis import strategies as st

LIVE_SITE = "pond7"
KEPT = {
    "delete_site": ("site", LIVE_SITE, "spare"),
    "rotate_credentials": ("site", LIVE_SITE, "spare"),
    "revoke_token": ("token", os.environ["KEPT_TOKEN"], "01K00000000000000000000000"),
}
"""operation -> (parameter, what it must not be, what it is instead)"""

schemathesis.openapi.format("time-zone", st.sampled_from(["UTC", "Europe/Oslo", "America/Santiago"]))


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, object]) -> None:
    name, kept, instead = KEPT.get(case.operation.definition.raw.get("operationId"), ("", "", ""))
    if name and case.path_parameters.get(name) == kept:
        case.path_parameters[name] = instead
