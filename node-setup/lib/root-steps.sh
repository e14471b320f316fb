# shellcheck shell=sh
# What only root can do, once per host, as commands to read and then to run. Sourced.

# shellcheck disable=SC2154  # user, uid and dir are set by get-started.sh

root_steps() {
    cat <<END
# For root, once on this machine; read it before you run it. Doing it twice does no harm.
# Afterwards log in as $user (by ssh or machinectl shell; plain su gives no session).

# Programs: what rootless containers need, and what the scripts use.
$(packages)

# The compute user and its folder.
id -u $user >/dev/null 2>&1 || useradd --create-home --shell /bin/bash --uid $uid $user
mkdir -p $dir
chown $user: $dir

# Ids for the users inside its containers.
grep -q '^$user:' /etc/subuid || usermod --add-subuids 2000000-2065535 $user
grep -q '^$user:' /etc/subgid || usermod --add-subgids 2000000-2065535 $user

# The device that containers' networks need.
modprobe tun 2>/dev/null || true
mkdir -p /dev/net
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
chmod 666 /dev/net/tun

# User namespaces, where they are switched off or few.
[ ! -e /proc/sys/kernel/unprivileged_userns_clone ] ||
    echo kernel.unprivileged_userns_clone=1 >/etc/sysctl.d/90-nomad-bridge.conf
[ "\$(cat /proc/sys/user/max_user_namespaces)" -gt 0 ] ||
    echo user.max_user_namespaces=28633 >>/etc/sysctl.d/90-nomad-bridge.conf
[ ! -e /etc/sysctl.d/90-nomad-bridge.conf ] || sysctl --load /etc/sysctl.d/90-nomad-bridge.conf

# AppArmor (Ubuntu 24.04 and later) must know the program that makes them.
if [ -e /proc/sys/kernel/apparmor_restrict_unprivileged_userns ]; then
    cat >/etc/apparmor.d/$(apparmor_name) <<'PROFILE'
abi <abi/4.0>,
include <tunables/global>
$dir/versions/docker-rootless-extras-*/rootlesskit flags=(unconfined) {
  userns,
}
PROFILE
    systemctl restart apparmor.service
fi

# Services of $user go on after logout and start at boot; its containers can be limited.
if [ -d /run/systemd/system ]; then
    mkdir -p /etc/systemd/system/user@.service.d
    printf '[Service]\nDelegate=cpu cpuset io memory pids\n' \\
        >/etc/systemd/system/user@.service.d/nomad-bridge.conf
    systemctl daemon-reload
    loginctl enable-linger $user
fi

# $user must not have the power of a Docker that runs as root.
! id -nG $user | grep -qw docker || gpasswd --delete $user docker
END
}

packages() {
    if command -v apt-get >/dev/null; then
        echo "apt-get install --yes uidmap slirp4netns dbus-user-session curl openssl tar findutils util-linux gawk"
    elif command -v dnf >/dev/null; then
        echo "dnf install --assumeyes shadow-utils slirp4netns curl openssl tar findutils util-linux gawk"
    elif command -v zypper >/dev/null; then
        echo "zypper --non-interactive install shadow slirp4netns curl openssl tar findutils util-linux gawk"
    elif command -v pacman >/dev/null; then
        echo "pacman --sync --needed --noconfirm shadow slirp4netns curl openssl tar findutils util-linux gawk"
    else
        echo "# Install: newuidmap and newgidmap, slirp4netns, curl, openssl, GNU tar and find, flock, awk"
    fi
}
