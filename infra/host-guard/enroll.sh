#!/bin/sh
# Puts the firewall of a Docker host in place, now and whenever its engine starts. Runs on the host, as root.
#
#   enroll.sh FIREWALL     the text of firewall.sh
#
# The last line that it prints is `lasting` where systemd will see to it, else `until restart`.
set -eu
umask 022
PATH="${PATH:+$PATH:}/usr/sbin:/sbin:/usr/bin:/bin"
file=/etc/theazo/firewall.sh

mkdir -p "${file%/*}"
printf '%s' "$1" >"$file.new"
mv -f "$file.new" "$file"
sh "$file" install

if [ ! -d /run/systemd/system ]; then
  echo 'until restart'
  exit
fi
# Wanted by the engine and after it: its chains are there then, and no agent is, because none starts by itself.
units=/etc/systemd/system
mkdir -p "$units/docker.service.wants"
cat >"$units/theazo-firewall.service" <<UNIT
[Unit]
Description=Keeps agents in containers from this machine
After=docker.service
PartOf=docker.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh $file install
UNIT
ln -sfn ../theazo-firewall.service "$units/docker.service.wants/theazo-firewall.service"
echo lasting
