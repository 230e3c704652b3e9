"""A site's end of the connection, where what answers is no federation server."""

import http.server
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from balancer.core.errors import BalancerError
from balancer.core.loopback import listener
from classifier.federation import client
from classifier.federation.addresses import HostPort, SiteSecurity
from classifier.federation.client import Connection, connected
from classifier.federation.flower import order_record
from classifier.federation.messages import Agreement, Order

SERVER = HostPort("127.0.0.1", 8000)


def status(number: int) -> Exception:
    request = httpx.Request("POST", f"http://{SERVER}")
    return httpx.HTTPStatusError("refused", request=request, response=httpx.Response(number, request=request))


@pytest.mark.parametrize(("node", "words"), [(None, "--server"), (1, "join again")])
def test_a_server_that_has_gone_is_no_wrong_address(node: int | None, words: str) -> None:
    def answer(_: object) -> Any:
        raise httpx.ConnectError("Connection refused")

    connection = Connection(SimpleNamespace(PullMessages=answer), SERVER, node, patience=0.0)
    with pytest.raises(BalancerError, match=f"no federation server answers at 127.0.0.1:8000.*{words}"):
        connection.call("PullMessages", None)


@pytest.mark.parametrize(
    ("error", "option"),
    [
        (ValueError("Invalid protobuf response payload"), "--server"),  # of a web server that answers everything
        (status(404), "--server"),
        (status(500), "--server"),
        (status(401), "--site-key"),
        (status(412), "--site-key"),
    ],
)
def test_who_answers_and_how_decides_what_is_told(error: Exception, option: str) -> None:
    def answer(_: object) -> Any:
        raise error

    with pytest.raises(BalancerError, match=f"127.0.0.1:8000.*{option}") as refused:
        Connection(SimpleNamespace(RegisterNode=answer), SERVER).call("RegisterNode", None)
    assert ("--site-key" in str(refused.value)) == (option == "--site-key")
    assert ("killed, join again 20 s later" in str(refused.value)) == (option == "--site-key")


def test_signs_of_life_go_on_after_an_answer_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    over, sent = threading.Event(), list[object]()

    def answer(request: object) -> Any:
        sent.append(request)
        if len(sent) == 2:
            over.set()
        raise ValueError("Invalid protobuf response payload")

    monkeypatch.setattr(client, "HEARTBEAT", 0.002)
    Connection(SimpleNamespace(SendNodeHeartbeat=answer), SERVER).beat(over)
    assert len(sent) == 2


def test_a_site_that_has_joined_waits_for_a_server_whose_tls_breaks_off() -> None:
    def answer(_: object) -> Any:
        raise httpx.ConnectError("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol")

    broken = SimpleNamespace(PullMessages=answer)
    with pytest.raises(BalancerError, match="join again once it runs"):
        Connection(broken, SERVER, node=1, patience=0.0).call("PullMessages", None)
    with pytest.raises(BalancerError, match="--ca"):
        Connection(broken, SERVER, patience=0.0).call("PullMessages", None)


@pytest.fixture
def elsewhere() -> Iterator[Any]:
    """A port where nobody may come, and whoever came is kept waiting."""
    with listener("127.0.0.1", 0, "elsewhere") as bound:
        bound.listen()
        bound.setblocking(False)
        yield bound


def comes_to(elsewhere: Any) -> bool:
    try:
        elsewhere.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def test_no_proxy_carries_what_a_site_sends_to_its_own_machine(elsewhere: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is encrypted there, and the proxy of a hospital is another machine."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://{}:{}".format(*elsewhere.getsockname()))
    monkeypatch.setattr(client, "PATIENCE", 0.0)
    with listener("127.0.0.1", 0, "server") as server:  # it does not listen, so connections are refused
        address = HostPort(*server.getsockname())
        with pytest.raises(BalancerError, match="no federation server"), connected(address, SiteSecurity(), seconds=0):
            pass
    assert not comes_to(elsewhere)


def test_a_redirection_is_not_followed(elsewhere: Any) -> None:
    class Redirecting(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(307)
            self.send_header("location", "http://{}:{}/".format(*elsewhere.getsockname()))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Redirecting) as server:
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        address = HostPort("127.0.0.1", server.server_port)
        with pytest.raises(BalancerError, match="status 307"), connected(address, SiteSecurity(), seconds=0):
            pass
        thread.join(5)
    assert not comes_to(elsewhere)


def order_being_stored(missing: dict[str, int]) -> tuple[Any, Order]:
    """A server that shows an order before it has stored the parts; -1: the order was dropped meanwhile."""
    from flwr.app import Message
    from flwr.app.message import remove_content_from_message
    from flwr.common.serde import message_to_proto
    from flwr.proto.fleet_pb2 import PullMessagesResponse
    from flwr.proto.message_pb2 import PullObjectResponse
    from flwr.supercore.inflatable.inflatable_object import (
        get_all_nested_objects,
        get_object_tree,
        no_object_id_recompute,
    )

    from classifier.federation.flower import identify

    order = Order("join", Agreement(("ill", "well"), "recipe", "1", 1))
    message = Message(order_record(order), 7, "train")
    with no_object_id_recompute():
        identify(message)
        stored = {name: item.deflate() for name, item in get_all_nested_objects(message).items()}
        shown = PullMessagesResponse(
            messages_list=[message_to_proto(remove_content_from_message(message))],
            message_object_trees=[get_object_tree(message)],
        )

    def pull(request: Any) -> Any:
        if missing["times"] < 0:
            return PullObjectResponse(object_found=False, object_available=False)
        if missing["times"]:
            missing["times"] -= 1
            return PullObjectResponse(object_found=True, object_available=False)
        return PullObjectResponse(object_found=True, object_available=True, object_content=stored[request.object_id])

    confirmed = SimpleNamespace()
    return SimpleNamespace(
        PullMessages=lambda _: shown, PullObject=pull, ConfirmMessageReceived=lambda _: confirmed
    ), order


@pytest.mark.usefixtures("task")
def test_an_order_is_taken_once_all_of_it_is_stored() -> None:
    server, order = order_being_stored({"times": 2})
    taken = Connection(server, SERVER, node=_node()).next_order()
    assert taken is not None
    assert taken[1] == order


@pytest.mark.usefixtures("task")
def test_an_order_that_the_server_has_dropped_is_none() -> None:
    server, _ = order_being_stored({"times": -1})
    assert Connection(server, SERVER, node=_node()).next_order() is None


def _node() -> Any:
    from flwr.proto.node_pb2 import Node

    return Node(node_id=7)
