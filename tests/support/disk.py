"""A disk of its own for a server's `state_dir`, mounted where only that server (and whoever asks this module) sees it.

A process holds a mount namespace; `openme serve` joins it, and the test reaches the files through that process's
/proc/PID/root. Nothing is mounted in the namespace of this machine.
"""

import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

PAGE = 4096
SECTOR = 512


class Disk:
    """An empty mount namespace with `mount`ed things on `where`."""

    def __init__(self, stack: ExitStack, where: Path) -> None:
        self.where = where
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo ready; cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(self._end)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"

    @property
    def prefix(self) -> list[str]:
        """The command that runs a program in here."""
        return ["nsenter", "--mount", "--target", str(self._holder.pid)]

    @property
    def seen(self) -> Path:
        """The place as this process reaches it."""
        return Path(f"/proc/{self._holder.pid}/root{self.where}")

    def run(self, *words: object) -> None:
        """Run a program in here."""
        done = subprocess.run([*self.prefix, *map(str, words)], capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, f"{words}: {done.stderr}"

    def fill(self, left: int = 0) -> None:
        """Leave not one block, or so many bytes."""
        with (self.seen / "filler").open("ab", buffering=0) as file:
            for size in (PAGE, SECTOR):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue
            if left:
                file.truncate(file.tell() - left)
                os.fsync(file.fileno())

    def free(self) -> None:
        """Give the space back."""
        (self.seen / "filler").unlink()

    def _end(self) -> None:
        self._holder.communicate("")  # the mounts go with the last process in here


class TinyDisk(Disk):
    """One megabyte of memory that can be filled."""

    def __init__(self, stack: ExitStack, where: Path) -> None:
        super().__init__(stack, where)
        self.run("mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", where)


class Ext4Disk(Disk):
    """An ext4 file system on a loop device.

    What programs write without a sync stays in the file system's memory (it commits by itself after ten minutes), so a
    copy of the image is what a disk holds after a power cut at that moment. Simulated: that the disk keeps what it was
    told to flush, and that its own cache loses nothing more.
    """

    def __init__(self, stack: ExitStack, where: Path, image: Path, *words: str) -> None:
        """`words`: how mkfs.ext4 is to make it."""
        super().__init__(stack, where)
        self._image = image
        self._copies = 0
        with image.open("wb") as file:
            file.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0", *words, str(image)], check=True)
        self._mount()

    def _mount(self) -> None:
        self.run("mount", "-o", "loop,commit=600,errors=remount-ro", self._image, self.where)
        self.run("chmod", "700", self.where)

    def cut_power(self) -> Path:
        """What the disk holds at this moment."""
        self._copies += 1
        return Path(shutil.copyfile(self._image, self._image.with_name(f"{self._image.name}-{self._copies}")))

    def boot_from(self, image: Path) -> None:
        """Go on with such a copy; no program may have a file open in here."""
        self.run("umount", self.where)
        self._image.unlink()
        self._image = image
        self._mount()

    def fail(self) -> None:
        """An error of the file system, upon which the kernel makes it read-only."""
        source = subprocess.run(
            [*self.prefix, "findmnt", "-no", "SOURCE", str(self.where)], capture_output=True, text=True, check=True
        )
        Path("/sys/fs/ext4", Path(source.stdout.strip()).name, "trigger_fs_error").write_text("1")

    def repair(self) -> None:
        """As an operator does: check it and mount it anew."""
        self.run("umount", self.where)
        subprocess.run(["e2fsck", "-fy", str(self._image)], capture_output=True, check=False)
        self._mount()
