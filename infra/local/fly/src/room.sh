# Makes one machine's view of the file system and stays as its process 1. Runs in mount, process-id and network namespaces
# of its own: whatever is mounted here, and every process, ends with it. Arguments: the machine's root, which is empty, a
# volume's directory with the place it is mounted at, or two empty words, and the programs of its image.
#
# Other programs come from this machine, read-only; everything else is the root's and goes with it.
set -eu
root="$1" volume="$2" place="$3"
shift 3
mount --make-rprivate /
mount --bind "$root" "$root"
for dir in usr bin sbin lib lib32 lib64 etc opt; do
    if [ -L "/$dir" ]; then
        ln -s "$(readlink "/$dir")" "$root/$dir"
    elif [ -d "/$dir" ]; then
        mkdir "$root/$dir"
        mount --rbind "/$dir" "$root/$dir"
        mount -o remount,ro,bind "$root/$dir"
    fi
done
# The image's programs beside what this machine has in the same place.
mkdir "$root/.host-bin"
mount --bind /usr/local/bin "$root/.host-bin"
mount -t tmpfs -o mode=0755 tmpfs "$root/usr/local/bin"
for program in /usr/local/bin/*; do
    if [ -e "$program" ]; then ln -s "/.host-bin/${program##*/}" "$root/usr/local/bin/${program##*/}"; fi
done
for program in "$@"; do
    rm -f "$root/usr/local/bin/${program##*/}"
    : > "$root/usr/local/bin/${program##*/}"
    mount --bind "$program" "$root/usr/local/bin/${program##*/}"
done
mkdir -p "$root/proc" "$root/run" "$root/dev" "$root/tmp" "$root/root" "$root/var/tmp" "$root/.fly"
chmod 1777 "$root/tmp" "$root/var/tmp"
# Where the real init offers its API inside.
: > "$root/.fly/api"
chmod 0666 "$root/.fly/api"
if [ -n "$volume" ]; then
    mkdir -p "$root$place"
    mount --bind "$volume" "$root$place"
fi
mount -t proc proc "$root/proc"
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
# SIOCSIFFLAGS with IFF_UP and IFF_RUNNING, where there is no `ip`.
ip link set lo up 2>/dev/null || python3 -c '
import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh22x", b"lo", 0x41))'
cd "$root"
# Reaps whatever is left to it, until the emulator closes its standard input, or is gone.
exec chroot . /bin/bash -c '/bin/true; echo ready; while read -r _; do :; done'
