# shellcheck shell=sh
# What a machine must offer before it can become a node; nothing here changes anything.
# Sourced after node.sh, findings.sh and http.sh.
#
# PREFLIGHT_ROOT stands before the paths of the system's own files: for tests.

# shellcheck disable=SC2154  # set by node.sh and get-started.sh

root=${PREFLIGHT_ROOT:-}
SUBIDS=65536
LEAST_DISK_MB=10000

preflight() {
    check_user
    check_programs
    check_namespaces
    check_subids
    check_network_device
    check_cgroups
    check_linger
    check_engines
    check_folder
    check_disk
    check_memory
    check_ports
    check_bridge
    check_storage_address
}

check_user() {
    if [ "$(id -u)" -eq 0 ]; then
        finding fail user "this is root; neither Nomad nor a job may have root's power" \
            "As the compute user: su - leruli"
    else
        finding ok user "$(id -un)"
    fi
}

check_programs() {
    lacking=
    for name in awk curl flock gzip openssl setsid sha256sum timeout nproc; do
        command -v "$name" >/dev/null || lacking="$lacking $name"
    done
    tar --version 2>/dev/null | grep -q GNU || lacking="$lacking GNU-tar"
    find / -maxdepth 0 -printf '' 2>/dev/null || lacking="$lacking GNU-find"
    if [ -n "$lacking" ]; then
        finding fail programs "missing:$lacking" "As root: get-started.sh --root-steps names the packages"
    else
        finding ok programs "all there"
    fi
}

check_namespaces() {
    if [ "$(cat "$root/proc/sys/user/max_user_namespaces" 2>/dev/null || echo 0)" -eq 0 ]; then
        finding fail "user namespaces" "the kernel gives none" \
            "As root: sysctl -w user.max_user_namespaces=28633, and into /etc/sysctl.d/"
    elif [ "$(cat "$root/proc/sys/kernel/unprivileged_userns_clone" 2>/dev/null)" = 0 ]; then
        finding fail "user namespaces" "switched off for users who are not root" \
            "As root: sysctl -w kernel.unprivileged_userns_clone=1, and into /etc/sysctl.d/"
    elif [ "$(cat "$root/proc/sys/kernel/apparmor_restrict_unprivileged_userns" 2>/dev/null)" = 1 ] &&
        [ ! -e "$root/etc/apparmor.d/$(apparmor_name)" ]; then
        finding fail "user namespaces" "AppArmor forbids them to programs that it does not know" \
            "As root: get-started.sh --root-steps shows the profile for rootlesskit"
    elif ! unshare --user --map-root-user true 2>/dev/null; then
        finding fail "user namespaces" "unshare --user does not work here" \
            "Ask who runs this machine; a container without them cannot be a node"
    else
        finding ok "user namespaces" "work"
    fi
}

# How AppArmor profiles are called: the path of the program, with dots for slashes.
apparmor_name() {
    printf '%s\n' "$dir/rootlesskit" | sed -e 's,^/,,' -e 's,/,.,g'
}

check_subids() {
    for kind in subuid subgid; do
        if [ "$(subids "$root/etc/$kind")" -lt "$SUBIDS" ]; then
            finding fail "$kind" "fewer than $SUBIDS ids for $(id -un) in /etc/$kind" \
                "As root: usermod --add-${kind}s 2000000-2065535 $(id -un)"
        else
            finding ok "$kind" "enough"
        fi
    done
    for name in newuidmap newgidmap; do
        path=$(command -v "$name")
        if [ -z "$path" ]; then
            finding fail "$name" "not there" "As root: install the package uidmap (shadow-utils on Fedora)"
        elif [ ! -u "$path" ] && ! getcap "$path" 2>/dev/null | grep -q 'cap_set[ug]id'; then
            finding fail "$name" "$path may not map ids" "As root: chmod u+s $path"
        fi
    done
}

# How many ids the user has in a file such as /etc/subuid.
subids() { # file
    awk -F : -v name="$(id -un)" -v number="$(id -u)" \
        '$1 == name || $1 == number { total += $3 } END { print total + 0 }' "$1" 2>/dev/null || echo 0
}

check_network_device() {
    if ! command -v slirp4netns pasta vpnkit >/dev/null; then
        finding fail "container network" "neither slirp4netns nor pasta is there" \
            "As root: install the package slirp4netns"
    elif [ ! -w "$root/dev/net/tun" ]; then
        finding fail "container network" "/dev/net/tun cannot be used by $(id -un)" \
            "As root: modprobe tun; mkdir -p /dev/net; [ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200; chmod 666 /dev/net/tun"
    else
        finding ok "container network" "can be made"
    fi
}

check_cgroups() {
    limits_remedy="As root: get-started.sh --root-steps shows the delegation. A group may insist on limits"
    delegated=$root/sys/fs/cgroup/user.slice/user-$(id -u).slice/user@$(id -u).service/cgroup.controllers
    if [ ! -e "$root/sys/fs/cgroup/cgroup.controllers" ]; then
        finding note limits "without cgroup v2, jobs' memory and cores cannot be limited here" \
            "Boot with systemd.unified_cgroup_hierarchy=1 if the kernel has cgroup v2"
    elif [ ! -r "$delegated" ]; then
        finding note limits "no systemd of the user's own, so jobs' memory and cores cannot be limited" \
            "$limits_remedy"
    else
        lacking=
        for controller in cpu memory pids; do
            grep -qw "$controller" "$delegated" || lacking="$lacking $controller"
        done
        if [ -n "$lacking" ]; then
            finding note limits "cgroup controllers not delegated:$lacking" "$limits_remedy"
        else
            finding ok limits "memory and cores can be limited"
        fi
    fi
}

check_linger() {
    if [ ! -d "$root/run/systemd/system" ]; then
        finding note systemd "not running here: after a reboot, run.sh must be started by something else"
    elif [ ! -e "$root/var/lib/systemd/linger/$(id -un)" ]; then
        finding fail linger "the user's services end when the user logs out" \
            "As root: loginctl enable-linger $(id -un)"
    else
        finding ok linger "services go on without a login"
    fi
}

check_engines() {
    if [ -w "$root/var/run/docker.sock" ]; then
        finding fail "other Docker" "$(id -un) may use the Docker of root, which is root's power" \
            "As root: gpasswd --delete $(id -un) docker; or uninstall it. Then log in anew"
    elif [ -e "$root/var/run/docker.sock" ]; then
        finding note "other Docker" "a Docker of root is on this machine; it is left alone"
    fi
    if [ -n "${XDG_RUNTIME_DIR:-}" ] && [ -S "$XDG_RUNTIME_DIR/docker.sock" ] &&
        [ "$XDG_RUNTIME_DIR" != "$runtime" ]; then
        finding note "other Docker" "$(id -un) runs a rootless Docker already; the node has its own" \
            "If nobody needs it: systemctl --user disable --now docker"
    fi
}

check_folder() {
    place=$(nearest_folder)
    if [ ! -w "$place" ]; then
        finding fail folder "$dir cannot be written by $(id -un)" \
            "As root: mkdir -p $dir && chown $(id -un): $dir"
    fi
    kind=$(stat --file-system --format %T "$place")
    case $kind in
    nfs* | cifs | smb* | fuseblk | lustre | gpfs | afs | ceph | v9fs | vboxsf)
        finding fail folder "$dir is on $kind; containers need a disk of this machine" \
            "Give a folder on a local disk: --dir"
        ;;
    *)
        finding ok folder "$dir ($kind)"
        ;;
    esac
    if mount_options "$place" | tr ',' '\n' | grep -Eqx 'noexec|nosuid'; then
        finding fail folder "$dir is mounted with noexec or nosuid" "Give another folder: --dir"
    fi
    # Nomad makes sockets 76 characters below it, Docker 44; a socket's path has 107 at most.
    if [ "${#dir}" -gt 60 ]; then
        finding fail folder "its path is too long for the sockets below it" "Give a shorter one: --dir"
    fi
    case $(stat --file-system --format %T "$HOME" 2>/dev/null) in
    nfs* | cifs | smb* | lustre | gpfs | afs)
        finding note home "$HOME is on the network: units there are shared by all machines" \
            "Give the compute user a home on the local disk"
        ;;
    esac
}

# The folder, or what is there of the path to it.
nearest_folder() {
    place=$dir
    while [ ! -d "$place" ]; do
        place=$(dirname "$place")
    done
    printf '%s\n' "$place"
}

mount_options() { # folder
    awk -v at="$(df --output=target "$1" | tail -n 1)" '$2 == at { found = $4 } END { print found }' \
        /proc/mounts
}

check_disk() {
    free=$(df --block-size=1000000 --output=avail "$(nearest_folder)" | tail -n 1 | tr -d ' ')
    if [ "$free" -lt "$LEAST_DISK_MB" ]; then
        finding fail disk "$free MB free in $dir; images and jobs need $LEAST_DISK_MB MB" \
            "Make room, or give a folder on another disk: --dir"
    else
        finding ok disk "$((free / 1000)) GB free"
    fi
}

check_memory() {
    total=$(awk '/^MemTotal:/ { print int($2 / 1024) }' /proc/meminfo)
    left=$((total - $(option RESERVE_MEMORY_MB 0)))
    cores=$(($(nproc) - $(option RESERVE_CORES 0)))
    if [ "$left" -lt 512 ] || [ "$cores" -lt 1 ]; then
        finding fail "what jobs get" "$cores cores and $left MiB: too little is left" \
            "Reserve less: --reserve-cores, --reserve-memory"
    else
        finding ok "what jobs get" "$cores cores and $left MiB of memory"
    fi
}

check_ports() {
    port=$(option HTTP_PORT)
    [ -n "$port" ] || return 0
    if grep -Eq "^ *[0-9]+: [0-9A-F]+:$(printf '%04X' "$port") [0-9A-F]+:0000 0A" /proc/net/tcp &&
        ! is_alive "$var/client.pid"; then
        finding fail port "port $port of 127.0.0.1 is taken" "Give another: --http-port"
    fi
}

# The name, the certificate, and how far the clocks differ.
check_bridge() {
    [ -r "$conf" ] || return 0
    if ! (read_node_conf) 2>"$tmp/conf.log"; then
        finding fail bundle "$(tail -n 1 "$tmp/conf.log")" "Unpack the bundle again"
        return
    fi
    read_node_conf
    reach=$(
        {
            printf 'url = "%s/healthz"\n' "$bridge_url"
            [ ! -s "$etc/bridge-ca.pem" ] || printf 'cacert = "%s/bridge-ca.pem"\n' "$etc"
        } | run_curl --max-time 20 --output /dev/null --write-out '%{http_code}' 2>"$tmp/curl.log"
    )
    code=$?
    if [ "$code" -ne 0 ]; then
        finding fail bridge "$bridge_url: $(curl_trouble "$code")" \
            "curl -v $bridge_url/healthz shows more; behind a proxy use --proxy"
        return
    fi
    case $reach in
    2??) finding ok bridge "$bridge_url answers" ;;
    *) finding note bridge "$bridge_url answers with status $reach" ;;
    esac
    case $bridge_url in
    https://* | http://127.* | http://localhost[:/]* | http://localhost) ;;
    *) finding note bridge "the compute secret goes to $bridge_url unencrypted" "Use https://" ;;
    esac
    skew=$(clock_skew)
    if [ -n "$skew" ] && { [ "$skew" -gt 60 ] || [ "$skew" -lt -60 ]; }; then
        finding fail clock "$skew s ahead of the bridge's" \
            "As root: timedatectl set-ntp true; or start chrony"
    elif [ -n "$skew" ]; then
        finding ok clock "within $(echo "$skew" | tr -d -) s of the bridge's"
    fi
}

# Whether the storage is there at all; its keys are tried once rclone is.
check_storage_address() {
    [ -r "$etc/s3.conf" ] || return 0
    for name in S3_SERVER S3_ACCESS S3_SECRET; do
        if [ -z "$(conf_value "$etc/s3.conf" "$name")" ]; then
            finding fail storage "$keys_name has no line $name=" "Ask the group for its storage's keys"
            return
        fi
    done
    server=$(conf_value "$etc/s3.conf" S3_SERVER)
    ca=$(conf_value "$etc/s3.conf" S3_CA)
    {
        printf 'url = "%s/"\n' "${server%/}"
        [ -z "$ca" ] || printf 'cacert = "%s"\n' "$ca"
    } | run_curl --max-time 20 --output /dev/null 2>"$tmp/curl.log"
    code=$?
    if [ "$code" -ne 0 ]; then
        finding fail storage "$server: $(curl_trouble "$code")" "Correct S3_SERVER in $keys_name"
    else
        finding ok storage "$server answers"
    fi
}
