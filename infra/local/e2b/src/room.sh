# Makes one sandbox's view of the file system and stays as its process 1. Runs in a mount and a process-id namespace of
# its own: whatever is mounted here, and every process, ends with it. One argument: the sandbox's directory.
#
# Programs come from this machine, read-only; /home, /data, /tmp, /root and /var are the sandbox's own and persist; /run
# and /dev/shm are memory, as in the real service's machines.
set -eu
root="$1/root"
mount --make-rprivate /
mount --bind "$root" "$root"
for dir in usr bin sbin lib lib32 lib64 etc opt; do
    if [ -L "/$dir" ]; then
        [ -L "$root/$dir" ] || ln -s "$(readlink "/$dir")" "$root/$dir"
    elif [ -d "/$dir" ]; then
        mkdir -p "$root/$dir"
        mount --rbind "/$dir" "$root/$dir"
        mount -o remount,ro,bind "$root/$dir"
    fi
done
mount --bind "$1/passwd" "$root/etc/passwd"
mkdir -p "$root/proc" "$root/run" "$root/dev" "$root/data" "$root/tmp" "$root/root" "$root/var/tmp" "$root/home/user"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=0755 tmpfs "$root/run"
mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    : > "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"
cd "$root"
# Reaps whatever is left to it, until the emulator closes its standard input, or is gone.
exec chroot . /bin/bash -c '/bin/true; echo ready; while read -r _; do :; done'
