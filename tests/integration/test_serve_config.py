"""What ``serve.toml`` may hold, and the one line that says what it may not."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brsolver.errors import ParameterError
from integration.settings import Address, Auth, Listen, ServeConfig, Workers, load
from integration.settings.keys import read_keys

if TYPE_CHECKING:
    from pathlib import Path

WORKERS = '[workers]\naddresses = ["127.0.0.1:8000", "engine-2:8000"]\n'
TIERS = '[tiers]\nprefill = ["a:1"]\ndecode = ["b:1"]\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "serve.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str) -> str:
    """The line that a file is refused with, without the file's path."""
    path = written(folder, text)
    with pytest.raises(ParameterError) as caught:
        load(path, {})
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line.removeprefix(f"{path}: ")


def test_workers_alone_are_enough(tmp_path: Path) -> None:
    config = load(written(tmp_path, WORKERS), {})
    assert config == ServeConfig(
        workers=Workers(addresses=("127.0.0.1:8000", "engine-2:8000")),
        folder=tmp_path,
        file=tmp_path / "serve.toml",
    )
    assert config.path("tokenizer.json") == tmp_path / "tokenizer.json"


def test_every_table_is_read(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# whose\nanna=sk-1\n\nsk-2==\n", encoding="utf-8")
    text = """
        [listen]
        host = "0.0.0.0"
        port = 443
        certificate = "cert.pem"
        key = "key.pem"
        [workers]
        addresses = ["[::1]:8000"]
        ranks = 8
        [router]
        policy = "br-0:r_max=4"
        pool_max = 10
        [limits]
        rate = 5
        [auth]
        keys_file = "keys"
        [picker]
        watchdog_s = 1
        [admin]
        port = 9000
        [envoy]
        threads = 2
        [log]
        format = "json"
        [trace]
        opentelemetry = "collector:4317"
    """
    config = load(written(tmp_path, text), {})
    assert (config.listen.port, config.workers.ranks, config.router.pool_max) == (443, 8, 10)
    assert (config.limits.rate, config.picker.watchdog_s, config.admin.port) == (5.0, 1.0, 9000)
    assert (config.envoy.threads, config.log.format) == (2, "json")
    assert [(key.name, key.key) for key in config.keys] == [("anna", "sk-1"), ("key-2", "sk-2==")]
    assert "sk-" not in repr(config) + repr(config.keys)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "workers names none, must have addresses, a file, dns, or a service"),
        ("[worker]\n", "unknown table 'worker': did you mean 'workers'? known: "),
        ("workers = 3\n", "workers is 3, must be a table: [workers]"),
        (
            WORKERS + "[listen]\nprot = 1\n",
            "unknown parameter of [listen] 'prot': did you mean 'port'?",
        ),
        (WORKERS + "[listen]\nport = '80'\n", "[listen]: port is '80', must be a whole number"),
        (WORKERS + "[listen]\nport = 70000\n", "[listen]: port is 70000, must be at most 65,535"),
        (
            WORKERS + "[listen]\nport = 81\n[admin]\nport = 81\n",
            "admin.port is 81, which listen.port is too; must differ",
        ),
        (
            WORKERS + "[listen]\nkey = 'k'\n",
            "[listen]: key is given, certificate is not; both must be, or neither",
        ),
        (
            "[workers]\naddresses = ['a:1', 'a']\n",
            "[workers]: addresses is 'a', must be HOST:PORT",
        ),
        (
            "[workers]\naddresses = ['a:1', 'a:1']\n",
            "[workers]: addresses names 'a:1' twice, must name each once",
        ),
        (
            "[workers]\naddresses = ['a:0']\n",
            "[workers]: addresses is 'a:0', its port must be 1 to 65535",
        ),
        (
            "[workers]\naddresses = ['a:1', 'b:1']\nranks = 2\n",
            "[workers]: ranks is 2, which goes with one address; there are 2",
        ),
        (
            "[workers]\nfile = 'w'\ndns = 'w:1'\n",
            "[workers]: file and dns are given, must be one of them",
        ),
        (WORKERS + TIERS, "workers and tiers both name workers, must be one of them"),
        (TIERS, "picker.door is 'ext_authz', must be 'ext_proc' where there are tiers"),
        (
            TIERS.replace("b:1", "a:1"),
            "[tiers]: prefill and decode both name 'a:1', must be in one",
        ),
        (
            TIERS.replace('["b:1"]', "[]"),
            "[tiers]: decode is empty, must name at least one HOST:PORT, or decode_file, ",
        ),
        (
            TIERS + "decode_file = 'w'\n",
            "[tiers]: decode and decode_file are given, must be one of them",
        ),
        (
            "[tiers]\nprefill_dns = 'a'\ndecode = ['b:1']\n",
            "[tiers]: prefill_dns is 'a', must be HOST:PORT",
        ),
        (
            "[tiers]\nprefill_service = 'a:http'\ndecode_service = 'b'\n",
            "[tiers]: decode_service is 'b', must be NAME:PORT of a service",
        ),
        (
            "[tiers]\nprefill_service = 'a:http'\ndecode_service = 'a:http'\n",
            "[tiers]: prefill and decode both name 'a:http', must be in one",
        ),
        (
            WORKERS + "[picker]\ndoor = 'grpc'\n",
            "[picker]: door is 'grpc', must be one of 'ext_authz', 'ext_proc'",
        ),
        (
            WORKERS + "[limits]\nheader_bytes = 1500\n",
            "[limits]: header_bytes is 1500, must be a multiple of 1024",
        ),
        (
            WORKERS + "[limits]\nburst = 5\n",
            "[limits]: burst is given, rate is not; it must be",
        ),
        (WORKERS + "[limits]\nidle_s = nan\n", "[limits]: idle_s is nan, must be a number"),
        (
            WORKERS + "[auth]\nkeys_env = 'KEYS'\n",
            "[auth]: keys_env 'KEYS' holds no key, must hold at least one",
        ),
        (WORKERS + "[router]\npool_max = -1\n", "[router]: pool_max is -1, must be at least "),
        (
            WORKERS + "[trace]\nrecord = 'a.csv'\n",
            "[trace]: record is 'a.csv', must end in .jsonl",
        ),
        (
            WORKERS + "[trace]\nrecord = 'a.jsonl'\nrecord_mib = 0\n",
            "[trace]: record_mib is 0, must be at least 1 MiB",
        ),
        (
            WORKERS + "[trace]\nrecord_mib = 64\n",
            "[trace]: record_mib is given, record is not; it must be",
        ),
        ("[workers\n", "cannot be read as TOML: "),
        (
            WORKERS + "[listen]\nhost = 'localhost'\n",
            "[listen]: host is 'localhost', must be an address by number, such as 127.0.0.1 or ",
        ),
        (WORKERS + "[admin]\nhost = ''\n", "[admin]: host is '', must be an address to bind"),
        (WORKERS + "[router]\ntuned = 'no.toml'\n", "[router]: tuned is 'no.toml': "),
        (WORKERS + "[auth]\nkeys_file = '.'\n", "[auth]: keys_file is '.', must be a file of keys"),
        ("a = 1\na = 2\n", "cannot be read as TOML: "),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    assert refused(tmp_path, text).startswith(line)


def test_a_file_is_utf8_with_or_without_a_mark_of_it(tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    path.write_bytes(b"\xef\xbb\xbf" + WORKERS.encode())
    assert load(path, {}).workers.addresses
    path.write_bytes(WORKERS.encode() + "[listen]\n# f\xfcr".encode("latin-1"))
    with pytest.raises(ParameterError) as caught:
        load(path, {})
    assert str(caught.value) == (
        f"{path}: cannot be read as TOML: line 4 holds byte 0xfc, must be UTF-8"
    )


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    with pytest.raises(ParameterError, match="No such file or directory") as caught:
        load(path)
    assert str(caught.value) == f"{path}: cannot be read as TOML: No such file or directory"


TABLES = {
    field.name: [each.name for each in dataclasses.fields(table)]
    for field in dataclasses.fields(ServeConfig)
    if dataclasses.is_dataclass(table := field.default_factory)
}
VALUES = st.one_of(
    st.integers(-(10**20), 10**20),
    st.booleans(),
    st.sampled_from(['"x"', "[]", "[1]", "{}", "inf", "1e400", "1979-05-27", '["a:1", 2]']),
)


@given(data=st.data())
def test_any_value_anywhere_is_taken_or_refused_in_one_line(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    table = data.draw(st.sampled_from(sorted(TABLES)))
    key = data.draw(st.sampled_from(TABLES[table]))
    value = str(data.draw(VALUES)).replace("True", "true").replace("False", "false")
    head = "" if table == "workers" else WORKERS
    path = written(tmp_path_factory.mktemp("any"), f"{head}[{table}]\n{key} = {value}\n")
    line = complaint(path)
    assert line is None or (line.startswith(f"{path}: ") and "\n" not in line)


def complaint(path: Path) -> str | None:
    try:
        load(path, {})
    except ParameterError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("entries", "line"),
    [
        ("a=1,a=2", "entry 2 has the name of another, must differ"),
        ("a=1,b=1", "entry 2 has the key of another, must differ"),
        ("a=sec ret", "entry 1 cannot be read, must be NAME=KEY or KEY, without blanks"),
    ],
)
def test_keys_are_told_apart_and_never_shown(tmp_path: Path, entries: str, line: str) -> None:
    with pytest.raises(ParameterError) as caught:
        read_keys(Auth(keys_env="KEYS"), tmp_path, {"KEYS": entries})
    assert str(caught.value) == f"[auth]: keys_env 'KEYS': {line}"


def test_keys_from_the_environment(tmp_path: Path) -> None:
    keys = read_keys(Auth(keys_env="KEYS"), tmp_path, {"KEYS": "anna=sk-1, sk-2"})
    assert [tuple(key) for key in keys] == [("anna", "sk-1"), ("key-2", "sk-2")]


@given(
    host=st.one_of(
        st.ip_addresses().map(str), st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True)
    ),
    port=st.integers(1, 65_535),
)
def test_addresses_are_read_as_they_are_written(host: str, port: int) -> None:
    assert Address.parse(str(Address(host, port))) == (host, port)


def test_paths_begin_with_a_slash() -> None:
    with pytest.raises(ParameterError, match="paths has 'v1', each must begin with '/'"):
        Listen(paths=("v1",))
