#!/usr/bin/env bats
# The owner object: of two attempts at one bucket only the later one writes.

# shellcheck disable=SC2034,SC2030,SC2031  # the helper reads what tests set; each has a shell
load helper

setup_file() { start_store; }
teardown_file() { stop_store; }
setup() { make_node; }

# Another node with its own folders, for the same bucket.
other_node() { # attempt alloc
    ATTEMPT=$1 ALLOC=$2
    STATE=$BATS_TEST_TMPDIR/state-$2 RUNDIR=$BATS_TEST_TMPDIR/rundir-$2
}

@test "stage in is superseded by a higher attempt and by another alloc of its own" {
    simple_job
    set_owner 2 alloc-9
    expect 10 in
    [ "$(owner)" = "2 alloc-9" ]
    ATTEMPT=2
    expect 10 in
    [ "$(owner)" = "2 alloc-9" ]
    [ ! -e "$RUNDIR" ]
    expect 10 out
    [ "$(owner)" = "2 alloc-9" ]
    [ -z "$(results)" ]
}

@test "stage in takes over from a lower attempt and from itself" {
    simple_job
    set_owner 1 alloc-9
    ATTEMPT=2
    expect 0 in
    [ "$(owner)" = "2 alloc-1" ]
    rm -r "$STATE"
    expect 0 in
    [ "$(owner)" = "2 alloc-1" ]
}

@test "an owner object that says nothing is written over" {
    simple_job
    set_owner x y
    expect 0 in
    [ "$(owner)" = "1 alloc-1" ]
}

@test "a folder that belongs to another job is not run, and nothing in it is touched" {
    simple_job
    EXTRA=(BRIDGE_JOB=job-a)
    expect 0 in
    echo result >"$RUNDIR/result"
    expect 0 out
    [ "$(owner)" = "1 alloc-1 job-a" ]
    before=$(results)
    for number in 1 2; do
        other_node "$number" "alloc-b$number"
        EXTRA=(BRIDGE_JOB=job-b)
        expect 18 in "Not run: the folder already belongs to job job-a, handed over before. If\
 that has ended, its results are in the bucket"
        [ ! -e "$RUNDIR" ]
        expect 0 out "There is nothing to upload: the job was never started"
    done
    [ "$(owner)" = "1 alloc-1 job-a" ]
    [ "$(results)" = "$before" ]
    [ "$(cat "$STORE/$BUCKET/result")" = result ]
}

@test "stage out uploads nothing into a folder that another job has by now" {
    simple_job
    EXTRA=(BRIDGE_JOB=job-a)
    ATTEMPT=2
    expect 0 in
    set_owner 1 alloc-9 job-b
    expect 10 out
    [ "$(owner)" = "1 alloc-9 job-b" ]
    [ -z "$(results)" ]
}

@test "further attempts of a job, and a folder that was emptied, are taken as ever" {
    simple_job
    EXTRA=(BRIDGE_JOB=job-a)
    expect 0 in
    expect 0 out
    other_node 2 alloc-2
    expect 0 in
    [ "$(owner)" = "2 alloc-2 job-a" ]
    store deletefile "s3:$BUCKET/.bridge/owner"
    other_node 1 alloc-3
    EXTRA=(BRIDGE_JOB=job-b)
    expect 0 in
    [ "$(owner)" = "1 alloc-3 job-b" ]
}

@test "an owner that names no job, or a service that does not, goes by attempt and alloc" {
    simple_job
    set_owner 1 alloc-9
    ATTEMPT=2 EXTRA=(BRIDGE_JOB=job-b)
    expect 0 in
    [ "$(owner)" = "2 alloc-1 job-b" ]
    ATTEMPT=3 EXTRA=()
    rm -r "$STATE"
    expect 0 in
    [ "$(owner)" = "3 alloc-1" ]
    set_owner 4 alloc-9 "what/ is this"
    EXTRA=(BRIDGE_JOB=job-b)
    rm -r "$STATE"
    expect 10 in
}

@test "stage out of a ghost uploads nothing" {
    simple_job
    expect 0 in
    echo ghost >"$RUNDIR/result"
    local state=$STATE rundir=$RUNDIR
    other_node 2 alloc-2
    expect 0 in
    ATTEMPT=1 ALLOC=alloc-1 STATE=$state RUNDIR=$rundir
    expect 10 out "Superseded by another attempt"
    [ -z "$(results)" ]
    [ "$(owner)" = "2 alloc-2" ]
}

@test "stage out writes itself again over a lower attempt, and when its owner is gone" {
    simple_job
    ATTEMPT=2
    expect 0 in
    set_owner 1 alloc-9
    expect 0 out
    [ "$(owner)" = "2 alloc-1" ]
    store deletefile "s3:$BUCKET/.bridge/owner"
    expect 0 out
    [ "$(owner)" = "2 alloc-1" ]
}

@test "a ghost that is superseded between two batches stops there" {
    archive file:run.sh=
    expect 0 in
    (cd "$RUNDIR" && seq 1200 | xargs -n 200 touch)
    # The second upload finds a new owner.
    cat >"$HOME_DIR/before" <<HOOK
case "\$*" in
"copy /proc"*) mkdir '$BATS_TEST_TMPDIR/uploading' 2>/dev/null ;;
"copy job:"*)
    [ ! -d '$BATS_TEST_TMPDIR/uploading' ] || {
        rm '$HOME_DIR/before'
        echo '2 alloc-2' | '$(command -v rclone)' rcat job:.bridge/owner
    }
    ;;
esac
HOOK
    expect 10 out
    # On a slow machine a batch ends before it is full.
    local uploaded
    uploaded=$(results | wc -l)
    [ "$uploaded" -gt 0 ] && [ "$uploaded" -le 500 ]
    [ ! -e "$STORE/$BUCKET/.bridge/manifest" ]
}

@test "a claim that a ghost writes over is written again" {
    simple_job
    ATTEMPT=2
    # Between our write and our look at it, once.
    cat >"$HOME_DIR/before" <<HOOK
case "\$*" in
"copy job:"*)
    if [ -d '$BATS_TEST_TMPDIR/wrote' ]; then
        rm '$HOME_DIR/before'
        echo '1 ghost' | '$(command -v rclone)' rcat job:.bridge/owner
    fi
    ;;
"copy $STATE/work/put"*) mkdir -p '$BATS_TEST_TMPDIR/wrote' ;;
esac
HOOK
    expect 0 in
    [ "$(owner)" = "2 alloc-1" ]
    [ ! -e "$HOME_DIR/before" ]
}

@test "the second attempt removes what the first one's manifest lists, and no more" {
    simple_job
    expect 0 in
    echo 1 >"$RUNDIR/kept" && echo 1 >"$RUNDIR/only first \"time\"" && mkdir "$RUNDIR/d" && echo 1 >"$RUNDIR/d/x"
    expect 0 out
    echo other | store rcat "s3:$BUCKET/not-listed"
    other_node 2 alloc-2
    expect 0 in
    [ "$(results)" = not-listed ]
    [ -f "$STORE/$BUCKET/run.tgz" ]
    [ ! -e "$STORE/$BUCKET/.bridge/manifest" ]
    echo 2 >"$RUNDIR/kept"
    expect 0 out
    [ "$(results)" = "joberr.txt
joblog.txt
kept
not-listed" ]
    grep -q '"attempt":2,"alloc":"alloc-2"' "$STORE/$BUCKET/.bridge/manifest"
}

@test "a manifest cannot make stage remove input, owner or other buckets" {
    simple_job
    other=$BUCKET-other
    store mkdir "s3:$other" && echo x | store rcat "s3:$other/x"
    ATTEMPT=2
    {
        echo '{"version":1,"attempt":1,"alloc":"a","files":['
        for key in run.tgz .bridge/owner "../$other/x" /x a/../../x ./run.tgz; do
            echo "{\"key\":\"$key\",\"size\":1,\"sha256\":\"00\"},"
        done
        echo ']}'
    } | store rcat "s3:$BUCKET/.bridge/manifest"
    expect 0 in
    [ -f "$STORE/$BUCKET/run.tgz" ]
    [ -f "$STORE/$other/x" ]
    [ "$(owner)" = "2 alloc-1" ]
}

@test "a second attempt puts again what a ghost wrote over it" {
    simple_job
    ATTEMPT=2
    expect 0 in
    echo right >"$RUNDIR/result"
    # Just before the last look, once.
    cat >"$HOME_DIR/before" <<HOOK
case "\$*" in
*--checksum*)
    rm '$HOME_DIR/before'
    echo ghost | '$(command -v rclone)' rcat job:result
    echo ghost | '$(command -v rclone)' rcat job:.bridge/manifest
    ;;
esac
HOOK
    expect 0 out
    [ ! -e "$HOME_DIR/before" ]
    [ "$(cat "$STORE/$BUCKET/result")" = right ]
    [ "$(listed result size)" = 6 ]
}
