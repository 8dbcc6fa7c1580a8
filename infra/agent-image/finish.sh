#!/bin/sh
# The last step of building the agent image, run as root inside it: users, mount points, what the packages'
# own scripts would have made. Works on a tree that was only unpacked and on one that was installed.
set -eu

ldconfig
[ -e /usr/bin/awk ] || ln -s mawk /usr/bin/awk
[ -e /usr/bin/which ] || ln -s which.debianutils /usr/bin/which
[ -e /etc/localtime ] || ln -s /usr/share/zoneinfo/Etc/UTC /etc/localtime
[ -e /etc/nsswitch.conf ] || printf 'passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n' > /etc/nsswitch.conf

touch /etc/passwd /etc/group
add() { grep -q "^${2%%:*}:" "$1" || echo "$2" >> "$1"; }
add /etc/passwd 'root:x:0:0:root:/root:/usr/sbin/nologin'
add /etc/passwd 'nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin'
add /etc/passwd 'supervisor:x:10000:10000:supervisor:/nonexistent:/usr/sbin/nologin'
add /etc/passwd 'agent:x:10001:10001:agent:/data:/bin/bash'
add /etc/group 'root:x:0:'
add /etc/group 'nogroup:x:65534:'
add /etc/group 'supervisor:x:10000:'
add /etc/group 'agent:x:10001:'

# Certificate authorities, for curl, git, Python and Node.
(cd /usr/share/ca-certificates && find . -name '*.crt' | sed 's|^\./||' | sort) > /etc/ca-certificates.conf
mkdir -p /etc/ssl/certs /etc/ca-certificates/update.d
update-ca-certificates --fresh > /dev/null
grep -q 'BEGIN CERTIFICATE' /etc/ssl/certs/ca-certificates.crt

# The root file system is read-only when agents run: what is not compiled now is compiled at every import.
# "unchecked" also spares a look at each source file.
for library in /usr/lib/python3 /usr/lib/python3.*; do
    python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -x '/(test|tests|lib2to3/tests)/' "$library"
done

# Mount points with the modes they must have: runc before 1.1.13 gives a memory file system the mode of the
# directory below it from the second start on.
install -d -m 0750 -o 0 -g 10001 /run/agent
install -d -m 0755 -o 10001 -g 10001 /data
install -d -m 1777 /tmp
rm -rf /home /build /var/cache/apt /var/lib/apt/lists /usr/share/doc /usr/share/man /usr/share/info /usr/share/lintian
chown 0:0 /usr/local/bin/theazo-guest /usr/local/bin/theazo-forwarder
chmod 0755 /usr/local/bin/theazo-guest /usr/local/bin/theazo-forwarder

# Nothing may raise its rights; under no-new-privileges nothing could, but an image is used in more than one way.
find / -xdev -type f -perm /6000 -exec chmod ug-s {} +
