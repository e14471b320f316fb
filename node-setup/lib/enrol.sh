# shellcheck shell=sh
# The node's place in the group: its name, its certificate, what the bridge gave it.
# Sourced after node.sh and http.sh.
#
#   etc/nomad/      client.key client.pem ca.pem bridge.json: a link to the last answer
#   var/enrolment   who was enrolled, on which machine, and with which bundle

# shellcheck disable=SC2154  # set by node.sh and http.sh

enrolment=$var/enrolment
given=$etc/nomad

# The name this node has, or would get.
node_name() {
    name=$(conf_value "$enrolment" NODE_NAME)
    [ -n "$name" ] || name=$(option NODE_NAME "$(host_name)")
    printf '%s\n' "$name"
}

host_name() {
    hostname=$(uname -n)
    printf '%s\n' "${hostname%%.*}"
}

is_node_name() { # text
    case $1 in
    '' | [!A-Za-z0-9]* | *[!A-Za-z0-9._-]*) return 1 ;;
    esac
    [ "${#1}" -le 63 ]
}

# What tells this machine from others: its id, and the addresses of its network cards.
machine_id() {
    sha256sum "${PREFLIGHT_ROOT:-}/etc/machine-id" 2>/dev/null | cut -c 1-32
}

network_cards() {
    for card in "${PREFLIGHT_ROOT:-}"/sys/class/net/*; do
        [ ! -e "$card/device" ] || cat "$card/address" 2>/dev/null
    done | sort -u | tr '\n' ' '
}

# A folder that came here with a copied disk must not join under the other's identity:
# two machines with one id take each other's jobs.
insist_on_same_machine() {
    [ -r "$enrolment" ] || return 0
    name=$(conf_value "$enrolment" NODE_NAME)
    machine_then=$(conf_value "$enrolment" MACHINE_ID)
    host_then=$(conf_value "$enrolment" HOST_NAME)
    if [ "$machine_then" != "$(machine_id)" ] ||
        { [ "$host_then" != "$(host_name)" ] && ! shares_a_card; }; then
        die "This folder was enrolled as $name on another machine ($host_then); this one is" \
            "$(host_name). If it is a copy, run: $dir/run.sh --forget (it then joins as a node of" \
            "its own). If it is the same machine with other hardware, run: $dir/run.sh --keep"
    fi
    [ "$host_then" = "$(host_name)" ] ||
        warn "This machine was renamed from $host_then to $(host_name); the node stays $name." \
            "For another name: $dir/run.sh --leave, $dir/run.sh --forget, then start with --name"
}

shares_a_card() {
    cards_then=$(conf_value "$enrolment" CARDS)
    [ -n "$cards_then" ] || return 0
    for card in $(network_cards); do
        case " $cards_then " in
        *" $card "*) return 0 ;;
        esac
    done
    return 1
}

# Write down which machine this is.
remember_machine() {
    set_conf "$enrolment" MACHINE_ID "$(machine_id)"
    set_conf "$enrolment" HOST_NAME "$(host_name)"
    set_conf "$enrolment" CARDS "$(network_cards)"
}

# Why this node should ask the bridge again; nothing if it need not. At a start it does
# so anyway: an introduction is needed if the scheduler has forgotten this node meanwhile.
enrolment_reason() { # start|renewal
    if [ ! -r "$enrolment" ] || [ ! -r "$given/client.pem" ] || [ ! -r "$given/bridge.json" ]; then
        echo "it has no certificate yet"
    elif [ "$(conf_value "$enrolment" BUNDLE_HASH)" != "$(bundle_hash)" ]; then
        echo "its bundle has changed"
    elif [ "$(conf_value "$enrolment" LIMITS)" != "$(node_limits)" ]; then
        echo "what its containers can be limited to has changed"
    elif [ ! -e "$var/registered" ]; then
        echo "it has not joined yet"
    elif ! has_lifetime_left; then
        echo "its certificate ends soon"
    elif [ "$1" = start ] && [ "$(date +%s)" -gt "$(($(conf_value "$enrolment" ENROLLED) + 600))" ]; then
        echo "it starts"
    fi
}

bundle_hash() {
    sha256sum <"$conf" | cut -c 1-32
}

# Whether containers here can be limited, as the self-test found: 1 or 0.
node_limits() {
    cat "$var/limits" 2>/dev/null || echo 0
}

# Whether more than a third of the certificate's life is left.
has_lifetime_left() {
    ends=$(conf_value "$enrolment" EXPIRES)
    begun=$(conf_value "$enrolment" ENROLLED)
    is_number "$ends" && is_number "$begun" &&
        [ "$(($(date +%s) + (ends - begun) / 3))" -lt "$ends" ]
}

certificate_is_valid() {
    [ -r "$given/client.pem" ] && openssl x509 -in "$given/client.pem" -noout -checkend 0 >/dev/null
}

# Ask the bridge for a place. On success everything in etc/nomad is new.
enrol() {
    name=$(node_name)
    is_node_name "$name" ||
        die "$name cannot be a node's name: give one with --name (letters, digits and . _ -)"
    work=$tmp/enrol
    rm -rf "$work"
    mkdir -p "$work/files"
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/files/client.key" \
        2>"$tmp/openssl.log"
    OPENSSL_CONF=/dev/null openssl req -new -key "$work/files/client.key" -subj "/CN=$name" \
        -out "$work/request.pem" 2>>"$tmp/openssl.log" ||
        die "openssl cannot make a key: $(tail -n 1 "$tmp/openssl.log")"
    enrolment_request >"$work/body"
    call_bridge POST /v1/nodes/enroll "$work/body" application/x-tar
    called=$?
    rm -f "$work/body"
    [ "$called" -eq 0 ] || return 1
    take_answer || { problem="The bridge's answer cannot be used: $problem" && return 1; }
    rm -rf "$work"
}

enrolment_request() {
    printf '{"group_token":%s,"name":%s,"signing_request":"%s","facts":' \
        "$(json_string "$group_token")" "$(json_string "$name")" \
        "$(awk '{ printf "%s\\n", $0 }' "$work/request.pem")"
    limits=false
    [ "$(node_limits)" != 1 ] || limits=true
    printf '{"cores":%s,"memory_mb":%s,"disk_mb":%s,"architecture":%s,"limits":%s,"clock":%s,' \
        "$(nproc)" "$(memory_mb)" "$(disk_mb size)" "$(json_string "$(uname -m)")" "$limits" \
        "$(date +%s.%3N)"
    printf '"versions":{"bundle":%s,' "$(json_string "$(conf_value "$conf" BRIDGE_BUNDLE)")"
    for part in "$dir/current"/*; do
        version=$(readlink "$part")
        version=${version##*/}
        printf '%s:%s,' "$(json_string "${part##*/}")" \
            "$(json_string "${version#"${part##*/}"-}")"
    done
    printf '"stage":%s}}}\n' "$(json_string "$("$dir/bin/stage" version)")"
}

memory_mb() {
    awk '/^MemTotal:/ { print int($2 / 1024) }' /proc/meminfo
}

# In MB (10^6 bytes), of the file system of this folder: size or avail.
disk_mb() { # size|avail
    df --block-size=1000000 --output="$1" "$dir" | tail -n 1 | tr -d ' '
}

# The files of the bridge's answer into etc/nomad, and nothing else that may be in it.
take_answer() {
    problem="it is no archive"
    tar --list --file="$answer" >"$work/names" 2>/dev/null || return 1
    while read -r file; do
        case $file in
        client.pem | client.key | ca.pem | intro_token.jwt | bridge.json) ;;
        *) problem="it holds a file $file" && return 1 ;;
        esac
    done <"$work/names"
    tar --extract --file="$answer" --directory="$work/files" --no-same-owner \
        --no-same-permissions || return 1
    rm -f "$answer"
    for file in client.pem ca.pem intro_token.jwt bridge.json; do
        problem="it holds no $file"
        [ -f "$work/files/$file" ] && [ ! -L "$work/files/$file" ] || return 1
    done
    problem="its certificate is not for our key"
    [ "$(openssl x509 -in "$work/files/client.pem" -noout -pubkey 2>/dev/null)" = \
        "$(openssl pkey -in "$work/files/client.key" -pubout 2>/dev/null)" ] || return 1
    ends=$(openssl x509 -in "$work/files/client.pem" -noout -enddate) &&
        ends=$(date --date "${ends#*=}" +%s) || return 1
    chmod -R go= "$work/files"
    mkdir -p "$dir/nomad/client"
    mv -f "$work/files/intro_token.jwt" "$dir/nomad/client/intro_token.jwt"
    adopt_files
    remember_machine
    set_conf "$enrolment" NODE_NAME "$name"
    set_conf "$enrolment" BUNDLE_HASH "$(bundle_hash)"
    set_conf "$enrolment" LIMITS "$(node_limits)"
    set_conf "$enrolment" ENROLLED "$(date +%s)"
    set_conf "$enrolment" EXPIRES "$ends"
}

# One step from the old files to the new ones.
adopt_files() {
    before=$(readlink "$given")
    kept=nomad-$(date +%s)-$$
    mv "$work/files" "$etc/$kept"
    rm -f "$given.new"
    ln -s "$kept" "$given.new" && mv -T "$given.new" "$given"
    case $before in
    nomad-*) rm -rf "${etc:?}/$before" ;;
    esac
}

# Forget who this node was. What it holds of jobs is lost to the scheduler.
forget_identity() {
    before=$(readlink "$given")
    rm -rf "$dir/nomad" "$given" "$enrolment" "$var/registered" "$var/tested"
    case $before in
    nomad-*) rm -rf "${etc:?}/$before" ;;
    esac
}
