#!/usr/bin/env bats
# node-setup/minio: the start script and the unit of a MinIO server.

# shellcheck disable=SC2034,SC2030,SC2031  # the helper reads what tests set; each has a shell
load helper

SETUP=$ROOT/node-setup/minio

# A MinIO that tells how it was started.
setup() {
    HOME_DIR=$BATS_TEST_TMPDIR/minio
    mkdir -p "$HOME_DIR/bin"
    cat >"$HOME_DIR/bin/minio" <<'PROGRAM'
#!/bin/sh
echo "arguments: $*"
env
PROGRAM
    chmod 755 "$HOME_DIR/bin/minio"
}

start() {
    MINIO_HOME=$HOME_DIR "$SETUP/start-minio"
}

@test "the key is made once, and is in no argument and no environment" {
    run start
    [ "$status" -eq 0 ]
    conf=$HOME_DIR/etc/minio.conf
    [ "$(stat -c %a "$conf")" = 600 ]
    [ "$(stat -c %a "$HOME_DIR/data")" = 700 ]
    grep -Eqx 'MINIO_ROOT_USER=[A-Za-z0-9]{20}' "$conf"
    grep -Eqx 'MINIO_ROOT_PASSWORD=[A-Za-z0-9]{40}' "$conf"
    [[ $output == *"MINIO_CONFIG_ENV_FILE=$conf"* ]]
    while IFS= read -r secret; do
        [[ $output != *"$secret"* ]]
    done < <(sed 's/.*=//' "$conf")
    before=$(cat "$conf")
    run start
    [ "$(cat "$conf")" = "$before" ]
}

@test "it listens on this machine only, unless told otherwise" {
    run start
    [[ $output == *"--address 127.0.0.1:9000 $HOME_DIR/data"* ]]
    [[ $output == *MINIO_BROWSER=off* ]]
    MINIO_ADDRESS=10.0.0.1:9001 run start
    [[ $output == *"--address 10.0.0.1:9001 "* ]]
}

@test "nothing of the caller's environment reaches it" {
    MINIO_ROOT_PASSWORD=stray AWS_CA_BUNDLE=/none run start
    [[ $output != *stray* ]]
    [[ $output != *AWS_CA_BUNDLE* ]]
}

@test "what is wrong is said" {
    start >/dev/null
    chmod 640 "$HOME_DIR/etc/minio.conf"
    run start
    [ "$status" -eq 1 ]
    [[ $output == *"can be read by others: chmod 600 it" ]]
    rm "$HOME_DIR/bin/minio"
    PATH=/usr/bin:/bin run start
    [ "$status" -eq 1 ]
    [[ $output == *"there is no MinIO: put its binary at $HOME_DIR/bin/minio" ]]
    HOME_DIR=$BATS_TEST_TMPDIR/nowhere
    run start
    [[ $output == *"is not a folder: make it, or set MINIO_HOME" ]]
}

@test "systemd has nothing to say about the unit" {
    command -v systemd-analyze >/dev/null || skip "needs systemd-analyze"
    sed "s#/srv/minio#$HOME_DIR#; s/=minio\$/=root/" "$SETUP/minio.service" \
        >"$BATS_TEST_TMPDIR/minio.service"
    cp "$SETUP/start-minio" "$HOME_DIR/bin/"
    run systemd-analyze verify --man=no --recursive-errors=no "$BATS_TEST_TMPDIR/minio.service"
    [ "$status" -eq 0 ]
    [ -z "$output" ]
}
