"""A site's end of the connection: it takes orders from the server and pushes its answers, over Flower's Fleet API."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from balancer.core.errors import BalancerError
from classifier.federation import flower
from classifier.federation.addresses import HostPort, SiteSecurity, authority, private_key
from classifier.federation.messages import Answer, Order
from classifier.federation.site import Refused

log = logging.getLogger("balancer")
POLL = 0.05  # seconds between looks for an order, at first
SLOWEST_POLL = 0.3
HEARTBEAT = 10.0  # seconds that the server believes in a site without a sign of life; Flower doubles it
PATIENCE = 60.0  # seconds without the server after which a site gives up
OF_KEYS = (401, 403, 409, 412)  # statuses of HTTP by which Flower refuses a site


@dataclass
class Connection:
    """A site's connection to the server."""

    client: Any  # Flower's FleetHttpClient
    server: HostPort
    node: Any = None
    patience: float = PATIENCE

    def call(self, method: str, request: Any) -> Any:
        """Return the server's response; a server that does not answer is tried again for a while.

        Raises:
            BalancerError: the server is out of reach, or refuses.
        """
        import httpx

        end = time.monotonic() + self.patience
        while True:
            try:
                return getattr(self.client, method)(request)
            except httpx.HTTPStatusError as error:
                raise _refusal(error.response.status_code, self.server) from error
            except ValueError as error:  # no message of Flower's
                raise _stranger(self.server, "by no message of a federation") from error
            except httpx.TransportError as error:
                if self.node is None and _is_tls(error):  # a site that has joined knows the server
                    raise BalancerError(
                        f"the server at {self.server} is not who --ca says, or does not speak TLS ({error}); give --ca"
                        " the certificate of the authority that signed the server's"
                    ) from error
                if time.monotonic() > end:
                    remedy = "check --server, and that `classifier federate-serve` runs there"
                    if self.node is not None:
                        remedy = "it has ended, or the network has; see its log, and join again once it runs"
                    raise BalancerError(f"no federation server answers at {self.server} ({error}); {remedy}") from error
            time.sleep(min(1.0, self.patience / 10))

    def beat(self, over: threading.Event) -> None:
        """Show signs of life until the work is over."""
        import httpx
        from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest

        request = SendNodeHeartbeatRequest(node=self.node, heartbeat_interval=HEARTBEAT)
        while not over.wait(HEARTBEAT / 2):
            with contextlib.suppress(httpx.HTTPError, ValueError):  # as in call(), which says what is wrong
                self.client.SendNodeHeartbeat(request)

    def next_order(self) -> tuple[Any, Order] | None:
        """Return an order with the message that it came in; None if there is none, or the server has dropped it."""
        from flwr.common.serde import message_from_proto
        from flwr.proto.fleet_pb2 import PullMessagesRequest
        from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
        from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
        from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

        response = self.call("PullMessages", PullMessagesRequest(node=self.node))
        if not response.messages_list:
            return None
        metadata = message_from_proto(response.messages_list[0]).metadata
        place = {"node": self.node, "run_id": metadata.run_id}
        parts = [part.object_id for part in iterate_object_tree(response.message_object_trees[0])]
        contents = {part: self._content(PullObjectRequest(**place, object_id=part)) for part in parts}
        if None in contents.values():
            return None
        message = inflate_object_from_contents(metadata.message_id, contents)
        message.metadata.__dict__["_message_id"] = metadata.message_id
        self.call(
            "ConfirmMessageReceived", ConfirmMessageReceivedRequest(**place, message_object_id=metadata.message_id)
        )
        return message, flower.order_of(message.content)

    def _content(self, request: Any) -> bytes | None:
        """Return a part of an order; None if the server has dropped the order.

        A server shows an order before it has stored all parts of the order.
        """
        while not (response := self.call("PullObject", request)).object_available:
            if not response.object_found:
                return None
            time.sleep(POLL)
        content: bytes = response.object_content
        return content

    def send(self, message: Any, answer: Answer) -> None:
        """Send an answer to a message."""
        from flwr.app import Message
        from flwr.app.message import remove_content_from_message
        from flwr.common.serde import message_to_proto
        from flwr.proto.fleet_pb2 import PushMessagesRequest
        from flwr.proto.message_pb2 import PushObjectRequest
        from flwr.supercore.inflatable.inflatable_object import (
            get_all_nested_objects,
            get_object_tree,
            no_object_id_recompute,
        )

        reply = Message(flower.answer_record(answer), reply_to=message)
        with no_object_id_recompute():
            flower.identify(reply)
            proto = message_to_proto(remove_content_from_message(reply))
            response = self.call(
                "PushMessages",
                PushMessagesRequest(
                    node=self.node, messages_list=[proto], message_object_trees=[get_object_tree(reply)]
                ),
            )
            wanted = set(response.objects_to_push)
            for identity, item in get_all_nested_objects(reply).items():
                if identity in wanted:
                    request = PushObjectRequest(
                        node=self.node,
                        run_id=message.metadata.run_id,
                        session_id=response.session_id,
                        object_id=identity,
                        object_content=item.deflate(),
                    )
                    self.call("PushObject", request)


@contextlib.contextmanager
def connected(server: HostPort, security: SiteSecurity, key: Any = None, seconds: float = 10.0) -> Iterator[Connection]:
    """Join a server, and leave it at the end.

    Args:
        server: its address.
        security: keys and certificates; the connection is encrypted unless the server is on this machine.
        key: the private key of the site, in place of the one in ``security``.
        seconds: to wait for the server.

    Raises:
        BalancerError: the server is out of reach or does not know the site, or a key cannot be used.
    """
    flower.prepare()
    from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, RegisterNodeFleetRequest
    from flwr.proto.node_pb2 import Node
    from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
    from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    named = key is not None or security.key is not None
    if key is None:
        key = generate_key_pairs()[0] if security.key is None else private_key(security.key)
    public = public_key_to_bytes(key.public_key())
    interceptors = [
        RuntimeVersionHttpInterceptor(component_name="SuperNode"),
        NodeAuthHttpInterceptor(key, key.public_key()),
    ]
    tls = security.uses_tls(server)
    signer = None if security.authority is None else authority(security.authority)
    client = FleetHttpClient.from_server_address(str(server), not tls, signer, interceptors=interceptors)
    _keep_to(server, client)
    with client:
        connection = Connection(client, server, patience=seconds)
        if not named:
            connection.call("RegisterNode", RegisterNodeFleetRequest(public_key=public))
        joined = connection.call("ActivateNode", ActivateNodeRequest(public_key=public, heartbeat_interval=HEARTBEAT))
        connection.node, connection.patience = Node(node_id=joined.node_id), PATIENCE
        over = threading.Event()
        threading.Thread(target=connection.beat, args=(over,), daemon=True).start()
        try:
            yield connection
        finally:
            over.set()
            with contextlib.suppress(Exception):  # the server may be gone, and what ended the work is to be told
                client.DeactivateNode(DeactivateNodeRequest(node_id=joined.node_id))


def serve_orders(
    connection: Connection, answer: Callable[[Order], Answer], check_interrupt: Callable[[], None] = lambda: None
) -> None:
    """Take orders and answer them, until the server says that the work is over.

    Raises:
        Refused: the site refused an order; the server was told so.
        BalancerError: the server is gone.
    """
    pause = POLL
    while True:
        check_interrupt()
        taken = connection.next_order()
        if taken is None:
            time.sleep(pause)
            pause = min(pause * 1.5, SLOWEST_POLL)
            continue
        message, order = taken
        pause = POLL
        if order.kind == "end":
            connection.send(message, Answer())
            return
        try:
            made = answer(order)
        except Refused as refused:
            connection.send(message, Answer(refusal=refused.refusal))
            raise
        connection.send(message, made)


def _keep_to(server: HostPort, client: Any) -> None:
    """Let nothing take what a site sends to another machine: no redirection, and no proxy where nothing is encrypted.

    httpx asks the proxy of HTTP_PROXY for addresses of this machine too.
    """
    client._client.follow_redirects = False
    if server.is_loopback:
        client._client._mounts.clear()


def _is_tls(error: Exception) -> bool:
    return any(word in str(error).lower() for word in ("certificate", "ssl", "tls"))


def _stranger(server: HostPort, how: str) -> BalancerError:
    return BalancerError(
        f"what answers at {server} is no federation server of this version, or has failed ({how}); check --server, and"
        " see the log of `classifier federate-serve`"
    )


def _refusal(status: int, server: HostPort) -> BalancerError:
    if status not in OF_KEYS:
        return _stranger(server, f"status {status}")
    return BalancerError(
        f"the server at {server} refused this site (status {status}); give --site-key the private key whose public key"
        " the server was started with, and check that both clocks are right; if the server was restarted, join again;"
        f" if this site was killed, join again {2 * HEARTBEAT:g} s later"
    )
