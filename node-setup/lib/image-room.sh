# shellcheck shell=sh
# Room for images: those that stage brought and that were not used for longest go, once
# all together are over a limit. Sourced by bin/stage.
#
# The limit is IMAGES_MAX_MB in BRIDGE_HOME/etc/options, by default half of the file
# system of BRIDGE_HOME. Nothing here ends a job: what cannot be removed stays.

# shellcheck disable=SC2154  # set by bin/stage and image.sh

# Between stage in and the start of its container an image is used by none.
IN_USE_MINUTES=60

# An image that loses its name to another is not found by it again. (No record of a
# reference has a : in its name.)
keep_for_removal() { # id of the other
    has_image "$tag" && [ "$found" != "$1" ] || return 0
    printf 'replaced\n%s\n%s\n' "$found" "$found" >"$known:${found#sha256:}"
}

make_room() {
    exec 8>"$home/var/locks/room"
    flock --nonblock 8 || return 0 # another job is at it
    images_bytes=0
    room_bytes=$(($(images_limit_mb) * 1048576))
    # The one used last comes first.
    for record in $(ls -t "$home/var/images"); do
        record=$home/var/images/$record
        image_source='' image_id='' image_name=''
        { read -r image_source && read -r image_id && read -r image_name; } <"$record"
        if [ -n "$image_name" ]; then keep_or_remove; fi
    done
    exec 8>&-
}

images_limit_mb() {
    limit_mb=$(sed -n 's/^IMAGES_MAX_MB=//p' "$home/etc/options" 2>/dev/null | tail -n 1 | tr -d '\r')
    if ! is_number "${limit_mb:-0}"; then
        echo "IMAGES_MAX_MB in $home/etc/options is not a whole number" >&2
        limit_mb=0
    fi
    [ "${limit_mb:-0}" -gt 0 ] || limit_mb=$(df -Pk "$home" | awk 'NR == 2 { print int($2 / 2048) }')
    echo "$limit_mb"
}

keep_or_remove() {
    if ! call_docker image inspect --format '{{.Size}}' -- "$image_id"; then
        # Somebody else removed it.
        ! log_says 'no such image' || rm -f "$record"
        return
    fi
    read -r image_bytes <"$work/out"
    images_bytes=$((images_bytes + image_bytes))
    [ "$images_bytes" -gt "$room_bytes" ] || [ "$image_source" = replaced ] || return
    remove_image 8>&- || return
    images_bytes=$((images_bytes - image_bytes))
}

# Fails when a job has just asked for it, or a container uses it (docker refuses).
remove_image() (
    if [ "$image_source" != replaced ]; then
        # Held by a job that brings or looks for it; by this one for its own image.
        exec 7>"$home/var/locks/${record##*/}"
        flock --nonblock 7 || exit 1
        [ -n "$(find "$record" -mmin "+$IN_USE_MINUTES")" ] || exit 1
    fi
    call_docker image rm -- "$image_name" || log_says 'no such image' || exit 1
    rm -f "$record"
)
