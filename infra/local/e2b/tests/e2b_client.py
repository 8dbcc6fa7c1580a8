"""Drives the E2B emulator with the official E2B SDK, unmodified. The environment says where it is (E2B_API_URL,
E2B_SANDBOX_URL, E2B_API_KEY)."""

import os
import sys
import threading
import time
import urllib.error
import urllib.request

from e2b import CommandExitException, NotFoundException, Sandbox, SandboxQuery, SandboxState


def check(condition, what):
    # Not `assert`, which python -O removes.
    if not condition:
        sys.exit(f"failed: {what}")


# Create, once however often it is asked.
metadata = {"owner": "sdk test", "odd": "a=b&c/ü"}
options = dict(timeout=300, metadata=metadata, envs={"SHARED": "shared value"}, idempotency_key="once-and-no-more")
sandbox = Sandbox.create("base", **options)
again = Sandbox.create("base", **options)
check(sandbox.sandbox_id == again.sandbox_id, "two creates with one key give one sandbox")
check(sandbox.is_running(), "a new sandbox runs")
info = sandbox.get_info()
check(info.metadata == metadata and info.state == SandboxState.RUNNING, "get")

# Commands: both streams, the exit code, variables, the user, the directory.
ran = sandbox.commands.run("echo out; echo err >&2; echo $SHARED $OWN", envs={"OWN": "own value"})
check((ran.stdout, ran.stderr, ran.exit_code) == ("out\nshared value own value\n", "err\n", 0), f"run: {ran}")
try:
    sandbox.commands.run("echo before; exit 3")
    sys.exit("failed: a failing command raised nothing")
except CommandExitException as error:
    check((error.exit_code, error.stdout) == (3, "before\n"), "exit code")
check(sandbox.commands.run("pwd; cat /proc/1/comm; ls /work 2>/dev/null || true", cwd="/tmp").stdout == "/tmp\nbash\n", "its own room")
large = sandbox.commands.run("head -c 300000 /dev/zero | tr '\\0' x; echo; printf 'ü🦀'")
check(large.stdout == "x" * 300000 + "\nü🦀", "large output")

# Background, listing, stdin in all its ways, signals.
seen = []
background = sandbox.commands.run("cat; echo done; exit 4", background=True, stdin=True)
listed = [process for process in sandbox.commands.list() if process.pid == background.pid]
check(len(listed) == 1 and listed[0].args[-1].startswith("cat"), "list")
sandbox.commands.send_stdin(background.pid, "one line\n")
sandbox.commands.stream_input(background.pid, ["two ", "three\n"])
sandbox.commands.close_stdin(background.pid)
try:
    background.wait(on_stdout=seen.append)
    sys.exit("failed: the background command's exit code was lost")
except CommandExitException as error:
    check(error.exit_code == 4 and error.stdout == "one line\ntwo three\ndone\n", f"background: {error.stdout!r}")
check("".join(seen) == "one line\ntwo three\ndone\n", "streamed output")
sleeper = sandbox.commands.run("sleep 100", background=True)
check(sandbox.commands.kill(sleeper.pid), "kill a process")
check(not sandbox.commands.kill(999999), "kill no process")
talker = sandbox.commands.run("for i in 1 2 3; do sleep 0.3; echo $i; done", background=True)
other = sandbox.commands.connect(talker.pid)
check(other.wait().stdout.endswith("2\n3\n") and talker.wait().exit_code == 0, "attach to a running process")

# Files, binary and with odd names.
binary = bytes(range(256)) * 1000
sandbox.files.write("/home/user/deep/er/ü name.bin", binary)
check(bytes(sandbox.files.read("/home/user/deep/er/ü name.bin", format="bytes")) == binary, "binary file")
check(sandbox.commands.run("stat -c '%U %s' 'deep/er/ü name.bin'").stdout == "user 256000\n", "its owner and size")
sandbox.files.write_files([{"path": "a.txt", "data": "one"}, {"path": "b.txt", "data": "two"}])
names = sorted(entry.name for entry in sandbox.files.list("/home/user"))
check([name for name in names if not name.startswith(".")] == ["a.txt", "b.txt", "deep"], f"files: {names}")
sandbox.files.rename("a.txt", "c.txt")
check(sandbox.files.exists("c.txt") and not sandbox.files.exists("a.txt"), "rename")
check(sandbox.files.make_dir("dir") and not sandbox.files.make_dir("dir"), "make a directory")
sandbox.files.remove("c.txt")
try:
    sandbox.files.read("c.txt")
    sys.exit("failed: a removed file was read")
except NotFoundException:
    pass

# Listing sandboxes by what they were labelled with.
second = Sandbox.create(metadata={"owner": "another"})
found = Sandbox.list(query=SandboxQuery(metadata={"odd": metadata["odd"]})).next_items()
check([entry.sandbox_id for entry in found] == [sandbox.sandbox_id], "list by metadata")
paginator, everything = Sandbox.list(limit=1), []
while paginator.has_next:
    everything += [entry.sandbox_id for entry in paginator.next_items()]
check(sorted(everything) == sorted([sandbox.sandbox_id, second.sandbox_id]), "pages")
check(second.commands.run("ls /home/user").stdout == "", "another sandbox has other files")

# A pause without memory: files stay; processes, memory file systems and the create's variables do not.
sandbox.commands.run("echo kept > kept.txt; echo lost > /dev/shm/lost")
sandbox.commands.run("sleep 1000", background=True)
check(sandbox.pause(mode="filesystem"), "pause")
check(not sandbox.pause(mode="filesystem"), "pause what is paused")
check(not sandbox.is_running(), "a paused sandbox does not run")
paused = Sandbox.list(query=SandboxQuery(state=[SandboxState.PAUSED])).next_items()
check([entry.sandbox_id for entry in paused] == [sandbox.sandbox_id], "list of paused ones")
sandbox = Sandbox.connect(sandbox.sandbox_id, timeout=120)
after = sandbox.commands.run("cat kept.txt; ls /dev/shm; echo \"${SHARED-none}\"; pgrep -c sleep || true").stdout
check(after == "kept\nnone\n0\n", f"after a pause: {after!r}")

# A snapshot is a template of its own.
snapshot = sandbox.create_snapshot()
copy = Sandbox.create(snapshot.snapshot_id)
check(copy.commands.run("cat kept.txt").stdout == "kept\n", "a sandbox of a snapshot")
check(Sandbox.delete_snapshot(snapshot.snapshot_id) and not Sandbox.delete_snapshot(snapshot.snapshot_id), "delete it")

# One that has a name is found by it, with its team and tag or without.
named = sandbox.create_snapshot(name="kept-by-name")
for name in ["kept-by-name", named.snapshot_id]:
    found = Sandbox.list_snapshots(name=name).next_items()
    check([entry.snapshot_id for entry in found] == [named.snapshot_id], f"a snapshot by its name {name}")
check(Sandbox.list_snapshots(name="kept").next_items() == [], "no snapshot by a part of a name")
check(Sandbox.delete_snapshot(named.snapshot_id), "delete the named one")

# A port has a host of its own, which answers those who have the sandbox's traffic token where it wants one.
def visit(host, headers):
    request = urllib.request.Request(os.environ["E2B_SANDBOX_URL"] + "/page", headers={"Host": host, **headers})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


for traffic in (True, False):
    serving = Sandbox.create(network={"allow_public_traffic": traffic})
    serving.files.write("/tmp/site/page", "served\n")
    serving.commands.run("cd /tmp/site && exec python3 -u -m http.server 0 > /tmp/said 2>&1", background=True)
    told = serving.commands.run("for i in $(seq 100); do grep -o 'port [0-9]*' /tmp/said && break; sleep 0.1; done")
    port = int(told.stdout.split()[1])
    host = serving.get_host(port)
    check(host.startswith(f"{port}-{serving.sandbox_id}."), f"host: {host}")
    token = serving.traffic_access_token
    check((token is None) == traffic, "a traffic token where it is wanted")
    with_token = {} if traffic else {"e2b-traffic-access-token": token}
    check(visit(host, with_token) == (200, b"served\n"), "a port")
    # Another sandbox's is none of this one's, though both are on one machine.
    check(visit(sandbox.get_host(port), with_token)[0] == 502, "a port of another sandbox")
    if not traffic:
        check([visit(host, bad)[0] for bad in ({}, {"e2b-traffic-access-token": "x"})] == [403, 403], "no token")
    serving.kill()
    check(visit(host, with_token)[0] == 502, "a port of a sandbox that is gone")

# A running stream ends with its sandbox, and timeouts are kept to.
copy.set_timeout(1)
until = time.monotonic() + 15
while copy.is_running() and time.monotonic() < until:
    time.sleep(0.1)
check(not copy.is_running(), "a timeout ends a sandbox")
stopped = second.commands.run("sleep 1000", background=True, timeout=0)
ending = threading.Timer(0.3, second.kill)
ending.start()
try:
    stopped.wait()
    sys.exit("failed: a killed sandbox's command ended well")
except Exception as error:
    check(not isinstance(error, CommandExitException) or error.exit_code != 0, "a killed sandbox's command")
ending.join()

check(sandbox.kill() and not sandbox.kill(), "kill")
check(Sandbox.list().next_items() == [], "nothing is left")
print("all checks passed")
