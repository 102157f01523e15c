"""What pydantic finds wrong with a body, as the one refusal that its caller hears.

In: pydantic's list of errors. Out: an `ApiError` that names the field by its dotted path.
"""

import re
from typing import Any

from manyhands.gateway.faults import ApiError

FIELD = re.compile(r"[a-z][a-z0-9_]*")  # else it is one of a union's kinds, as pydantic names them
KINDS = {"str", "int", "float", "bool", "body"}
PART = re.compile(r"messages\.\d+\.content\.\d+\.type")


def invalid(errors: Any) -> ApiError:
    """The first thing wrong with a body, and where; of a union's complaints the deepest."""
    depth = max(len(each["loc"]) for each in errors)
    deepest = [each for each in errors if len(each["loc"]) == depth]
    # What says that it is of another type is not what its sender meant.
    others = {each["loc"][:-1] for each in deepest if _is_of_type(each)}
    first = next((each for each in deepest if each["loc"][:-1] not in others), deepest[0])
    if first["type"] == "json_invalid":
        return ApiError("invalid_json", f"the body is not JSON: {first['ctx']['error']}")
    path = ".".join(
        str(part)
        for part in first["loc"]
        if isinstance(part, int) or (FIELD.fullmatch(part) and part not in KINDS)
    )
    code = "unsupported_value" if first["type"] == "literal_error" else "invalid_value"
    if first["type"] == "extra_forbidden":
        code = "unsupported_parameter"
    where = f"{path}: " if path else ""
    return ApiError(code, f"{where}{_said(first, path)}", param=path or None)


def _is_of_type(error: Any) -> bool:
    return bool(error["type"] == "literal_error" and error["loc"][-1] == "type")


def _said(error: Any, path: str) -> str:
    """pydantic's word, where that says enough."""
    if error["loc"] == ("body",) and error["type"] == "missing":
        return "there is no body; send a JSON object"
    if PART.fullmatch(path) and error["type"] == "literal_error":
        return (
            f"parts of type {str(error['input'])[:40]!r} are not read here, only text and refusals"
        )
    return str(error["msg"])
