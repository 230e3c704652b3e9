"""What the service says: the same numbers as `classifier predict`, the heat map, what is near, who may ask."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from serving_helpers import CPU, Serve, checkpoint
from tiny import small_cnn

from balancer.core.errors import BalancerError, UsageError
from balancer.data.dataset import Dataset
from classifier.explain.heatmaps import explain
from classifier.explain.methods import METHODS
from classifier.inference import predict_files
from classifier.serving.app import Options
from classifier.serving.models import ServedModel, load_models, training_images
from classifier.training.checkpoint import load_classifier

TOKEN = "0123456789abcdef"


def pixels_of(url: str) -> np.ndarray:
    kind, _, content = url.partition(",")
    assert kind == "data:image/png;base64"
    return np.array(Image.open(io.BytesIO(base64.b64decode(content))))  # a copy, which can be written to


def test_the_numbers_are_those_of_predict(
    client: httpx.Client, model_file: Path, template: Path, small_data: Dataset
) -> None:
    files = sorted((template / "test").rglob("*.png"))[:6]
    expected = predict_files(model_file, files, None, "cpu")
    for file, row in zip(files, expected.predictions, strict=True):
        answer = client.post("/api/predict", content=file.read_bytes()).json()
        (prediction,) = answer["predictions"]
        normal, pneumonia = prediction["probabilities"]
        assert (normal["name"], pneumonia["name"]) == ("NORMAL", "PNEUMONIA")
        assert pneumonia["calibrated"] == pytest.approx(row.probability_pneumonia, abs=1e-6)
        assert normal["calibrated"] == pytest.approx(1 - pneumonia["calibrated"])
        odds = pneumonia["uncalibrated"] / normal["uncalibrated"]
        temperature = load_classifier(model_file, CPU).temperature
        assert odds ** (1 / temperature) == pytest.approx(pneumonia["calibrated"] / normal["calibrated"], rel=1e-6)
        assert (prediction["label"], prediction["threshold"]) == (row.label, expected.threshold)
        assert prediction["heat_map"] is None
        assert answer["pictures"] == {}
        assert answer["notice"].startswith("Research only")
        assert answer["image"] == {"format": "PNG", "width": 40, "height": 32}


@pytest.mark.parametrize("method", METHODS)
def test_the_heat_map_is_that_of_explain(
    method: str, client: httpx.Client, models: list[ServedModel], picture: bytes
) -> None:
    query = {"method": method, "class": "PNEUMONIA", "values": "true"}
    answer = client.post("/api/explain", params=query, content=picture).json()
    (prediction,) = answer["predictions"]
    seen = pixels_of(prediction["input_picture"])
    expected = explain(models[0].saved, seen[None], method, 1)
    assert prediction["heat_map"]["class_name"] == "PNEUMONIA"
    assert prediction["heat_map"]["layer"] == expected.layer
    assert np.allclose(prediction["heat_map"]["values"], expected.maps[0], atol=1e-4)
    overlay = pixels_of(prediction["heat_map"]["picture"])
    assert overlay.shape[0] == overlay.shape[1]
    assert overlay.shape[2] == 4
    shown = answer["pictures"]["squash"]
    assert shown["aspect_ratio"] == pytest.approx(40 / 32)
    assert pixels_of(shown["picture"]).shape == (40, 40)


def test_without_a_class_the_called_one_is_explained(client: httpx.Client, picture: bytes) -> None:
    (prediction,) = client.post("/api/explain", content=picture).json()["predictions"]
    assert prediction["heat_map"]["class_name"] == prediction["label"]
    assert prediction["heat_map"]["values"] is None


def test_unknown_names_are_refused(client: httpx.Client, picture: bytes) -> None:
    for query, status in (({"method": "lime"}, 422), ({"class": "CAT"}, 422), ({"model": "x"}, 404)):
        answer = client.post("/api/explain", params=query, content=picture)
        assert answer.status_code == status
        assert next(iter(query.values())) in answer.json()["detail"]
    for query in ("method", "class", "model"):
        answer = client.post("/api/explain", params={query: "x" * 5000}, content=picture)
        assert len(answer.text) < 400
    assert client.post("/api/explain", params={"values": "maybe"}, content=picture).status_code == 422
    assert client.get("/api/predict").status_code == 405
    assert client.get("/api/examples/99").status_code == 404
    assert client.get("/../../etc/passwd").status_code == 404


def test_deep_images_are_read_in_the_range_of_the_training(small_data: Dataset, tmp_path: Path, serve: Serve) -> None:
    (model,) = load_models(
        [checkpoint(tmp_path / "m", replace(small_data, ranges={"integer": 4095.0}), small_cnn())], CPU
    )
    rng = np.random.default_rng(0)

    def tiff(most: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(most // 2, most, (30, 30)).astype(np.uint16)).save(buffer, "TIFF")
        return buffer.getvalue()

    with serve(Options(), [model]) as client:
        for most, words in ((4000, ""), (60_000, "white"), (100, "nearly black")):
            (prediction,) = client.post("/api/explain", content=tiff(most)).json()["predictions"]
            assert words in " ".join(prediction["notes"])
            assert bool(prediction["notes"]) == bool(words)
            expected = min(255, 255 * 0.75 * most / 4095)
            assert pixels_of(prediction["input_picture"]).mean() == pytest.approx(expected, abs=12)


# ---------------------------------------------------------------- the training data


def test_neighbours_are_labels_alone(client: httpx.Client, picture: bytes) -> None:
    familiarity = client.post("/api/predict", content=picture).json()["predictions"][0]["familiarity"]
    assert len(familiarity["neighbours"]) == 5
    assert {n["picture"] for n in familiarity["neighbours"]} == {None}
    away = [n["distance"] for n in familiarity["neighbours"]]
    assert away == sorted(away)


def test_training_images_are_shown_on_demand(
    models: list[ServedModel], template: Path, small_data: Dataset, serve: Serve
) -> None:
    position = int(small_data.indices("train")[5])
    record = small_data.records[position]
    training = training_images(models, str(template))
    with serve(Options(training=training)) as open_client:
        assert open_client.get("/api/service").json()["shows_training_images"]
        answer = open_client.post("/api/predict", content=(template / record.name).read_bytes()).json()
    nearest = answer["predictions"][0]["familiarity"]["neighbours"][0]
    assert nearest["distance"] < 0.01, "a training image is its own neighbour"
    assert nearest["label"] == small_data.classes[record.label]
    assert np.array_equal(pixels_of(nearest["picture"]), small_data.images[position])


def test_other_data_are_not_shown(models: list[ServedModel], chest_folder: Path) -> None:
    next((chest_folder / "train" / "NORMAL").iterdir()).unlink()
    with pytest.raises(BalancerError, match="--show-training"):
        training_images(models, str(chest_folder))


def test_an_older_model_says_that_it_cannot_tell(
    model_file: Path, tmp_path: Path, serve: Serve, picture: bytes
) -> None:
    content = torch.load(model_file, weights_only=True)
    del content["reference"]
    torch.save(content, tmp_path / "model.pt")
    with serve(Options(), load_models([tmp_path], CPU)) as client:
        assert not client.get("/api/service").json()["models"][0]["knows_training_data"]
        assert client.post("/api/predict", content=picture).json()["predictions"][0]["familiarity"] is None


# ---------------------------------------------------------------- several models


def test_several_models_stand_side_by_side(
    small_data: Dataset, model_file: Path, tmp_path: Path, serve: Serve, picture: bytes
) -> None:
    other = checkpoint(tmp_path / "augment", small_data, small_cnn(), "augment")
    models = load_models([model_file, other, model_file], CPU)
    with serve(Options(), models) as client:
        names = [m["name"] for m in client.get("/api/service").json()["models"]]
        assert names == ["baseline", "augment", "baseline, seed 0"]
        answer = client.post("/api/explain", content=picture).json()
        assert [p["model"] for p in answer["predictions"]] == names
        (one,) = client.post("/api/predict", params={"model": "augment"}, content=picture).json()["predictions"]
        assert one["probabilities"] == answer["predictions"][1]["probabilities"]


def test_models_of_other_classes_are_refused(small_data: Dataset, model_file: Path, tmp_path: Path) -> None:
    config = small_cnn(data={"image_size": 16, "task": "multiclass"})
    labels = np.where(small_data.labels == 1, 1 + np.arange(len(small_data.labels)) % 2, 0)
    data = replace(small_data, labels=labels, classes=("NORMAL", "BACTERIAL", "VIRAL"))
    other = checkpoint(tmp_path / "three", data, config)
    (three,) = load_models([other], CPU)
    assert three.facts.threshold is None
    with pytest.raises(UsageError, match="apart"):
        load_models([model_file, other], CPU)


def test_three_classes(small_data: Dataset, tmp_path: Path, serve: Serve, picture: bytes) -> None:
    labels = np.where(small_data.labels == 1, 1 + np.arange(len(small_data.labels)) % 2, 0)
    data = replace(small_data, labels=labels, classes=("NORMAL", "BACTERIAL", "VIRAL"))
    file = checkpoint(tmp_path / "three", data, small_cnn(data={"image_size": 16, "task": "multiclass"}))
    with serve(Options(), load_models([file], CPU)) as client:
        (prediction,) = client.post("/api/explain", params={"class": "VIRAL"}, content=picture).json()["predictions"]
    shares = [p["calibrated"] for p in prediction["probabilities"]]
    assert sum(shares) == pytest.approx(1)
    assert prediction["label"] == ("NORMAL", "BACTERIAL", "VIRAL")[int(np.argmax(shares))]
    assert prediction["threshold"] is None
    assert prediction["heat_map"]["class_name"] == "VIRAL"


# ---------------------------------------------------------------- who may ask, and what leaves the service


def test_a_token_is_asked_for(serve: Serve, picture: bytes) -> None:
    with serve(Options(token=TOKEN)) as client:
        assert client.get("/").status_code == 200
        assert client.get("/healthz").status_code == 200
        assert client.get("/api/service", params={"token": TOKEN}).status_code == 401, "an address stays in histories"
        for sent in ("", "Bearer wrong", f"Bearer {TOKEN}x", TOKEN[:-1]):
            headers = {"authorization": sent} if sent else {}
            for answer in (
                client.get("/api/service", headers=headers),
                client.get("/api/examples", headers=headers),
                client.post("/api/predict", content=picture, headers=headers),
            ):
                assert answer.status_code == 401, sent
        headers = {"authorization": f"Bearer {TOKEN}"}
        assert client.post("/api/predict", content=picture, headers=headers).status_code == 200


def test_another_name_for_this_machine_is_refused(client: httpx.Client, serve: Serve) -> None:
    """A site whose name is made to point at 127.0.0.1 reads nothing."""
    for host, status in (
        ("evil.example", 403),
        ("evil.example:80", 403),
        ("", 403),
        ("localhost:1", 200),
        ("[::1]", 200),
    ):
        assert client.get("/api/service", headers={"host": host}).status_code == status, host
    assert client.get("/api/service", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    for site, origin, status in (
        ("same-site", None, 403),  # another port of this machine
        ("same-origin", None, 200),
        ("none", None, 200),
        (None, "http://evil.example", 403),  # as old browsers say it
        (None, "http://127.0.0.1:1", 403),
        (None, "null", 403),
        (None, str(client.base_url).rstrip("/"), 200),
    ):
        headers = {"sec-fetch-site": site, "origin": origin}
        sent = {name: value for name, value in headers.items() if value is not None}
        assert client.get("/api/service", headers=sent).status_code == status, sent
    with serve(Options(token=TOKEN, loopback_only=False)) as reachable:
        headers = {"host": "lab.example", "authorization": f"Bearer {TOKEN}", "origin": "https://proxy.example"}
        assert reachable.get("/api/service", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs", "/page.js", "/page.css", "/docs.js", "/icon.svg"])
def test_the_page_uses_nothing_from_outside(path: str, client: httpx.Client) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert "://" not in answer.text.replace("http://www.w3.org/2000/svg", ""), "an address of another host"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"


def test_the_interface_is_described(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    assert {"/api/predict", "/api/explain", "/api/service", "/api/examples", "/healthz"} <= set(described["paths"])
    explained = described["paths"]["/api/explain"]["post"]
    assert {"200", "401", "413", "415", "422"} <= set(explained["responses"])
    assert "multipart/form-data" in explained["requestBody"]["content"]
    assert {p["name"] for p in explained["parameters"]} == {"model", "method", "class", "values"}
    json.dumps(described)


def test_examples_are_drawings(client: httpx.Client) -> None:
    examples = client.get("/api/examples").json()
    assert [e["label"] for e in examples] == ["drawing, NORMAL"] * 3 + ["drawing, PNEUMONIA"] * 3
    content = client.get("/api/examples/4").content
    answer = client.post("/api/explain", content=content)
    assert answer.status_code == 200
    assert answer.json()["image"]["width"] == 192


def test_the_model_card_is_told(client: httpx.Client, model_file: Path) -> None:
    from classifier.report.model_card import about

    document = about(model_file)
    card = client.get("/api/card", params={"model": "baseline"}).json()
    assert card["title"] == document.title
    assert [part["title"] for part in card["sections"]] == [part.title for part in document.sections]
    assert document.verdict in card["sentences"]
    assert client.get("/api/card", params={"model": "x"}).status_code == 404
    assert client.get("/api/card").status_code == 422
