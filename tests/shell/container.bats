#!/usr/bin/env bats
# What stage makes of the job's container, beside Nomad.

# shellcheck disable=SC2034,SC2030,SC2031  # the helper reads what tests set; each has a shell
load helper

setup_file() { start_store; }
teardown_file() { stop_store; }

setup() {
    make_node
    ALLOC_DIR=$BATS_TEST_TMPDIR/alloc
    # An engine that is there unless $BATS_TEST_TMPDIR/away is.
    mkdir -p "$BATS_TEST_TMPDIR/path" "$ALLOC_DIR/data"
    {
        echo '#!/bin/sh'
        echo "echo \"\$*\" >>'$BATS_TEST_TMPDIR/asked'"
        echo "[ ! -e '$BATS_TEST_TMPDIR/away' ] || { echo 'Cannot connect' >&2; exit 1; }"
    } >"$BATS_TEST_TMPDIR/path/docker"
    chmod 755 "$BATS_TEST_TMPDIR/path/docker"
    : >"$BATS_TEST_TMPDIR/asked"
    simple_job
    expect 0 in
    beside_nomad
}

# The tests do without images: stage in by the other runtime.
beside_nomad() {
    RUNTIME=docker
    EXTRA=(PATH="$BATS_TEST_TMPDIR/path:/usr/local/bin:/usr/bin:/bin" NOMAD_ALLOC_DIR="$ALLOC_DIR")
}

asked() {
    cat "$BATS_TEST_TMPDIR/asked"
}

removal="container rm --force --volumes -- main-alloc-1"

@test "also of a program that ended by itself: its engine may have died just then" {
    mkdir -p "$ALLOC_DIR/data/.ran/ended"
    echo 42 >"$RUNDIR/result"
    expect 0 out
    [ "$(asked)" = "$removal" ]
}

@test "a program that ended by itself has ended, also where the engine is away" {
    mkdir -p "$ALLOC_DIR/data/.ran/ended"
    touch "$BATS_TEST_TMPDIR/away"
    expect 0 out
    [ "$(ls "$HOME_DIR/var/leftovers")" = main-alloc-1 ]
}

@test "of a program that never began there may be a container" {
    expect 0 out
    [ "$(asked)" = "$removal" ]
}

@test "a job that was never staged has none" {
    rm "$STATE/in.result"
    expect 0 out
    [ -z "$(asked)" ]
}

@test "one that was cut off: its container goes, what it wrote is uploaded" {
    mkdir "$ALLOC_DIR/data/.ran"
    echo half >"$RUNDIR/half.txt"
    expect 17 out "3 files uploaded"
    [ "$(asked)" = "$removal" ]
    [ "$(listed half.txt size)" = 5 ]
    [ -z "$(ls "$HOME_DIR/var/leftovers")" ]
}

@test "cut off without a storage is cut off" {
    mkdir "$ALLOC_DIR/data/.ran"
    write_keys http://127.0.0.1:9 "$ACCESS" "$SECRET"
    expect 17 out
}

@test "cut off and superseded is superseded" {
    mkdir "$ALLOC_DIR/data/.ran"
    set_owner 2 alloc-2
    expect 10 out
}

@test "where the engine is away, the next stage removes the container" {
    mkdir "$ALLOC_DIR/data/.ran"
    touch "$BATS_TEST_TMPDIR/away"
    expect 17 out
    [ "$(ls "$HOME_DIR/var/leftovers")" = main-alloc-1 ]
    rm "$BATS_TEST_TMPDIR/away" "$BATS_TEST_TMPDIR/asked"
    STATE=$BATS_TEST_TMPDIR/state-2 RUNDIR=$BATS_TEST_TMPDIR/rundir-2
    ATTEMPT=2 ALLOC=alloc-2
    stage in || true # there is no image
    [ "$(head -n 1 "$BATS_TEST_TMPDIR/asked")" = "$removal" ]
    [ -z "$(ls "$HOME_DIR/var/leftovers")" ]
}
