# shellcheck shell=sh
# What all programs of a node share: its folder, its small files, its processes.
# Sourced; `dir` is the node's folder.

# shellcheck disable=SC2034  # what is set here is used by those who source this
# shellcheck disable=SC2154  # dir and program are set by whoever sources this

umask 077
LC_ALL=C
export LC_ALL

say() { # sentence…
    printf '%s\n' "$*"
}

warn() { # sentence…
    printf '%s: %s\n' "$program" "$*" >&2
}

die() { # sentence…
    warn "$@"
    exit 1
}

# Paths below the node's folder. Every program finds them by this function alone.
use_dir() { # folder
    dir=$1
    case $dir in
    /*) ;;
    *) die "The folder must be given with its full path: $dir" ;;
    esac
    # It becomes part of commands that other programs split at spaces.
    case $dir in
    *[!A-Za-z0-9/._-]* | *..*)
        die "The path of the folder may have letters, digits and . _ - only: $dir"
        ;;
    esac
    etc=$dir/etc
    var=$dir/var
    conf=$etc/node.conf
    options=$etc/options
    keys_name=$etc/s3.conf # how messages call the storage's keys
    runtime=$var/run
    socket=$runtime/docker.sock
    log=$var/log
    tmp=$var/tmp
    units=$HOME/.config/systemd/user
}

# What the programs of a node are started with: nothing of the caller's environment but
# what they need. A stray AWS_CA_BUNDLE alone stops Nomad.
clean_env() { # command…
    set -- "PATH=$dir/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin" \
        "HOME=$HOME" "XDG_RUNTIME_DIR=$runtime" "DOCKER_HOST=unix://$socket" "$@"
    for name in NOTIFY_SOCKET DBUS_SESSION_BUS_ADDRESS; do
        value=$(printenv "$name") && set -- "$name=$value" "$@"
    done
    for name in HTTP_PROXY HTTPS_PROXY NO_PROXY; do
        value=$(option "$name")
        [ -z "$value" ] || set -- "$name=$value" "$@"
    done
    exec env -i "$@"
}

# --- small files -----------------------------------------------------------------

# The value of NAME= in a file of such lines; nothing in it is evaluated.
conf_value() { # file name
    [ -r "$1" ] || return 0
    sed -n "s/^$2=//p" "$1" | tail -n 1 | tr -d '\r'
}

# What the machine's owner has chosen.
option() { # name [default]
    chosen=$(conf_value "$options" "$1")
    printf '%s\n' "${chosen:-${2:-}}"
}

# Set NAME= in a file of such lines, and leave the rest; an empty value removes it.
set_conf() { # file name value
    [ "$(conf_value "$1" "$2")" != "$3" ] || return 0
    {
        [ ! -f "$1" ] || sed "/^$2=/d" "$1"
        [ -z "$3" ] || printf '%s=%s\n' "$2" "$3"
    } | put_file "$1"
}

# Standard input into a file, in one step, and only if that changes it.
put_file() { # file
    mkdir -p "$(dirname "$1")" "$tmp" && fresh=$(mktemp "$tmp/put.XXXXXX") && cat >"$fresh" ||
        return 1
    if cmp -s "$fresh" "$1"; then
        rm -f "$fresh"
    else
        mv -f "$fresh" "$1"
    fi
}

readable_by_others() { # file
    [ -n "$(find -L "$1" -maxdepth 0 -perm /077 2>/dev/null)" ]
}

is_number() { # text
    case $1 in
    '' | *[!0-9]* | ????????????????*) return 1 ;;
    esac
}

is_secret() { # text
    case $1 in
    '' | *[!A-Za-z0-9._-]*) return 1 ;;
    esac
}

# The group's bundle: sets bridge_url, group_token and compute_secret.
read_node_conf() {
    [ -r "$conf" ] || die "There is no $conf: run get-started.sh from the bundle first"
    ! readable_by_others "$conf" || die "$conf can be read by others: chmod 600 $conf"
    bridge_url=$(conf_value "$conf" BRIDGE_URL)
    bridge_url=${bridge_url%/}
    group_token=$(conf_value "$conf" BRIDGE_GROUP_TOKEN)
    compute_secret=$(conf_value "$conf" BRIDGE_COMPUTE_SECRET)
    case $bridge_url in
    http://?* | https://?*) ;;
    *) die "BRIDGE_URL in $conf must begin with https:// or http://" ;;
    esac
    case $bridge_url in
    *[!A-Za-z0-9:/._~%-]*) die "BRIDGE_URL in $conf holds characters that no address has" ;;
    esac
    is_secret "$group_token" || die "BRIDGE_GROUP_TOKEN in $conf is missing or damaged"
    is_secret "$compute_secret" || die "BRIDGE_COMPUTE_SECRET in $conf is missing or damaged"
}

# --- processes -------------------------------------------------------------------

# When a process started, in ticks since boot: with its number, what no other has. Nothing
# for one that has ended, though nobody has reaped it yet; the state is that of its first
# thread, and others may still run.
start_time() { # pid
    sed -n 's/^.*) //p' "/proc/$1/stat" 2>/dev/null | awk '$1 != "Z" || $18 > 1 { print $20 }'
}

boot_id() {
    cat /proc/sys/kernel/random/boot_id
}

# Write down who this process is; it stays the same one through exec.
record_process() { # file
    printf '%s %s %s\n' "$$" "$(start_time "$$")" "$(boot_id)" | put_file "$1"
}

# Whether the recorded process lives; sets pid.
is_alive() { # file
    pid=''
    [ -r "$1" ] || return 1
    read -r pid recorded_start recorded_boot <"$1" || return 1
    [ "$recorded_boot" = "$(boot_id)" ] && [ -n "$recorded_start" ] &&
        [ "$(start_time "$pid")" = "$recorded_start" ]
}

# Ask the recorded process to end and wait for it.
end_process() { # file seconds
    is_alive "$1" || return 0
    kill -TERM "$pid" 2>/dev/null
    wait_until "$2" is_gone "$1" || kill -KILL "$pid" 2>/dev/null
    wait_until 10 is_gone "$1"
}

is_gone() { # file
    ! is_alive "$1"
}

# Try a command until it succeeds, for so many seconds.
wait_until() { # seconds command…
    until_time=$(($(date +%s) + $1))
    shift
    until "$@"; do
        [ "$(date +%s)" -lt "$until_time" ] || return 1
        sleep 0.2
    done
}

# Whether the user's own systemd can be asked.
has_user_systemd() {
    [ -d /run/systemd/system ] && user_systemctl show-environment >/dev/null 2>&1
}

user_systemctl() { # arguments…
    XDG_RUNTIME_DIR=/run/user/$(id -u) systemctl --user --no-pager "$@"
}

# Whether systemd keeps this node running. After --leave it does not.
is_installed() {
    [ -e "$units/default.target.wants/nomad-bridge-client.service" ] && has_user_systemd
}
