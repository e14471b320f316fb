#!/usr/bin/env bats
# What stage in does with archives that are odd or hostile.

# shellcheck disable=SC2034,SC2030,SC2031  # the helper reads what tests set; each has a shell
load helper

setup_file() { start_store; }
teardown_file() { stop_store; }
setup() {
    make_node
    echo untouched >"$BATS_TEST_TMPDIR/host"
}
teardown() {
    [ "$(cat "$BATS_TEST_TMPDIR/host")" = untouched ]
}

refused() { # why
    expect 12 in "run.tgz cannot be used: $1"
    [ -z "$(find "$RUNDIR" -mindepth 1 2>/dev/null)" ]
}

@test "a path with .. is refused" {
    archive file:run.sh= file:../host=evil
    refused "it holds a path with .."
}

@test "a path with .. in its middle is refused" {
    archive file:run.sh= file:a/../../host=evil
    refused "it holds a path with .."
}

@test "an absolute path is refused" {
    archive file:run.sh= "file:$BATS_TEST_TMPDIR/host=evil"
    refused "it holds an absolute path"
}

@test "writing through a link is refused" {
    archive file:run.sh= "link:out=$BATS_TEST_TMPDIR" file:out/host=evil
    refused "a member's path leads through a link"
}

@test "writing through a link is refused in any order and spelling" {
    archive file:run.sh= file:./a/out//host=evil "link:a/./out=$BATS_TEST_TMPDIR"
    refused "a member's path leads through a link"
}

@test "writing through a hard link to a link is refused" {
    archive file:run.sh= "link:first=$BATS_TEST_TMPDIR" hard:second=first file:second/host=evil
    refused "a member's path leads through a link"
}

@test "writing through a link that a folder has replaced is refused" {
    archive file:run.sh= "link:out=$BATS_TEST_TMPDIR" dir:out file:out/host=evil
    refused "a member's path leads through a link"
}

@test "a hard link to a file that is not in the archive is refused" {
    archive file:run.sh= "hard:here=$BATS_TEST_TMPDIR/host"
    refused "it holds an absolute path"
}

@test "a hard link that leads out is refused" {
    archive file:run.sh= hard:here=../host
    refused "it holds a path with .."
}

@test "a hard link to nothing is refused" {
    archive file:run.sh= hard:here=elsewhere
    refused "a hard link in it leads out of it"
}

@test "a hard link through a link is refused" {
    archive file:run.sh= file:d/host=x "link:d=$BATS_TEST_TMPDIR" hard:here=d/host
    refused "a member's path leads through a link"
}

@test "devices and FIFOs are refused" {
    archive file:run.sh= char:null
    refused "it holds a device, a FIFO or another special file"
    archive file:run.sh= fifo:pipe
    store copyto "$STORE/$BUCKET/run.tgz" "s3:$BUCKET/run.tgz" --ignore-times
    refused "it holds a device, a FIFO or another special file"
}

@test "a bomb is refused before it is unpacked" {
    EXTRA=(BRIDGE_MAX_UNPACKED_MB=2)
    archive file:run.sh= big:zeros=64
    refused "it unpacks to more than 2 MiB"
}

@test "a bomb of what no member owns is refused" {
    EXTRA=(BRIDGE_MAX_UNPACKED_MB=1 BRIDGE_MAX_FILES=10)
    head -c 64000000 /dev/zero | gzip >"$STORE/$BUCKET/run.tgz"
    refused "it unpacks to more than 1 MiB"
}

@test "too many members are refused" {
    EXTRA=(BRIDGE_MAX_FILES=100)
    archive file:run.sh= many:f=100
    refused "it holds more than 100 members"
}

@test "a path that is too long is refused" {
    archive file:run.sh= "file:$(printf 'x%.0s' $(seq 300))=x"
    refused "it holds a name that is too long"
    archive file:run.sh= "file:$(printf 'x/%.0s' $(seq 2100))f=x"
    store copyto "$STORE/$BUCKET/run.tgz" "s3:$BUCKET/run.tgz" --ignore-times
    refused "it holds a path that is too long"
}

@test "a truncated archive is refused" {
    archive file:run.sh= big:data=3
    head -c 2000 "$STORE/$BUCKET/run.tgz" >"$BATS_TEST_TMPDIR/part"
    cp "$BATS_TEST_TMPDIR/part" "$STORE/$BUCKET/run.tgz"
    refused "it is damaged or no gzip'ed tar archive"
}

@test "an archive cut at the end of a member is refused" {
    archive file:run.sh=
    gzip -dc "$STORE/$BUCKET/run.tgz" | head -c 512 >"$BATS_TEST_TMPDIR/tar"
    gzip -c "$BATS_TEST_TMPDIR/tar" | head -c -8 >"$STORE/$BUCKET/run.tgz"
    refused "it is damaged or no gzip'ed tar archive"
}

@test "something that is no archive is refused" {
    echo "not an archive" >"$STORE/$BUCKET/run.tgz"
    refused "it is damaged or no gzip'ed tar archive"
}

@test "an empty object is refused" {
    : >"$STORE/$BUCKET/run.tgz"
    refused "it is damaged or no gzip'ed tar archive"
}

@test "an archive without run.sh is refused" {
    archive file:other=
    refused "it holds no run.sh"
}

@test "a run.sh that is a link is refused" {
    archive file:run.sh= "link:./run.sh=$BATS_TEST_TMPDIR/host"
    refused "its run.sh is not a regular file"
}

@test "the SHA-256 of the submission is checked" {
    simple_job
    EXTRA=(BRIDGE_INPUT_SHA256="$(sha256sum <"$STORE/$BUCKET/run.tgz" | cut -c 1-64 | tr a-f A-F)")
    expect 0 in
    rm "$STATE/in.result"
    EXTRA=(BRIDGE_INPUT_SHA256="$(echo other | sha256sum | cut -c 1-64)")
    expect 12 in "run.tgz cannot be used: it is not the file that was submitted (its SHA-256 differs)"
}

@test "links are kept, wherever they lead" {
    archive file:run.sh= link:near=run.sh link:python=/usr/bin/python3 link:up=../../host
    expect 0 in
    [ "$(readlink "$RUNDIR/python")" = /usr/bin/python3 ]
    [ "$(readlink "$RUNDIR/up")" = ../../host ]
    [ "$(readlink "$RUNDIR/near")" = run.sh ]
}

@test "hard links within the archive are kept" {
    archive file:run.sh= file:./one=1 hard:./two=./one
    expect 0 in
    [ "$RUNDIR/one" -ef "$RUNDIR/two" ]
}

@test "of several members of a name the last one wins" {
    archive file:a=1 file:./a=2 "link:b=$BATS_TEST_TMPDIR/host" file:b=3 \
        file:c=4 link:./c=a file:run.sh=first "file:./run.sh=second" file:run.sh=third dir:d dir:./d file:d/x=5
    expect 0 in
    [ "$(cat "$RUNDIR/a")" = 2 ]
    [ ! -L "$RUNDIR/b" ]
    [ "$(cat "$RUNDIR/b")" = 3 ]
    [ "$(readlink "$RUNDIR/c")" = a ]
    [ "$(cat "$RUNDIR/run.sh")" = third ]
    [ "$(cat "$RUNDIR/d/x")" = 5 ]
}

@test "a run.sh that was a link or a folder of the user's becomes the submitted one" {
    archive dir:./ "link:./run.sh=$BATS_TEST_TMPDIR/host" 'file:run.sh=echo hi'
    expect 0 in
    [ ! -L "$RUNDIR/run.sh" ]
    [ "$(cat "$RUNDIR/run.sh")" = "echo hi" ]
    rm "$STATE/in.result"
    archive dir:./run.sh file:./run.sh/inner=x 'file:run.sh=echo hi'
    store copyto "$STORE/$BUCKET/run.tgz" "s3:$BUCKET/run.tgz" --ignore-times
    expect 0 in
    [ "$(cat "$RUNDIR/run.sh")" = "echo hi" ]
}

@test "set-user-id bits go, and everything can be worked with" {
    archive setuid:tool=x mode0:shut file:shut/file=x file:run.sh=
    expect 0 in
    [ "$(stat -c %a "$RUNDIR/tool")" = 700 ]
    [ "$(stat -c %a "$RUNDIR/shut")" = 700 ]
    [ "$(stat -c %a "$RUNDIR/shut/file")" = 600 ]
}

@test "names that are ours are removed from the run directory" {
    archive file:run.sh= file:joblog.txt=old "link:joberr.txt=$BATS_TEST_TMPDIR/host" \
        file:run.tgz=old file:.bridge/owner=old file:leruli.bucket=old
    expect 0 in
    [ "$(ls -A "$RUNDIR")" = "leruli.bucket
run.sh" ]
    expect 0 out
    [ "$(results)" = "joberr.txt
joblog.txt" ]
}

@test "odd names arrive as they are" {
    archive file:run.sh= 'file:a b -> c=1' 'file:quo"te\n=2' 'file:ü=3' 'file:line%nbreak=4' \
        'link:x -> y=a b -> c' 'hard:h link to z=quo"te\n'
    expect 0 in
    [ "$(cat "$RUNDIR/a b -> c")" = 1 ]
    [ "$(cat "$RUNDIR/quo\"te\\n")" = 2 ]
    [ "$(cat "$RUNDIR/ü")" = 3 ]
    [ "$(cat "$RUNDIR/$(printf 'line\nbreak')")" = 4 ]
    [ "$(cat "$RUNDIR/x -> y")" = 1 ]
    [ "$(cat "$RUNDIR/h link to z")" = 2 ]
}
