# shellcheck shell=sh
# What a node needs from elsewhere: fetched by its pins, checked, and kept side by side.
# Sourced after node.sh.
#
#   versions/<name>-<version>/   one program as its maker packs it
#   versions/set-<hash>/<name>   links to what belongs together
#   current, previous            links to sets; every path of the node goes through current
#   bin/<program>                links to programs below current

# shellcheck disable=SC2154  # bundle, from and mirror are set by get-started.sh

machine_architecture() {
    case $(uname -m) in
    x86_64 | amd64) echo amd64 ;;
    aarch64 | arm64) echo arm64 ;;
    *) uname -m ;;
    esac
}

# The pins of this machine's architecture: name, version, hash and address.
pinned() {
    sed -e 's/#.*//' -e 's/[[:space:]][[:space:]]*/ /g' "$bundle/pins" |
        awk -v machine="$(machine_architecture)" \
            'NF == 5 && $4 == machine { print $1, $2, $3, $5 }'
}

# All of the pins into versions/, then one set of them into current.
install_pinned() {
    [ -n "$(pinned)" ] ||
        die "The pins of this bundle hold nothing for $(machine_architecture) machines"
    pinned >"$tmp/pins"
    # First what the archives of the others are unpacked with.
    grep '^busybox ' "$tmp/pins" >"$tmp/pins.sorted"
    grep -v '^busybox ' "$tmp/pins" >>"$tmp/pins.sorted"
    : >"$tmp/set"
    while read -r name version sha256 url; do
        install_one "$name" "$version" "$sha256" "$url" || exit 1
        printf '%s %s-%s\n' "$name" "$name" "$version" >>"$tmp/set"
    done <"$tmp/pins.sorted"
    install_scripts
    printf 'node node-%s\n' "$scripts" >>"$tmp/set"
    use_set
}

install_one() { # name version sha256 url
    target=$dir/versions/$1-$2
    [ "$3" != - ] ||
        die "The pins hold no SHA-256 for $1 $2: use a bundle made by nomad-bridge nodes bundle"
    [ "$(cat "$target/.sha256" 2>/dev/null)" != "$3" ] || return 0
    file=${4##*/}
    say "Getting $1 $2"
    obtain "$file" "$4"
    [ "$(sha256sum <"$archive" | cut -d ' ' -f 1)" = "$3" ] ||
        die "$archive is not the file that the bundle names (its SHA-256 differs). Get it again," \
            "or ask who made the bundle"
    rm -rf "$target.new"
    mkdir -p "$target.new"
    unpack "$1" "$archive" "$target.new" || die "$archive cannot be unpacked"
    printf '%s\n' "$3" >"$target.new/.sha256"
    rm -rf "$target"
    mv "$target.new" "$target"
    rm -f "$dir/var/downloads/$file"
}

# Sets `archive`: a file from the local folder, or fetched.
obtain() { # file-name url
    if [ -n "$from" ]; then
        for archive in "$from/$(machine_architecture)/$1" "$from/$1"; do
            [ ! -r "$archive" ] || return 0
        done
        die "There is no $1 in $from. It comes from $2"
    fi
    archive=$var/downloads/$1
    mkdir -p "$var/downloads"
    source_url=$2
    [ -z "$mirror" ] || source_url=${mirror%/}/$1
    printf 'url = "%s"\n' "$source_url" |
        run_curl --fail --location --retry 3 --max-time 1800 --output "$archive" 2>"$tmp/curl.log"
    code=$?
    [ "$code" -eq 0 ] || die "$source_url cannot be fetched: $(curl_trouble "$code")." \
        "Without a network, download elsewhere and use --from FOLDER"
}

unpack() { # name archive folder
    case $2 in
    *.zip)
        busybox=$(command -v "$dir/versions"/busybox-*/busybox busybox unzip | head -n 1)
        case $busybox in
        */unzip) unzip -q "$2" -d "$3" ;;
        '') die "Neither busybox nor unzip is there to unpack $2" ;;
        *) "$busybox" unzip -q "$2" -d "$3" >/dev/null ;;
        esac || return 1
        ;;
    *.tgz | *.tar.gz) tar --extract --gzip --file="$2" --directory="$3" --no-same-owner || return 1 ;;
    *) cp "$2" "$3/$1" && chmod 755 "$3/$1" || return 1 ;;
    esac
    # Most archives hold one folder: what is in it comes up.
    set -- "$3" "$3"/*
    if [ "$#" -eq 2 ] && [ -d "$2" ]; then
        mv "$2" "$1/.inner" && mv "$1/.inner"/* "$1" && rmdir "$1/.inner" || return 1
    fi
    chmod -R u+rwX,go-w "$1"
    find "$1" -maxdepth 1 -type f ! -name '*.*' -exec chmod u+x {} +
}

# The bundle's own programs, under a name that changes with them. Sets `scripts`.
install_scripts() {
    scripts=$(
        cd "$bundle" || exit 1
        find run.sh get-started.sh README.md pins bin lib systemd -type f -print0 |
            sort --zero-terminated | xargs -0 sha256sum | sha256sum | cut -c 1-12
    ) || die "The bundle is not complete"
    target=$dir/versions/node-$scripts
    [ ! -d "$target" ] || return 0
    rm -rf "$target.new"
    mkdir -p "$target.new"
    for part in run.sh get-started.sh README.md pins bin lib systemd; do
        cp -R "$bundle/$part" "$target.new/" || die "The bundle is not complete: $part"
    done
    mv "$target.new" "$target"
}

# Make current what tmp/set lists, if it is not.
use_set() {
    set_name=set-$(sort "$tmp/set" | sha256sum | cut -c 1-12)
    if [ ! -d "$dir/versions/$set_name" ]; then
        rm -rf "$dir/versions/$set_name.new"
        mkdir "$dir/versions/$set_name.new"
        while read -r name folder; do
            ln -s "../$folder" "$dir/versions/$set_name.new/$name"
        done <"$tmp/set"
        mv "$dir/versions/$set_name.new" "$dir/versions/$set_name"
    fi
    now_current=$(readlink "$dir/current")
    if [ "$now_current" != "versions/$set_name" ]; then
        [ -z "$now_current" ] || point "$dir/previous" "$now_current"
        point "$dir/current" "versions/$set_name"
    fi
    link_programs
}

# Back to the set before the last change; again, and it is forward.
roll_back() {
    now_current=$(readlink "$dir/current")
    before=$(readlink "$dir/previous") || die "There is no earlier version in $dir"
    [ -d "$dir/$before" ] || die "The earlier version, $dir/$before, is not there any more"
    point "$dir/current" "$before"
    point "$dir/previous" "$now_current"
    link_programs
    say "In use now:"
    list_set
}

list_set() {
    for part in "$dir/current"/*; do
        say "  $(readlink "$part" | sed 's,^\.\./,,')"
    done
}

# A symbolic link, replaced in one step.
point() { # link target
    [ "$(readlink "$1")" != "$2" ] || return 0
    rm -f "$1.new"
    ln -s "$2" "$1.new" && mv -T "$1.new" "$1"
}

link_programs() {
    mkdir -p "$dir/bin"
    for program_file in "$dir/current"/node/bin/* "$dir/current"/*/*; do
        if [ -f "$program_file" ] && [ -x "$program_file" ]; then
            case $program_file in
            */current/node/*.sh | */current/node/README.md) continue ;;
            esac
            point "$dir/bin/${program_file##*/}" "..${program_file#"$dir"}"
        fi
    done
    for link in "$dir/bin"/*; do
        [ -e "$link" ] || rm -f "$link"
    done
}
