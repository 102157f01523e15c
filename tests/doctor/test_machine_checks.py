"""The doctor on what is really wrong with a machine: each check is made to fail, and says why."""

import json
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from manyhands.devices import Gpu, Seen
from manyhands.doctor.command import ERRORS, WARNINGS
from manyhands.doctor.finding import Finding, Verdict
from manyhands.doctor.firewall import firewall_finding
from manyhands.doctor.hardware import disk_speed_finding, gpu_finding
from manyhands.doctor.keeping import cache_finding
from manyhands.doctor.registry import CHECKS
from manyhands.doctor.system import packages_finding, proxy_finding, python_finding
from manyhands.home import Home, open_identity
from manyhands.models import BUILT_IN
from manyhands.running import Running, recorded
from manyhands.weights.store import Store, cache_root
from protocol.describing import make_manifest
from protocol.manifest import SIGNATURE
from protocol.pieces import cut_pieces
from tests.cli.command import assert_explained, manyhands
from tests.cli.conftest import here

__all__ = ["here"]
PORT_HINT = "--listen"


@pytest.fixture
def examine(here, tmp_path):
    """Run one check on a home of its own; its exit code and what it found."""

    def run(check: str, *more: object, home: Path = tmp_path / "home"):
        ended = here("doctor", "--json", "--only", check, "--home", home, *more)
        view = json.loads(ended.out)
        assert view["schema"] == "manyhands/doctor/v1"
        [found] = view["checks"]
        assert (found["id"], ended.code) == (check, {"fail": ERRORS}.get(found["verdict"], 0))
        assert f"1 of 1, {check}" in ended.err
        return found

    return run


# The command


def test_errors_end_with_9_and_warnings_with_10_when_asked_to_be_strict(here, tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    one = ("doctor", "--only", "home", "--home", home)

    assert here(*one).code == 0
    assert here(*one, "--strict").code == WARNINGS
    assert here("doctor", "--only", "home", "--home", __file__, "--strict").code == ERRORS


def test_a_check_that_does_not_exist_is_named(here):
    assert_explained(here("doctor", "--only", "luck"), 2, "luck", "docs/doctor.md")


def test_for_people_each_line_has_an_id_and_what_is_wrong_its_fix(here, tmp_path):
    shown = here("doctor", "--only", "home", "--only", "port", "--home", __file__).out

    assert "fail home" in shown
    assert "fix: choose a directory" in shown
    assert shown.endswith("2 checks: 1 error, 0 warnings\n")


def test_nothing_is_made_by_looking(here, tmp_path):
    home = tmp_path / "nowhere"

    for check in ("home", "identity", "membership", "bootstrap", "port"):
        assert here("doctor", "--only", check, "--home", home).code == 0

    assert not home.exists()


def test_ids_are_unique_and_a_finding_that_is_bad_has_a_fix():
    assert len({check.id for check in CHECKS}) == len(CHECKS)
    with pytest.raises(ValueError, match="has a fix"):
        Finding(Verdict.FAIL, "broken")


# The system


@pytest.mark.parametrize(
    ("version", "bits", "system", "verdict"),
    [
        ((3, 11), 64, "linux", "ok"),
        ((3, 10), 64, "linux", "fail"),
        ((3, 12), 32, "win32", "fail"),
        ((3, 99), 64, "darwin", "warn"),
        ((3, 12), 64, "haiku1", "warn"),
    ],
)
def test_an_interpreter_that_nobody_tried_is_told(version, bits, system, verdict):
    assert python_finding(version, bits, system).verdict == verdict


def test_a_package_of_another_version_is_named_and_one_that_is_missing(tmp_path):
    for name, version, requires in (
        ("swarmer", "1.0", ["solid>=2", "absent", 'other; sys_platform == "nowhere"']),
        ("solid", "1.5", []),
    ):
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {r}" for r in requires)]
        (info / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")

    found = packages_finding("swarmer", [str(tmp_path)])

    assert found.verdict is Verdict.FAIL
    assert found.reason == "solid is 1.5, not >=2; absent is missing"
    assert found.fix == "pip install --upgrade swarmer==1.0"


def test_our_own_packages_are_well(examine):
    assert examine("packages")["verdict"] == "ok"


def test_too_few_open_files_are_an_error_and_a_node_takes_what_it_may(tmp_path):
    line = f"{sys.executable} -m manyhands doctor --json --only file-limit --home {tmp_path}"

    few = subprocess.run(
        ["bash", "-c", f"ulimit -n 200; {line}"], capture_output=True, text=True, check=False
    )
    raised = subprocess.run(
        [
            *("bash", "-c"),
            f"ulimit -Sn 300; {sys.executable} -c '"
            "from manyhands.machine import file_limits, raise_file_limit;"
            "raise_file_limit(); print(file_limits()[0])'",
        ],
        capture_output=True,
        text=True,
        check=True,
    )

    assert few.returncode == ERRORS
    assert "200 open files" in json.loads(few.stdout)["checks"][0]["reason"]
    assert int(raised.stdout) == min(10_240, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


@pytest.mark.parametrize(
    ("environment", "verdict"),
    [
        ({}, "ok"),
        ({"http_proxy": "http://127.0.0.1:9"}, "warn"),
        ({"https_proxy": "http://127.0.0.1:9", "no_proxy": "localhost"}, "warn"),
        ({"http_proxy": "http://127.0.0.1:9", "no_grpc_proxy": "*"}, "warn"),  # it knows no *
        ({"http_proxy": "http://127.0.0.1:9", "no_grpc_proxy": "0.0.0.0/0,::/0"}, "ok"),
        ({"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "socks5://x"}, "ok"),
    ],
)
def test_a_proxy_that_would_catch_peers_is_told(environment, verdict):
    assert proxy_finding(environment).verdict == verdict


# The hardware


def test_a_gpu_that_torch_does_not_know_is_an_error_with_the_pip_line():
    idle = Seen(torch_version="2.13.0+cpu", torch_cuda=None, has_nvidia=True)
    used = Seen(torch_version="2.13.0", torch_cuda="12.6", gpus=(Gpu("RTX", 2**33, 2**34),))

    found = gpu_finding("auto", idle)

    assert found.verdict is Verdict.FAIL
    assert "pip install --force-reinstall" in found.fix
    assert gpu_finding("auto", used).verdict is Verdict.OK
    assert gpu_finding("cpu", idle).verdict is Verdict.FAIL


@pytest.mark.skipif(
    bool(shutil.which("nvidia-smi")), reason="this machine has a GPU, and torch may use it"
)
def test_a_driver_without_a_torch_for_it_is_found_for_real(examine, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.write_text("#!/bin/sh\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)

    assert examine("gpu")["verdict"] == "fail"


def test_a_span_that_does_not_fit_is_an_error_and_one_that_fits_is_told(examine):
    fits = examine("memory", "tiny", "--span", "0:4")
    room = examine("memory", "tiny", "--span", "0:4", "--kv-cache", "900TiB")

    assert fits["verdict"] == "ok"
    assert "blocks 0:4 of tiny" in fits["reason"]
    assert room["verdict"] == "fail"
    assert "--kv-cache" in room["fix"]
    assert examine("memory", "--kv-cache", "900TiB")["verdict"] == "fail"


def test_a_slow_disk_and_one_that_cannot_be_written_are_told(tmp_path):
    slow = disk_speed_finding(tmp_path, slow_bytes_per_s=1e15)
    gone = disk_speed_finding(tmp_path / "missing")

    assert slow.verdict is Verdict.WARN
    assert gone.verdict is Verdict.FAIL
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small disk: needs root"
)
def test_a_disk_that_is_nearly_full_is_an_error(tmp_path):
    script = (
        f"mount -t tmpfs -o size=1m none {tmp_path} && "
        f"{sys.executable} -m manyhands doctor --json --only disk-free --home {tmp_path}"
    )

    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script], capture_output=True, text=True, check=False
    )

    if "mount" in done.stderr:
        pytest.skip(f"no mounts here: {done.stderr[:80]}")
    assert done.returncode == ERRORS
    assert "too little" in json.loads(done.stdout)["checks"][0]["reason"]


# What is kept


def test_a_key_that_others_can_read_is_an_error_that_fix_mends(examine, tmp_path):
    home = Home.at(tmp_path / "home")
    open_identity(home.node)
    key = home.node / "identity.key"
    key.chmod(0o644)

    before = examine("identity")
    after = examine("identity", "--fix")

    assert (before["verdict"], before["mendable"]) == ("fail", True)
    assert before["fix"] == f"chmod 600 {key}"
    assert (after["verdict"], after["mended"]) == ("ok", before["reason"])
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_key_that_is_no_key_is_an_error_that_nothing_mends(examine, tmp_path):
    home = Home.at(tmp_path / "home")
    open_identity(home.client)
    (home.client / "identity.key").write_text("gone")

    found = examine("identity", "--fix")

    assert (found["verdict"], found["mendable"]) == ("fail", False)


def test_a_home_that_others_see_is_mended(examine, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(0o755)

    assert examine("home")["verdict"] == "warn"
    assert examine("home", "--fix")["verdict"] == "ok"
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


def test_a_membership_that_cannot_be_read_is_an_error(examine, tmp_path):
    home = Home.at(tmp_path / "home")
    (home.root / "membership").mkdir()
    (home.root / "membership" / "founding").write_bytes(b"nonsense")

    assert examine("membership")["verdict"] == "fail"


def test_a_licence_that_nobody_accepted_is_an_error_until_somebody_does(examine, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(BUILT_IN, model, ignore=shutil.ignore_patterns("manifest.json"))
    (model / "README.md").write_text("---\nlicense: other\nlicense_name: llama3\n---\n")

    refused = examine("licence", model)
    note = tmp_path / "home" / "accepted-licences"
    note.mkdir(parents=True)
    (note / f"{make_manifest(model, name='x', licence='llama3').digest.hex()}-llama3").touch()

    assert refused["verdict"] == "fail"
    assert "--accept-licence" in refused["fix"]
    assert examine("licence", "tiny")["verdict"] == "ok"
    assert examine("licence", tmp_path / "nothing")["verdict"] == "fail"


@pytest.fixture
def stored(tmp_path, monkeypatch) -> Store:
    """A model in the cache, half of it fetched."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    manifest = make_manifest(BUILT_IN)
    store = Store.at(cache_root() / manifest.digest.hex(), manifest)
    small = [file.name for file in manifest.files if not file.is_weights]
    with store.held():
        store.keep_small({name: (BUILT_IN / name).read_bytes() for name in small})
        with store.writing() as writer:
            for piece in cut_pieces(manifest, list(manifest.tensors)[:8], piece_bytes=20_000):
                whole = (BUILT_IN / piece.file).read_bytes()
                writer.write(piece.file, piece.start, whole[piece.start : piece.stop])
                writer.keep(piece.file, piece.start, piece.stop)
                store.hashes.update(store.found(piece))
    return store


def test_a_byte_that_changed_on_disk_is_found_and_forgotten_when_asked(examine, stored):
    name = sorted(stored.hashes)[0]
    place = stored.manifest.tensors[name]
    whole = examine("cache", "--full")

    with (stored.place / place.file).open("r+b") as file:
        file.seek(place.entry.start)
        byte = file.read(1)
        file.seek(place.entry.start)
        file.write(bytes([byte[0] ^ 1]))
    broken = examine("cache", "--full")
    mended = examine("cache", "--full", "--fix")

    assert (whole["verdict"], whole["reason"][:9]) == ("ok", "all tenso")
    assert (broken["verdict"], name in broken["reason"]) == ("fail", True)
    assert mended["verdict"] == "ok"
    again = Store.at(stored.place, stored.manifest)
    assert name not in again.hashes
    assert len(again.hashes) == len(stored.hashes) - 1


def test_a_sample_reads_something_whatever_it_draws(stored):
    assert cache_finding(is_full=False, seed=1).verdict is Verdict.OK


def test_a_signature_that_does_not_hold_is_an_error_and_none_is_not(examine, stored):
    unsigned = examine("signatures")
    (stored.place / SIGNATURE).write_bytes(b"{}")
    broken = examine("signatures")

    assert (unsigned["verdict"], unsigned["reason"]) == ("ok", "1 unsigned")
    assert (broken["verdict"], SIGNATURE in broken["reason"]) == ("fail", True)


def test_a_small_file_that_is_not_what_the_manifest_says_is_found(examine, stored):
    assert examine("manifests")["verdict"] == "ok"

    with (stored.place / "tokenizer.json").open("a") as file:
        file.write(" ")

    assert examine("manifests")["verdict"] == "fail"


# Our port


def test_a_port_that_somebody_listens_on_is_an_error_unless_it_is_our_own_node(examine, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = examine("port", "--listen", f"127.0.0.1:{port}")
        home = Home.at(tmp_path / "home")
        ours = Running(
            command="serve", pid=1, model="tiny", addresses=(f"/ip4/127.0.0.1/tcp/{port}/p2p/x",)
        )
        with recorded(home, ours):
            own = examine("port", "--listen", f"127.0.0.1:{port}")

    assert (taken["verdict"], PORT_HINT in taken["fix"]) == ("fail", True)
    assert own["verdict"] == "ok"


def test_an_address_that_is_not_ours_cannot_be_listened_on(examine):
    found = examine("port", "--listen", "192.0.2.1:31400")

    assert found["verdict"] == "fail"
    assert "0.0.0.0" in found["fix"]


# The firewall


@pytest.mark.parametrize(
    ("said", "verdict", "fix"),
    [
        ({}, "skip", ""),
        ({"ufw": "# ufw\nENABLED=yes\n"}, "warn", "sudo ufw allow 31400/tcp"),
        ({"ufw": "ENABLED=no\n"}, "ok", ""),
        ({"firewalld": "public (active)\n  ports: 22/tcp\n"}, "warn", "--add-port=31400/tcp"),
        ({"firewalld": "public (active)\n  ports: 31400/tcp\n"}, "ok", ""),
        ({"iptables": "-P INPUT ACCEPT\n"}, "ok", ""),
        ({"iptables": "-P INPUT DROP\n-A INPUT -i lo -j ACCEPT\n"}, "warn", "--dport 31400"),
        ({"iptables": "-P INPUT DROP\n-A INPUT -p tcp -m tcp --dport 31400 -j ACCEPT\n"}, "ok", ""),
        (
            {
                "iptables": "-P INPUT ACCEPT\n"
                "-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n"
                "-A INPUT -p udp -j DROP\n"
                "-A INPUT -p tcp --dport 31000:32000 -j REJECT --reject-with x\n"
            },
            "warn",
            "-j ACCEPT",
        ),
        ({"alf": "Firewall is enabled. (State = 1)"}, "warn", "Allow"),
        (
            {"netsh": "Private Profile Settings:\n---\nState              ON\n"},
            "warn",
            "advfirewall",
        ),
    ],
)
def test_each_systems_firewall_has_its_own_command(said, verdict, fix):
    found = firewall_finding(said, 31400)

    assert found.verdict == verdict
    assert fix in found.fix


# The whole


@pytest.mark.slow
def test_an_examination_of_everything_ends_with_an_answer_from_loopback(tmp_path):
    here = ("--without", "port-mapping")  # it would ask the router of whoever runs the tests
    home = ("--home", tmp_path / "home")
    ended = manyhands("doctor", "tiny", "--json", *here, *home, timeout_s=180)

    view = json.loads(ended.out)
    found = {check["id"]: check for check in view["checks"]}
    assert list(found) == [check.id for check in CHECKS if check.id != "port-mapping"]
    assert found["generation"]["verdict"] == "ok"
    assert "8 tokens" in found["generation"]["reason"]
    assert view["errors"] == sum(check["verdict"] == "fail" for check in view["checks"])
