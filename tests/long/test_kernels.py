"""The tests of `guest/`, each run on every kernel below in an emulated machine (docs/decisions/0009-other-kernels.md).

One boot a kernel runs them all, and the kernels boot side by side; here is one test for each file and kernel.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from support.guest import Guest, Outcome

KERNELS = ("5.10", "6.1")
"""Debian 11's and Debian 12's: the oldest that openme is for, and one that knows Landlock but not its scopes."""
HERE = Path(__file__).parent
FILES = sorted(path.stem for path in (HERE / "guest").glob("test_*.py"))

pytestmark = [pytest.mark.root, pytest.mark.timeout(1800)]


class Guests:
    """All kernels, booted when the first is asked for."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder

    @cache  # noqa: B019  # one object, which lives as long as the run
    def _guests(self) -> dict[str, Guest]:
        return {release: self._stack.enter_context(Guest(release, self._folder, ["tests/long/guest"])) for release in KERNELS}

    @cache  # noqa: B019
    def outcomes(self, release: str) -> list[Outcome]:
        """How every test in the guest ended."""
        return self._guests()[release].report()


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    with ExitStack() as stack:
        yield Guests(stack, tmp_path_factory.mktemp("guests"))


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("release", KERNELS)
def test_all_that_this_file_tests_holds_on_kernel(guests: Guests, release: str, file: str) -> None:
    outcomes = [outcome for outcome in guests.outcomes(release) if outcome.file == file]
    assert outcomes, f"kernel {release} has run no test of {file}"
    wrong = [outcome for outcome in outcomes if outcome.kind != "passed"]
    report = "\n".join(f"--- {outcome.name} {outcome.kind}: {outcome.said}" for outcome in wrong)
    assert not wrong, f"kernel {release}, {len(wrong)} of {len(outcomes)} tests of {file}:\n{report}"
