# shellcheck shell=sh
# The self-test of this node's Docker. Sourced by bin/selftest.
#
# Its image holds busybox and nothing else, and is made here: no registry is asked.

# shellcheck disable=SC2154  # set by bin/selftest and what it sources

# As stage names images that no registry has; users cannot submit this one.
test_image=bridge.invalid/bridge-selftest:1
test_user_image=bridge.invalid/bridge-selftest:user

test_engine() {
    say "Testing containers"
    if ! engine_answers; then
        finding fail Docker "the node's Docker does not answer" "$dir/run.sh --status; $log/docker.log"
        return
    fi
    engine_is_rootless ||
        finding fail Docker "it runs as root" "Only the node's own rootless Docker may be used"
    import_image || return
    test_run_directory
    test_network
    test_limits
}

import_image() {
    busybox=$(static_busybox)
    if [ -z "$busybox" ]; then
        finding fail "test image" "there is no static busybox for $(uname -m)" \
            "Install busybox-static, then run the test again"
        return 1
    fi
    version=$(sha256sum <"$busybox" | cut -c 1-16)
    [ "$(node_docker image inspect --format '{{.Comment}}' "$test_image" 2>/dev/null)" != "$version" ] ||
        return 0
    mkdir -p "$scratch/image/bin" "$scratch/image/tmp"
    cp "$busybox" "$scratch/image/bin/busybox"
    chmod 755 "$scratch/image" "$scratch/image/bin" "$scratch/image/bin/busybox"
    chmod 1777 "$scratch/image/tmp"
    for name in sh cat dd echo id ls mkdir sleep touch true wc; do
        ln -s busybox "$scratch/image/bin/$name"
    done
    for user_and_name in "0:0 $test_image" "1000:1000 $test_user_image"; do
        tar --create --directory="$scratch/image" . |
            node_docker import --message "$version" --change 'ENV PATH=/bin' \
                --change "USER ${user_and_name% *}" - "${user_and_name#* }" >/dev/null \
                2>"$scratch/errors" || {
            finding fail "test image" "Docker cannot import it: $(tail -n 1 "$scratch/errors")" \
                "Look for the disk of $dir, and $log/docker.log"
            return 1
        }
    done
}

# The pinned one, or the system's where that is static.
static_busybox() {
    for candidate in "$dir/current/busybox/busybox" "$(command -v busybox)"; do
        # A dynamic program names its loader, /lib…/ld-…, at its very beginning.
        if [ -x "$candidate" ] && ! head -c 4096 "$candidate" | grep -q '/ld-'; then
            echo "$candidate"
            return
        fi
    done
}

# A container as jobs have it.
contain() { # docker-run-options… -- command…
    count=$#
    while [ "$count" -gt 0 ]; do
        if [ "$1" = -- ]; then
            set -- "$@" "$chosen_image"
        else
            set -- "$@" "$1"
        fi
        shift
        count=$((count - 1))
    done
    node_docker run --rm --network none --user 0:0 --cap-drop all \
        --security-opt no-new-privileges --pids-limit 100 "$@"
}

test_run_directory() {
    for chosen_image in "$test_image" "$test_user_image"; do
        rm -rf "$scratch/rundir"
        mkdir "$scratch/rundir"
        echo given >"$scratch/rundir/in"
        # shellcheck disable=SC2016  # for the shell in the container
        contain --mount "type=bind,source=$scratch/rundir,target=/rundir" --workdir /rundir -- \
            sh -c 'umask 077; cat in >out && echo "$HOME $(id -u)" >who' 2>"$scratch/errors"
        code=$?
        what="container"
        [ "$chosen_image" = "$test_image" ] || what="container of an image with another user"
        if [ "$code" -ne 0 ]; then
            finding fail "$what" "it ends with $code: $(tail -n 1 "$scratch/errors")" \
                "$(container_remedy)"
            return
        fi
        if [ ! -O "$scratch/rundir/out" ] || [ "$(cat "$scratch/rundir/out" 2>/dev/null)" != given ]; then
            finding fail "$what" "what it writes to its run directory does not belong to $(id -un)" \
                "Correct /etc/subuid and /etc/subgid (get-started.sh --check)"
            return
        fi
        finding ok "$what" "runs, and its files are ours"
    done
}

container_remedy() {
    if grep -q 'cgroup' "$scratch/errors"; then
        echo "Delegate cgroups to the user: get-started.sh --root-steps"
    else
        echo "See $log/docker.log"
    fi
}

test_network() {
    chosen_image=$test_image
    seen=$(contain -- ls /sys/class/net 2>"$scratch/errors")
    if [ "$seen" = lo ]; then
        finding ok "no network" "a job without network has none"
    else
        finding fail "no network" "a container without network sees: $(one_line "$seen")" \
            "See $log/docker.log"
    fi
}

# Where the kernel cannot limit, that is a property of the node and no failure.
test_limits() {
    chosen_image=$test_image
    works=1
    contain --memory 32m --memory-swap 32m -- dd if=/dev/zero of=/dev/null bs=128M count=1 \
        >/dev/null 2>&1
    code=$?
    if [ "$code" -eq 137 ]; then
        finding ok "memory limit" "a container above its limit is killed"
    else
        works=0
        finding note "memory limit" "a container may take more than its limit here" \
            "$(limits_remedy)"
    fi
    quota=$(contain --cpus 0.5 -- cat /sys/fs/cgroup/cpu.max 2>/dev/null)
    if [ "$quota" = "50000 100000" ]; then
        finding ok "cores limit" "a container gets the cores it asked for and no more"
    else
        works=0
        finding note "cores limit" "a container may take more cores than it asked for here" \
            "$(limits_remedy)"
    fi
    echo "$works" | put_file "$var/limits"
}

limits_remedy() {
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        echo "get-started.sh --root-steps shows the delegation; then log in anew"
    else
        echo "It needs cgroup v2; the node says so, and a group may insist on it"
    fi
}
