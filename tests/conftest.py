"""What holds for every test: nothing is left in the home of whoever runs them."""

import shutil
import signal
from collections.abc import Iterator

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What needs a real Zeek is skipped, visibly, where none is."""
    if item.get_closest_marker("zeek") and shutil.which("zeek") is None:
        pytest.skip("needs a real Zeek on the PATH")


@pytest.fixture(autouse=True)
def config_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test configures, no other reads; nor is a secret for the whole host made."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    monkeypatch.setattr("cmdana_plugin.keyfile._HOST_SECRET", tmp_path_factory.mktemp("host") / "secret")


@pytest.fixture(scope="session", autouse=True)
def hangups() -> None:
    """A hangup is what it usually is to the programs that are started, under nohup too."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The site's state key is one of the tests', for the programs that they start as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.delenv("STATE_DIRECTORY", raising=False)
        yield
