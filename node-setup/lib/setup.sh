# shellcheck shell=sh
# The steps of get-started.sh, in their order. Sourced by it.

# shellcheck disable=SC2154  # set by get-started.sh and node.sh

# All findings about this machine. Nothing is changed: settings are tried in a folder of
# their own. A subshell, for the sake of the variables.
check() {
    (
        tmp=$(mktemp -d) || die "There is no room for temporary files"
        trap 'remove_test_bucket; rm -rf "$tmp"' EXIT
        trap 'exit 1' HUP INT TERM
        mkdir "$tmp/etc"
        for file in s3.conf options; do
            [ ! -r "$etc/$file" ] || cp "$etc/$file" "$tmp/etc/$file"
        done
        keys_name=${s3_config:-$etc/s3.conf}
        etc=$tmp/etc conf=$bundle/node.conf options=$tmp/etc/options
        [ ! -r "$bundle/ca.pem" ] || cp "$bundle/ca.pem" "$etc/bridge-ca.pem"
        [ ! -r "$s3_config" ] || cp "$s3_config" "$etc/s3.conf"
        write_options
        say "Checking this machine"
        start_findings "$tmp/findings"
        preflight
        check_storage_keys
        tell_result
    )
}

# Needs rclone, which a machine that was never set up may not have: then its set-up does it.
check_storage_keys() {
    [ -n "$(conf_value "$etc/s3.conf" S3_SECRET)" ] && [ -n "$(rclone_program)" ] || return 0
    scratch=$tmp
    test_storage
}

tell_result() {
    if [ "$failed" -gt 0 ]; then
        say "$failed of these must be mended first (FAIL). What root must do: $program --root-steps"
        return 1
    fi
    say "This machine can be a node."
}

set_up() {
    [ -r "$bundle/node.conf" ] || die "There is no node.conf beside this script: is the bundle complete?"
    check || exit 1
    mkdir -p "$etc" "$var" "$tmp" "$log" "$var/locks" "$dir/versions" || die "$dir cannot be written"
    chmod go= "$dir" "$etc" "$var"
    exec 7>>"$var/locks/setup"
    flock --nonblock 7 || die "Another get-started.sh is at work in $dir"
    write_settings
    install_pinned
    say "Starting rootless Docker"
    engine_up 7>&-
    engine_is_rootless || die "The Docker at $socket does not run rootless"
    "$dir/bin/selftest" engine storage || exit 1
    printf '%s\n' "$dir" 2>/dev/null >"$bundle/.dir" || true
    say "Ready. Now join the group: sh $bundle/run.sh"
}

# The bundle's settings, the owner's choices and the storage's keys.
write_settings() {
    ! readable_by_others "$bundle/node.conf" || chmod go= "$bundle/node.conf" 2>/dev/null ||
        die "$bundle/node.conf can be read by others: chmod 600 it"
    put_file "$conf" <"$bundle/node.conf"
    if [ -r "$bundle/ca.pem" ]; then
        put_file "$etc/bridge-ca.pem" <"$bundle/ca.pem"
    fi
    write_options
    if [ -n "$s3_config" ]; then
        [ -r "$s3_config" ] || die "$s3_config cannot be read"
        put_file "$etc/s3.conf" <"$s3_config"
    elif [ ! -r "$etc/s3.conf" ]; then
        ask_for_storage
    fi
    for name in S3_SERVER S3_ACCESS S3_SECRET; do
        [ -n "$(conf_value "$etc/s3.conf" "$name")" ] ||
            die "$etc/s3.conf has no line $name=: give the group's storage with --s3-config FILE"
    done
}

write_options() {
    printf '%s' "$chosen" >"$tmp/chosen"
    while IFS='=' read -r name value; do
        set_conf "$options" "$name" "$value"
    done <"$tmp/chosen"
    rm -f "$tmp/chosen"
}

ask_for_storage() {
    [ -t 0 ] || die "The group's storage is not known: give it with --s3-config FILE" \
        "(lines S3_SERVER=https://…, S3_ACCESS=…, S3_SECRET=…)"
    say "The group's storage (the bridge never gets to know this):"
    printf '  server, as https://host:port: ' && read -r s3_server
    printf '  access key: ' && read -r s3_access
    printf '  secret key (not shown): '
    trap 'stty echo' EXIT INT TERM
    stty -echo
    read -r s3_secret
    stty echo
    trap - EXIT INT TERM
    say
    printf 'S3_SERVER=%s\nS3_ACCESS=%s\nS3_SECRET=%s\n' "$s3_server" "$s3_access" "$s3_secret" |
        put_file "$etc/s3.conf"
}
