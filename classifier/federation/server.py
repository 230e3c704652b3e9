"""The server's end of the connections: the part of Flower's SuperLink that talks to sites, in this process.

Flower's own programs would also take a program from whoever starts a run, send it to every site and run it there. Here
the server has no such door, and sites run the code that is installed at them. What is left is Flower's Fleet API:
HTTPS, signed requests, heartbeats, and messages of records.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from balancer.core.errors import BalancerError, Interrupted, UsageError
from balancer.core.loopback import listener
from classifier.federation import flower
from classifier.federation.addresses import HostPort, ServerSecurity, public_keys
from classifier.federation.messages import Answer, Order

GRACE = 3600.0  # seconds beyond the longest round for which Flower keeps a message; its own limit is 12 hours in all
POLL = 0.02  # seconds between looks at the answers
PULSE = 5.0  # seconds between signs of life of the run, which Flower ends without them
LARGEST_REQUEST = 64 * 2**20  # bytes; Flower sends vectors in parts of 5 MiB


@dataclass
class FlowerLink:
    """Sites that are connected by Flower; numbered in the order of their keys, else as they came."""

    state: Any  # Flower's LinkState
    run: int
    names: list[str]  # of the sites whose keys are known
    nodes: list[int]  # Flower's number of each site
    seconds: float  # to wait for an answer
    interrupt: Callable[[], int | None] = lambda: None
    gone: Callable[[], Sequence[int]] = lambda: ()  # sites that are known to have ended
    received: int = field(default=0)  # bytes of the answers
    open_to_all: bool = False

    def online(self) -> list[int]:
        """Return the numbers of the sites that have shown a sign of life in the last seconds."""
        for site in self.gone():
            self.state.deactivate_node(self.nodes[site])
        there = self.state.get_nodes(self.run)
        if self.open_to_all:
            self.nodes += sorted(there - set(self.nodes))
        return [site for site, node in enumerate(self.nodes) if node in there]

    def name(self, site: int) -> str:
        """Return what messages call a site."""
        return self.names[site] if site < len(self.names) else f"site {site}"

    def wait_for(self, sites: int, seconds: float) -> None:
        """Wait until so many sites have joined.

        Raises:
            BalancerError: fewer have joined in so many seconds.
            Interrupted: a signal came.
        """
        end = time.monotonic() + seconds
        while len(there := self.online()) < sites:
            self._check_interrupt()
            if time.monotonic() > end or len(self.gone()) > max(0, len(self.nodes) - sites):
                raise BalancerError(
                    f"{len(there)} of {sites} sites joined within {seconds:g} s; start the others with `classifier"
                    " federate-join`, and see their logs"
                )
            time.sleep(POLL)

    def exchange(self, orders: Mapping[int, Order]) -> dict[int, Answer]:
        """Send each site its order, and return the answers; a site that is gone, or too slow, has none.

        Raises:
            BalancerError: an answer holds something that is no weight and no count.
            Interrupted: a signal came.
        """
        waiting = {self._send(site, order): site for site, order in orders.items()}
        answers, arriving, end = dict[int, Answer](), dict[str, Any](), time.monotonic() + self.seconds
        while waiting and time.monotonic() < end:
            self._check_interrupt()
            there = self.online()
            for reply in self.state.get_message_res(set(waiting) - set(arriving), self.run):
                order_id = reply.metadata.reply_to_message_id
                if reply.has_error():
                    self._forget(order_id)
                    del waiting[order_id]
                else:
                    arriving[order_id] = reply
            for order_id, reply in list(arriving.items()):
                answer = self._receive(reply)
                if answer is not None:
                    answers[waiting[order_id]] = answer
                if answer is not None or waiting[order_id] not in there:
                    self._forget(order_id, reply.metadata.message_id)
                    del waiting[order_id], arriving[order_id]
            time.sleep(POLL)
        for order_id in waiting:
            parts = [arriving[order_id].metadata.message_id] if order_id in arriving else []
            self._forget(order_id, *parts)
        return answers

    def _check_interrupt(self) -> None:
        if (signum := self.interrupt()) is not None:
            raise Interrupted(signum, "stopped")

    def _send(self, site: int, order: Order) -> str:
        """Put an order where the site will take it; return its identity."""
        from flwr.app import Message
        from flwr.app.message import remove_content_from_message
        from flwr.supercore.inflatable.inflatable_object import (
            get_all_nested_objects,
            get_object_tree,
            no_object_id_recompute,
        )

        lifetime = self.seconds + GRACE
        message = Message(flower.order_record(order), self.nodes[site], "train", ttl=lifetime, group_id=order.trial)
        with no_object_id_recompute():
            flower.identify(message)
            session = self.state.start_session(self.run)
            _, missing = self.state.store_message_and_object_tree(
                remove_content_from_message(message), get_object_tree(message), session
            )
            for identity, item in get_all_nested_objects(message).items():
                if identity in missing:
                    self.state.store_object(self.run, session, identity, item.deflate())
        return str(message.metadata.message_id)

    def _receive(self, reply: Any) -> Answer | None:
        """Return the answer that has arrived, or None while parts of it are on their way.

        Raises:
            BalancerError: it is no answer.
        """
        from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
        from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

        store, identity = self.state.object_store, reply.metadata.message_id
        tree = store.get_object_tree(identity)
        contents = {part.object_id: store.get(part.object_id) for part in iterate_object_tree(tree)}
        if not all(contents.values()):
            return None
        self.received += sum(map(len, contents.values()))
        try:
            message = inflate_object_from_contents(identity, contents)
        except Exception as error:  # whatever Flower makes of bytes that another program sent
            raise BalancerError(f"a site sent what is no message ({error}); check that it runs this version") from error
        return flower.answer_of(message.content)

    def _forget(self, *identities: str) -> None:
        for identity in identities:
            self.state.object_store.delete(identity)
        self.state.delete_messages({identities[0]})


@contextlib.contextmanager
def listening(
    address: HostPort, security: ServerSecurity, sites: Mapping[str, bytes] | None, seconds: float
) -> Iterator[tuple[HostPort, FlowerLink]]:
    """Listen for sites; yield the address, with the port that was taken, and the link.

    Args:
        address: port 0 takes a free one.
        security: certificate of the server.
        sites: the public key (PEM) of each site that may join, by its name; None: whoever reaches the address.
        seconds: to wait for an answer of a site.

    Raises:
        BalancerError: a certificate cannot be used, or the port is taken.
    """
    flower.prepare()
    from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID
    from flwr.server.superlink.linkstate import LinkStateFactory
    from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID, TaskType
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.superlink.federation import NoOpFederationManager

    store = ObjectStoreFactory(FLWR_IN_MEMORY_DB_NAME)
    factory = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), store)
    state = factory.state()
    run = state.create_run("", "", "", {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP)
    task = state.get_run_info(run_ids=[run])[0].primary_task_id
    state.claim_task(task)
    state.activate_task(task)
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run, task, SUPERLINK_NODE_ID
    known = sites or {}
    nodes = [state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 0) for key in known.values()]
    link = FlowerLink(state, run, list(known), nodes, seconds, open_to_all=sites is None)
    over = threading.Event()

    def pulse() -> None:
        while not over.wait(PULSE):
            state.acknowledge_task_heartbeat(task)

    threading.Thread(target=pulse, daemon=True).start()
    try:
        with _served(factory, address, security, sites is not None) as bound:
            yield bound, link
    finally:
        over.set()


def site_keys(security: ServerSecurity) -> dict[str, bytes] | None:
    """Return the public key of each site that may join by the name of its file; None if any site may.

    Raises:
        BalancerError: a file holds no key, or two hold one.
        UsageError: two files have one name.
    """
    if not security.site_keys:
        return None
    keys = public_keys(security.site_keys)
    named: dict[str, bytes] = {}
    for path, key in zip(security.site_keys, keys, strict=True):
        name = path.name.removesuffix(".pub").removesuffix(".key")
        if name in named:
            raise UsageError(
                f"two files of --site-key are called {path.name}, and the log would call both sites {name!r}; name each"
                " file after its site, such as north.key.pub"
            )
        named[name] = key
    return named


@contextlib.contextmanager
def _served(factory: Any, address: HostPort, security: ServerSecurity, named_sites: bool) -> Iterator[HostPort]:
    """Serve Flower's Fleet API, and nothing else, in a thread."""
    import uvicorn

    security.check_files()
    config = uvicorn.Config(
        _limited(_fleet_api(factory, named_sites)),
        log_config=None,
        log_level="error",
        access_log=False,
        lifespan="off",
        loop="asyncio",
        http="h11",
        ws="none",
        ssl_certfile=security.certificate,
        ssl_keyfile=security.key,
        timeout_graceful_shutdown=1,
    )
    config.load()
    with listener(address.host, address.port, "--address") as bound:
        bound.listen()
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(POLL)
        try:
            yield HostPort(address.host, bound.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(5)


def _fleet_api(factory: Any, named_sites: bool) -> Any:
    from fastapi import FastAPI
    from flwr.supercore.error import http_error_translator
    from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
    from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
    from flwr.superlink.routers.fleet.router import router
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware

    middleware = [
        Middleware(BaseHTTPMiddleware, dispatch=http_error_translator),
        Middleware(ProtobufTranslationMiddleware),
        Middleware(NodeAuthMiddleware),
    ]
    app = FastAPI(middleware=middleware, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.linkstate_factory = factory
    app.state.enable_supernode_auth = named_sites
    app.include_router(router)
    return app


def _limited(app: Any) -> Any:
    """Return an ASGI application that refuses requests without a length, or with more bytes than Flower sends."""

    async def limited(scope: Any, receive: Any, send: Any) -> None:
        length = dict(scope.get("headers", ())).get(b"content-length", b"")
        if scope["type"] == "http" and not (length.isdigit() and int(length) <= LARGEST_REQUEST):
            await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        await app(scope, receive, send)

    return limited
