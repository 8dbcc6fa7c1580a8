"""The guest of sandboxes whose image is not ours: what the agent image's own guest does, in Python's standard library.

It reads one request from the file that its argument names, removes that file, and answers on standard output; messages
and rules are those of `infra/agent-image`. `guest_files.py` goes before this, in one program. Deliveries run as root,
everything else as the agent's user. Nothing here prints a byte of a delivered environment, or puts one into an argument.
"""

import ctypes
import errno
import json
import os
import pwd
import resource
import select
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time

USER = "user"
RUN = "/run/theazo"
INBOX = RUN + "/in"
DELIVERED = RUN + "/env"
ROOTS = {"data": "/data", "tmp": "/tmp"}
MAX_PAYLOAD = 8 * 1024 * 1024
PIECE = 64 * 1024
TIMED_OUT = 124
PATIENCE = 10.0
# How long output is gathered once some was told, in seconds, unless there is a PIECE of it.
GATHER = 0.05

libc = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
# First of all: agent code runs as the same user, and could write into the answer through /proc.
libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


class Refused(Exception):
    """The request cannot be done; the argument is the protocol's reason."""


def refusal(error):
    """An operating system error as the protocol tells it."""
    number = error.errno or 0
    if number == errno.ENOENT:
        return "notFound"
    if number in (errno.EXDEV, errno.ELOOP):
        return "outsideRoots"
    if number in (errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
        return "wrongKind"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "permissionDenied"
    if number in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EFBIG):
        return "noSpace"
    if number == errno.ENAMETOOLONG:
        return "badPath"
    return {"os": number}


# Delivering


def expect_memory():
    """Refuses to put a secret where a snapshot of the file system would have it: on a disk, or where it may be swapped."""
    best = ("", "")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            mounted, _, kind = line.partition(" - ")
            point, kind = mounted.split()[4], kind.split()[0]
            inside = point == "/" or RUN == point or RUN.startswith(point + "/")
            if inside and len(point) >= len(best[0]):
                best = (point, kind)
    if best[1] not in ("tmpfs", "ramfs"):
        raise Refused({"os": errno.EMEDIUMTYPE})
    with open("/proc/swaps", encoding="utf-8", errors="replace") as swaps:
        areas = [line.split()[0] for line in list(swaps)[1:]]
    for area in areas:
        # One that cannot be seen from here belongs to somebody else's machine.
        if os.path.exists(area) and libc.swapoff(os.fsencode(area)) != 0:
            raise Refused({"os": errno.EMEDIUMTYPE})


def deliver(payload):
    """Replaces the delivered environment. Programs that run keep what they started with."""
    if payload and (payload[-1:] != b"\0" or any(e.find(b"=") < 1 for e in payload[:-1].split(b"\0"))):
        raise Refused("badRequest")
    expect_memory()
    user = pwd.getpwnam(USER)
    os.umask(0o022)
    if not os.path.isdir(DELIVERED):
        # The first delivery since the machine has started. The inbox may be there: the service makes it for what it was
        # asked to put there.
        empty(ROOTS["tmp"])
        os.makedirs(ROOTS["data"], exist_ok=True)
        os.chown(ROOTS["data"], user.pw_uid, user.pw_gid)
        os.makedirs(INBOX, exist_ok=True)
        os.chmod(INBOX, 0o700)
        os.chown(INBOX, user.pw_uid, user.pw_gid)
        os.makedirs(DELIVERED, 0o750, exist_ok=True)
        os.chown(DELIVERED, 0, user.pw_gid)
    temporary = "%s/.env.%d" % (DELIVERED, os.getpid())
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        write_all(file, payload)
        os.fchown(file, 0, user.pw_gid)
        os.fchmod(file, 0o640)
    finally:
        os.close(file)
    os.rename(temporary, DELIVERED + "/env")


def empty(directory):
    """Removes what lies in a directory and is on its file system."""
    device = os.lstat(directory).st_dev
    for entry in os.scandir(directory):
        try:
            if entry.is_dir(follow_symlinks=False):
                if entry.stat(follow_symlinks=False).st_dev == device:
                    shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)
        except OSError:
            pass


def delivered():
    """What was delivered, by name; nothing when nothing was."""
    try:
        with open(DELIVERED + "/env", "rb") as file:
            entries = file.read().split(b"\0")
    except FileNotFoundError:
        return {}
    return dict(entry.split(b"=", 1) for entry in entries if entry)


# Processes


def processes():
    """The parent of every process that still runs. A program's name may hold parentheses, so fields count from the last."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/%s/stat" % name, "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if len(fields) > 1 and fields[0] not in (b"Z", b"X", b"x"):
                found[int(name)] = int(fields[1])
    return found


def descendants():
    parents, found = processes(), {os.getpid()}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found - {os.getpid()}
        found |= more


def of_user():
    uid, found = pwd.getpwnam(USER).pw_uid, set()
    for pid in processes():
        try:
            with open("/proc/%d/status" % pid, encoding="utf-8", errors="replace") as file:
                line = next(line for line in file if line.startswith("Uid:"))
        except (OSError, StopIteration):
            continue
        if int(line.split()[1]) == uid and pid != os.getpid():
            found.add(pid)
    return found


def send(pid, number):
    try:
        os.kill(pid, number)
    except OSError:
        pass


def reap():
    """One ended child, if there is one."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None


def end(victims):
    """Ends processes: stops all first, so that none forks away from the list, then kills, then looks again."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        stopped = set()
        while True:
            new = victims() - stopped
            if not new:
                break
            for pid in new:
                send(pid, signal.SIGSTOP)
            stopped |= new
        for pid in stopped:
            send(pid, signal.SIGKILL)
        while reap():
            pass
        if not stopped:
            return
        time.sleep(0.001)


# Telling


def message(header, payload):
    header = json.dumps(header).encode()
    return struct.pack(">I", len(header)) + header + payload


class Relay:
    """Output on its way while the program runs. Whoever listens may be slow, or gone: nothing here waits for them."""

    def __init__(self):
        self.queue = b""
        self.waiting = ([], [])
        self.size = 0
        self.last = 0.0
        os.set_blocking(1, False)

    def take(self, stream, piece):
        self.waiting[stream].append(piece)
        self.size += len(piece)

    def due(self):
        """In how many seconds there is another message to make, if nothing else happens."""
        if self.queue or not self.size:
            return None
        return 0 if self.size >= PIECE else max(0, self.last + GATHER - time.monotonic())

    def rest(self):
        """What is in no message yet, of each stream."""
        rest = [b"".join(pieces) for pieces in self.waiting]
        self.waiting, self.size = ([], []), 0
        return rest

    def pump(self):
        if self.due() == 0:
            out, err = self.rest()
            self.queue = message({"answer": "output", "stdout": len(out), "stderr": len(err)}, out + err)
            self.last = time.monotonic()
        while self.queue:
            try:
                self.queue = self.queue[os.write(1, self.queue) :]
            except BlockingIOError:
                return
            except OSError:
                # Nobody listens; that is found out once more with the answer.
                self.queue = b""

    def finish(self):
        os.set_blocking(1, True)
        write_all(1, self.queue)


# Running code


def run(request, stdin):
    """Runs a program and answers when it has ended. What it left in the background runs on, except after the time limit."""
    names = {"python": ("python3", "main.py"), "node": ("node", "main.js"), "bash": ("bash", "main.sh")}
    program, name = names[request["language"]]
    program = shutil.which(program)
    if not program:
        raise Refused("noRuntime")
    environment = {
        b"PATH": os.environb.get(b"PATH", b"/usr/local/bin:/usr/bin:/bin"),
        b"HOME": b"/data",
        b"LANG": b"C.UTF-8",
        b"TMPDIR": b"/tmp",
    }
    environment.update(delivered())
    deadline = time.monotonic() + request["timeoutMs"] / 1000
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake, waker = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    told = []
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    directory = "%s/%d-%d" % (INBOX, os.getpid(), time.monotonic_ns())
    os.mkdir(directory, 0o700)
    try:
        code = directory + "/" + name
        with open(code, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(request["code"])
        relay = Relay() if request.get("stream") else None
        return attend(program, code, environment, stdin, request["outputCap"], deadline, wake, told, relay)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def attend(program, code, environment, stdin, cap, deadline, wake, told, relay):
    guest = os.getpid()

    def stage():
        os.setsid()
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != guest:
            os._exit(137)
        # A core file would hold the environment.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    child = subprocess.Popen(
        [program, code],
        env=environment,
        cwd="/data",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        preexec_fn=stage,
    )
    taps = {child.stdout.fileno(): [], child.stderr.fileno(): []}
    order = list(taps)
    lengths = dict.fromkeys(order, 0)
    poller = select.poll()
    poller.register(wake, select.POLLIN)
    for pipe in order:
        os.set_blocking(pipe, False)
        poller.register(pipe, select.POLLIN)
    feed = child.stdin.fileno()
    os.set_blocking(feed, False)
    if stdin:
        poller.register(feed, select.POLLOUT)
    else:
        child.stdin.close()
    stdin = memoryview(stdin)

    def pump(pipe):
        """Reads once; whether there may be more."""
        try:
            piece = os.read(pipe, PIECE)
        except BlockingIOError:
            return False
        except OSError:
            piece = b""
        if not piece:
            poller.unregister(pipe)
            open_taps.discard(pipe)
            return False
        room = cap - lengths[pipe]
        if room > 0 and relay:
            relay.take(order.index(pipe), piece[:room])
        elif room > 0:
            taps[pipe].append(piece[:room])
        lengths[pipe] += len(piece)
        return True

    open_taps = set(order)
    listener_is_polled = False
    exit_code, timed_out, cut_short = None, False, False
    while True:
        while True:
            ended = reap()
            if not ended:
                break
            if ended[0] == child.pid:
                status = ended[1]
                exit_code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        if exit_code is not None:
            break
        if told:
            exit_code, cut_short = 128 + signal.SIGTERM, True
            break
        left = deadline - time.monotonic()
        if left <= 0:
            timed_out = cut_short = True
            break
        due = None
        if relay:
            relay.pump()
            due = relay.due()
            if relay.queue:
                poller.register(1, select.POLLOUT)
            elif listener_is_polled:
                poller.unregister(1)
            listener_is_polled = bool(relay.queue)
        for ready, _ in poller.poll(min(left, 3600, left if due is None else due) * 1000):
            if ready == wake:
                try:
                    os.read(wake, 4096)
                except BlockingIOError:
                    pass
            elif ready in open_taps:
                pump(ready)
            elif ready == feed:
                try:
                    stdin = stdin[os.write(feed, stdin[:PIECE]) :]
                except BlockingIOError:
                    continue
                except OSError:
                    # A program need not read its input.
                    stdin = stdin[:0]
                if not stdin:
                    poller.unregister(feed)
                    child.stdin.close()
    child.returncode = 0
    if cut_short:
        end(descendants)
    for pipe in order:
        # Bounded: someone outside the tree may have been handed the other end.
        for _ in range(cap // PIECE + 64):
            if pipe not in open_taps or not pump(pipe):
                break
    if relay:
        relay.finish()
    outputs = relay.rest() if relay else [b"".join(taps[pipe]) for pipe in order]
    header = {
        "answer": "exec",
        "exitCode": TIMED_OUT if timed_out else exit_code,
        "timedOut": timed_out,
        "stdout": len(outputs[0]),
        "stderr": len(outputs[1]),
        "stdoutTruncated": lengths[order[0]] > cap,
        "stderrTruncated": lengths[order[1]] > cap,
    }
    return header, b"".join(outputs)


def answer(request, payload):
    done = {"answer": "done"}, b""
    operation = request["op"]
    if operation == "deliver":
        deliver(payload)
        return done
    if operation == "exec":
        return run(request, payload)
    if operation == "writeFile":
        write_file(request["path"], request["at"], payload)
        return done
    if operation == "readFile":
        return read_file(request["path"], request["offset"], request["length"])
    if operation == "listFiles":
        return list_files(request["dir"])
    if operation == "killAll":
        end(of_user)
        return done
    raise Refused("badRequest")


def main(path):
    with open(path, "rb") as file:
        received = file.read()
    os.unlink(path)
    try:
        (length,) = struct.unpack_from(">I", received)
        request = json.loads(received[4 : 4 + length])
        header, payload = answer(request, received[4 + length :])
    except Refused as refused:
        header, payload = {"answer": "refused", "reason": refused.args[0]}, b""
    except OSError as error:
        header, payload = {"answer": "refused", "reason": refusal(error)}, b""
    except (KeyError, TypeError, ValueError):
        header, payload = {"answer": "refused", "reason": "badRequest"}, b""
    write_all(1, message(header, payload))


main(sys.argv[1])
