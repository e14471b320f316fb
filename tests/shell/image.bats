#!/usr/bin/env bats
# Images: from the group's code bucket into the container engine, under a name of ours.

# shellcheck disable=SC2034,SC2030,SC2031  # the helper reads what tests set; each has a shell
load helper

setup_file() {
    docker image inspect busybox:1 >/dev/null 2>&1 || return 0
    start_store
    export NAME=bats-$$
    docker tag busybox:1 "$NAME-own:1"
    docker save "$NAME-own:1" | gzip -1 >"$BATS_FILE_TMPDIR/first.tgz"
    tar --create --files-from=/dev/null | docker import - "$NAME-second:1" >/dev/null
    docker save "$NAME-second:1" | gzip -1 >"$BATS_FILE_TMPDIR/second.tgz"
    docker save "$NAME-own:1" "$NAME-second:1" | gzip -1 >"$BATS_FILE_TMPDIR/both.tgz"
    docker rmi "$NAME-own:1" "$NAME-second:1" >/dev/null
}
teardown_file() {
    [ -n "${STORE_PID:-}" ] || return 0
    stop_store
}

setup() {
    [ -n "${STORE_PID:-}" ] || skip "no Docker engine that answers and holds busybox:1"
    make_node
    simple_job
    RUNTIME=docker
    IMAGE=$NAME-$BATS_TEST_NUMBER:1.5
    TAG=bridge.invalid/$IMAGE
}
teardown() {
    docker rmi "${TAG:-none}" >/dev/null 2>&1 || true
}

publish() { # archive
    cp "$BATS_FILE_TMPDIR/$1.tgz" "$STORE/$CODE_BUCKET/${IMAGE%:*}-${IMAGE#*:}.tgz"
}

id_of() { # reference
    docker image inspect --format '{{.Id}}' "$1"
}

# As if on another day.
again() {
    rm -r "$STATE"
    : >"$BATS_TEST_TMPDIR/calls"
}

@test "an image is loaded under our name and without its own" {
    publish first
    expect 0 in
    [ "$(cat "$STATE/phase")" = pulling ]
    [ "$(id_of "$TAG")" = "$(id_of busybox:1)" ]
    run docker image inspect "$NAME-own:1"
    [ "$status" -ne 0 ]
}

@test "what is loaded is not loaded again, unless the object or the engine's image changed" {
    publish first
    expect 0 in
    again
    expect 0 in
    [ "$(cat "$STATE/phase")" = staging ]
    run grep '^copyto code:' "$BATS_TEST_TMPDIR/calls"
    [ "$status" -eq 1 ]
    again
    docker rmi "$TAG" >/dev/null
    expect 0 in
    [ "$(id_of "$TAG")" = "$(id_of busybox:1)" ]
    again
    store copyto "$BATS_FILE_TMPDIR/second.tgz" "s3:$CODE_BUCKET/${IMAGE%:*}-${IMAGE#*:}.tgz"
    expect 0 in
    [ "$(id_of "$TAG")" != "$(id_of busybox:1)" ]
}

@test "jobs that start together load their image once" {
    publish first
    local pids=()
    for number in 1 2 3; do
        (
            STATE=$BATS_TEST_TMPDIR/state-$number RUNDIR=$BATS_TEST_TMPDIR/rundir-$number
            BUCKET=job-$number-of-three
            store copyto "$STORE/job-$BATS_TEST_NUMBER/run.tgz" "s3:$BUCKET/run.tgz"
            expect 0 in
        ) &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do
        wait "$pid"
    done
    [ "$(grep -c '^copyto code:' "$BATS_TEST_TMPDIR/calls")" -eq 1 ]
}

@test "an image that is not there, or no code bucket" {
    expect 14 in "Image $IMAGE not found"
    CODE_BUCKET=no-such-bucket
    expect 14 in "Image $IMAGE not found"
    for IMAGE in psi4 psi4: ../x:1 'psi4:1 2' -x:1 :1 a//b:1; do
        expect 14 in "Image $IMAGE not found"
    done
    expect 0 out "There is nothing to upload: the job was never started"
}

@test "a code name in capitals is the same code" {
    publish first
    IMAGE=$(printf '%s' "$IMAGE" | tr '[:lower:]' '[:upper:]')
    expect 0 in
    id_of "$TAG"
}

@test "names in the other indexes of an archive are not taken either" {
    local folder=$BATS_TEST_TMPDIR/image
    mkdir "$folder"
    tar -xzf "$BATS_FILE_TMPDIR/first.tgz" -C "$folder"
    # As newer engines save: the OCI index names the image, too.
    echo '{"imageLayoutVersion":"1.0.0"}' >"$folder/oci-layout"
    echo '{"schemaVersion":2,"manifests":[{"annotations":{"io.containerd.image.name":"docker.io/library/'"$NAME"'-own:1"}}]}' >"$folder/index.json"
    tar -czf "$STORE/$CODE_BUCKET/${IMAGE%:*}-${IMAGE#*:}.tgz" -C "$folder" .
    expect 0 in
    [ "$(id_of "$TAG")" = "$(id_of busybox:1)" ]
    run docker image inspect "$NAME-own:1"
    [ "$status" -ne 0 ]
}

@test "an archive of two images is refused" {
    publish both
    expect 14 in "Image $IMAGE cannot be used: its archive must hold exactly one image"
    run docker image inspect "$NAME-own:1"
    [ "$status" -ne 0 ]
}

@test "an archive with odd JSON is refused" {
    mkdir "$BATS_TEST_TMPDIR/image"
    while IFS= read -r json; do
        printf '%s' "$json" >"$BATS_TEST_TMPDIR/image/manifest.json"
        run awk -f "$ROOT/node-setup/lib/image-manifest.awk" "$BATS_TEST_TMPDIR/image/manifest.json"
        [ "$status" -ne 0 ] || fail "accepted: $json"
    done <<'JSON'
[]
{}
[{"Config":"a","Layers":[]},{"Config":"b","Layers":[]}]
[{"Config":"a","Layers":[]}] [{"Config":"b","Layers":[]}]
[{"Config":"a","Config":"b","Layers":[]}]
[{"C\u006fnfig":"a","Layers":[]}]
[{"Config":"a"}]
[{"Config":"a","Layers":[]}
[["Config","a","Layers"]]
"Config"
JSON
}

@test "other fields of the manifest do not matter" {
    result=$(printf '%s' '[ {"Config":"c.json","RepoTags":["a:1","b:2"],"Layers":["x","y"],
        "LayerSources":{"sha256:1":{"Config":"z","size":12,"Layers":["no"]}}, "Other":null} ]' |
        awk -f "$ROOT/node-setup/lib/image-manifest.awk")
    [ "$result" = '[{"Config":"c.json","RepoTags":null,"Layers":["x","y"]}]' ]
}

@test "a damaged archive is refused" {
    head -c 5000 "$BATS_FILE_TMPDIR/first.tgz" >"$STORE/$CODE_BUCKET/${IMAGE%:*}-${IMAGE#*:}.tgz"
    expect 14 in "Image $IMAGE cannot be used: its archive is damaged"
    gzip -c "$BATS_TEST_TMPDIR/calls" >"$BATS_TEST_TMPDIR/other.tgz"
    store copyto "$BATS_TEST_TMPDIR/other.tgz" "s3:$CODE_BUCKET/${IMAGE%:*}-${IMAGE#*:}.tgz"
    expect 14 in "Image $IMAGE cannot be used: its archive is damaged"
}

@test "a registry's image is taken if it is there, and pulled otherwise" {
    TAG=localhost:1/$NAME:1
    docker tag busybox:1 "$TAG"
    IMAGE=$TAG
    expect 0 in
    [ "$(calls)" -eq 2 ]
    IMAGE=localhost:1/$NAME:2
    again
    expect 14 in "Image $IMAGE not found"
}

@test "an engine that does not answer is the machine's fault" {
    publish first
    EXTRA=(DOCKER_HOST="unix://$BATS_TEST_TMPDIR/none")
    mkdir -p "$HOME_DIR/var/images"
    expect 15 in "The container engine of this machine does not answer"
}
