"""The server's end of the connections, without a network."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

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
