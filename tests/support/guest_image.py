"""What a kernel under test boots into: this machine's own Python, nft and openme, as an initramfs.

Everything lies in the guest where it lies here: the checkout, `.venv`, the interpreter, the programs, and the libraries
that these load. A program of this machine is not changed by the copy; what differs is the kernel below it.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

CHECKOUT = Path(__file__).resolve().parents[2]
PROGRAMS = ("busybox", "env", "ip", "ldconfig", "mount", "nft", "sh", "ss", "sysctl", "modprobe")
PACKAGES = ("openme", "pytest", "pytest-timeout")
LOADED_BY_NAME = ("libnftables.so.1", "libseccomp.so.2", "libgcc_s.so.1")
"""Libraries that no file names: they are found by a running program."""
NOT_FROM_STDLIB = ("test", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "site-packages", "dist-packages")
MODULES = ("arch", "crypto", "drivers/net", "lib", "net")
"""The parts of a kernel's modules that are of use without a disk."""
ACCOUNTS = ("root:x:0:0:root:/root:/bin/sh", "openme:x:990:990::/:/bin/false", "nobody:x:65534:65534::/:/bin/false")
GROUPS = ("root:x:0:", "openme:x:990:", "nogroup:x:65534:")

# The first process: mounts, then the script that the test has written, whose output goes to the first serial line.
_INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /applets /proc /sys /dev /run /tmp /root
/bin/busybox --install -s /applets
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/applets HOME=/root LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /dev/pts
mount -t devpts devpts /dev/pts
for place in /run /dev/shm; do mount -t tmpfs tmpfs $place; done
mkdir /run/netns
chmod 1777 /tmp
hostname guest
ip link set lo up
sh /run-in-guest
sync
poweroff -f
"""


class MissingError(AssertionError):
    """Something that the image needs is not on this machine; one line that says what."""


class Tree:
    """A directory that becomes the guest's root."""

    def __init__(self, root: Path) -> None:
        """`root` is made; what lay there is gone."""
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        self.root = root
        self._binaries: list[Path] = []
        for name in ("bin", "sbin", "lib", "lib64"):
            here = Path("/", name)
            if here.is_symlink():
                self._inside(here.resolve()).mkdir(parents=True, exist_ok=True)
                (root / name).symlink_to(here.readlink())
            elif here.is_dir():
                (root / name).mkdir()

    def _inside(self, path: Path) -> Path:
        return self.root / path.relative_to("/")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file with this text."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def copy(self, path: Path) -> None:
        """A file of this machine to the same place; behind a symbolic link also what it points to."""
        path = path.parent.resolve() / path.name
        target = self._inside(path)
        if target.exists() or target.is_symlink():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            target.symlink_to(path.readlink())
            self.copy(path.parent / path.readlink())
            return
        shutil.copy2(path, target)
        if _is_elf(path):
            self._binaries.append(path)

    def copy_all(self, folder: Path, *, leave: Iterable[str] = ()) -> None:
        """A folder's files to the same place, but for the entries of these names."""
        left = {folder / name for name in leave}
        for at, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if Path(at, name) not in left]
            for name in files:
                self.copy(Path(at, name))

    def add_libraries(self) -> None:
        """What the programs and libraries that are here load in their turn, as ld.so says."""
        told = subprocess.run(["ldd", *map(str, self._binaries)], capture_output=True, text=True, check=False).stdout
        for line in told.splitlines():
            if "not found" in line:
                raise MissingError(f"a library that the guest's programs load is missing here: {line.strip()}")
            for word in line.split():
                if word.startswith("/") and not word.endswith(":"):
                    self.copy(Path(word))


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def program(name: str) -> Path:
    """Where a program lies. MissingError if it is not here."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        raise MissingError(f"{name} is missing here: make test-long installs what the tests with other kernels need")
    return Path(found)


def with_dependencies(names: Iterable[str]) -> dict[str, Distribution]:
    """These Python packages of this environment and all that they need here."""
    found: dict[str, Distribution] = {}
    wanted = list(names)
    while wanted:
        name = wanted.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            raise MissingError(f"the python package {name} is missing here: run make venv") from None
        for line in found[name].requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                wanted.append(needed.name)
    return found


def _python(tree: Tree) -> None:
    tree.copy(Path(sys.executable))
    tree.copy(Path(sys.prefix, "pyvenv.cfg"))
    stdlib = Path(sysconfig.get_path("stdlib"))
    tree.copy_all(stdlib, leave=[*NOT_FROM_STDLIB, *(path.name for path in stdlib.glob("config-*"))])
    for package in with_dependencies(PACKAGES).values():
        for file in package.files or ():
            path = Path(str(file.locate()))
            # Compiled files of tests and of what a package leaves behind may be listed and gone.
            if path.exists():
                tree.copy(path)


def _libraries_by_name() -> Iterable[Path]:
    listed = subprocess.run([program("ldconfig"), "-p"], capture_output=True, text=True, check=True).stdout
    places = {line.split()[0]: Path(line.split()[-1]) for line in reversed(listed.splitlines()) if "=>" in line}
    for name in LOADED_BY_NAME:
        if name not in places:
            raise MissingError(f"the library {name} is missing here: run make venv as root")
        yield places[name]


def build_tree(root: Path, script: str) -> None:
    """Make the guest's root at `root`; `script` (sh) is what the guest runs."""
    tree = Tree(root)
    for name in PROGRAMS:
        tree.copy(program(name))
    _python(tree)
    for library in _libraries_by_name():
        tree.copy(library)
    for folder in ("src", "tests"):
        tree.copy_all(CHECKOUT / folder)
    tree.copy(CHECKOUT / "pyproject.toml")
    for path in ("/etc/protocols", "/etc/services", "/etc/ld.so.conf"):
        if Path(path).exists():
            tree.copy(Path(path))
    if Path("/etc/ld.so.conf.d").is_dir():
        tree.copy_all(Path("/etc/ld.so.conf.d"))
    tree.add_libraries()
    # The kernel starts this path when a rule needs a module, and the interpreter of our scripts has this one.
    for name in ("busybox", "modprobe", "sh"):
        link = tree.root / ("sbin" if name == "modprobe" else "bin") / name
        if not link.exists():
            link.symlink_to(program(name))
    tree.write("/etc/passwd", "".join(f"{line}\n" for line in ACCOUNTS))
    tree.write("/etc/group", "".join(f"{line}\n" for line in GROUPS))
    tree.write("/etc/hosts", "127.0.0.1 localhost guest\n::1 localhost\n")
    tree.write("/init", _INIT, 0o755)
    tree.write("/run-in-guest", script)
    subprocess.run([program("ldconfig"), "-r", str(root)], check=True, capture_output=True)


def pack(tree: Path, kernel: Path, image: Path) -> None:
    """Write the initramfs: the guest's root, then the modules of the kernel unpacked at `kernel`."""
    (version,) = (kernel / "lib/modules").iterdir()
    base = Path("lib/modules", version.name)
    modules = [path for part in MODULES for path in (version / "kernel" / part).rglob("*")]
    listed = {path.relative_to(kernel) for path in (*modules, *version.glob("modules.*")) if path.is_file()}
    folders = {parent for path in listed for parent in path.parents if parent.is_relative_to(base)}
    with image.open("wb") as file:
        _cpio(tree, sorted(path.relative_to(tree) for path in tree.rglob("*")), file.fileno())
        # Not `lib` itself, which is a link in the guest.
        _cpio(kernel, [Path("lib/modules"), *sorted(folders), *sorted(listed)], file.fileno())


def _cpio(root: Path, paths: Iterable[Path], output: int) -> None:
    names = "".join(f"{path}\0" for path in paths)
    done = subprocess.run(
        [program("cpio"), "--null", "--create", "--format=newc", "--quiet", f"--directory={root}", "--owner=0:0"],
        input=names.encode(),
        stdout=output,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode != 0:
        raise MissingError(f"cpio could not pack {root}: {done.stderr.decode().strip()}")
