"""The real sshd on a host of the world, with keys, users and files of its own, and the real ssh on the client.

    ssh = Ssh(world.folder)
    ssh.serve(world.server)
    done = ssh.run(world.client, "ssh", "gate", "true")

`tools/unpacked openssh-server` has put sshd under .cache; `make test` runs both. sshd has a mount namespace of its own,
in which /run is empty and /etc/passwd knows root and its helper: nothing of this machine's users or files is asked or
changed.
"""

import subprocess
from collections.abc import Iterable
from pathlib import Path

from support.netns import Namespace, until

UNPACKED = Path(__file__).parents[2] / ".cache" / "unpacked" / "openssh-server" / "run"
PORT = 22

# What sshd looks up of users: it refuses one whose password is locked, so root has one that nothing is the hash of.
USERS = {
    "passwd": "root:x:0:0:root:{home}:/bin/sh\nsshd:x:105:65534::/run/sshd:/usr/sbin/nologin\n",
    "shadow": "root:*:19000:0:99999:7:::\n",
}
SERVER = """\
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PidFile none
LogLevel VERBOSE
MaxStartups 100
Subsystem sftp internal-sftp
"""
CLIENT = """\
{first}
Host *
    User root
    IdentityFile {folder}/key
    IdentitiesOnly yes
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR
    BatchMode yes
"""
IN_ITS_OWN_PLACE = """
mount -t tmpfs none /run && mkdir /run/sshd
for file in passwd shadow; do mount --bind "$1/$file" "/etc/$file" || exit; done
shift
exec "$@"
"""


class Ssh:
    """Keys and files for both sides in `folder`; `config` is what ssh reads."""

    def __init__(self, folder: Path) -> None:
        assert UNPACKED.exists(), "tools/unpacked openssh-server has to run first; make test does that"
        self.folder = folder / "ssh"
        self.folder.mkdir()
        for name in ("host_key", "key"):
            made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(self.folder / name)]
            subprocess.run(made, check=True)
        self.home = self.folder / "home"
        self.home.mkdir()
        for name, text in USERS.items():
            (self.folder / name).write_text(text.format(home=self.home))
        self.config = self.folder / "config"
        self.configure()

    def configure(self, first: str = "") -> None:
        """Have ssh read this before all else."""
        self.config.write_text(CLIENT.format(first=first, folder=self.folder))

    def serve(self, host: Namespace, port: int = PORT) -> Path:
        """Start sshd on a host, until its namespace goes; the file that it logs to."""
        config, log = (self.folder / f"sshd-{host.name}-{port}.{kind}" for kind in ("conf", "log"))
        config.write_text(SERVER.format(port=port, folder=self.folder))
        sshd = [str(UNPACKED), "sshd", "-D", "-E", str(log), "-f", str(config)]
        host.popen("sh", "-c", IN_ITS_OWN_PLACE, "sh", str(self.folder), *sshd)
        until(lambda: log.exists() and "Server listening on :: port" in log.read_text())
        return log

    def run(
        self,
        host: Namespace,
        program: str,
        *words: str,
        hosts: Path | None = None,
        stdin: str | None = None,
        environment: Iterable[str] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run ssh, or what starts it, to its end. `hosts` stands for /etc/hosts there."""
        bound = [] if hosts is None else ["sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh"]
        options = {"ssh": ["-F", str(self.config)], "scp": ["-F", str(self.config)], "sftp": ["-F", str(self.config)]}
        return subprocess.run(
            host.command(*bound, "env", *environment, program, *options.get(program, []), *words),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
