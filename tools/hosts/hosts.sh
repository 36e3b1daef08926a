# Hosts apart on one machine, to be sourced: network namespaces, each with a
# host name and shared memory of its own, joined by link_proxy. They are
# 10.77.0.1, 10.77.0.2, ... and nothing else is in reach.
#
#   join_hosts PROXY FOLDER N DELAY_MS JITTER_MS LOSS SEED
#   on 1 mpirun "${over_hosts[@]}" --host host1:2,host2:2 ...
#   cut_link; mend_link; leave_hosts
#
# It wants root, /dev/net/tun, and Debian's iproute2 and util-linux.

hosts_missing() {
  [[ $(id -u) == 0 ]] || { echo "not root"; return; }
  [[ -c /dev/net/tun ]] || { echo "no /dev/net/tun"; return; }
  local tool
  for tool in ip mpirun nsenter setpriv unshare; do
    command -v "$tool" >/dev/null || { echo "no $tool"; return; }
  done
  unshare --net --uts --mount true 2>/dev/null || echo "no namespaces may be made"
}

host_process=()  # [1 .. N], of each host's namespaces.
link_process=

# Runs a command on host $1, in the same folder as here.
on() {
  nsenter --target "${host_process[$1]}" --net --uts --mount --wdns="$PWD" -- "${@:2}"
}

join_hosts() {
  local proxy=$1 folder=$2 n=$3 i spaces=()
  shift 3
  mkdir -p "$folder"
  rm -f "$folder"/up*
  echo "127.0.0.1 localhost" >"$folder/names"
  for ((i = 1; i <= n; ++i)); do echo "10.77.0.$i host$i" >>"$folder/names"; done
  for ((i = 1; i <= n; ++i)); do
    # Ends with this shell. Its own /dev/shm, as memory is not shared by hosts.
    setpriv --pdeathsig KILL unshare --net --uts --mount bash -c '
      hostname "host$1" && ip link set lo up && mount -t tmpfs tmpfs /dev/shm &&
        mount --bind "$2/names" /etc/hosts && : >"$2/up$1" && exec sleep infinity' \
      host "$i" "$folder" &
    host_process[i]=$!
    disown  # That it is killed in the end is no news.
    until [[ -e $folder/up$i ]]; do
      kill -0 "${host_process[i]}" || { echo "host $i did not come up" >&2; return 1; }
      sleep 0.05
    done
    spaces+=("/proc/${host_process[i]}/ns/net=10.77.0.$i")
  done
  # What mpirun calls for ssh: agent HOST COMMAND...
  {
    echo '#!/bin/bash'
    echo 'declare -A host'
    for ((i = 1; i <= n; ++i)); do echo "host[host$i]=${host_process[i]}"; done
    echo 'exec nsenter --target "${host[$1]}" --net --uts --mount --wdns="$PWD" -- sh -c "${*:2}"'
  } >"$folder/agent"
  chmod +x "$folder/agent"
  over_hosts=(--mca plm_rsh_agent "$folder/agent" --mca btl tcp,self --mca pml ob1
    --mca btl_tcp_if_include strata0 --mca oob_tcp_if_include strata0)
  "$proxy" "$@" "${spaces[@]}" >"$folder/link" 2>"$folder/link.err" &
  link_process=$!
  until grep -qs ready "$folder/link"; do
    kill -0 "$link_process" 2>/dev/null || { cat "$folder/link.err" >&2; return 1; }
    sleep 0.05
  done
}

cut_link() { kill -USR1 "$link_process"; }
mend_link() { kill -USR2 "$link_process"; }

# The processes on host $1 whose command lines match $2.
processes_on() {
  local process space
  space=$(readlink "/proc/${host_process[$1]}/ns/net")
  for process in /proc/[0-9]*; do
    [[ $(readlink "$process/ns/net" 2>/dev/null) == "$space" ]] || continue
    { tr '\0' ' ' <"$process/cmdline"; } 2>/dev/null | grep -qE "$2" && echo "${process#/proc/}"
  done
  true
}

# Ends what still runs on the hosts, and them.
leave_hosts() {
  local i process
  [[ -z $link_process ]] || kill "$link_process" 2>/dev/null || true
  for i in "${!host_process[@]}"; do
    for process in $(processes_on "$i" .); do kill -KILL "$process" 2>/dev/null || true; done
  done
  wait 2>/dev/null || true
  host_process=() link_process=
}
