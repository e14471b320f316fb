# shellcheck shell=sh
# What became of the job's container beside Nomad. Sourced by bin/stage.
#
# When the container engine dies, Nomad takes the program for ended, and cannot remove its
# container. It may still run, and goes on if the engine keeps containers over its own end;
# and where the engine died when Nomad was about to remove it, nobody else would ever do so.

# shellcheck disable=SC2154  # set by bin/stage

# See to it that the container is gone. Sets cut_off if its program did not end by itself:
# main's entry leaves marks when it begins and when it ends.
settle_container() {
    [ "$runtime" = docker ] && [ -n "$alloc_dir" ] || return 0
    remove_container "main-$alloc"
    # Only now: it may have started after Nomad had given it up.
    [ ! -d "$alloc_dir/data/.ran" ] || [ -d "$alloc_dir/data/.ran/ended" ] || cut_off=yes
}

# Nothing may write to the run directory any more. Where the engine does not answer, the
# next stage on this machine tries again.
remove_container() { # name
    mkdir -p "$home/var/leftovers" && : >"$home/var/leftovers/$1" ||
        misconfigured "BRIDGE_HOME/var cannot be written"
    timeout --foreground --kill-after=10 60 docker container rm --force --volumes -- "$1" \
        >/dev/null 2>"$work/log" &
    child=$!
    if await_child || log_says 'no such container'; then
        rm -f "$home/var/leftovers/$1"
    fi
}

remove_leftovers() {
    for leftover in "$home/var/leftovers"/main-*; do
        [ ! -f "$leftover" ] || remove_container "${leftover##*/}"
    done
}
