"""A pytest plugin that names each failure when it happens: a run may be stopped at a limit."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the one process that hears of all tests
        config.pluginmanager.register(NameFailures(config))


class NameFailures:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            crash = getattr(report.longrepr, "reprcrash", None)
            said = str(getattr(crash, "message", report.longrepr)).strip().splitlines() or [""]
            terminal.write_line(f"\nFAILED AT {report.when}: {report.nodeid}: {said[0][:160]}")
            terminal.flush()
