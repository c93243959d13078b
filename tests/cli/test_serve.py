from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pocketvlm.cli import main


def serve(*arguments: str | Path, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(main, ["serve", *map(str, arguments)])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_others_than_this_machine_are_not_served_without_a_key(tiny_bundles: dict[str, Path], host: str) -> None:
    found = serve(tiny_bundles["fp32"], "--host", host, "--port", "0")
    wanted = f"error: {host} is not of this machine alone: give a key, --api-key or POCKETVLM_API_KEY\n"
    assert (found.exit_code, found.stderr) == (1, wanted)


def test_an_address_that_is_not_this_machines_is_one_line(tiny_bundles: dict[str, Path]) -> None:
    found = serve(tiny_bundles["fp32"], "--host", "192.0.2.1", "--port", "0", POCKETVLM_API_KEY="k")
    assert found.exit_code == 1
    assert found.stderr.startswith("error: 192.0.2.1:0 cannot be listened on (") and found.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_one_line(tiny_bundles: dict[str, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = serve(tiny_bundles["fp32"], "--port", str(port))
    assert found.exit_code == 1
    assert found.stderr == (
        f"error: 127.0.0.1:{port} cannot be listened on (Address already in use): --port 0 takes a free one\n"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--api-key", ""), "--api-key must be of printable ASCII characters, and not empty"),
        (("--api-key", "schlüssel"), "--api-key must be of printable ASCII characters"),
        (("--images", "nowhere"), "Directory 'nowhere' does not exist"),
        (("--max-body-mb", "nan"), "not a finite number"),
        (("--kept", "0"), "0 is not in the range"),
    ],
)
def test_an_option_that_is_wrong_is_a_usage_error(arguments: tuple[str, ...], says: str) -> None:
    found = serve("bundle", *arguments)
    assert (found.exit_code, says in found.stderr) == (2, True), found.stderr


def test_a_bundle_that_is_none_is_one_line(tmp_path: Path) -> None:
    found = serve(tmp_path)
    assert found.exit_code == 1
    assert found.stderr.startswith("error: ") and found.stderr.count("\n") == 1
