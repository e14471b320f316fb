# shellcheck shell=sh
# The Nomad client of this node: its settings, its start, whether it has joined.
# Sourced after enrol.sh.

# shellcheck disable=SC2154  # set by node.sh and enrol.sh

client_process=$var/client.pid
client_log=$log/nomad.log
local_json=$etc/local.json
REFUSED='Permission denied.*Node.Register\|Node.Register.*Permission denied'

# Ask the bridge if there is a reason to; an answer is not needed while the old one serves.
renew() { # start|renewal
    mkdir -p "$var/locks" "$tmp"
    exec 8>>"$var/locks/enrol"
    flock --wait 120 8 || die "Another enrolment is under way"
    reason=$(enrolment_reason "$1")
    if [ -n "$reason" ]; then
        say "Asking the bridge at $bridge_url for a place for $(node_name): $reason"
        if ! enrol; then
            if [ ! -e "$var/registered" ] || ! certificate_is_valid ||
                [ "$reason" = "its bundle has changed" ]; then
                die "$problem"
            fi
            warn "$problem. The certificate serves until $(date --date "@$(conf_value "$enrolment" EXPIRES)")"
            reason=''
        fi
    fi
    exec 8>&-
    [ -n "$reason" ]
}

# What this machine and its owner decide. Nomad reads it after bridge.json; of maps and
# blocks in both it takes the sum.
write_local_json() {
    port=$(http_port)
    paused=
    [ ! -e "$var/paused" ] || paused=',"bridge_paused":"1"'
    interface=$(option NETWORK_INTERFACE)
    [ -z "$interface" ] || interface="
    \"network_interface\": \"$interface\","
    put_file "$local_json" <<END
{
  "data_dir": "$dir/nomad",
  "bind_addr": "127.0.0.1",
  "ports": {"http": $port, "rpc": $port, "serf": $port},
  "advertise": {"http": "127.0.0.1:$port", "rpc": "127.0.0.1:$port", "serf": "127.0.0.1:$port"},
  "log_level": "INFO",
  "log_file": "$client_log",
  "log_rotate_bytes": 10000000,
  "log_rotate_max_files": 5,
  "tls": {
    "ca_file": "$given/ca.pem",
    "cert_file": "$given/client.pem",
    "key_file": "$given/client.key"
  },
  "client": {
    "enabled": true,
    "meta": {"bridge_home": "$dir"$paused},$interface
    "cpu_total_compute": $((1000 * $(nproc))),
    "reserved": {
      "cpu": $((1000 * $(option RESERVE_CORES 0))),
      "memory": $(option RESERVE_MEMORY_MB 0),
      "disk": $(option RESERVE_DISK_MB 0)
    }
  }
}
END
}

# The port of the client's own interface, on 127.0.0.1 only: the one it had, or a free one.
http_port() {
    port=$(option HTTP_PORT)
    [ -n "$port" ] || port=$(cat "$var/port" 2>/dev/null)
    [ -n "$port" ] || port=4646
    while port_is_taken "$port" && [ -z "$(option HTTP_PORT)" ] && [ "$port" -lt 4746 ]; do
        port=$((port + 1))
    done
    printf '%s\n' "$port" | put_file "$var/port"
    printf '%s\n' "$port"
}

port_is_taken() { # port
    grep -Eq "^ *[0-9]+: [0-9A-F]+:$(printf '%04X' "$1") [0-9A-F]+:0000 0A" \
        /proc/net/tcp /proc/net/tcp6 2>/dev/null
}

# Become the Nomad client. Nothing of our secrets is in what it is given.
exec_client() {
    ! is_alive "$client_process" || die "The client runs already, as process $pid"
    mkdir -p "$dir/nomad" "$log"
    write_local_json
    record_process "$client_process"
    clean_env nomad agent -config "$given/bridge.json" -config "$local_json"
}

# --- joining -----------------------------------------------------------------------

# Wait until the scheduler has taken this node; fails with `problem`.
await_joined() { # seconds log-line-to-begin-after
    [ ! -e "$var/registered" ] || return 0
    problem="The scheduler did not answer within $1 s"
    wait_until "$1" joined_or_refused "$2"
    if has_joined "$2"; then
        : >"$var/registered"
        rm -f "$dir/nomad/client/intro_token.jwt"
        return 0
    fi
    ! is_gone "$client_process" || problem="The Nomad client has ended"
    set -- "$(joining_trouble "$2")"
    [ -z "$1" ] || problem=$1
    return 1
}

joined_or_refused() { # log-line
    has_joined "$1" || is_refused "$1" || is_gone "$client_process"
}

has_joined() { # log-line
    new_log "$1" | grep -q 'node registration complete'
}

is_refused() { # log-line
    new_log "$1" | grep -q "$REFUSED"
}

# Whether the scheduler no longer takes a client that runs: this machine slept for days,
# and was forgotten.
is_refused_lately() {
    tail -n 5 "$client_log" 2>/dev/null | grep -q "$REFUSED"
}

new_log() { # log-line
    tail -n "+$(($1 + 1))" "$client_log" 2>/dev/null
}

log_length() {
    wc -l 2>/dev/null <"$client_log" || echo 0
}

# What Nomad's log says about why it could not join, for people.
joining_trouble() { # log-line
    new_log "$1" >"$tmp/log"
    servers=$(sed -n 's/.*"servers"[^[]*\[\([^]]*\)\].*/\1/p' "$given/bridge.json" | head -n 1)
    if is_refused "$1"; then
        echo "The scheduler refused this machine: its introduction has ended or is for another" \
            "name or pool. Start again; if that does not help, ask who runs the bridge"
    elif grep -q 'x509:\|tls:' "$tmp/log"; then
        echo "The scheduler and this machine do not trust each other's certificate:" \
            "$(grep -o 'x509: [^"]*\|tls: [^"]*' "$tmp/log" | tail -n 1)"
    elif grep -q 'no such host\|server misbehaving' "$tmp/log"; then
        echo "The name of the scheduler (${servers:-see etc/nomad/bridge.json}) is not known here"
    elif grep -q 'connection refused\|i/o timeout\|no route to host\|unreachable' "$tmp/log"; then
        echo "The scheduler cannot be reached at ${servers:-the address in etc/nomad/bridge.json}:" \
            "a firewall, or it is away"
    else
        grep '\[ERROR\]' "$tmp/log" | tail -n 1 | sed 's/^.*\[ERROR\] *//'
    fi
}

# --- whether it works --------------------------------------------------------------

# Whether a job is on this machine: a container, or a stage program.
has_jobs() {
    [ -n "$(node_docker ps --quiet 2>/dev/null)" ] || stage_is_running
}

stage_is_running() {
    for process in /proc/[0-9]*; do
        [ -O "$process" ] || continue
        ! tr '\0' '\n' <"$process/cmdline" 2>/dev/null | grep -Fxq -e "$dir/bin/stage" || return 0
    done
    return 1
}

# A job is between two of its parts for a moment: idle is idle for five seconds.
is_idle() {
    looks=0
    while [ "$looks" -lt 5 ]; do
        ! has_jobs || return 1
        looks=$((looks + 1))
        sleep 1
    done
}
