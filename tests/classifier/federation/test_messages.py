"""What may leave a site: a closed list of vectors and counts, held at the site itself."""

import numpy as np
import pytest

from balancer.core.errors import BalancerError
from classifier.federation.messages import ARRAYS, COUNTS, REFUSALS, Answer, checked

VECTOR = np.zeros(3, np.float32)


def test_listed_vectors_and_counts_may_leave() -> None:
    counts = {name.replace("<class>", "1"): 4 for name in COUNTS}
    answer = Answer(dict.fromkeys(ARRAYS, VECTOR), counts, max(REFUSALS))
    assert checked(answer) is answer


@pytest.mark.parametrize(
    "answer",
    [
        Answer(arrays={"images": VECTOR}),
        Answer(arrays={"parameters": np.zeros((4, 4), np.float32)}),  # a picture
        Answer(arrays={"parameters": np.zeros(3, np.uint8)}),  # pixels
        Answer(arrays={"parameters": np.array(["patient-7"])}),
        Answer(counts={"val_auroc": 1}),
        Answer(counts={"patients": 0.93}),
        Answer(counts={"patients": "patient-7"}),
        Answer(counts={"patients": True}),
        Answer(counts={"patients": -1}),
        Answer(counts={"images_of_class_NORMAL": 3}),
        Answer(counts={"patients_of_class_1": 3}),
        Answer(refusal=99),
    ],
)
def test_nothing_else_may_leave(answer: Answer) -> None:
    with pytest.raises(BalancerError, match="may leave a site"):
        checked(answer)
