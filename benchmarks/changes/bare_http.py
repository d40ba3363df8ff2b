"""The least that Starlette can do with a PUT: parse the JSON and echo it. It says its {"port"} on stdout."""

import json
import socket

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def put_config(request: Request) -> JSONResponse:
    return JSONResponse(await request.json())


app = Starlette(routes=[Route("/api/v1/sites/{site}/feeders/{feeder}/config", put_config, methods=["PUT"])])


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(json.dumps({"port": listening.getsockname()[1]}), flush=True)
        config = uvicorn.Config(
            app, loop="uvloop", http="httptools", lifespan="off", log_config=None, access_log=False, server_header=False
        )
        uvicorn.Server(config).run(sockets=[listening])
