# shellcheck shell=sh
# systemd units with this node's paths in them. Sourced by run.sh.

# shellcheck disable=SC2154  # set by node.sh and run.sh

render_unit() { # file
    sed -e "s,@DIR@,$dir,g" -e "s,@USER@,$(id -un),g" -e "s,@UID@,$(id -u),g" "$1"
}

write_units() {
    for unit in "$home"/systemd/user/*; do
        render_unit "$unit" | put_file "$units/${unit##*/}"
    done
}

remove_units() {
    for unit in "$home"/systemd/user/*; do
        [ -e "$units/${unit##*/}" ] || continue
        ! has_user_systemd || user_systemctl disable --now "${unit##*/}" 2>/dev/null
        rm -f "$units/${unit##*/}"
    done
    ! has_user_systemd || user_systemctl daemon-reload
}
