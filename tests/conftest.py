"""Common to all tests: no network, no account, no user cache, few threads."""

import ipaddress
import os
import resource
import socket
import tempfile

import pytest


def pytest_configure(config):
    """Set the environment before any test module, and any process a test starts, reads it."""
    home = tempfile.TemporaryDirectory(prefix="pndm-tests-")
    config.add_cleanup(home.cleanup)
    os.environ |= {
        "PNDM_HOME": home.name,
        "TORCH_HOME": home.name,
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
    }
    for name in ("PNDM_DATA", "HYDRA_FULL_ERROR"):
        os.environ.pop(name, None)
    # On tensors as small as the tests' threads mostly wait for each other.
    workers = max(2, len(config.getoption("tx", None) or ()))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


@pytest.fixture(autouse=True)
def unplugged(monkeypatch):
    """Block the network for tests, except for localhost."""
    lookup, connect = socket.getaddrinfo, socket.socket.connect

    def guarded_lookup(host, *args, **kwargs):
        check_local(host)
        return lookup(host, *args, **kwargs)

    def guarded_connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            check_local(address[0])
        return connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", guarded_lookup)
    monkeypatch.setattr(socket.socket, "connect", guarded_connect)


def check_local(host):
    """OSError for a host other than this machine."""
    host = host.decode() if isinstance(host, bytes) else host
    try:
        local = host in (None, "", "localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise OSError(f"tests do not use the network, but one asked for {host}")


@pytest.fixture
def full_disk():
    """Let this process write no file of more than 1000 bytes: as where the disk is full."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, usual[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, usual)
