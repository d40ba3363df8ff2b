"""Lists of views as a CSV file to keep: a line of names, then a line for each."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse

from http_api.csv_rows import MEDIA_TYPE, csv_rows
from http_api.operations import Call

VARIES: Final = {"Vary": "Accept"}


def csv_answer(
    call: Call, filename: str, model: type[BaseModel], parts: AsyncIterator[Sequence[BaseModel]]
) -> Response:
    """The whole list, as it comes in parts. One that ends too soon was cut off."""
    headers = VARIES | {"Content-Disposition": f'attachment; filename="{filename}"'}
    if call.request.method == "HEAD":
        return Response(headers=headers, media_type=MEDIA_TYPE)
    return StreamingResponse(_text(list(model.model_fields), parts), headers=headers, media_type=MEDIA_TYPE)


async def _text(names: list[str], parts: AsyncIterator[Sequence[BaseModel]]) -> AsyncIterator[str]:
    yield csv_rows([names])
    async for views in parts:
        told = (view.model_dump(mode="json") for view in views)
        yield csv_rows([[each[name] for name in names] for each in told])
