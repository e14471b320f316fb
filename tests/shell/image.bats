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
    [ -z "${REGISTRY_PID:-}" ] || kill "$REGISTRY_PID"
    docker rmi "${TAG:-none}" >/dev/null 2>&1 || true
}

publish() { # archive
    cp "$BATS_FILE_TMPDIR/$1.tgz" "$STORE/$CODE_BUCKET/${IMAGE%:*}-${IMAGE#*:}.tgz"
}

# A registry with one image, tool:1, that wants the password "right".
start_registry() {
    # -P: the modules beside it are not those of the same names.
    python3 -P "$ROOT/tests/support/registry.py" "$BATS_FILE_TMPDIR/first.tgz" \
        >"$BATS_TEST_TMPDIR/registry.out" 2>"$BATS_TEST_TMPDIR/registry.log" 3>&- &
    REGISTRY_PID=$!
    eventually grep -q : "$BATS_TEST_TMPDIR/registry.out"
    REGISTRY=$(cat "$BATS_TEST_TMPDIR/registry.out")
}

write_registry_key() { # password
    mkdir -p "$HOME_DIR/etc/docker"
    printf '{"auths":{"%s":{"auth":"%s"}}}' "${REGISTRY:-localhost:1}" \
        "$(printf 'node:%s' "$1" | base64)" >"$HOME_DIR/etc/docker/config.json"
    chmod 600 "$HOME_DIR/etc/docker/config.json"
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

@test "the image of the self-test is never fetched" {
    IMAGE=bridge-selftest:$$
    TAG=bridge.invalid/$IMAGE
    publish first
    expect 14 in
    ! docker image inspect "$TAG" >/dev/null 2>&1 || fail "it was fetched"
    docker tag busybox:1 "$TAG"
    ATTEMPT=2
    expect 0 in
    [ "$(id_of "$TAG")" = "$(id_of busybox:1)" ]
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

@test "a registry's image is taken if it is there, and else its registry asked" {
    TAG=localhost:1/$NAME:1
    docker tag busybox:1 "$TAG"
    IMAGE=$TAG
    expect 0 in
    [ "$(calls)" -eq 2 ]
    # What others brought is not ours to remove.
    [ -z "$(ls "$HOME_DIR/var/images")" ]
    IMAGE=localhost:1/$NAME:2
    again
    expect 13 in "The registry of the image $IMAGE did not answer"
}

@test "a registry is shown the machine's own credentials, beside Nomad too" {
    start_registry
    IMAGE=$REGISTRY/tool:1
    TAG=$IMAGE
    EXTRA=(NOMAD_ALLOC_ID=alloc-1)
    expect 14 in "Image $IMAGE cannot be used: the registry does not give it to this machine"
    write_registry_key wrong
    expect 14 in "Image $IMAGE cannot be used: the registry does not give it to this machine"
    write_registry_key right
    expect 0 in
    [ "$(cat "$STATE/phase")" = pulling ]
    id_of "$IMAGE"
    asked=$(wc -l <"$BATS_TEST_TMPDIR/registry.log")
    again
    expect 0 in
    [ "$(cat "$STATE/phase")" = staging ]
    [ "$(wc -l <"$BATS_TEST_TMPDIR/registry.log")" -eq "$asked" ]
    IMAGE=$REGISTRY/tool:2
    again
    expect 14 in "Image $IMAGE not found"
    IMAGE=$REGISTRY/tool@sha256:$(printf '0%.0s' {1..64})
    again
    expect 14 in "Image $IMAGE not found"
}

@test "credentials that others can read are refused" {
    IMAGE=localhost:1/$NAME:2
    write_registry_key any
    chmod 644 "$HOME_DIR/etc/docker/config.json"
    expect 15 in "BRIDGE_HOME/etc/docker/config.json can be read by others: chmod 600 it"
}

# What the records say is at the engine, without the image of the test itself.
records() {
    ls "$HOME_DIR/var/images"
}

as_if_unused() { # records…
    for record in "$@"; do
        touch -d '2 hours ago' "$HOME_DIR/var/images/$record"
    done
}

# Publish and load another image of its own content.
bring() { # name
    IMAGE=$NAME-$BATS_TEST_NUMBER-$1:1
    printf '%s' "$1" >"$BATS_TEST_TMPDIR/content"
    head -c 1500000 /dev/urandom >>"$BATS_TEST_TMPDIR/content"
    tar -C "$BATS_TEST_TMPDIR" -c content | docker import - "$IMAGE-new" >/dev/null
    docker save "$IMAGE-new" | gzip -1 |
        store rcat "s3:$CODE_BUCKET/${IMAGE%:*}-${IMAGE#*:}.tgz"
    docker rmi "$IMAGE-new" >/dev/null
    again
    expect 0 in
}

slot() { # name
    echo "$NAME-$BATS_TEST_NUMBER-$1@1"
}

ours() { # name
    echo "bridge.invalid/$NAME-$BATS_TEST_NUMBER-$1:1"
}

@test "over the limit the images that were used least recently go" {
    mkdir -p "$STATE"
    for name in one two three; do bring "$name"; done
    as_if_unused "$(slot one)" "$(slot two)" "$(slot three)"
    echo IMAGES_MAX_MB=3 >"$HOME_DIR/etc/options"
    # Used again, so not the first to go.
    IMAGE=$NAME-$BATS_TEST_NUMBER-one:1
    again
    expect 0 in
    bring four
    [ "$(records)" = "$(printf '%s\n' "$(slot four)" "$(slot one)")" ]
    id_of "$(ours one)"
    id_of "$(ours four)"
    for name in two three; do
        run id_of "$(ours "$name")"
        [ "$status" -ne 0 ]
    done
    docker rmi "$(ours one)" "$(ours four)"
}

@test "an image that is used or was just asked for is not removed" {
    mkdir -p "$STATE"
    echo IMAGES_MAX_MB=1 >"$HOME_DIR/etc/options"
    bring one
    bring two
    id_of "$(ours one)"
    # docker create runs nothing, and the image is in use.
    container=$(docker create "$(ours one)" none)
    as_if_unused "$(slot one)" "$(slot two)"
    bring three
    docker rm "$container" >/dev/null
    id_of "$(ours one)"
    [ "$(records)" = "$(printf '%s\n' "$(slot one)" "$(slot three)")" ]
    docker rmi "$(ours one)" "$(ours three)"
}

@test "an image that another version replaced goes with the next" {
    mkdir -p "$STATE"
    bring one
    before=$(id_of "$(ours one)")
    bring one
    [ "$(id_of "$(ours one)")" != "$before" ]
    run id_of "$before"
    [ "$status" -ne 0 ]
    [ "$(records)" = "$(slot one)" ]
    docker rmi "$(ours one)"
}

@test "a limit that is no number is said, and the default taken" {
    mkdir -p "$STATE"
    echo IMAGES_MAX_MB=lots >"$HOME_DIR/etc/options"
    bring one
    grep -q 'IMAGES_MAX_MB in .* is not a whole number' "$BATS_TEST_TMPDIR/errors"
    docker rmi "$(ours one)"
}

@test "an engine that does not answer is the machine's fault" {
    publish first
    EXTRA=(DOCKER_HOST="unix://$BATS_TEST_TMPDIR/none" BRIDGE_ENGINE_PATIENCE=1)
    mkdir -p "$HOME_DIR/var/images"
    expect 15 in "The container engine of this machine does not answer"
}
