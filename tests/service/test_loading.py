"""An installation without the engine can talk to servers, and says so when it is asked to be one."""

from __future__ import annotations

import sys

import pytest

from octavo.engine import ConfigError, EngineConfig
from octavo.service.loading import load


def test_without_the_engine_the_way_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "octavo.engine.async_engine", None)
    with pytest.raises(ConfigError, match=r"pip install 'octavo\[engine\]'"):
        load(EngineConfig(model="smollm2"))
