#!/bin/sh
# Keeps agents on this machine's Docker engine from the machine itself: from what it offers on its own addresses, from
# private networks, siblings, and the cloud's metadata address. Agents' bridges are called ag-<8 hex>; the rules name the
# prefix, so they stay as they are while agents come and go. Run as root; running it again changes nothing.
#
#   firewall.sh install            the rules; agents may ask the machine's name servers, on port 53 and nothing else.
#                                  Prints the chains whose first rule was not ours. Fails where the engine does not use
#                                  the same tables.
#   firewall.sh rules              the same before the engine has started
#   firewall.sh open PORT          lets agents reach one TCP port of this machine
#   firewall.sh close PORT
#   firewall.sh ports              prints the ports that are open to agents
#   firewall.sh resolvers FILE...  prints the name servers in the first of these files that has one agents can use
set -eu
PATH="${PATH:+$PATH:}/usr/sbin:/sbin:/usr/bin:/bin"

# Not routable on the internet, and what clouds put at addresses that are.
CLOSED="0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.168.0.0/16
198.18.0.0/15 224.0.0.0/4 240.0.0.0/4 168.63.129.16/32"

v4() { iptables -w 10 "$@"; }
v6() { ip6tables -w 10 "$@"; }

# Makes one rule the first of a chain, before whatever would let a packet through earlier.
first() {
  tables=$1 chain=$2 rule=$3
  if [ "$($tables -S "$chain" | sed -n '/^-A/{p;q;}')" != "-A $chain $rule" ]; then
    # shellcheck disable=SC2086
    $tables -I "$chain" $rule
    echo "$tables $chain"
  fi
  # The same rule further down is what another tool has pushed there. From the end, so that the numbers stay right.
  $tables -S "$chain" | grep '^-A' | grep -nxF -e "-A $chain $rule" | sed 1d | cut -d: -f1 | sort -rn |
    while read -r number; do $tables -D "$chain" "$number"; done
}

# Those that are not of the loopback interface, as the engine passes them on to containers.
resolvers() {
  number='(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])'
  for file in "$@"; do
    [ -r "$file" ] || continue
    found=$(sed -n 's/^[[:space:]]*nameserver[[:space:]]\{1,\}\([^[:space:]]*\)[[:space:]]*$/\1/p' "$file" |
      grep -xE "($number\.){3}$number" | grep -v '^127\.' || true)
    if [ -n "$found" ]; then
      echo "$found"
      return
    fi
  done
}

install() {
  if ! v4 -S DOCKER-USER >/dev/null 2>&1; then
    echo "the engine does not filter with this machine's iptables: there is no chain DOCKER-USER" >&2
    exit 1
  fi
  rules
}

rules() {
  # The second is what is behind the local one of systemd-resolved.
  # shellcheck disable=SC2046
  set -- $(resolvers /etc/resolv.conf /run/systemd/resolve/resolv.conf)
  v4 -N THEAZO-ENDPOINTS 2>/dev/null || true
  # What agents send on is looked at in the table `mangle`, which comes before `filter` and which engines leave alone. In
  # `filter` they put their own rules first again whenever a network comes or goes, and take the jump to the chain that is
  # meant for others' rules away for a moment in which agents that are there already would be let out.
  # Each table changes in one step, so that there is no moment without rules. RETURN leaves a packet to the rules of the
  # engine (which keep a network without internet closed) and of the machine.
  {
    echo '*mangle'
    echo ':THEAZO-EGRESS - [0:0]'
    leave THEAZO-EGRESS "$@"
    for range in $CLOSED; do echo "-A THEAZO-EGRESS -d $range -j DROP"; done
    echo COMMIT
    echo '*filter'
    echo ':THEAZO-INPUT - [0:0]'
    leave THEAZO-INPUT "$@"
    echo '-A THEAZO-INPUT -p tcp -j THEAZO-ENDPOINTS'
    echo '-A THEAZO-INPUT -j DROP'
    echo COMMIT
  } | iptables-restore -w 10 --noflush
  first v4 INPUT '-i ag-+ -j THEAZO-INPUT'
  first 'v4 -t mangle' FORWARD '-i ag-+ -j THEAZO-EGRESS'
  # Agents have no IPv6; if one ever gets a socket for it, it goes nowhere.
  if [ -e /proc/net/if_inet6 ]; then
    first v6 INPUT '-i ag-+ -j DROP'
    first 'v6 -t mangle' FORWARD '-i ag-+ -j DROP'
  fi
}

# Prints the rules of a chain that leave alone what agents may send in any case: replies to connections that the machine
# made itself, and questions to these name servers.
leave() {
  chain=$1
  shift
  echo "-A $chain -m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY -j RETURN"
  for resolver in "$@"; do
    echo "-A $chain -d $resolver -p udp -m udp --dport 53 -j RETURN"
    echo "-A $chain -d $resolver -p tcp -m tcp --dport 53 -j RETURN"
  done
}

port() {
  case $1 in
    '' | *[!0-9]*) echo "not a port: $1" >&2 && exit 2 ;;
  esac
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  install) install ;;
  rules) rules ;;
  resolvers) resolvers "$@" ;;
  open)
    port "${1:-}"
    v4 -C THEAZO-ENDPOINTS -p tcp -m tcp --dport "$1" -j ACCEPT 2>/dev/null ||
      v4 -A THEAZO-ENDPOINTS -p tcp -m tcp --dport "$1" -j ACCEPT
    ;;
  close)
    port "${1:-}"
    ! v4 -C THEAZO-ENDPOINTS -p tcp -m tcp --dport "$1" -j ACCEPT 2>/dev/null ||
      v4 -D THEAZO-ENDPOINTS -p tcp -m tcp --dport "$1" -j ACCEPT
    ;;
  ports) v4 -S THEAZO-ENDPOINTS | sed -n 's/.*--dport \([0-9]*\) .*/\1/p' ;;
  *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p;}' "$0" && exit 2 ;;
esac
