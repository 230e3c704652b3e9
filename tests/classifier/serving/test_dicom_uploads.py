"""DICOM uploads: answered as `predict` answers, with nothing of the header in the answer or the log."""

import io
import json
import logging

import httpx
import numpy as np
import pytest
from dicoms import SECRETS, content, dicom
from PIL import Image

from balancer.data import dicom_files
from classifier.serving.limits import Limits
from classifier.serving.uploads import Refused, examine

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)


def upload(**elements: object) -> bytes:
    ds = dicom(PIXELS, **SECRETS, **elements)
    ds.StudyInstanceUID = "1.2.826.0.1.4711"
    return content(ds)


def test_an_upload_is_answered_as_the_same_picture_in_png(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    answers = [client.post("/api/predict", content=body) for body in (upload(), buffer.getvalue())]
    assert [a.status_code for a in answers] == [200, 200]
    of_dicom, of_png = (a.json() for a in answers)
    assert of_dicom["image"]["format"] == "DICOM"
    assert {**of_dicom, "image": 0} == {**of_png, "image": 0}
    for word in (*SECRETS.values(), "Mustermann", "4711", "1.2.826"):
        assert word not in json.dumps(of_dicom)
        assert word not in str(answers[0].headers)
        assert word not in caplog.text


def test_what_is_no_usable_upload_is_refused_in_one_line(client: httpx.Client) -> None:
    for body in (upload()[:-50], upload(NumberOfFrames=7), upload(Rows=9000, Columns=9000), upload(Rows=0)):
        answer = client.post("/api/predict", content=body)
        assert answer.status_code in (413, 422)
        assert not [value for value in SECRETS.values() if value in answer.text]
        assert "\\n" not in answer.text


def test_without_the_extra_the_answer_is_415(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_files, "can_read", lambda: False)
    answer = client.post("/api/predict", content=upload())
    assert answer.status_code == 415
    assert "DICOM" in answer.text


def test_the_limit_on_pixels_holds_before_any_is_read() -> None:
    with pytest.raises(Refused) as caught:
        examine(upload(), Limits(megapixels=0.001))
    assert caught.value.status == 413
