"""The tests of `guest/`, each run on every kernel below in an emulated machine (docs/decisions/0009-other-kernels.md).

One boot a kernel runs them all, and the kernels boot side by side; here is one test for each file and kernel.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.guest import Guest, Outcome
from support.guest_image import CHECKOUT

KERNELS = ("5.10", "6.1")
"""Debian 11's and Debian 12's: the oldest that openme is for, and one that knows Landlock but not its scopes."""
HERE = Path(__file__).parent
FILES = sorted(path.stem for path in (HERE / "guest").glob("test_*.py"))

pytestmark = [pytest.mark.root, pytest.mark.timeout(4000)]


class Guests:
    """The machines, all booting, and what has come of each that was waited for."""

    def __init__(self, guests: list[Guest]) -> None:
        self._guests = {guest.release: guest for guest in guests}
        self._reports: dict[str, list[Outcome] | AssertionError] = {}

    def outcomes(self, release: str) -> list[Outcome]:
        """How every test in the guest ended. AssertionError, each time, if that cannot be told."""
        if release not in self._reports:
            try:
                self._reports[release] = self._guests[release].report()
            except AssertionError as error:
                self._reports[release] = error
        found = self._reports[release]
        if isinstance(found, AssertionError):
            raise found
        return found


@pytest.fixture(scope="module")
def guests(request: pytest.FixtureRequest) -> Iterator[Guests]:
    """Only the kernels that a selected test asks for are booted."""
    chosen = {item.callspec.params.get("release") for item in request.session.items if hasattr(item, "callspec")}
    folder = CHECKOUT / ".cache/guests"
    with ExitStack() as stack:
        releases = [release for release in KERNELS if release in chosen]
        yield Guests([stack.enter_context(Guest(release, folder, ["tests/long/guest"])) for release in releases])


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("release", KERNELS)
def test_all_that_this_file_tests_holds_on_kernel(guests: Guests, release: str, file: str) -> None:
    outcomes = [outcome for outcome in guests.outcomes(release) if outcome.file == file]
    assert outcomes, f"kernel {release} has run no test of {file}"
    wrong = [outcome for outcome in outcomes if outcome.kind != "passed"]
    report = "\n".join(f"--- {outcome.name} {outcome.kind}: {outcome.said}" for outcome in wrong)
    assert not wrong, f"kernel {release}, {len(wrong)} of {len(outcomes)} tests of {file}:\n{report}"
