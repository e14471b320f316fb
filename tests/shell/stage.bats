#!/usr/bin/env bats
# stage in and stage out where nothing goes wrong.

# shellcheck disable=SC2034,SC2030,SC2031  # the helper reads what tests set; each has a shell
load helper

setup_file() { start_store; }
teardown_file() { stop_store; }
setup() { make_node; }

@test "it prints the version of its protocol" {
    [ "$(sh "$STAGE" version)" = 1 ]
}

@test "anything else is a usage error" {
    run sh "$STAGE" elsewhere
    [ "$status" -eq 2 ]
}

@test "a folder goes in and its results come out" {
    simple_job
    expect 0 in
    [ "$(cat "$RUNDIR/input.txt")" = data ]
    [ "$(cat "$RUNDIR/run.sh")" = "echo hi" ]
    [ "$(owner)" = "1 alloc-1" ]
    echo hi >"$RUNDIR/joblog.txt"
    : >"$RUNDIR/joberr.txt"
    mkdir -p "$RUNDIR/out/deep"
    echo 42 >"$RUNDIR/out/deep/result"
    expect 0 out "3 files uploaded"
    [ "$(results)" = "joberr.txt
joblog.txt
out/deep/result" ]
    [ "$(listed out/deep/result size)" = 3 ]
    [ "$(listed out/deep/result sha256)" = "$(echo 42 | sha256sum | cut -c 1-64)" ]
    [ "$(cat "$STATE/phase")" = uploading ]
}

@test "a trivial job costs two starts of rclone to stage in and three to stage out" {
    simple_job
    expect 0 in
    [ "$(calls)" -eq 2 ]
    expect 0 out
    [ "$(calls)" -eq 5 ]
}

@test "neither keys nor the bucket are in an argument of rclone" {
    simple_job
    expect 0 in
    expect 0 out
    run grep -F -e "$BUCKET" -e "$ACCESS" -e "$SECRET" "$BATS_TEST_TMPDIR/calls"
    [ "$status" -eq 1 ]
}

@test "only what is new or changed is uploaded" {
    archive file:same=1 file:changed=1 file:touched=1 file:gone=1 file:run.sh=
    expect 0 in
    rm "$RUNDIR/gone"
    echo 22 >"$RUNDIR/changed"
    touch "$RUNDIR/touched"
    expect 0 out
    [ "$(results)" = "changed
joberr.txt
joblog.txt
touched" ]
}

@test "a file that changes within the same second and keeps its size is uploaded" {
    archive file:data=1 file:run.sh=
    expect 0 in
    touch -d "@1600000000.000000001" "$RUNDIR/data"
    expect 0 out
    results | grep -qx data
}

# shellcheck disable=SC2016
@test "names with blanks, quotes, backslashes and other scripts" {
    archive file:run.sh=
    expect 0 in
    local names=('a b' ' lead' 'trail ' '-dash' '#hash' ';semi' '[x]*?{a}' 'we"ird\name' 'ü€😀' "it's" '%41+&<>' '$(x)')
    for name in "${names[@]}"; do
        echo "$name" >"$RUNDIR/$name"
    done
    expect 0 out "14 files uploaded"
    for name in "${names[@]}"; do
        cmp "$RUNDIR/$name" "$STORE/$BUCKET/$name"
        [ "$(listed "$name" sha256)" = "$(sha256sum <"$RUNDIR/$name" | cut -c 1-64)" ]
    done
}

@test "names that cannot be keys are left out and counted" {
    archive file:run.sh=
    expect 0 in
    echo x >"$RUNDIR/$(printf 'new\nline')"
    echo x >"$RUNDIR/$(printf 'tab\there')"
    echo x >"$RUNDIR/$(printf 'latin\351')"
    echo x >"$RUNDIR/leruli.job"
    mkdir -p "$RUNDIR/.bridge" && echo x >"$RUNDIR/.bridge/owner"
    echo x >"$RUNDIR/run.tgz"
    expect 0 out "2 files uploaded; left out: 2 with control characters in their names, 1 whose names are not UTF-8, 3 with reserved names"
    [ "$(results)" = "joberr.txt
joblog.txt" ]
    [ "$(owner)" = "1 alloc-1" ]
}

@test "more files than a batch holds, and one that is a batch of its own" {
    archive file:run.sh=
    expect 0 in
    mkdir "$RUNDIR/many"
    (cd "$RUNDIR/many" && seq 1200 | xargs -n 200 touch)
    head -c 70000000 /dev/zero >"$RUNDIR/large"
    expect 0 out "1203 files uploaded"
    [ "$(results | wc -l)" -eq 1203 ]
    cmp "$RUNDIR/large" "$STORE/$BUCKET/large"
}

@test "files without permissions are uploaded" {
    archive file:run.sh=
    expect 0 in
    mkdir "$RUNDIR/shut"
    echo x >"$RUNDIR/shut/file"
    chmod 000 "$RUNDIR/shut/file" "$RUNDIR/shut"
    expect 0 out "3 files uploaded"
}

@test "no link is followed, neither as a file nor as a folder" {
    echo "not yours" >"$BATS_TEST_TMPDIR/host"
    archive file:run.sh=
    expect 0 in
    ln -s "$BATS_TEST_TMPDIR/host" "$RUNDIR/file-link"
    ln -s "$BATS_TEST_TMPDIR" "$RUNDIR/folder-link"
    ln -s "$BATS_TEST_TMPDIR/host" "$RUNDIR/joblog.txt"
    mkfifo "$RUNDIR/pipe"
    mkdir "$RUNDIR/joberr.txt" && echo x >"$RUNDIR/joberr.txt/below"
    expect 0 out "2 files uploaded"
    [ "$(results)" = "joberr.txt
joblog.txt" ]
    [ ! -s "$STORE/$BUCKET/joblog.txt" ]
    [ "$(cat "$BATS_TEST_TMPDIR/host")" = "not yours" ]
}

@test "a run directory swapped for a link or another folder is not read" {
    simple_job
    mkdir "$BATS_TEST_TMPDIR/host" && echo secret >"$BATS_TEST_TMPDIR/host/file"
    expect 0 in
    mv "$RUNDIR" "$RUNDIR.away"
    ln -s "$BATS_TEST_TMPDIR/host" "$RUNDIR"
    expect 16 out
    rm "$RUNDIR"
    mkdir "$RUNDIR" && echo secret >"$RUNDIR/file"
    expect 16 out
    rm -r "$RUNDIR"
    expect 16 out
    [ -z "$(results)" ]
}

@test "stage out without a stage in that ended well has nothing to do" {
    expect 0 out "There is nothing to upload: the job was never started"
    expect 11 in
    expect 0 out "There is nothing to upload: the job was never started"
    [ -z "$(results)" ]
}

@test "stage in again, as after a reboot, touches nothing" {
    simple_job
    expect 0 in
    echo result >"$RUNDIR/result"
    expect 0 in "The input was already there"
    [ -f "$RUNDIR/result" ]
}

@test "stage in empties a run directory that is there" {
    simple_job
    mkdir -p "$RUNDIR/left/over"
    chmod 500 "$RUNDIR/left"
    expect 0 in
    [ ! -e "$RUNDIR/left" ]
}

@test "the folders of a Nomad alloc are the default" {
    simple_job
    local alloc=$BATS_TEST_TMPDIR/alloc-dir
    mkdir -p "$alloc/alloc/data" "$alloc/stage-in/local"
    RUNDIR='' STATE='' ALLOC='' EXTRA=(NOMAD_ALLOC_DIR="$alloc/alloc" NOMAD_ALLOC_ID=by-nomad)
    stage in
    [ -f "$alloc/alloc/data/rundir/run.sh" ]
    stage out
    [ "$(head -n 1 "$alloc/stage-in/local/out.result")" = 0 ]
    [ "$(owner)" = "1 by-nomad" ]
}

@test "it works for a plain user" {
    [ "$(id -u)" -eq 0 ] || skip "every test here is run by one"
    simple_job
    chmod 755 "$BATS_RUN_TMPDIR" "$BATS_FILE_TMPDIR" "$BATS_TEST_TMPDIR" "$BATS_TEST_TMPDIR/.."
    mkdir "$BATS_TEST_TMPDIR/own"
    chown -R 65534 "$BATS_TEST_TMPDIR/own" "$HOME_DIR"
    : >"$BATS_TEST_TMPDIR/calls" && chmod 666 "$BATS_TEST_TMPDIR/calls"
    STATE=$BATS_TEST_TMPDIR/own/state RUNDIR=$BATS_TEST_TMPDIR/own/rundir
    cp -r "$ROOT/node-setup" "$BATS_TEST_TMPDIR/node-setup" && chmod -R a+rX "$BATS_TEST_TMPDIR/node-setup"
    cp "$(command -v rclone)" "$BATS_TEST_TMPDIR/rclone"
    sed -i "s#exec '.*'#exec '$BATS_TEST_TMPDIR/rclone'#" "$HOME_DIR/bin/rclone"
    STAGE=$BATS_TEST_TMPDIR/node-setup/bin/stage
    EXTRA=(setpriv --reuid 65534 --clear-groups)
    expect 0 in
    [ "$(stat -c %u "$RUNDIR/run.sh")" -eq 65534 ]
    expect 0 out
}
