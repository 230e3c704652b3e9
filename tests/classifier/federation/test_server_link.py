"""The server's end of the connections, without a network."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from balancer.core.errors import BalancerError
from classifier.federation import flower
from classifier.federation.messages import Agreement, Order
from classifier.federation.server import FlowerLink


def test_the_parts_of_an_answer_that_comes_too_late_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    state: Any = MagicMock()
    state.get_nodes.return_value = {7}
    reply = SimpleNamespace(
        has_error=lambda: False, metadata=SimpleNamespace(reply_to_message_id="order", message_id="answer")
    )
    state.get_message_res.side_effect = lambda orders, run: [reply] if "order" in orders else []
    link = FlowerLink(state, 1, ["north"], [7], seconds=0.05)
    monkeypatch.setattr(link, "_send", lambda site, order: "order")
    monkeypatch.setattr(link, "_receive", lambda reply: None)  # parts of it are on their way
    asked: Any = {0: None}
    assert link.exchange(asked) == {}
    assert [call.args[0] for call in state.object_store.delete.call_args_list] == ["order", "answer"]
    state.delete_messages.assert_called_once_with({"order"})


@pytest.mark.usefixtures("task")
def test_an_order_lives_longer_than_the_longest_round() -> None:
    """Flower drops messages after 12 hours, and a site that is still at work would count as lost."""
    state: Any = MagicMock()
    state.store_message_and_object_tree.return_value = True, []
    day = 24 * 3600.0
    FlowerLink(state, 1, ["north"], [7], seconds=day)._send(0, Order("join", Agreement(("a", "b"), "recipe", "1", 1)))
    assert state.store_message_and_object_tree.call_args.args[0].metadata.ttl > day


def test_bytes_that_are_no_message_are_one_line() -> None:
    """A site of another program may hold a key that is known here."""
    flower.prepare()  # before Flower is imported
    from flwr.proto.message_pb2 import ObjectTree

    state: Any = MagicMock()
    state.object_store.get_object_tree.return_value = ObjectTree(object_id="answer")
    state.object_store.get.return_value = b"no object of Flower"
    reply = SimpleNamespace(metadata=SimpleNamespace(message_id="answer"))
    with pytest.raises(BalancerError, match="a site sent what is no message"):
        FlowerLink(state, 1, ["north"], [7], seconds=1)._receive(reply)
