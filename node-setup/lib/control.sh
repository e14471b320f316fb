# shellcheck shell=sh
# The verbs of run.sh. Sourced by it.

# shellcheck disable=SC2154  # set by run.sh and node.sh

client=
watcher=

do_join() {
    read_node_conf
    ! is_alive "$client_process" ||
        die "This node runs already, as process $pid. Its log: tail -f $client_log"
    if is_installed; then
        die "systemd keeps this node running: systemctl --user status nomad-bridge-client"
    fi
    rm -f "$var/left" "$var/failure" "$var/again"
    trap 'stop_joined 130' INT
    trap 'stop_joined 143' TERM HUP
    while :; do
        run_client
        [ -e "$var/again" ] || break
        rm -f "$var/again"
    done
    [ ! -e "$var/left" ] || { say "This node has left." && exit 0; }
    die "The node has stopped: $(why_stopped)"
}

# The client in a session of its own, so that Control-C ends it by us, in our order.
run_client() {
    setsid "$dir/bin/node-client" &
    client=$!
    watch_over &
    watcher=$!
    wait "$client"
    client_code=$?
    end_watcher
}

# Beside the client: says when it has joined, tests it, keeps Docker up, and renews the
# certificate.
watch_over() {
    at_work=
    trap 'kill -TERM "$at_work" 2>/dev/null; exit 0' TERM
    wait_until 60 is_alive "$client_process"
    first=
    [ -e "$var/tested" ] || first=1
    if ! await_joined 90 "$(cat "$var/log-begin" 2>/dev/null || echo 0)"; then
        printf '%s\n' "$problem" >"$var/failure"
        kill -TERM "$client" 2>/dev/null
        return
    fi
    say "--- $(node_name) has joined ---"
    if [ -n "$first" ] && interruptible "$dir/bin/selftest" join; then
        : >"$var/tested"
    fi
    rounds=0
    while :; do
        interruptible sleep 10
        engine_answers || (engine_up)
        rounds=$((rounds + 1))
        [ "$((rounds % 360))" -ne 0 ] || interruptible "$dir/bin/node-client" --renew
    done
}

# A shell runs its traps at once only where it waits.
interruptible() { # command…
    "$@" &
    at_work=$!
    wait "$at_work"
}

end_watcher() {
    [ -n "$watcher" ] || return 0
    kill -TERM "$watcher" 2>/dev/null
    wait "$watcher" 2>/dev/null
    watcher=
}

why_stopped() {
    if [ -s "$var/failure" ]; then
        cat "$var/failure"
    elif grep -q '\[ERROR\]' "$client_log" 2>/dev/null; then
        grep '\[ERROR\]' "$client_log" | tail -n 1 | sed 's/^.*\[ERROR\] *//'
    else
        echo "it ended with code $client_code; the lines above tell why"
    fi
}

stop_joined() { # exit code
    trap '' INT TERM HUP
    end_watcher
    end_process "$client_process" 30
    say "The node has stopped; jobs that run go on. Docker goes on, too."
    exit "$1"
}

# --- the owner's verbs -------------------------------------------------------------

do_status() {
    say "node         $(node_name)"
    say "folder       $dir"
    if is_installed; then say "runs under   systemd (user)"; else say "runs under   run.sh"; fi
    if engine_answers; then say "Docker       runs"; else say "Docker       does not run"; fi
    if is_alive "$client_process"; then
        say "client       runs, process $pid"
    else
        say "client       does not run"
        [ ! -s "$var/failure" ] || say "             $(cat "$var/failure")"
    fi
    [ ! -e "$var/paused" ] || say "paused       by its owner; --resume ends that"
    [ ! -e "$var/left" ] || say "left         the group; run.sh joins again"
    if [ -r "$enrolment" ]; then
        say "certificate  until $(date --date "@$(conf_value "$enrolment" EXPIRES)" '+%Y-%m-%d %H:%M')"
    else
        say "certificate  none yet"
    fi
    if [ "$(node_limits)" = 1 ]; then
        say "limits       jobs' memory and cores are limited"
    else
        say "limits       jobs' memory and cores cannot be limited here"
    fi
    say "versions     $(for part in "$dir/current"/*; do
        version=$(readlink "$part")
        printf '%s ' "${version##*/}"
    done)"
    is_alive "$client_process"
}

do_check() {
    exec "$dir/bin/selftest" all
}

do_pause() {
    if take_no_more; then
        say "Paused: no more jobs come; those that run go on."
    else
        say "Paused; but the scheduler has not answered yet. Until it does, it may still give" \
            "this node jobs. Those that run go on."
    fi
}

# Pause, and wait until the scheduler knows: before, it may still give jobs to this node. That
# it knows is noted in the file: the client's log is rotated, and does not tell later.
take_no_more() {
    : >"$var/paused"
    do_restart
    is_alive "$client_process" || return 0
    begin=$(cat "$var/log-begin" 2>/dev/null || echo 0)
    wait_until 30 joined_or_refused "$begin"
    has_joined "$begin" && echo known >"$var/paused"
}

do_resume() {
    rm -f "$var/paused"
    do_restart
    say "Jobs come again."
}

# Jobs go on meanwhile; the client takes them up again.
do_restart() {
    if is_installed; then
        user_systemctl try-restart nomad-bridge-client.service
    elif is_alive "$client_process"; then
        old_client=$pid
        : >"$var/again"
        kill -TERM "$pid"
        wait_until 60 has_new_client ||
            die "The client did not come back; in its terminal, run.sh says why"
    fi
}

has_new_client() {
    is_alive "$client_process" && [ "$pid" != "$old_client" ]
}

do_leave() {
    if is_alive "$client_process"; then
        [ -s "$var/paused" ] || take_no_more ||
            warn "The scheduler has not answered; it may still give this node jobs"
        say "Waiting for the jobs that run here"
        wait_until "${within:-31536000}" is_idle || warn "Jobs still run; they end now"
    fi
    leave_now
    # It joins again as it was before, not paused.
    rm -f "$var/paused"
    say "This node has left. Admins see it as down; run.sh, or run.sh --install, joins again."
}

leave_now() {
    : >"$var/left"
    if is_installed; then
        user_systemctl disable --now nomad-bridge-client.service nomad-bridge-renew.timer \
            nomad-bridge-docker.service 2>/dev/null
    fi
    end_process "$client_process" 30
    engine_down
    end_leftovers
}

do_forget() {
    ! is_alive "$client_process" || die "It runs; first: $dir/run.sh --leave"
    forget_identity
    say "Forgotten. With the next start it joins as $(node_name)."
}

do_keep() {
    [ -r "$enrolment" ] || die "It is not enrolled yet"
    remember_machine
    say "This machine is $(node_name) from now on."
}

do_uninstall() {
    if [ -z "$yes" ]; then
        [ -t 0 ] || die "This removes $dir with all that is in it: say --yes"
        printf 'Remove %s with all that is in it, and end the jobs that run there? [y/N] ' "$dir"
        read -r reply
        case $reply in
        y | Y | yes) ;;
        *) die "Nothing was done" ;;
        esac
    fi
    leave_now
    for process in $(processes_with "$dir/bin/stage"); do
        kill -TERM "$process" 2>/dev/null
    done
    remove_units
    # Files of users inside containers belong to ids that only a user namespace can touch.
    "$dir/bin/rootlesskit" rm -rf "$dir/docker" 2>/dev/null || rm -rf "$dir/docker"
    clear_runtime
    rm -rf "${dir:?}"/* 2>/dev/null || warn "Some of $dir could not be removed"
    say "Removed. The user and what root did stay."
}

do_install() {
    read_node_conf
    has_user_systemd || die "There is no systemd of the user's own here: log in by ssh or" \
        "machinectl shell, not by su; or run it as it is: sh run.sh"
    ! is_alive "$client_process" || is_installed ||
        die "It runs in another terminal: end it there with Control-C first"
    rm -f "$var/left"
    engine_was_ours=
    ! is_alive "$engine_process" || is_installed || engine_was_ours=1
    [ -z "$engine_was_ours" ] || end_process "$engine_process" 30
    write_units
    user_systemctl daemon-reload
    user_systemctl enable nomad-bridge-docker.service nomad-bridge-client.service \
        nomad-bridge-renew.timer
    user_systemctl restart nomad-bridge-docker.service
    user_systemctl restart nomad-bridge-client.service nomad-bridge-renew.timer ||
        die "It did not start: $(journalctl --user --unit nomad-bridge-client --lines 1 --output cat 2>/dev/null)"
    say "$(node_name) has joined, and starts at boot. Its log: tail -f $client_log"
    [ -e "$var/tested" ] || { "$dir/bin/selftest" join && : >"$var/tested"; }
}

do_units() {
    for unit in "$home"/systemd/system/*; do
        say "# /etc/systemd/system/${unit##*/}"
        render_unit "$unit"
        say
    done
}
