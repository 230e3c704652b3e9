"""A site's end of the connection, where what answers is no federation server."""

import threading
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from balancer.core.errors import BalancerError
from classifier.federation import client
from classifier.federation.addresses import HostPort
from classifier.federation.client import Connection

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
