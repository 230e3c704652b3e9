"""What both ends of a connection need of Flower: no call home, quiet logs, and messages from and to its records."""

from __future__ import annotations

import logging
import os
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from balancer.core.errors import BalancerError
from balancer.core.extras import install
from classifier.federation.messages import Agreement, Answer, Order, checked

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict

# Flower reads these when it is imported. Nothing is told to its makers, and nothing is written to the home folder.
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_LOG_LEVEL": "ERROR"}
WEIGHTS, FACTS, COUNTS = "weights", "facts", "counts"  # names of the records of a message
REFUSAL = "refusal"


def prepare() -> None:
    """Import Flower, silenced.

    Raises:
        BalancerError: Flower is not installed.
    """
    os.environ.update(QUIET)
    try:
        import flwr  # noqa: F401
    except ImportError as error:
        raise BalancerError(f"a federation needs Flower; run {install('federated')}") from error
    for name in ("flwr", "flwr-telemetry"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [logging.NullHandler()], False
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every request otherwise


def order_record(order: Order) -> RecordDict:
    """Return an order as the content of a message."""
    from flwr.app import ConfigRecord, RecordDict

    plain = {f.name: getattr(order, f.name) for f in fields(Order) if f.name not in ("agreement", "arrays")}
    agreed = {**vars(order.agreement), "classes": list(order.agreement.classes)}
    return RecordDict({WEIGHTS: _arrays(order.arrays), FACTS: ConfigRecord({**plain, **agreed})})


def order_of(record: RecordDict) -> Order:
    """Return the order that the content of a message holds."""
    facts: dict[str, Any] = dict(record.config_records[FACTS])
    agreed = {f.name: facts.pop(f.name) for f in fields(Agreement)}
    agreement = Agreement(**{**agreed, "classes": tuple(agreed["classes"])})
    return Order(**facts, agreement=agreement, arrays=_vectors(record))


def answer_record(answer: Answer) -> RecordDict:
    """Return an answer as the content of a message.

    Raises:
        BalancerError: it holds something that may not leave the site.
    """
    from flwr.app import MetricRecord, RecordDict

    checked(answer)
    counts = MetricRecord({**answer.counts, REFUSAL: answer.refusal})
    return RecordDict({WEIGHTS: _arrays(answer.arrays), COUNTS: counts})


def answer_of(record: RecordDict) -> Answer:
    """Return the answer that the content of a message holds; it is checked here too, since others wrote it.

    Raises:
        BalancerError: it is no answer, or holds something that is no weight and no count.
    """
    try:
        counts = dict(record.metric_records[COUNTS])
        answer = Answer(_vectors(record), counts, counts.pop(REFUSAL))
    except (KeyError, TypeError, ValueError) as error:  # of Flower and of numpy, which never unpickles
        raise BalancerError(f"a site sent what is no answer ({error}); check that it runs this version") from error
    return checked(answer)


def _arrays(arrays: dict[str, Any]) -> Any:
    from flwr.app import Array, ArrayRecord

    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def _vectors(record: RecordDict) -> dict[str, Any]:
    return {name: array.numpy() for name, array in record.array_records[WEIGHTS].items()}


def identify(message: Message) -> None:
    """Give a message the identity that Flower's stores know it by: the hash of its content."""
    message.metadata.__dict__["_message_id"] = message.object_id
