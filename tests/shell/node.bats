#!/usr/bin/env bats
# get-started.sh and what it shares with run.sh: options, preflight, pins, settings.
# Nothing here is installed; machines are folders, and some programs are fakes.

# shellcheck disable=SC2030,SC2031  # each test has a shell of its own
# shellcheck disable=SC2016  # what stands in quotes is for the shell that sources lib/

bats_require_minimum_version 1.5.0

setup() {
    command -v curl >/dev/null || skip "needs curl"
    ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    BUNDLE=$BATS_TEST_TMPDIR/nomadrun
    DIR=$BATS_TEST_TMPDIR/node
    SYSTEM=$BATS_TEST_TMPDIR/system
    FAKES=$BATS_TEST_TMPDIR/fakes
    mkdir -p "$BUNDLE" "$DIR" "$FAKES"
    cp -R "$ROOT"/node-setup/{get-started.sh,run.sh,README.md,bin,lib,systemd} "$BUNDLE"
    : >"$BUNDLE/pins"
    make_system
}

# A machine with everything that a node needs, as far as files tell.
make_system() {
    mkdir -p "$SYSTEM"/{etc,proc/sys/user,proc/sys/kernel,dev/net,sys/fs/cgroup} \
        "$SYSTEM/run/systemd/system" "$SYSTEM/var/lib/systemd/linger" "$SYSTEM/var/run"
    echo 10000 >"$SYSTEM/proc/sys/user/max_user_namespaces"
    echo "$(id -un):100000:65536" | tee "$SYSTEM/etc/subuid" >"$SYSTEM/etc/subgid"
    : >"$SYSTEM/dev/net/tun"
    : >"$SYSTEM/var/lib/systemd/linger/$(id -un)"
    echo cpu memory pids >"$SYSTEM/sys/fs/cgroup/cgroup.controllers"
    DELEGATED=$SYSTEM/sys/fs/cgroup/user.slice/user-$(id -u).slice/user@$(id -u).service
    mkdir -p "$DELEGATED"
    echo cpu memory pids >"$DELEGATED/cgroup.controllers"
    for name in newuidmap newgidmap slirp4netns unshare; do
        fake "$name" 'exit 0'
    done
    chmod u+s "$FAKES/newuidmap" "$FAKES/newgidmap"
}

fake() { # name script
    printf '#!/bin/sh\n%s\n' "$2" >"$FAKES/$1"
    chmod 755 "$FAKES/$1"
}

get_started() { # options…
    env -i PATH="$FAKES:$PATH" HOME="$BATS_TEST_TMPDIR" PREFLIGHT_ROOT="$SYSTEM" \
        sh "$BUNDLE/get-started.sh" --dir "$DIR" "$@"
}

# The check's findings must have this line; where a remedy is given, it must follow.
finds() { # line [remedy]
    run get_started --check
    grep -qF -e "$1" <<<"$output" || fail "not found: $1"
    [ -z "${2:-}" ] || grep -A1 -F -e "$1" <<<"$output" | grep -qF -e "-> $2" ||
        fail "not told: $2"
}

fail() { # sentence
    echo "$1; the output was:" >&2
    echo "$output" >&2
    return 1
}

# Run functions of lib/ as the scripts do.
with_lib() { # script arguments…
    local script=$1
    shift
    env -i PATH="$FAKES:$PATH" HOME="$BATS_TEST_TMPDIR" PREFLIGHT_ROOT="$SYSTEM" \
        BUNDLE="$BUNDLE" DIR="$DIR" sh -uc '
            program=test bundle=$BUNDLE from="" mirror="" chosen=""
            . "$bundle/lib/node.sh"
            use_dir "$DIR"
            for part in findings http preflight downloads engine enrol client; do
                . "$bundle/lib/$part.sh"
            done
            mkdir -p "$tmp" "$etc" "$dir/versions"
            script=$1
            shift
            eval "$script"
        ' sh "$script" "$@"
}

node_conf() {
    printf 'BRIDGE_URL=%s\nBRIDGE_GROUP_TOKEN=%s\nBRIDGE_COMPUTE_SECRET=%s\nBRIDGE_BUNDLE=1\n' \
        "${1:-http://127.0.0.1:1}" "${2:-group-token}" "${3:-compute-secret}"
}

# --- options -------------------------------------------------------------------------

@test "options: help is told, and what is wrong is named" {
    run -0 get_started --help
    [[ $output == *"--root-steps"* ]]
    run -2 get_started --no-such-option x
    run -2 get_started surprise
    run -2 get_started --name
    [[ $output == *"--name needs a value"* ]]
    run -2 get_started --reserve-cores two
    [[ $output == *"--reserve-cores needs a whole number"* ]]
}

@test "options: a folder that other programs would split is refused" {
    DIR="$BATS_TEST_TMPDIR/with space" run -1 get_started --check
    [[ $output == *"letters, digits"* ]]
    DIR=relative run -1 get_started --check
    [[ $output == *"full path"* ]]
    DIR=/data/../etc run -1 get_started --check
}

@test "options: what the owner chose is written once, and kept" {
    choose='chosen="RESERVE_CORES=2
RESERVE_MEMORY_MB=1000
"; . "$bundle/lib/setup.sh"; write_options'
    with_lib "$choose"
    before=$(stat --format '%i %y' "$DIR/etc/options")
    with_lib "$choose"
    [ "$(stat --format '%i %y' "$DIR/etc/options")" = "$before" ]
    with_lib 'chosen="RESERVE_CORES=3
"; . "$bundle/lib/setup.sh"; write_options'
    [ "$(sort "$DIR/etc/options" | tr '\n' ' ')" = "RESERVE_CORES=3 RESERVE_MEMORY_MB=1000 " ]
}

@test "options: what root must do is printed, for this user and folder" {
    run -0 get_started --root-steps --user comp --uid 4321
    [[ $output == *"useradd --create-home --shell /bin/bash --uid 4321 comp"* ]]
    [[ $output == *"chown comp: $DIR"* ]]
    [[ $output == *"loginctl enable-linger comp"* ]]
    [[ $output == *"Delegate="* ]]
    sh -n <<<"$output"
    run -0 get_started --root-steps
    [[ $output == *"--uid 2013 leruli"* ]]
}

@test "options: run.sh without a node says what to do first" {
    run_sh() {
        env -i PATH="$PATH" HOME="$BATS_TEST_TMPDIR" sh "$BUNDLE/run.sh" "$@"
    }
    run -1 run_sh --dir "$DIR" --status
    [[ $output == *"run get-started.sh first"* ]]
    run -2 run_sh --surprise
    run -2 run_sh --dir
    run -0 run_sh --help
    [[ $output == *"--uninstall"* ]]
}

# --- preflight -----------------------------------------------------------------------

@test "check: a good machine has nothing to mend but root, and nothing is changed" {
    rmdir "$DIR"
    run get_started --check
    problems=$(grep -F 'FAIL' <<<"$output" | grep -v 'FAIL  user: this is root' |
        grep -v 'must be mended' || true)
    [ -z "$problems" ] || fail "$problems"
    [ ! -e "$DIR" ]
    [ "$(id -u)" -ne 0 ] || [ "$status" -eq 1 ]
    [ "$(id -u)" -eq 0 ] || [ "$status" -eq 0 ]
}

@test "check: user namespaces" {
    finds "ok    user namespaces"
    echo 0 >"$SYSTEM/proc/sys/user/max_user_namespaces"
    finds "FAIL  user namespaces: the kernel gives none" "As root: sysctl -w user.max_user_namespaces"
    echo 9 >"$SYSTEM/proc/sys/user/max_user_namespaces"
    echo 0 >"$SYSTEM/proc/sys/kernel/unprivileged_userns_clone"
    finds "FAIL  user namespaces: switched off" "As root: sysctl -w kernel.unprivileged_userns_clone=1"
    rm "$SYSTEM/proc/sys/kernel/unprivileged_userns_clone"
    echo 1 >"$SYSTEM/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
    finds "FAIL  user namespaces: AppArmor" "As root: get-started.sh --root-steps"
    rm "$SYSTEM/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
    fake unshare 'exit 1'
    finds "FAIL  user namespaces: unshare"
}

@test "check: ids for the users in containers" {
    echo "$(id -un):100000:1000" >"$SYSTEM/etc/subuid"
    finds "FAIL  subuid: fewer than 65536" "As root: usermod --add-subuids"
    rm "$SYSTEM/etc/subgid"
    finds "FAIL  subgid" "As root: usermod --add-subgids"
    echo "$(id -u):100000:65536" >"$SYSTEM/etc/subuid"
    finds "ok    subuid"
    chmod u-s "$FAKES/newuidmap"
    fake getcap 'exit 0'
    finds "FAIL  newuidmap" "As root: chmod u+s"
}

@test "check: linger, delegation, and a Docker of root in the way" {
    rm "$SYSTEM/var/lib/systemd/linger/$(id -un)"
    finds "FAIL  linger" "As root: loginctl enable-linger $(id -un)"
    echo memory pids >"$DELEGATED/cgroup.controllers"
    finds "note  limits: cgroup controllers not delegated: cpu" "As root: get-started.sh --root-steps"
    rm "$DELEGATED/cgroup.controllers"
    finds "note  limits: no systemd of the user's own"
    rm "$SYSTEM/sys/fs/cgroup/cgroup.controllers"
    finds "note  limits: without cgroup v2"
    : >"$SYSTEM/var/run/docker.sock"
    finds "FAIL  other Docker" "As root: gpasswd --delete $(id -un) docker"
}

@test "check: programs and disk" {
    fake find 'echo "BusyBox find"; exit 1'
    fake tar 'echo "tar (busybox)"'
    finds "FAIL  programs: missing: GNU-tar GNU-find" "As root:"
    rm "$FAKES/find" "$FAKES/tar"
    fake df 'echo Avail; echo 500'
    finds "FAIL  disk: 500 MB free" "Make room"
}

@test "check: a folder on the network or with a path too long for sockets" {
    fake stat 'case "$*" in *--file-system*) echo nfs ;; *) exec /usr/bin/stat "$@" ;; esac'
    finds "FAIL  folder: $DIR is on nfs" "Give a folder on a local disk: --dir"
    finds "note  home"
    rm "$FAKES/stat"
    DIR=$BATS_TEST_TMPDIR/$(printf 'x%.0s' {1..60})
    finds "FAIL  folder: its path is too long" "Give a shorter one: --dir"
}

@test "check: what is left for jobs" {
    run get_started --check --reserve-cores 10000
    [[ $output == *"FAIL  what jobs get"* ]]
    [[ $output == *"-> Reserve less: --reserve-cores"* ]]
}

@test "check: the bridge's name, port, clock" {
    node_conf http://no-such-host.invalid >"$BUNDLE/node.conf"
    chmod 600 "$BUNDLE/node.conf"
    finds "FAIL  bridge: http://no-such-host.invalid: its name is not known"
    node_conf >"$BUNDLE/node.conf"
    finds "FAIL  bridge: http://127.0.0.1:1: nothing answers there"
    # A bridge whose clock differs by ten minutes.
    fake curl 'config=$(cat)
        case "$*" in
        *--head*) date --utc --date "10 minutes" "+Date: %a, %d %b %Y %H:%M:%S GMT" ;;
        *http_code*) echo 200 ;;
        esac'
    # Between its look at our clock and that at the bridge's some seconds may pass.
    run get_started --check
    grep -A1 -E "FAIL  clock: -(59[0-9]|600) s ahead of the bridge's" <<<"$output" |
        grep -qF -e "-> As root: timedatectl set-ntp true" || fail "not found: the clock"
}

@test "check: the storage's keys" {
    printf 'S3_SERVER=http://127.0.0.1:1\nS3_ACCESS=a\n' >"$BATS_TEST_TMPDIR/keys"
    run get_started --check --s3-config "$BATS_TEST_TMPDIR/keys"
    [[ $output == *"FAIL  storage: $BATS_TEST_TMPDIR/keys has no line S3_SECRET="* ]]
    echo S3_SECRET=s >>"$BATS_TEST_TMPDIR/keys"
    run get_started --check --s3-config "$BATS_TEST_TMPDIR/keys"
    [[ $output == *"FAIL  storage: http://127.0.0.1:1: nothing answers there"* ]]
    [[ $output == *"-> Correct S3_SERVER in $BATS_TEST_TMPDIR/keys"* ]]
}

@test "check: a damaged or readable settings file of the bundle" {
    node_conf "" >"$BUNDLE/node.conf"
    chmod 644 "$BUNDLE/node.conf"
    finds "can be read by others" "Unpack the bundle again"
    chmod 600 "$BUNDLE/node.conf"
    node_conf ftp://x >"$BUNDLE/node.conf"
    finds "must begin with https:// or http://"
    node_conf http://127.0.0.1:1 'a b' >"$BUNDLE/node.conf"
    finds "BRIDGE_GROUP_TOKEN in"
}

# --- settings ------------------------------------------------------------------------

@test "settings: files of NAME=value lines are parsed, never run" {
    printf 'A=one\nB=$(touch %s)\r\n# C=no\nA=two\nD=a=b "c" \x27d\x27\n' "$DIR/ran" >"$DIR/conf"
    [ "$(with_lib 'conf_value "$DIR/conf" A')" = two ]
    [ "$(with_lib 'conf_value "$DIR/conf" B')" = "\$(touch $DIR/ran)" ]
    [ -z "$(with_lib 'conf_value "$DIR/conf" C')" ]
    [ "$(with_lib 'conf_value "$DIR/conf" D')" = "a=b \"c\" 'd'" ]
    [ ! -e "$DIR/ran" ]
}

@test "settings: JSON strings hold whatever is in them" {
    text=$'a"b\\c\nd\te/é'
    [ "$(with_lib 'json_string "$1"' "$text" | python3 -c 'import json,sys; print(json.load(sys.stdin))')" = \
        'a"b\c d e/é' ]
}

@test "settings: fields of the bridge's answers" {
    cat >"$DIR/answer" <<'END'
{"error":"conflict","detail":"Name \"n1\" is taken","n": 12,
 "hint":null, "id":"a-b"}
END
    [ "$(with_lib 'json_field detail "$DIR/answer"')" = 'Name "n1" is taken' ]
    [ "$(with_lib 'json_field n "$DIR/answer"')" = 12 ]
    [ -z "$(with_lib 'json_field hint "$DIR/answer"')" ]
    [ -z "$(with_lib 'json_field nothing "$DIR/answer"')" ]
    [ "$(with_lib 'json_field id "$DIR/answer"')" = a-b ]
}

@test "settings: secrets reach curl by its input only" {
    mkdir -p "$DIR/etc"
    node_conf https://bridge.example token-1 secret-1 >"$DIR/etc/node.conf"
    chmod 600 "$DIR/etc/node.conf"
    fake curl 'echo "$*" >"'"$DIR"'/arguments"; env >"'"$DIR"'/environment"; cat >"'"$DIR"'/input"; echo 200'
    with_lib 'read_node_conf; call_bridge GET /v1/x ""'
    grep -q secret-1 "$DIR/input"
    run -1 grep -e secret-1 -e token-1 "$DIR/arguments" "$DIR/environment"
}

# --- downloads -----------------------------------------------------------------------

# Small files packed as the makers of the real ones do.
make_downloads() {
    DOWNLOADS=$BATS_TEST_TMPDIR/downloads
    mkdir -p "$DOWNLOADS/tool-1" "$BATS_TEST_TMPDIR/zip"
    printf '#!/bin/sh\necho tool\n' >"$DOWNLOADS/tool-1/tool"
    tar -C "$DOWNLOADS" -czf "$DOWNLOADS/tool-1.tgz" tool-1
    rm -r "$DOWNLOADS/tool-1"
    printf '#!/bin/sh\necho single\n' >"$DOWNLOADS/single"
    write_pins 1
}

write_pins() { # version
    {
        echo "# a comment"
        pin tool "$1" tool-1.tgz
        pin single "$1" single
        echo "tool $1 $(printf 0%.0s {1..64}) other-machine https://vendor.invalid/no.tgz"
    } >"$BUNDLE/pins"
}

pin() { # name version file
    echo "$1 $2 $(sha256sum <"$DOWNLOADS/$3" | cut -d ' ' -f 1) $(with_lib machine_architecture)" \
        "https://vendor.invalid/x/$3"
}

install_from() { # folder
    with_lib 'from=$1; install_pinned' "$1"
}

@test "downloads: from a folder, checked, unpacked, linked" {
    make_downloads
    run -0 install_from "$DOWNLOADS"
    [ "$("$DIR/bin/tool")" = tool ]
    [ "$("$DIR/bin/single")" = single ]
    [ "$("$DIR/bin/stage" version)" = 1 ]
    [ "$(readlink -f "$DIR/current/tool")" = "$DIR/versions/tool-1" ]
}

@test "downloads: from a mirror" {
    make_downloads
    run -0 with_lib 'mirror=$1; install_pinned' "file://$DOWNLOADS/"
    [ "$("$DIR/bin/tool")" = tool ]
    [ -z "$(ls -A "$DIR/var/downloads")" ]
}

@test "downloads: twice changes nothing" {
    make_downloads
    install_from "$DOWNLOADS"
    snapshot() { find "$DIR" -path "$DIR/var/tmp" -prune -o -printf '%p %i %T@ %l\n' | sort; }
    before=$(snapshot)
    run -0 install_from "$DOWNLOADS"
    [ -z "$output" ]
    [ "$(snapshot)" = "$before" ]
}

@test "downloads: a file that is not the pinned one is refused" {
    make_downloads
    echo more >>"$DOWNLOADS/single"
    run -1 install_from "$DOWNLOADS"
    [[ $output == *"SHA-256 differs"* ]]
    [ ! -e "$DIR/current" ]
    [ ! -e "$DIR/versions/single-1" ]
}

@test "downloads: pins without a hash, and files that are missing" {
    make_downloads
    sed -i 's/^single 1 [0-9a-f]*/single 1 -/' "$BUNDLE/pins"
    run -1 install_from "$DOWNLOADS"
    [[ $output == *"no SHA-256 for single 1"* ]]
    write_pins 1
    rm -r "$DOWNLOADS/tool-1.tgz" "$DIR/versions/tool-1"
    run -1 install_from "$DOWNLOADS"
    [[ $output == *"There is no tool-1.tgz in $DOWNLOADS. It comes from https://vendor.invalid/"* ]]
    : >"$BUNDLE/pins"
    run -1 install_from "$DOWNLOADS"
    [[ $output == *"hold nothing for"* ]]
}

@test "downloads: another version lies beside the first, and can be taken back" {
    make_downloads
    install_from "$DOWNLOADS"
    printf '#!/bin/sh\necho newer\n' >"$DOWNLOADS/single"
    write_pins 2
    install_from "$DOWNLOADS"
    [ "$("$DIR/bin/single")" = newer ]
    run -0 get_started --rollback
    [[ $output == *"single-1"* ]]
    [ "$("$DIR/bin/single")" = single ]
    run -0 get_started --rollback
    [ "$("$DIR/bin/single")" = newer ]
}

@test "downloads: taking back needs something before" {
    run -1 get_started --rollback
    [[ $output == *"no earlier version"* ]]
}

# --- who this machine is -------------------------------------------------------------

enrolled_as() { # name host machine-id-file-content
    echo "$3" >"$SYSTEM/etc/machine-id"
    with_lib 'here=$1; host_name() { echo "$here"; }
        remember_machine; set_conf "$enrolment" NODE_NAME "$2"' "$2" "$1"
}

@test "identity: the same machine goes on, renamed it keeps its node's name" {
    enrolled_as n1 old-name id-1
    run -0 with_lib 'host_name() { echo old-name; }; insist_on_same_machine'
    [ -z "$output" ]
    run -0 with_lib 'host_name() { echo new-name; }; insist_on_same_machine; node_name'
    [[ $output == *"renamed from old-name to new-name; the node stays n1"* ]]
    [[ $output == *$'\n'n1 ]]
}

@test "identity: a copy of the disk must not join under the other's name" {
    enrolled_as n1 host-1 id-1
    echo id-2 >"$SYSTEM/etc/machine-id"
    run -1 with_lib 'host_name() { echo host-2; }; insist_on_same_machine'
    [[ $output == *"enrolled as n1 on another machine (host-1)"* ]]
    [[ $output == *"--forget"* ]]
}

@test "identity: a copy with the same machine-id is told by its network cards" {
    mkdir -p "$SYSTEM/sys/class/net/eth0/device"
    echo 02:00:00:00:00:01 >"$SYSTEM/sys/class/net/eth0/address"
    enrolled_as n1 host-1 id-1
    run -0 with_lib 'host_name() { echo host-2; }; insist_on_same_machine'
    echo 02:00:00:00:00:02 >"$SYSTEM/sys/class/net/eth0/address"
    run -1 with_lib 'host_name() { echo host-2; }; insist_on_same_machine'
    [[ $output == *"another machine"* ]]
}

@test "identity: when the bridge is asked again" {
    mkdir -p "$DIR/etc/nomad" "$DIR/var"
    node_conf >"$DIR/etc/node.conf"
    [ "$(with_lib 'enrolment_reason start')" = "it has no certificate yet" ]
    : >"$DIR/etc/nomad/client.pem"
    : >"$DIR/etc/nomad/bridge.json"
    : >"$DIR/var/registered"
    enrolled='set_conf "$enrolment" BUNDLE_HASH "$(bundle_hash)"; set_conf "$enrolment" LIMITS 0
        now=$(date +%s); set_conf "$enrolment" ENROLLED $((now - $1))
        set_conf "$enrolment" EXPIRES $((now + $2)); enrolment_reason $3'
    [ -z "$(with_lib "$enrolled" 60 2592000 start)" ]
    [ -z "$(with_lib "$enrolled" 86400 2592000 renewal)" ]
    [ "$(with_lib "$enrolled" 86400 2592000 start)" = "it starts" ]
    [ "$(with_lib "$enrolled" 2000000 500000 renewal)" = "its certificate ends soon" ]
    echo 1 >"$DIR/var/limits"
    [[ "$(with_lib 'enrolment_reason renewal')" == *"limited to has changed" ]]
    node_conf https://other.example >"$DIR/etc/node.conf"
    [ "$(with_lib 'enrolment_reason renewal')" = "its bundle has changed" ]
}

@test "identity: names that no node may have" {
    for name in a n1 N-1.lab_x; do with_lib 'is_node_name "$1"' "$name"; done
    for name in '' .x -x 'a b' 'a/b' "$(printf 'x%.0s' {1..64})"; do
        run -1 with_lib 'is_node_name "$1"' "$name"
    done
}

# --- the client's settings -----------------------------------------------------------

@test "client: its own part of the configuration is JSON, with the owner's wishes" {
    printf 'RESERVE_CORES=1\nRESERVE_MEMORY_MB=2000\nHTTP_PORT=14646\nNETWORK_INTERFACE=lo\n' >"$DIR/options"
    mkdir -p "$DIR/etc"
    mv "$DIR/options" "$DIR/etc/options"
    with_lib write_local_json
    run -0 python3 - "$DIR" <<'END'
import json, os, sys
folder = sys.argv[1]
made = json.load(open(f"{folder}/etc/local.json"))
client = made["client"]
assert made["data_dir"] == f"{folder}/nomad", made
assert made["ports"]["http"] == 14646 and made["bind_addr"] == "127.0.0.1", made
assert client["meta"] == {"bridge_home": folder}, client
assert client["network_interface"] == "lo", client
assert client["reserved"] == {"cpu": 1000, "memory": 2000, "disk": 0}, client
assert client["cpu_total_compute"] == 1000 * len(os.sched_getaffinity(0)), client
END
    : >"$DIR/var/paused"
    with_lib write_local_json
    grep -q '"bridge_paused":"1"' "$DIR/etc/local.json"
    rm "$DIR/var/paused" "$DIR/etc/options"
    with_lib write_local_json
    python3 -c 'import json,sys; json.load(open(sys.argv[1]))' "$DIR/etc/local.json"
}

@test "client: why it could not join, from its log" {
    mkdir -p "$DIR/var/log" "$DIR/etc/nomad"
    echo '{"client": {"servers": ["nomad.example:4647"]}}' >"$DIR/etc/nomad/bridge.json"
    because() { # log-line
        echo "$1" >"$DIR/var/log/nomad.log"
        with_lib 'joining_trouble 0'
    }
    [[ "$(because '[ERROR] client: error registering: error="rpc error: Permission denied" rpc=Node.Register')" == *"refused this machine"* ]]
    [[ "$(because '[ERROR] client.rpc: error="dial tcp: connection refused"')" == *'cannot be reached at "nomad.example:4647"'* ]]
    [[ "$(because '[ERROR] x: error="dial tcp: lookup nomad.example: no such host"')" == *"is not known here"* ]]
    [[ "$(because '[ERROR] x: error="x509: certificate signed by unknown authority"')" == *"certificate"*"unknown authority"* ]]
    [ "$(because '2026 [ERROR] agent: something else')" = "agent: something else" ]
}

# --- its owner takes it away ---------------------------------------------------------

# Run a verb of run.sh on a node whose client runs. The scheduler takes each start of it, or
# says nothing; there are no jobs.
owner_does() { # takes|silent script
    with_lib '
        . "$bundle/lib/control.sh"
        record_process "$client_process"
        mkdir -p "$log"
        answer=$1
        do_restart() {
            echo "restarted" >>"$var/restarts"
            log_length | put_file "$var/log-begin"
            [ "$answer" = silent ] || echo "client: node registration complete" >>"$client_log"
        }
        wait_until() { shift; "$@"; }
        is_idle() { true; }
        leave_now() { true; }
        eval "$2"
    ' "$@"
}

restarts() {
    wc -l <"$DIR/var/restarts"
}

@test "owner: a pause is told once the scheduler knows of it" {
    run -0 owner_does takes do_pause
    [[ $output == "Paused: no more jobs come"* ]] || fail "not told"
    run -0 owner_does silent do_pause
    [[ $output == *"the scheduler has not answered yet"* ]] || fail "not told"
}

@test "owner: who leaves waits for the scheduler, or is told that it does not answer" {
    run -0 owner_does takes do_leave
    [[ $output != *"has not answered"* && $output == *"has left"* ]] || fail "it answered"
    [ "$(restarts)" -eq 1 ]
    [ ! -e "$DIR/var/paused" ]
    run -0 owner_does silent do_leave
    [[ $output == *"The scheduler has not answered; it may still give this node jobs"* ]] ||
        fail "not told"
    [[ $output == *"has left"* ]] || fail "it stays"
}

@test "owner: a pause that was never answered is none for who leaves" {
    owner_does silent do_pause
    run -0 owner_does silent do_leave
    [[ $output == *"has not answered; it may still"* ]] || fail "not told"
    owner_does silent do_pause
    run -0 owner_does takes do_leave
    [[ $output != *"has not answered"* ]] || fail "it answered"
    [ "$(restarts)" -eq 4 ]
}

@test "owner: who leaves when the scheduler knows of the pause waits no more for it" {
    owner_does takes do_pause
    # Its log is rotated.
    : >"$DIR/var/log/nomad.log"
    run -0 owner_does silent do_leave
    [[ $output != *"has not answered"* ]] || fail "it had answered"
    [ "$(restarts)" -eq 1 ]
}

# --- processes -----------------------------------------------------------------------

@test "processes: one that is recorded is told from another with its number" {
    with_lib 'record_process "$DIR/one"; is_alive "$DIR/one"'
    run -1 with_lib 'is_alive "$DIR/one"'
    with_lib 'echo "$$ 1 $(boot_id)" >"$DIR/two"; ! is_alive "$DIR/two"'
    with_lib 'record_process "$DIR/three"; sed -i "s/ [^ ]*$/ another-boot/" "$DIR/three"; ! is_alive "$DIR/three"'
    with_lib '! is_alive "$DIR/none"'
}

@test "processes: one lives as long as its last thread" {
    python3 -P "$ROOT/tests/support/half_ended.py" >/dev/null 3>&- &
    until grep -qs ') Z ' "/proc/$!/stat"; do sleep 0.05; done
    [ -n "$(with_lib "start_time $!")" ]
    kill -KILL $!
    wait $! || true
    [ -z "$(with_lib "start_time $!")" ]
}

# --- units ---------------------------------------------------------------------------

@test "units: systemd has nothing to say about them" {
    command -v systemd-analyze >/dev/null || skip "needs systemd-analyze"
    mkdir -p "$DIR/bin" "$BATS_TEST_TMPDIR/units"
    for name in node-docker node-client; do
        printf '#!/bin/sh\n' >"$DIR/bin/$name"
        chmod 755 "$DIR/bin/$name"
    done
    for kind in user system; do
        for unit in "$BUNDLE/systemd/$kind"/*; do
            with_lib '. "$bundle/lib/units.sh"; render_unit "$1"' "$unit" \
                >"$BATS_TEST_TMPDIR/units/${unit##*/}"
        done
        run grep -l '@[A-Z]*@' "$BATS_TEST_TMPDIR"/units/*
        [ -z "$output" ]
        run systemd-analyze verify --man=no --recursive-errors=no "$BATS_TEST_TMPDIR"/units/*
        [ "$status" -eq 0 ] || fail "$kind"
        ! grep -F nomad-bridge <<<"$output" || fail "$kind"
    done
}
