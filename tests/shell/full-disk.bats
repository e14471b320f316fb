#!/usr/bin/env bats
# A machine whose disk is full: stage says so, and no result is taken for uploaded.

# shellcheck disable=SC2034  # what the helper reads
load helper

setup_file() { start_store; }
teardown_file() { stop_store; }
setup() { make_node; }

# Files cannot grow beyond this many KiB, as if the disk were full.
with_room() { # KiB in|out
    (
        trap '' XFSZ
        ulimit -f "$1"
        stage "$2"
    )
}

@test "stage in does not end well when it cannot write that it did" {
    simple_job
    run with_room 0 in
    [ "$status" -eq 15 ]
    [ ! -s "$STATE/in.result" ]
}

@test "stage out fails, leaves the results where they are, and works once there is room" {
    simple_job
    expect 0 in
    echo 42 >"$RUNDIR/result"
    run with_room 0 out
    [ "$status" -eq 15 ]
    [ "$(cat "$RUNDIR/result")" = 42 ]
    [ ! -e "$STORE/$BUCKET/.bridge/manifest" ]
    expect 0 out "3 files uploaded"
    [ "$(listed result size)" = 3 ]
}

@test "a list of results that is cut short is no success" {
    simple_job
    expect 0 in
    # Lists of these need more than 1 KiB, all else needs less.
    for number in $(seq 60); do
        echo "$number" >"$RUNDIR/result-$number"
    done
    run with_room 1 out
    [ "$status" -eq 15 ]
    [ "$(sentence out)" = "The disk of this machine is full" ]
    [ ! -e "$STORE/$BUCKET/.bridge/manifest" ]
    expect 0 out "62 files uploaded"
}

@test "the verdict stands though whoever keeps its words is gone" {
    simple_job
    exec 4> >(exit 0)
    wait "$!"
    code=0
    with_room 0 in 2>&4 || code=$?
    exec 4>&-
    [ "$code" -eq 15 ]
}
