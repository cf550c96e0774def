"""A service waits for what it needs and says so, refuses in sentences, and ends when its loop ends or it is asked to."""

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from squeezecore.adapters import embedded, embedded_nats
from squeezecore.adapters.web import CLIENTS_MAX, Rates
from support.services import Service, started

TOKEN, EXECUTOR = "a-token-of-the-writers", "a-token-of-the-executor"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a home with a running NATS and ClickHouse."""
    path = tmp_path_factory.mktemp("home")
    with embedded_nats.open_nats(path, grace_s=5.0), embedded.open_store(path, grace_s=5.0):
        yield path
    embedded_nats.stop(path)
    embedded.stop(path)


def bus_of(home: Path) -> str:
    server = embedded_nats.status(home)
    assert server is not None
    return server.url


@pytest.fixture(scope="module")
def tiny(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Give a ready service with tokens and without a rate limit to speak of."""
    run = tmp_path_factory.mktemp("tiny")
    (run / "writer").write_text(f"an-older-token-of-theirs\n{TOKEN}\n")
    (run / "executor").write_text(EXECUTOR)
    with started(
        run,
        home=home,
        nats_url=bus_of(home),
        token_file=run / "writer",
        executor_token_file=run / "executor",
        requests_per_s=100_000,
        requests_burst=1_000_000,
        body_bytes_max=2048,
    ) as service:
        yield service.ready()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- waiting ---


def test_a_service_is_ready_only_when_both_answer_and_says_meanwhile_what_is_missing(tmp_path: Path) -> None:
    bus, store = tmp_path / "bus", tmp_path / "store"
    with embedded_nats.open_nats(bus) as server:
        url = server.url
    embedded_nats.stop(bus)  # its port stays its own
    store.write_text("a file where the home directory should be")
    try:
        with started(tmp_path / "run", home=store, nats_url=url) as service:
            service.listening()
            service.until(lambda: "cannot be written" in service.missing().get("ClickHouse", ""))
            service.until(lambda: url.removeprefix("nats://") in service.missing().get("NATS", ""))
            assert service.get("/healthz").json() == {"status": "ok"}
            assert service.get("/v1/status").json()["state"] == "WAITING"
            refused = service.get("/v1/numbers")
            assert refused.status_code == 503
            assert "NATS" in refused.json()["detail"]
            assert refused.headers["Retry-After"] == "1"

            store.unlink()
            service.until(lambda: list(service.missing()) == ["NATS"])
            with embedded_nats.open_nats(bus, grace_s=0.3):
                service.until(lambda: not service.missing())
                assert service.get("/v1/numbers", params={"limit": 2}).json() == [0, 1]
                assert service.get("/v1/thread").json() == 42
                assert "/v1/numbers" in service.get("/openapi.json").json()["paths"]
                assert service.end() == 0
            said = service.said()
            assert said.count("resource=NATS") == 1, "a reason is said once, not with every try"
    finally:
        embedded_nats.stop(bus)
        embedded.stop(store)


def test_a_bus_that_goes_makes_a_service_unready_until_it_is_back(tmp_path: Path) -> None:
    with embedded_nats.open_nats(tmp_path, grace_s=0.3) as server:
        url = server.url
        try:
            with started(tmp_path / "run", home=tmp_path, nats_url=url) as service:
                service.ready()
                embedded_nats.stop(tmp_path)
                service.until(lambda: list(service.missing()) == ["NATS"])
                with embedded_nats.open_nats(tmp_path, grace_s=0.3):
                    service.until(lambda: not service.missing())
                embedded_nats.stop(tmp_path)
                service.until(lambda: list(service.missing()) == ["NATS"])
                assert service.end() == 0, "it needs no bus to end"
        finally:
            embedded_nats.stop(tmp_path)
            embedded.stop(tmp_path)


def test_a_probe_that_fails_is_the_reason_why_a_service_is_not_ready(home: Path, tmp_path: Path) -> None:
    with started(tmp_path, home=home, nats_url=bus_of(home), end_when=tmp_path / "never") as service:
        service.listening().until(lambda: "feed" in service.missing())
        assert service.missing() == {"feed": "feed was silent for 12 s, limit is 10 s"}
        assert service.get("/v1/status").json()["state"] == "RUNNING"


# --- the end ---


@pytest.mark.parametrize("how", ["loudly", "quietly"])
def test_a_process_ends_with_its_loop(home: Path, tmp_path: Path, how: str) -> None:
    end, note = tmp_path / "end", tmp_path / "closed"
    with started(tmp_path, home=home, nats_url=bus_of(home), end=how, end_when=end, note=note) as service:
        service.ready()
        end.touch()
        assert service.wait() == 1
        assert note.read_text().split() == ["second", "first"]
        assert ("a thing nobody thought of" in service.said()) == (how == "loudly")
        assert ("Traceback" in service.said()) == (how == "loudly")
        assert not service.note.exists()


def test_a_service_that_refuses_its_settings_says_so_without_a_trace(home: Path, tmp_path: Path) -> None:
    with started(tmp_path, home=home, nats_url=bus_of(home), end="refusing") as service:
        assert service.wait() == 2
        assert "end was 'refusing', as asked" in service.said()
        assert "Traceback" not in service.said()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unwinds_in_reverse_and_ends_with_zero(home: Path, tmp_path: Path, number: int) -> None:
    note = tmp_path / "closed"
    with started(tmp_path, home=home, nats_url=bus_of(home), note=note) as service:
        service.ready()
        assert service.end(number) == 0
        assert note.read_text().split() == ["second", "first"]
        assert not service.note.exists()


def test_a_service_that_still_waits_ends_as_well(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    with started(tmp_path, clickhouse_url=url, nats_url=f"nats://127.0.0.1:{closed_port()}") as service:
        service.listening().until(lambda: "cannot be reached" in service.missing()["ClickHouse"])
        assert service.end() == 0


# --- tokens ---


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [
        ("/v1/order", TOKEN, 200),
        ("/v1/order", "an-older-token-of-theirs", 200),
        ("/v1/order", None, 401),
        ("/v1/order", "", 401),
        ("/v1/order", TOKEN + "x", 401),
        ("/v1/order", "ünïcödé", 401),
        ("/v1/order", EXECUTOR, 403),
        ("/v1/kill", EXECUTOR, 200),
        ("/v1/kill", TOKEN, 403),
        ("/v1/kill", None, 401),
    ],
)
def test_who_may_write(tiny: Service, path: str, token: str | None, status: int) -> None:
    headers = {} if token is None else {"Authorization": f"Bearer {token}".strip().encode()}
    answer = tiny.post(path, json={"qty": 3}, headers=headers)
    assert answer.status_code == status, answer.text
    if status == 401:
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert "SQUEEZE_" in answer.json()["detail"]
    assert TOKEN not in answer.text
    assert EXECUTOR not in answer.text


@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "no token is configured"), ("", "characters"), ("short", "characters"), (b"\xff", "read")],
)
def test_without_a_good_token_configured_writing_is_closed(
    home: Path, tmp_path: Path, content: str | bytes | None, word: str
) -> None:
    settings = {}
    if content is not None:
        settings["token_file"] = tmp_path / "token"
        (tmp_path / "token").write_bytes(content if isinstance(content, bytes) else content.encode())
    with started(tmp_path, home=home, nats_url=bus_of(home), **settings) as service:
        answer = service.ready().post("/v1/order", json={"qty": 3}, headers={"Authorization": "Bearer short"})
        assert answer.status_code == 503
        assert "SQUEEZE_TOKEN_FILE" in answer.json()["detail"]
        assert word in answer.json()["detail"]


# --- problems and limits ---


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/v1/numbers?limit=0", 422, "query.limit: was '0', input should be greater than or equal to 1"),
        ("GET", "/v1/numbers?limit=10001", 422, "less than or equal to 10000"),
        ("GET", "/v1/numbers?limit=many", 422, "query.limit: was 'many'"),
        ("GET", "/v1/nothing", 404, "/v1/nothing"),
        ("POST", "/v1/numbers", 405, "/v1/numbers takes GET"),
        ("GET", "/v1/fail/yours", 422, "qty was 3"),
        ("GET", "/v1/fail/store", 503, "gone"),
        ("GET", "/v1/fail/ours", 500, "RuntimeError"),
    ],
)
def test_every_refusal_is_a_problem_with_a_sentence(
    tiny: Service, method: str, path: str, status: int, words: str
) -> None:
    answer = tiny.http.request(method, path)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["instance"] == path.partition("?")[0]
    assert words in problem["detail"]
    assert "the inside" not in answer.text, "what broke is the log's business"


def test_wrong_input_names_each_field_and_why(tiny: Service) -> None:
    answer = tiny.post("/v1/order", json={"qty": 30, "x": 1}, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 422
    assert {error["field"]: error["reason"] for error in answer.json()["errors"]} == {
        "body.qty": "was 30, input should be less than or equal to 9",
        "body.x": "was 1, extra inputs are not permitted",
    }
    broken = tiny.post("/v1/order", content=b"{", headers={"Authorization": f"Bearer {TOKEN}"})
    assert broken.status_code == 422


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_long_is_refused(tiny: Service, chunked: bool) -> None:
    body = b" " * 4096
    answer = tiny.post(
        "/v1/order",
        content=iter([body]) if chunked else body,
        headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
    )
    assert answer.status_code == 413
    assert "SQUEEZE_BODY_BYTES_MAX" in answer.json()["detail"]


def test_who_asks_too_often_is_told_when_to_come_back(home: Path, tmp_path: Path) -> None:
    with started(tmp_path, home=home, nats_url=bus_of(home), requests_per_s=0.001, requests_burst=3) as service:
        service.ready()
        assert [service.get("/v1/numbers").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
        refused = service.get("/v1/numbers")
        assert 900 < int(refused.headers["Retry-After"]) <= 1000
        assert "SQUEEZE_REQUESTS_PER_S" in refused.json()["detail"]
        for free in ("/healthz", "/readyz", "/metrics"):
            assert service.get(free).status_code == 200
        assert metric(service, "squeezeflow_http_limited_total") == 3


@given(
    st.floats(0.1, 1000),
    st.integers(1, 50),
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 10)), max_size=200),
)
def test_no_client_gets_more_than_its_burst_and_its_rate(
    per_s: float, burst: int, asked: list[tuple[str, float]]
) -> None:
    rates, now_s = Rates(per_s, burst), 0.0
    taken = {"a": 0, "b": 0}
    for client, pause_s in asked:
        now_s += pause_s
        wait_s = rates.take(client, now_s)
        assert 0 <= wait_s <= 1 / per_s
        taken[client] += wait_s == 0
        assert taken[client] <= burst + per_s * now_s + 1e-6
        if wait_s:
            assert rates.take(client, now_s + wait_s * 1.000001) == 0, "whoever waits as told is let in"
            now_s += wait_s * 1.000001
            taken[client] += 1


def test_the_clients_remembered_are_bounded() -> None:
    rates = Rates(1.0, 1)
    for number in range(3 * CLIENTS_MAX):
        rates.take(str(number), 0.0)
    assert len(rates._buckets) == CLIENTS_MAX


# --- what is told ---


def metric(service: Service, name: str) -> float:
    for family in text_string_to_metric_families(service.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name:
                return float(sample.value)
    raise AssertionError(f"no metric {name}")


def test_metrics_are_there_from_the_first_moment(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    with started(tmp_path, clickhouse_url=url, nats_url=f"nats://127.0.0.1:{closed_port()}") as service:
        service.listening()
        for name in ("up", "messages_total", "errors_total", "http_limited_total"):
            assert metric(service, f"squeezeflow_{name}") == 0
        assert metric(service, "process_resident_memory_bytes") > 0


def test_a_service_tells_how_it_goes(tiny: Service) -> None:
    status = tiny.get("/v1/status").json()
    assert status["service"] == "tiny"
    assert status["pid"] == tiny.process.pid
    assert status["state"] == "RUNNING"
    tiny.until(lambda: metric(tiny, "squeezeflow_messages_total") > status["messages"])
    assert metric(tiny, "squeezeflow_up") == 1
    assert metric(tiny, "squeezeflow_lag_seconds") == 0.5
    assert metric(tiny, "squeezeflow_last_message_age_seconds") < 60
    tiny.get("/v1/numbers")
    assert 'route="/v1/numbers"' in tiny.get("/metrics").text


def test_log_lines_are_json_with_the_service_and_without_secrets(home: Path, tmp_path: Path) -> None:
    url = f"http://squeeze:hunter2@127.0.0.1:{closed_port()}/db"
    with started(tmp_path, clickhouse_url=url, nats_url=bus_of(home), log_json=True, unheard_of=1) as service:
        service.listening().until(lambda: "cannot be reached" in service.missing()["ClickHouse"])
        assert service.end() == 0
        lines = [json.loads(line) for line in service.said().splitlines()]
        assert {line["service"] for line in lines} == {"tiny"}
        assert {"listening", "waiting", "stopping", "stopped"} <= {line["event"] for line in lines}
        assert "SQUEEZE_UNHEARD_OF was set" in lines[0]["event"]
        assert "hunter2" not in service.said()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"port": 65_536}, ["SQUEEZE_PORT was '65536'", "less than or equal to 65535"]),
        ({"requests_per_s": 0}, ["SQUEEZE_REQUESTS_PER_S was '0'", "greater than 0"]),
        ({"log_level": "loud"}, ["SQUEEZE_LOG_LEVEL was 'loud'", "'debug'"]),
        ({"nats_url": "localhost:4222"}, ["SQUEEZE_NATS_URL was 'localhost:4222'"]),
        ({"clickhouse_url": "ftp://me:hunter2@db"}, ["SQUEEZE_CLICKHOUSE_URL was 'ftp://***@db'"]),
        ({"end": "never ever"}, ["SQUEEZE_END was 'never ever'"]),
        ({"nats_ulr": "nats://db"}, ["SQUEEZE_NATS_ULR was set, tiny has no such setting", "SQUEEZE_NATS_URL?"]),
        ({"port": "x", "log_json": "maybe"}, ["SQUEEZE_PORT was 'x'", "SQUEEZE_LOG_JSON was 'maybe'"]),
        ({}, ["SQUEEZE_CLICKHOUSE_URL and SQUEEZE_HOME were not set"]),
    ],
)
def test_a_wrong_setting_is_one_sentence_and_exit_code_two(
    tmp_path: Path, settings: dict[str, object], words: list[str]
) -> None:
    home = {"home": tmp_path} if settings else {}
    with started(tmp_path / "run", **home, **settings) as service:
        assert service.wait() == 2
        said = service.said()
        assert len(said.splitlines()) == 1
        for word in words:
            assert word in said
        assert "hunter2" not in said


def test_a_port_that_is_taken_is_a_sentence_and_worth_another_try(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with started(tmp_path, home=tmp_path, port=port) as service:
            assert service.wait() == 1
            assert f"were 127.0.0.1 and {port}, they cannot be listened on" in service.said()
            assert len(service.said().splitlines()) == 1
