"""Files of the agent, for the guest in `guest.py`, which follows this in one program and has what both need.

A path stays beneath `/data` or `/tmp`: the kernel resolves it relative to that directory.
"""

import os

SYS_OPENAT2, RESOLVE_NO_MAGICLINKS, RESOLVE_BENEATH = 437, 0x02, 0x08
# A FIFO must not make the guest wait for its other end, and a terminal must not become ours.
CALM = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def openat2(root, path, flags, mode=0):
    """Opens beneath a directory: neither `..` nor a link leads out, not even one that is exchanged meanwhile."""
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
    for _ in range(100):
        found = libc.syscall(SYS_OPENAT2, root, os.fsencode(path), how, len(how))
        if found >= 0:
            return found
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number))


class Beneath:
    """A path taken apart: the open root and what to resolve beneath it."""

    def __init__(self, path):
        if len(os.fsencode(path)) > 4095 or "\0" in path:
            raise Refused("badPath")
        parts = [part for part in path.split("/") if part not in ("", ".")]
        # `..` after a link is ambiguous, and nobody needs it.
        if not path.startswith("/") or not parts or parts[0] not in ROOTS or ".." in parts:
            raise Refused("outsideRoots")
        self.root = os.open(ROOTS[parts[0]], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.parts = parts[1:]

    def open(self, flags, mode=0, parts=None):
        parts = self.parts if parts is None else parts
        return openat2(self.root, "/".join(parts) or ".", flags, mode)

    def parent(self):
        """The directory of the last name; those that are missing are made."""
        above = self.open(os.O_PATH | os.O_DIRECTORY, parts=[])
        for depth, name in enumerate(self.parts[:-1]):
            level = self.parts[: depth + 1]
            try:
                above = self.open(os.O_PATH | os.O_DIRECTORY, parts=level)
            except FileNotFoundError:
                try:
                    os.mkdir(name, 0o755, dir_fd=above)
                except FileExistsError:
                    pass
                above = self.open(os.O_PATH | os.O_DIRECTORY, parts=level)
        return above


def regular(file):
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise Refused("wrongKind")
    return status


def write_all(file, data, offset=None):
    data = memoryview(data)
    while data:
        written = os.write(file, data) if offset is None else os.pwrite(file, data, offset)
        data = data[written:]
        offset = None if offset is None else offset + written


def write_file(path, at, data):
    path = Beneath(path)
    if not path.parts:
        raise Refused("wrongKind")
    parent, name = path.parent(), path.parts[-1]
    if at is not None:
        flags = os.O_WRONLY | os.O_CREAT | CALM | (os.O_APPEND if at == "end" else 0)
        file = path.open(flags, 0o644)
        regular(file)
        write_all(file, data, None if at == "end" else at["offset"])
        return
    try:
        # Also refuses a link that leads out.
        mode = regular(path.open(os.O_PATH)).st_mode & 0o777
    except FileNotFoundError:
        mode = None
    temporary = ".theazo-%d.tmp" % os.getpid()
    try:
        os.unlink(temporary, dir_fd=parent)
    except OSError:
        pass
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | CALM, 0o644, dir_fd=parent)
    try:
        write_all(file, data)
        if mode is not None:
            os.fchmod(file, mode)
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError:
        os.unlink(temporary, dir_fd=parent)
        raise


def read_file(path, offset, length):
    file = Beneath(path).open(os.O_RDONLY | CALM)
    size = regular(file).st_size
    wanted, pieces = min(length, max(0, size - offset), MAX_PAYLOAD), []
    while wanted:
        piece = os.pread(file, wanted, offset)
        if not piece:
            break
        pieces.append(piece)
        offset, wanted = offset + len(piece), wanted - len(piece)
    data = b"".join(pieces)
    return {"answer": "file", "size": size, "payload": len(data)}, data


def list_files(path):
    directory = Beneath(path).open(os.O_RDONLY | os.O_DIRECTORY | CALM)
    entries = []
    for name in os.listdir(directory):
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            continue
        entries.append(
            {
                "name": os.fsencode(name).decode("utf-8", "replace"),
                "size": status.st_size,
                "modified_ms": status.st_mtime_ns // 1000000,
                "directory": stat.S_ISDIR(status.st_mode),
            }
        )
    entries.sort(key=lambda entry: entry["name"].encode())
    return {"answer": "listing", "entries": entries}, b""
