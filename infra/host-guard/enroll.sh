#!/bin/sh
# Puts the firewall of a Docker host in place, now and whenever its engine starts. Runs on the host, as root.
#
#   enroll.sh FIREWALL     the text of firewall.sh
#
# The last line that it prints is `lasting` where systemd starts the engine and will see to it, else `until restart`.
set -eu
umask 022
PATH="${PATH:+$PATH:}/usr/sbin:/sbin:/usr/bin:/bin"
file=/etc/theazo/firewall.sh

mkdir -p "${file%/*}"
printf '%s' "$1" >"$file.new"
mv -f "$file.new" "$file"
sh "$file" install

units=/etc/systemd/system
engine=
for place in "$units" /run/systemd/system /usr/lib/systemd/system /lib/systemd/system; do
  [ ! -e "$place/docker.service" ] || engine=$place/docker.service
done
if [ ! -d /run/systemd/system ] || [ -z "$engine" ]; then
  echo 'until restart'
  exit
fi
# The engine does not start without it, and starts after it: no agent runs for a moment without rules, nor where they could
# not be put in place. It comes after what else may fill the tables.
mkdir -p "$units/docker.service.requires"
cat >"$units/theazo-firewall.service" <<UNIT
[Unit]
Description=Keeps agents in containers from this machine
Before=docker.service
After=network-online.target firewalld.service ufw.service nftables.service iptables.service netfilter-persistent.service
PartOf=docker.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh $file rules
UNIT
ln -sfn ../theazo-firewall.service "$units/docker.service.requires/theazo-firewall.service"
# From a container's root it is taken for a mistake otherwise. At the latest the next start of the machine reads the unit.
SYSTEMD_IGNORE_CHROOT=1 systemctl daemon-reload >/dev/null 2>&1 || true
echo lasting
