# shellcheck shell=sh
# The job's image into the container engine of this machine. Sourced by bin/stage.
#
# A reference with a registry host is pulled from there, with the machine's own
# credentials. Any other comes from the group's code bucket only, and runs as
# bridge.invalid/<name>:<version>, a name that no registry can have.
#
# BRIDGE_HOME/var/images has a record for each image: from what it was made, its id, its
# name at the engine. The record's time is that of the last use (image-room.sh).

# shellcheck disable=SC2154  # set by bin/stage and store.sh

image_missing() {
    finish "$IMAGE_MISSING" "Image $image not found"
}

image_unusable() { # why
    finish "$IMAGE_MISSING" "Image $image cannot be used: $1"
}

provide_image() {
    image=${BRIDGE_IMAGE:-}
    case $image in
    */*)
        case ${image%%/*} in
        *.* | *:* | localhost) pull_image && return ;;
        esac
        ;;
    esac
    load_image
}

# The engine pulls, by its own proxy. Nomad's Docker driver then finds the image there and
# asks no registry.
pull_image() {
    printf '%s\n' "$image" | grep -Eqx \
        '[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+(:[A-Za-z0-9_.-]+)?(@sha256:[0-9a-f]+)?' ||
        image_missing
    tag=$image
    version=registry
    take_slot
    if ! has_image "$image"; then
        pull_from_registry
    elif [ -f "$known" ]; then
        touch "$known"
    fi
    exec 9>&-
}

pull_from_registry() {
    write_state phase pulling
    credentials=$home/etc/docker
    if [ ! -r "$credentials/config.json" ]; then
        set --
    elif [ -n "$(find -L "$credentials/config.json" -perm /077)" ]; then
        misconfigured "BRIDGE_HOME/etc/docker/config.json can be read by others: chmod 600 it"
    else
        set -- --config "$credentials"
    fi
    call_docker "$@" pull --quiet -- "$image" || pull_failed
    has_image "$image" || image_missing
    record_image
    make_room
}

pull_failed() {
    if log_says 'no space left on device|disk quota exceeded'; then
        machine_full
    elif log_says 'cannot connect to the docker daemon'; then
        engine_away
    elif log_says 'unauthorized|denied|no basic auth|authentication required|forbidden'; then
        image_unusable "the registry does not give it to this machine"
    elif log_says 'not found|manifest unknown|name unknown|no such image|invalid reference'; then
        image_missing
    fi
    # The machine's own log has more: what the registry said may hold an address.
    finish "$STORAGE" "The registry of the image $image did not answer"
}

load_image() {
    image=$(printf '%s' "$image" | tr '[:upper:]' '[:lower:]')
    printf '%s\n' "$image" | grep -Eqx \
        '[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*:[a-z0-9_][a-z0-9_.-]{0,127}' ||
        image_missing
    is_bucket_name "${BRIDGE_CODE_BUCKET:-}" ||
        misconfigured "BRIDGE_CODE_BUCKET is not a bucket name"
    object=${image%:*}-${image##*:}.tgz
    tag=bridge.invalid/$image
    case $image in
    bridge-selftest:*)
        # Made on the machine itself, never fetched.
        has_image "$tag" || image_missing
        return
        ;;
    esac
    patiently stat_object || case $trouble in
    missing | denied) image_missing ;;
    *) give_up ;;
    esac
    version=$(sha256sum <"$work/out")
    take_slot
    if is_loaded; then
        touch "$known"
    else
        write_state phase pulling
        load_archive
        make_room
    fi
    exec 9>&-
}

# One job at a time brings an image, or removes it. The others wait, and find it there.
take_slot() {
    mkdir -p "$home/var/images" "$home/var/locks" ||
        misconfigured "BRIDGE_HOME/var cannot be written"
    # No reference holds + or %.
    slot=$(printf '%s' "$image" | tr '/:@' '+@%')
    known=$home/var/images/$slot
    exec 9>"$home/var/locks/$slot"
    flock --wait "$(call_limit)" 9 &
    child=$!
    await_child || finish "$STORAGE" "Another job was loading the image $image for too long"
}

# Write down that the engine has the image, as `found`, under `tag`.
record_image() {
    printf '%s\n%s\n%s\n' "$version" "$found" "$tag" >"$known.new" && mv -f "$known.new" "$known"
}

# What tells one upload of the object from the next: size, time at the store, MD5.
stat_object() {
    call_rclone "$(call_limit)" lsjson --stat --files-only --hash --use-server-modtime \
        --no-mimetype "code:$object" || return 1
    # Nothing is there: that is no error for rclone.
    ! grep -qx null "$work/out" || { trouble=missing && return 1; }
}

fetch_object() {
    call_rclone "$(call_limit)" copyto "code:$object" "$work/image.tgz"
}

# Whether the engine has what we loaded last from this very object.
is_loaded() {
    [ -f "$known" ] || return 1
    { read -r known_version && read -r known_id; } <"$known"
    [ "$known_version" = "$version" ] && has_image "$tag" "$known_id"
}

has_image() { # reference [id]
    if call_docker image inspect --format '{{.Id}}' -- "$1"; then
        read -r found <"$work/out"
        [ "$found" = "${2:-$found}" ]
        return
    fi
    if log_says 'no such image'; then return 1; fi
    await_engine
    has_image "$@"
}

# An engine that is restarted is back soon, and worth no attempt.
await_engine() {
    engine_deadline=${engine_deadline:-$(($(now) + engine_patience))}
    while [ "$(now)" -lt "$engine_deadline" ] && [ "$(now)" -lt "$deadline" ]; do
        nap 1
        ! call_docker version --format '{{.Server.Version}}' || return 0
    done
    engine_away
}

engine_away() {
    misconfigured "The container engine of this machine does not answer"
}

# Output to work/out, errors to work/log.
call_docker() { # arguments…
    timeout --foreground --kill-after=10 "$(call_limit)" docker "$@" \
        >"$work/out" 2>"$work/log" 9>&- &
    child=$!
    await_child
}

# An engine that goes away meanwhile is no fault of the image.
engine_refuses() { # why
    call_docker version --format '{{.Server.Version}}' || engine_away
    image_unusable "$1"
}

load_archive() {
    call_docker version --format '{{.Server.Version}}' || engine_away
    patiently fetch_object || case $trouble in
    missing | denied) image_missing ;;
    *) give_up ;;
    esac
    mkdir "$work/image"
    extract_image || image_unusable "its archive is damaged"
    rm -f "$work/image.tgz"
    strip_names
    tar --create --file=- --directory="$work/image" . |
        timeout --foreground "$(call_limit)" docker load >"$work/out" 2>"$work/log" 9>&- &
    child=$!
    await_child || engine_refuses "the container engine refuses its archive"
    id=$(sed -n 's/^Loaded image ID: \(sha256:[0-9a-f]*\)$/\1/p' "$work/out")
    [ "${#id}" -eq 71 ] || engine_refuses "the container engine does not tell what it loaded"
    keep_for_removal "$id"
    call_docker tag "$id" "$tag" || engine_refuses "it could not be tagged"
    rm -rf "$work/image"
    found=$id
    record_image
}

extract_image() {
    {
        gzip -dc <"$work/image.tgz" 2>/dev/null
        echo "$?" >"$work/gzip.code"
    } | exec_tar --extract --directory="$work/image" --no-same-owner \
        --no-same-permissions &
    child=$!
    await_child && read -r gzip_code <"$work/gzip.code" && [ "$gzip_code" -eq 0 ] && return
    ! grep -Eiq 'no space left on device|disk quota exceeded' "$work/tar.log" || machine_full
    return 1
}

# One image and no name: the archive holds whatever tags its maker's machine had. The
# index is another place for names, which the engine takes first if it is there.
strip_names() {
    manifest=$work/image/manifest.json
    [ -f "$manifest" ] && [ ! -L "$manifest" ] ||
        image_unusable "its archive is not one of docker save"
    awk -f "$lib/image-manifest.awk" "$manifest" >"$work/manifest.json" ||
        image_unusable "its archive must hold exactly one image"
    rm -rf "$work/image/index.json" "$work/image/oci-layout" "$work/image/repositories" "$manifest"
    mv "$work/manifest.json" "$manifest"
}
