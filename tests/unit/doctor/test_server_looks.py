"""Looks at a server that need none: what the kernel says of processes and of its clock."""

import pytest

from openme.doctor.server.clock import TIME_ERROR, UNSYNCHRONISED, findings
from openme.doctor.server.processes import Process, shortfalls

NET_ADMIN, KILL, SYS_ADMIN = 1 << 12, 1 << 5, 1 << 21
KEEPER = Process(10, 0, seccomp=True, no_new_privileges=True, capabilities=NET_ADMIN)
LISTENER = Process(11, 61184, seccomp=True, no_new_privileges=True, capabilities=0)
GUARDIAN = Process(12, 0, seccomp=True, no_new_privileges=True, capabilities=KILL)
TRIAL_GUARD = Process(13, 0, seccomp=False, no_new_privileges=True, capabilities=NET_ADMIN)


def test_processes_as_their_roles_have_them_are_fine() -> None:
    assert list(shortfalls(KEEPER, [LISTENER, GUARDIAN])) == []
    assert list(shortfalls(KEEPER, [LISTENER, GUARDIAN, TRIAL_GUARD])) == []


@pytest.mark.parametrize(
    ("keeper", "children", "says"),
    [
        (KEEPER, [LISTENER._replace(seccomp=False), GUARDIAN], "seccomp is not in force for process 11"),
        (KEEPER._replace(seccomp=False), [LISTENER, GUARDIAN], "seccomp is not in force for process 10"),
        (KEEPER, [LISTENER._replace(no_new_privileges=False), GUARDIAN], "no_new_privs is not set for process 11"),
        (KEEPER, [LISTENER._replace(uid=0), GUARDIAN], "runs as root"),
        (KEEPER._replace(capabilities=NET_ADMIN | SYS_ADMIN), [LISTENER, GUARDIAN], "process 10 has capabilities"),
        (KEEPER, [LISTENER._replace(capabilities=SYS_ADMIN), GUARDIAN], "process 11 has capabilities"),
    ],
)
def test_what_a_process_lacks_or_has_too_much_is_a_finding(keeper: Process, children: list[Process], says: str) -> None:
    (finding,) = shortfalls(keeper, children)
    assert finding.cause == "sandbox"
    assert says in finding.text


def test_a_server_whose_starter_was_no_root_has_one_user() -> None:
    own = [process._replace(uid=1000, capabilities=0) for process in (KEEPER, LISTENER, GUARDIAN)]
    assert list(shortfalls(own[0], own[1:])) == []


def test_a_clock_that_nothing_sets_is_a_finding() -> None:
    (finding,) = findings(TIME_ERROR)
    assert finding.cause == UNSYNCHRONISED
    assert list(findings(0)) == []
