#!/usr/bin/env bats
# A storage that is away, refuses, or has lost something; nodes that are not set up.

# shellcheck disable=SC2034,SC2030,SC2031  # the helper reads what tests set; each has a shell
load helper

setup_file() { start_store; }
teardown_file() { stop_store; }
setup() { make_node; }

# Nothing listens there.
AWAY=http://127.0.0.1:1

@test "no bucket, no run.tgz: final at once" {
    expect 11 in "Input files missing"
    [ "$(calls)" -eq 1 ]
    BUCKET=no-such-bucket
    expect 11 in "Input files missing"
    [ "$(calls)" -eq 2 ]
    [ ! -e "$STORE/no-such-bucket" ]
}

@test "no access to data: final at once" {
    simple_job
    write_keys "$SERVER" "$ACCESS" wrong
    expect 11 in "Input files missing"
    write_keys "$SERVER" nobody "$SECRET"
    expect 11 in "Input files missing"
    [ "$(calls)" -eq 2 ]
    rm "$HOME_DIR/etc/s3.conf"
    expect 11 in "Input files missing"
    [ ! -e "$RUNDIR" ]
}

@test "a storage that does not answer is waited for, within the limit" {
    simple_job
    write_keys "$AWAY" "$ACCESS" "$SECRET"
    EXTRA=(BRIDGE_STAGE_IN_LIMIT=2)
    expect 13 in "The storage did not answer for as long as we wait"
}

@test "a storage that comes back in time is used" {
    simple_job
    write_keys "$AWAY" "$ACCESS" "$SECRET"
    stage in &
    eventually called 1
    write_keys "$SERVER" "$ACCESS" "$SECRET"
    wait $!
    [ "$(head -n 1 "$STATE/in.result")" = 0 ]
}

@test "stage out waits for the storage, and for keys that are accepted again" {
    simple_job
    expect 0 in
    EXTRA=(BRIDGE_UPLOAD_PATIENCE=30)
    write_keys "$SERVER" "$ACCESS" wrong
    stage out &
    eventually called 3
    write_keys "$SERVER" "$ACCESS" "$SECRET"
    wait $!
    [ "$(results | wc -l)" -eq 2 ]
}

@test "stage out gives up after its patience" {
    simple_job
    expect 0 in
    write_keys "$AWAY" "$ACCESS" "$SECRET"
    expect 13 out "The storage did not answer for as long as we wait"
    write_keys "$SERVER" "$ACCESS" wrong
    expect 13 out "The storage refuses the keys of this machine"
    [ -f "$RUNDIR/run.sh" ]
}

@test "a bucket that is gone is final for stage out too, and stays gone" {
    simple_job
    expect 0 in
    store purge "s3:$BUCKET"
    EXTRA=(BRIDGE_UPLOAD_PATIENCE=600)
    expect 11 out "Input files missing"
    [ ! -e "$STORE/$BUCKET" ]
}

@test "an upload that breaks goes on where it was" {
    archive file:run.sh=
    expect 0 in
    (cd "$RUNDIR" && seq 20 | xargs touch)
    # The first upload gets only some of its files, and then no answer any more.
    cat >"$HOME_DIR/before" <<HOOK
case "\$*" in
"copy /proc"*)
    rm '$HOME_DIR/before'
    head -n 5 '$STATE/work/keys' >'$BATS_TEST_TMPDIR/some'
    '$(command -v rclone)' copy /proc/self/cwd job: --files-from-raw '$BATS_TEST_TMPDIR/some' \\
        --no-traverse --no-check-dest --log-level INFO
    echo "ERROR : x: Failed to copy: connection reset by peer" >&2
    exit 1
    ;;
esac
HOOK
    expect 0 out "22 files uploaded"
    [ "$(results | wc -l)" -eq 22 ]
    [ "$(wc -l <"$STATE/../calls")" -lt 12 ]
}

@test "files that go or change meanwhile are no trouble" {
    archive file:run.sh=
    expect 0 in
    echo 1 >"$RUNDIR/changes" && echo 1 >"$RUNDIR/goes" && echo 1 >"$RUNDIR/stays"
    cat >"$HOME_DIR/before" <<HOOK
case "\$*" in
"copy /proc"*)
    rm '$HOME_DIR/before' '$RUNDIR/goes'
    echo 22 >'$RUNDIR/changes'
    echo 3 >'$RUNDIR/comes'
    ;;
esac
HOOK
    expect 0 out "5 files uploaded"
    [ "$(listed changes size)" = 3 ]
    [ "$(listed changes sha256)" = "$(sha256sum <"$STORE/$BUCKET/changes" | cut -c 1-64)" ]
    [ "$(listed comes size)" = 2 ]
    [ -z "$(listed goes size)" ]
}

@test "a signal ends stage in at once, and it says so" {
    simple_job
    echo 'exec sleep 600' >"$HOME_DIR/before"
    for signal in INT TERM; do
        # A background job of a shell ignores SIGINT; what Nomad starts does not.
        EXTRA=(env --default-signal=INT)
        stage in 2>/dev/null &
        local runner=$!
        eventually called 1
        kill "-$signal" "$(pgrep -P "$runner" -f 'bin/stage in' || echo "$runner")"
        local code=0
        wait "$runner" || code=$?
        [ "$code" -eq 130 ] || [ "$code" -eq 143 ]
        [ "$(cat "$STATE/in.result")" = "$code
Stopped before it was finished" ]
        : >"$BATS_TEST_TMPDIR/calls"
    done
    rm "$HOME_DIR/before"
    expect 0 out "There is nothing to upload: the job was never started"
}

@test "settings of rclone and AWS in the environment change nothing" {
    simple_job
    EXTRA=(RCLONE_CONFIG_S3_ENDPOINT="$AWAY" RCLONE_DRY_RUN=true AWS_PROFILE=x AWS_CA_BUNDLE=/none)
    expect 0 in
    expect 0 out
    [ "$(results | wc -l)" -eq 2 ]
}

@test "keys that others can read are not used" {
    simple_job
    chmod 640 "$HOME_DIR/etc/s3.conf"
    expect 15 in "BRIDGE_HOME/etc/s3.conf can be read by others: chmod 600 it"
}

@test "an address that is none is said" {
    write_keys 127.0.0.1:9000 "$ACCESS" "$SECRET"
    expect 15 in "S3_SERVER in BRIDGE_HOME/etc/s3.conf must begin with http:// or https://"
}

@test "a wrong environment is said" {
    for wrong in BRIDGE_BUCKET=../x BRIDGE_ATTEMPT=0 BRIDGE_ATTEMPT=x BRIDGE_RUNDIR=rel \
        'BRIDGE_ALLOC=a b' BRIDGE_MAX_FILES=many BRIDGE_RUNTIME=other BRIDGE_HOME=/none; do
        EXTRA=("$wrong")
        expect 15 in
        [[ "$(sentence in)" == "${wrong%%=*} "* ]]
    done
}

@test "no rclone is said" {
    rm "$HOME_DIR/bin/rclone"
    expect 15 in "There is no rclone in BRIDGE_HOME/bin or on the PATH"
}

@test "a disk that is full is the machine's fault" {
    simple_job
    echo 'echo "ERROR : run.tgz: write: no space left on device" >&2; exit 1' >"$HOME_DIR/before"
    expect 15 in "The disk of this machine is full"
}
