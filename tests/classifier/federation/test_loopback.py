"""Flower on loopback: what travels, who may join, TLS, and what a site and a server say of each other."""

import datetime
import ipaddress
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from tiny import CPU

from balancer.core.errors import BalancerError
from balancer.core.settings import DataConfig, TrainConfig
from balancer.data.dataset import Dataset
from classifier.federation.addresses import HostPort, ServerSecurity, SiteSecurity
from classifier.federation.algorithms import ALGORITHMS
from classifier.federation.coordinator import Federation, Outcome, Plan
from classifier.federation.messages import ARRAYS, COUNTS
from classifier.federation.partition import by_dirichlet
from classifier.federation.site import Site, agreement_of

pytestmark = [pytest.mark.nightly, pytest.mark.usefixtures("fewer_statistics")]
USUAL: dict[str, Any] = {"data": DataConfig(image_size=16), "steps": 4, "batch_size": 8, "evaluations": 1}
LOOPBACK = HostPort("127.0.0.1", 0)
OPEN, NO_KEY = ServerSecurity(), SiteSecurity()  # whoever reaches the server may join
PATIENCE = 20.0  # seconds after which a test gives up
HEAD = "head"
# What a request tells beside its body: the server's own address, lengths and kinds, Flower's and httpx's version, the
# public key, the time and its signature.
HEADERS = {"host", "content-type", "content-length", "accept", "accept-encoding", "connection", "user-agent"}
HEADERS |= {f"flwr-{name}" for name in ("component-name", "package-name", "package-version")}
HEADERS |= {f"flwr-{name}" for name in ("public-key", "timestamp", "signature")}


def halves(data: Dataset) -> list[Dataset]:
    partition = by_dirichlet(data, 2, 50.0)
    return [partition.data_of(data, site) for site in range(2)]


@dataclass
class SiteThread:
    """A site that takes orders in a thread, and how it ended."""

    site: Site
    error: Exception | None = None
    thread: threading.Thread | None = field(default=None)

    def start(self, server: HostPort, security: SiteSecurity, key: Any, seconds: float) -> None:
        from classifier.federation.client import connected, serve_orders

        def work() -> None:
            try:
                with connected(server, security, key, seconds) as connection:
                    serve_orders(connection, self.site.answer)
            except Exception as error:
                self.error = error

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    def wait(self) -> Exception | None:
        assert self.thread is not None
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        return self.error


def a_key() -> Any:
    return ec.generate_private_key(ec.SECP384R1())


def pem(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def run(
    config: TrainConfig,
    sites: list[Dataset],
    classes: tuple[str, ...] | None = None,
    security: ServerSecurity = OPEN,
    site_security: SiteSecurity = NO_KEY,
    known: bool = False,
    configs: list[TrainConfig] | None = None,
) -> tuple[Outcome | BalancerError, list[SiteThread]]:
    """A whole training, or the error that ended it at the server, and the sites."""
    from classifier.federation.server import listening

    keys = [a_key() for _ in sites] if known else [None for _ in sites]
    names = {f"hospital-{k}": pem(key) for k, key in enumerate(keys)} if known else None
    threads = [SiteThread(Site(c, d, CPU)) for c, d in zip(configs or [config] * len(sites), sites, strict=True)]
    with listening(LOOPBACK, security, names, PATIENCE) as (address, link):
        for thread, key in zip(threads, keys, strict=True):
            thread.start(address, site_security, key, PATIENCE)
        link.wait_for(len(sites), PATIENCE)
        federation = Federation(config, agreement_of(config, classes or sites[0].classes, 1), link)
        try:
            federation.join()
            outcome: Outcome | BalancerError = federation.train(Plan(ALGORITHMS["fedavg"], 0, 2, 0.0), config.steps)
            federation.end()
        except BalancerError as error:
            outcome = error
    return outcome, threads


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bytes]]:
    """The path and the body of every request that reaches the server, and its head under ``HEAD``."""
    from classifier.federation import server

    seen: list[tuple[str, bytes]] = []
    limited: Callable[[Any], Any] = server._limited

    def recording(app: Any) -> Any:
        async def record(scope: Any, receive: Any, send: Any) -> None:
            parts: list[bytes] = []

            async def received() -> Any:
                message = await receive()
                parts.append(message.get("body", b""))
                return message

            await app(scope, received, send)
            seen.append((scope.get("path", ""), b"".join(parts)))
            seen.append((HEAD, b"\n".join(b": ".join(line) for line in scope["headers"])))

        return limited(record)

    monkeypatch.setattr(server, "_limited", recording)
    return seen


def test_nothing_but_weights_and_counts_leaves_a_site(
    data: Dataset, bodies: list[tuple[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All bytes that two sites sent in a training, read back: listed vectors and counts, and nothing of an image."""
    from flwr.proto.message_pb2 import PushObjectRequest

    monkeypatch.setenv("HOME", str(tmp_path))
    outcome, threads = run(TrainConfig(**USUAL), halves(data))
    assert isinstance(outcome, Outcome), outcome
    assert [t.wait() for t in threads] == [None, None]
    assert outcome.model is not None
    paths = {path for path, _ in bodies} - {HEAD}
    kinds = "register-node activate-node pull-messages pull-object confirm-message-received push-messages push-object"
    assert paths <= {f"/v1/fleet/{kind}" for kind in [*kinds.split(), "deactivate-node", "send-node-heartbeat"]}

    heads = [line for path, head in bodies if path == HEAD for line in head.decode("ascii").splitlines()]
    assert {line.partition(":")[0] for line in heads} <= HEADERS

    pushed = [PushObjectRequest.FromString(body) for path, body in bodies if path.endswith("push-object")]
    assert pushed
    vectors = sorted(_chunk(p.object_content) for p in pushed if p.object_content.startswith(b"ArrayChunk"))
    parameters = sum(p.numel() for p in outcome.model.parameters())
    channels = sum(m.num_features for m in outcome.model.modules() if hasattr(m, "running_mean"))
    header = 128  # of numpy's file format
    assert set(vectors) <= {header + 4 * parameters, header + 4 * channels}
    assert {k for p in pushed for k in _keys(p.object_content)} <= _listed(len(data.classes))

    everything = b"".join(body for _, body in bodies)
    for i in np.flatnonzero(np.isin(data.folds, ["train", "val"])):
        pixels = data.images[i]
        assert pixels[:2].tobytes() not in everything
        assert data.digests[i].encode() not in everything
    for secret in (*data.classes, data.source, data.records[0].name, data.split_hash, data.fingerprint):
        assert secret.encode() not in everything, secret
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]  # nothing was written to the home folder


def _chunk(content: bytes) -> int:
    """The bytes of an array's part."""
    return len(content.split(b"\x00", 1)[1])


def _keys(content: bytes) -> set[str]:
    """The names of what a record of counts or vectors holds."""
    from flwr.app import MetricRecord

    if content.startswith(b"MetricRecord"):
        return set(MetricRecord.inflate(content).keys())
    if content.startswith(b"ArrayRecord"):
        return set(json.loads(content.split(b"\x00", 1)[1]))
    return set()


def _listed(classes: int) -> set[str]:
    counts = {name.replace("<class>", str(k)) for name in COUNTS for k in range(classes)}
    return counts | set(ARRAYS) | {"refusal"}


def test_the_result_is_that_of_sites_without_a_network(data: Dataset) -> None:
    from local_sites import LocalLink

    config = TrainConfig(**USUAL)
    outcome, threads = run(config, halves(data)[:1], known=True)
    assert [t.wait() for t in threads] == [None]
    link = LocalLink([Site(config, halves(data)[0], CPU)])
    expected = Federation(config, agreement_of(config, data.classes, 1), link).train(
        Plan(ALGORITHMS["fedavg"], 0, 2, 0.0), config.steps
    )
    assert isinstance(outcome, Outcome)
    assert outcome.model is not None
    assert expected.model is not None
    for name, value in expected.model.state_dict().items():
        assert value.equal(outcome.model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("classes", "change", "site_says", "server_says"),
    [
        (("healthy", "ill"), {}, "classes is NORMAL, PNEUMONIA here, healthy, ill at the server", "its class names"),
        (None, {"lr": 0.5}, "recipe", "settings of the training"),
    ],
)
def test_a_site_that_differs_is_refused(
    data: Dataset, classes: tuple[str, ...] | None, change: dict[str, Any], site_says: str, server_says: str
) -> None:
    config = TrainConfig(**USUAL)
    configs = [config, TrainConfig(**{**USUAL, **change})]
    outcome, threads = run(config, halves(data), classes, known=True, configs=configs)
    assert isinstance(outcome, BalancerError)
    assert server_says in str(outcome)
    assert "hospital-1" in str(outcome) or classes
    assert site_says in str(threads[1].wait())


def certified(folder: Path, name: str) -> ServerSecurity:
    """A certificate for 127.0.0.1 that signs itself, so that it is its own authority."""
    key, now = a_key(), datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / f"{name}.pem", folder / f"{name}.key"
    files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return ServerSecurity(*files)


def test_tls_knows_the_server_by_its_certificate(data: Dataset, tmp_path: Path) -> None:
    security = certified(tmp_path, "right")
    site = SiteSecurity(authority=security.certificate)
    outcome, threads = run(TrainConfig(**USUAL), halves(data)[:1], None, security, site, known=True)
    assert isinstance(outcome, Outcome)
    assert threads[0].wait() is None


def test_another_servers_certificate_is_refused(data: Dataset, tmp_path: Path) -> None:
    from classifier.federation.client import connected
    from classifier.federation.server import listening

    right, wrong = certified(tmp_path, "right"), certified(tmp_path, "wrong")
    with listening(LOOPBACK, right, None, 5) as (address, _):
        begin, stranger = time.monotonic(), SiteSecurity(authority=wrong.certificate)
        with pytest.raises(BalancerError, match="--ca"), connected(address, stranger, seconds=PATIENCE):
            pass
        assert time.monotonic() - begin < PATIENCE / 2  # no use in trying again
        with pytest.raises(BalancerError, match=f"{address.port}"), connected(address, SiteSecurity(), seconds=1):
            pass  # plain HTTP to a server with TLS


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    from classifier.federation.client import connected

    wrong = tmp_path / "wrong.pem"
    for content in (b"no certificate", b"\xff\xfe"):
        wrong.write_bytes(content)
        with (
            pytest.raises(BalancerError, match=r"--ca .*wrong\.pem cannot be used"),
            connected(HostPort("127.0.0.1", 9), SiteSecurity(authority=wrong), seconds=1),
        ):
            pass


def test_a_stranger_is_refused(data: Dataset) -> None:
    from classifier.federation.client import connected
    from classifier.federation.server import listening

    with listening(LOOPBACK, ServerSecurity(), {"hospital": pem(a_key())}, 5) as (address, link):
        for key in (a_key(), None):  # a key that the server does not know; and a site that brings none
            with pytest.raises(BalancerError, match="--site-key"), connected(address, SiteSecurity(), key, seconds=2):
                pass
        assert link.online() == []


def test_a_server_out_of_reach_is_named() -> None:
    from classifier.federation.client import connected

    with (
        pytest.raises(BalancerError, match=r"no federation server answers at 127\.0\.0\.1:9.*--server"),
        connected(HostPort("127.0.0.1", 9), SiteSecurity(), seconds=1),
    ):
        pass


def test_a_request_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    from classifier.federation import server

    monkeypatch.setattr(server, "LARGEST_REQUEST", 100)
    with server.listening(LOOPBACK, ServerSecurity(), None, 5) as (address, _):
        url = f"http://{address}/v1/fleet/push-object"
        assert httpx.post(url, content=b"x" * 101).status_code == 413
        assert httpx.post(url, content=iter([b"x"])).status_code == 413  # no length


def test_the_server_has_the_doors_of_sites_alone() -> None:
    """None to start a run, to upload a program, or to take one."""
    from fastapi.routing import iter_route_contexts

    from classifier.federation import flower, server

    flower.prepare()
    routes = iter_route_contexts(server._fleet_api(None, True).routes)
    paths = {route.path for route in routes}
    assert "/v1/fleet/push-object" in paths
    assert {path.split("/")[2] for path in paths} == {"fleet"}


def test_sites_that_do_not_come_are_named(data: Dataset) -> None:
    from classifier.federation.server import listening

    with (
        listening(LOOPBACK, ServerSecurity(), None, 5) as (_, link),
        pytest.raises(BalancerError, match="0 of 2 sites"),
    ):
        link.wait_for(2, 0.2)
