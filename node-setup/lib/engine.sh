# shellcheck shell=sh
# The node's rootless Docker: its own, beside any other of the same user. Sourced after node.sh.

# shellcheck disable=SC2154  # set by node.sh

engine_process=$var/engine.pid

# The node's Docker, by the client that belongs to it.
node_docker() { # arguments…
    timeout --kill-after=5 120 env -i "PATH=$dir/bin:/usr/bin:/bin" "HOME=$HOME" \
        "DOCKER_HOST=unix://$socket" "$dir/bin/docker" "$@"
}

engine_answers() {
    [ -S "$socket" ] && node_docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

# Start the engine if it is not there. Returns when it answers.
engine_up() {
    ! engine_answers || return 0
    mkdir -p "$log"
    if is_installed; then
        user_systemctl start nomad-bridge-docker.service
    elif ! is_alive "$engine_process"; then
        rotate "$log/docker.log"
        setsid "$dir/bin/node-docker" >>"$log/docker.log" 2>&1 </dev/null &
        # Until it has written down who it is.
        wait_until 5 is_alive "$engine_process"
    fi
    wait_until 90 engine_answers_or_ended
    engine_answers || die "Rootless Docker did not start: $(engine_trouble)"
}

engine_answers_or_ended() {
    engine_answers || { ! is_installed && ! is_alive "$engine_process"; }
}

engine_trouble() {
    if is_installed; then
        echo "see journalctl --user -u nomad-bridge-docker"
    else
        echo "$(tail -n 1 "$log/docker.log" 2>/dev/null | cut -c 1-300) (more in $log/docker.log)"
    fi
}

engine_down() {
    if is_installed; then
        user_systemctl stop nomad-bridge-docker.service
    fi
    end_process "$engine_process" 30
}

# Whether the engine runs without root: container's root is this very user.
engine_is_rootless() {
    node_docker info --format '{{.SecurityOptions}}' 2>/dev/null | grep -q rootless
}

# Containers and shims of an engine that was killed. They cannot be had back: their
# namespaces belong to the engine that is gone.
end_leftovers() {
    for shim in $(processes_with "$runtime/docker/containerd/containerd.sock" "$dir/docker"); do
        for child in $(children_of "$shim"); do
            kill -KILL "$child" 2>/dev/null
        done
        kill -KILL "$shim" 2>/dev/null
    done
}

# The engine makes folders there that it may enter only as its namespace's root.
clear_runtime() {
    chmod -R u+rwX "$runtime" && rm -rf "${runtime:?}"/*
}

# Own processes that have one of these words among their arguments.
processes_with() { # words…
    for process in /proc/[0-9]*; do
        if [ ! -O "$process" ] || [ "${process##*/}" = "$$" ]; then
            continue
        fi
        for word in "$@"; do
            if tr '\0' '\n' <"$process/cmdline" 2>/dev/null | grep -Fxq -e "$word"; then
                echo "${process##*/}"
                break
            fi
        done
    done
}

children_of() { # pid
    for process in /proc/[0-9]*; do
        [ "$(sed -n 's/^.*) //p' "$process/stat" 2>/dev/null | cut -d ' ' -f 2)" != "$1" ] ||
            echo "${process##*/}"
    done
}

# Begin a log anew when it has grown; one old one is kept.
rotate() { # file
    [ "$(stat --format %s "$1" 2>/dev/null || echo 0)" -lt 10000000 ] || mv -f "$1" "$1.1"
}
