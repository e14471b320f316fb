# shellcheck shell=bash
# What the tests of node-setup/bin/stage share: an S3 server on a folder, a node home, a
# job, and ways to run stage. Buckets are folders below $STORE. What the server has
# looked at it keeps in mind: look at the folder as you like, write to a bucket that is
# in use by `store`.

ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
STAGE=$ROOT/node-setup/bin/stage
ACCESS=AKtests
SECRET=a-secret-of-the-tests

# For setup_file: a server for all tests of a file.
start_store() {
    export STORE=$BATS_FILE_TMPDIR/store
    # Every test finds a pair of buckets by its number.
    local numbers
    numbers=$(seq "${#BATS_TEST_NAMES[@]}")
    for number in $numbers; do
        mkdir -p "$STORE/job-$number" "$STORE/code-$number"
    done
    RCLONE_AUTH_KEY="\"$ACCESS,$SECRET\"" rclone serve s3 --config /dev/null \
        --addr 127.0.0.1:0 "$STORE" \
        >"$BATS_FILE_TMPDIR/store.log" 2>&1 3>&- &
    export STORE_PID=$!
    eventually grep -q 'http://127' "$BATS_FILE_TMPDIR/store.log"
    SERVER=$(grep -o 'http://127.0.0.1:[0-9]*' "$BATS_FILE_TMPDIR/store.log" | head -n 1)
    export SERVER
}

stop_store() {
    kill "$STORE_PID"
}

# Run a command until it succeeds, for 20 seconds.
eventually() {
    local until=$((SECONDS + 20))
    until "$@"; do
        [ "$SECONDS" -lt "$until" ] || {
            echo "never succeeded: $*" >&2
            return 1
        }
        sleep 0.05
    done
}

# For setup: a node home and an empty bucket of the test's own.
make_node() {
    HOME_DIR=$BATS_TEST_TMPDIR/home
    STATE=$BATS_TEST_TMPDIR/state
    RUNDIR=$BATS_TEST_TMPDIR/rundir
    BUCKET=job-$BATS_TEST_NUMBER
    CODE_BUCKET=code-$BATS_TEST_NUMBER
    ATTEMPT=1 ALLOC=alloc-1 RUNTIME=process IMAGE=tool:1 EXTRA=()
    mkdir -p "$HOME_DIR/bin" "$HOME_DIR/etc"
    write_keys "$SERVER" "$ACCESS" "$SECRET"
    # Counts its calls; $HOME_DIR/before, if a test makes it, is run before each one.
    {
        echo '#!/bin/sh'
        echo "echo \"\$*\" >>'$BATS_TEST_TMPDIR/calls'"
        echo "[ ! -f '$HOME_DIR/before' ] || . '$HOME_DIR/before'"
        echo "exec '$(command -v rclone)' \"\$@\""
    } >"$HOME_DIR/bin/rclone"
    chmod 755 "$HOME_DIR/bin/rclone"
    : >"$BATS_TEST_TMPDIR/calls"
}

write_keys() { # server access secret
    local keys=$HOME_DIR/etc/s3.conf
    # Stage may be reading them: they change at once.
    printf 'S3_SERVER=%s\nS3_ACCESS=%s\nS3_SECRET=%s\n' "$@" >"$keys.new"
    chmod 600 "$keys.new"
    mv "$keys.new" "$keys"
}

# The whole environment of stage; tests change it by the variables above and EXTRA.
stage() { # in|out
    env -i PATH=/usr/local/bin:/usr/bin:/bin BRIDGE_HOME="$HOME_DIR" BRIDGE_BUCKET="$BUCKET" \
        BRIDGE_CODE_BUCKET="$CODE_BUCKET" BRIDGE_IMAGE="$IMAGE" BRIDGE_ATTEMPT="$ATTEMPT" \
        BRIDGE_ALLOC="$ALLOC" BRIDGE_RUNDIR="$RUNDIR" BRIDGE_STATE="$STATE" \
        BRIDGE_RUNTIME="$RUNTIME" BRIDGE_UPLOAD_PATIENCE=2 BRIDGE_STAGE_IN_LIMIT=60 \
        "${EXTRA[@]}" sh "$STAGE" "$1"
}

# stage ends with this code, writes it down, and says nothing that is secret.
expect() { # code in|out [sentence]
    local code=0
    stage "$2" 2>"$BATS_TEST_TMPDIR/errors" || code=$?
    cat "$BATS_TEST_TMPDIR/errors" >&2
    [ "$code" -eq "$1" ] || fail "stage $2 ended with $code, not $1"
    [ "$(head -n 1 "$STATE/$2.result")" = "$1" ] || fail "the result says otherwise"
    [ "$(wc -l <"$STATE/$2.result")" -eq 2 ] || fail "the result is not two lines"
    [ -z "${3:-}" ] || [ "$(sed -n 2p "$STATE/$2.result")" = "$3" ] ||
        fail "the sentence is: $(sed -n 2p "$STATE/$2.result")"
    if grep -qF -e "$BUCKET" -e "$SECRET" "$BATS_TEST_TMPDIR/errors" "$STATE/$2.result"; then
        fail "it tells a secret"
    fi
    [ ! -e "$STATE/work" ] || fail "it left its work folder"
}

sentence() { # in|out
    sed -n 2p "$STATE/$1.result"
}

fail() {
    echo "$1" >&2
    return 1
}

# Make run.tgz from members such as file:NAME=TEXT, link:NAME=TARGET (archive.py).
archive() { # members…
    python3 "$BATS_TEST_DIRNAME/archive.py" "$STORE/$BUCKET/run.tgz" "$@"
}

simple_job() {
    archive dir:./ file:./input.txt=data file:./sub/other=more 'file:run.sh=echo hi'
}

owner() {
    cat "$STORE/$BUCKET/.bridge/owner"
}

set_owner() { # attempt alloc [job]
    echo "$*" | store rcat "s3:$BUCKET/.bridge/owner"
}

# rclone with the server as s3:
store() { # rclone arguments…
    RCLONE_CONFIG=/dev/null RCLONE_CONFIG_S3_TYPE=s3 RCLONE_CONFIG_S3_PROVIDER=Other \
        RCLONE_CONFIG_S3_ENDPOINT=$SERVER RCLONE_CONFIG_S3_ACCESS_KEY_ID=$ACCESS \
        RCLONE_CONFIG_S3_SECRET_ACCESS_KEY=$SECRET rclone "$@"
}

# The keys in the bucket, without run.tgz and what is stage's own.
results() {
    (cd "$STORE/$BUCKET" && find . -type f ! -path './.bridge/*' ! -name run.tgz -printf '%P\n') |
        LC_ALL=C sort
}

# A field of an object's entry in the manifest; empty when it is not listed.
listed() { # key field
    python3 -c '
import json, sys
for entry in json.load(open(sys.argv[1]))["files"]:
    if entry["key"] == sys.argv[2]:
        print(entry[sys.argv[3]])
' "$STORE/$BUCKET/.bridge/manifest" "$1" "$2"
}

# Whether rclone was started this often.
called() { # times
    [ "$(calls)" -ge "$1" ]
}

calls() {
    wc -l <"$BATS_TEST_TMPDIR/calls"
}
