"""The routes of `classifier serve`: the page, and REST."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from balancer import __version__
from balancer.core.errors import BalancerError
from balancer.core.system_errors import is_out_of_memory
from balancer.data.dataset import Dataset
from classifier.explain.methods import METHODS
from classifier.serving import answers
from classifier.serving.engine import HeatMapRequest, answer
from classifier.serving.examples import ExampleImage
from classifier.serving.guard import Guard
from classifier.serving.limits import Limits
from classifier.serving.models import ServedModel
from classifier.serving.uploads import Refused, read_upload

log = logging.getLogger("balancer")
T = TypeVar("T")
ModelName = Annotated[str | None, Query(description="Name of a model; all models without it.")]
LARGE = 8  # large uploads that are held at the same time; the others wait, their bytes still with the client
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
STATUSES: dict[int | str, dict[str, Any]] = {
    status: {"model": answers.Problem, "description": meaning}
    for status, meaning in {
        401: "The token is missing or wrong.",
        404: "There is no such model.",
        408: "The upload took too long, or the client sent too slowly.",
        413: "The upload has too many bytes or pixels.",
        415: "The upload is not an image.",
        422: "The image or a parameter cannot be used.",
    }.items()
}
BODY = {
    "requestBody": {
        "required": True,
        "description": "One image: as the body itself, or as the only file of a form.",
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}


@dataclass(frozen=True)
class Options:
    """How the models are served."""

    limits: Limits = field(default_factory=Limits)
    examples: Sequence[ExampleImage] = ()
    training: Dataset | None = None  # whose images are shown; None: labels only
    token: str | None = None
    loopback_only: bool = True


class Work:
    """One thread for the networks, and a queue in front of it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="networks")
        self._large = asyncio.Semaphore(LARGE)
        self._next = asyncio.Semaphore(2)  # one at work and one behind it: who waits may still go away

    def close(self) -> None:
        """Drop what waits."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def answer(self, request: Request, limits: Limits, make: Callable[[bytes], T]) -> T:
        """Read the upload of a request, and return what ``make`` makes of it in its turn in the networks' thread.

        Raises:
            Refused: if the upload cannot be used.
            ClientDisconnect: if the client went away before its turn came.
        """
        async with AsyncExitStack() as held:
            content = await read_upload(request, limits, lambda: held.enter_async_context(self._large))
            async with self._next:
                if await request.is_disconnected():
                    raise ClientDisconnect
                try:
                    return await asyncio.get_running_loop().run_in_executor(self._thread, make, content)
                except (Refused, BalancerError):
                    raise
                except Exception as error:
                    raise _failure(error) from error


def _failure(error: Exception) -> Refused:
    """Return what is said of a fault of the machine or of the program; its text may hold bytes of the upload."""
    if is_out_of_memory(error):
        return Refused(503, "memory is full; send a smaller image, or try again later")
    log.warning("a request failed (%s); this is a fault of the program", type(error).__name__)
    return Refused(500, f"the program failed ({type(error).__name__}); the service goes on")


def create_app(models: Sequence[ServedModel], options: Options) -> FastAPI:
    """Return the service of some models."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.work = Work()
        yield
        app.state.work.close()

    app = FastAPI(
        title="xray-balancer",
        version=__version__,
        description=f"**{answers.NOTICE}** What saved classifiers say of an image.",
        docs_url=None,  # FastAPI's own pages load scripts from another host
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(Guard, token=options.token, loopback_only=options.loopback_only)
    _add_errors(app)
    _add_page(app)
    _add_questions(app, models, options)
    _add_facts(app, models, options)
    return app


def _named(models: Sequence[ServedModel], name: str) -> ServedModel:
    """Return the model of a name.

    Raises:
        Refused: 404, there is no such model.
    """
    for model in models:
        if model.name == name:
            return model
    raise Refused(404, f"model is {name[:80]!r}; expected one of {', '.join(model.name for model in models)}")


def _add_questions(app: FastAPI, models: Sequence[ServedModel], options: Options) -> None:
    """Add the routes that take an image."""

    async def answered(request: Request, model: str | None, heat_map: HeatMapRequest | None) -> answers.Answer:
        chosen = models if model is None else [_named(models, model)]
        limits, work = options.limits, request.app.state.work
        made: answers.Answer = await work.answer(
            request, limits, lambda content: answer(content, chosen, limits, heat_map, options.training)
        )
        return made

    @app.post("/api/predict", responses=STATUSES, openapi_extra=BODY)
    async def predict(request: Request, model: ModelName = None) -> answers.Answer:
        """Return label and probabilities of an image."""
        return await answered(request, model, None)

    @app.post("/api/explain", responses=STATUSES, openapi_extra=BODY)
    async def explain(
        request: Request,
        model: ModelName = None,
        method: Annotated[str, Query(description=f"How the heat map is made: {', '.join(METHODS)}.")] = "gradcam",
        class_name: Annotated[
            str | None, Query(alias="class", description="The class to explain; the one called without it.")
        ] = None,
        values: Annotated[bool, Query(description="Also give the heat map as numbers.")] = False,
    ) -> answers.Answer:
        """Return label, probabilities and a heat map of an image."""
        return await answered(request, model, HeatMapRequest(method, class_name, values))


def _add_facts(app: FastAPI, models: Sequence[ServedModel], options: Options) -> None:
    """Add the routes that say what is served."""

    @cache
    def made_card(path: Path) -> answers.Card:
        from classifier.report.model_card import about  # Matplotlib and more: not at each start

        return answers.Card.of(about(path))

    @app.get("/api/card", responses={401: STATUSES[401], 404: STATUSES[404]})
    async def card(model: Annotated[str, Query(description="Name of a model.")]) -> answers.Card:
        """Return the model card of a model."""
        path = _named(models, model).path
        try:
            return await asyncio.to_thread(made_card, path)
        except BalancerError as error:
            raise Refused(404, f"there is no model card: {error}") from error

    @app.get("/api/service", responses={401: STATUSES[401]})
    async def service() -> answers.Service:
        """Return the models that are served, and the limits of an upload."""
        return answers.Service(
            notice=answers.NOTICE,
            version=__version__,
            models=[model.facts for model in models],
            methods={name: method.title for name, method in METHODS.items()},
            most_megabytes=options.limits.megabytes,
            most_megapixels=options.limits.megapixels,
            shows_training_images=options.training is not None,
        )

    @app.get("/api/examples", responses={401: STATUSES[401]})
    async def examples() -> list[answers.Example]:
        """Return images to try."""
        return [image.example for image in options.examples]

    @app.get("/api/examples/{number}", response_class=Response, responses={401: STATUSES[401], 404: STATUSES[404]})
    async def example(number: int) -> Response:
        """Return the file of an example."""
        if not 1 <= number <= len(options.examples):
            raise Refused(404, f"example is {number}; expected 1 to {len(options.examples)}")
        content = await asyncio.to_thread(options.examples[number - 1].read)
        return Response(content, media_type="application/octet-stream")

    @app.get("/healthz")
    async def healthz() -> answers.Health:
        """Return that the service answers; no token is needed."""
        return answers.Health("ok", len(models), __version__)


def _add_page(app: FastAPI) -> None:
    """Serve the files of the page, which are read once."""
    folder = resources.files("classifier.serving") / "page"
    files = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in PAGE.items()}

    def page(request: Request) -> Response:
        content, kind = files[request.url.path]
        return Response(content, media_type=kind)

    for path in PAGE:
        app.add_route(path, page, methods=["GET"], include_in_schema=False)


def _add_errors(app: FastAPI) -> None:
    """Answer every error with its status and one line. Nothing of an upload reaches the log."""

    @app.exception_handler(Refused)
    async def refused(_request: Request, error: Refused) -> Response:
        return _problem(error.status, error.line)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        lines = {404: "there is nothing here; the page is at / and the interface at /docs", 405: "use another method"}
        return _problem(error.status_code, lines.get(error.status_code, str(error.detail)))

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _problem(422, f"{first['loc'][-1]}: {first['msg']}")

    @app.exception_handler(ClientDisconnect)
    async def gone(_request: Request, _error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(BalancerError)
    async def failed(_request: Request, error: BalancerError) -> Response:
        log.warning("a request failed: %s", error)
        return _problem(500, str(error))

    @app.exception_handler(Exception)
    async def broken(_request: Request, error: Exception) -> Response:
        failure = _failure(error)
        return _problem(failure.status, failure.line)


def _problem(status: int, line: str) -> JSONResponse:
    return JSONResponse({"detail": " ".join(line.splitlines())}, status)
