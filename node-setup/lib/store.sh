# shellcheck shell=sh
# The group's S3 storage, by rclone: the remotes job: and code: are its two buckets.
# Sourced by bin/stage.
#
# Keys and bucket names reach rclone through its environment only, and what it prints
# is never passed on as it is: it may hold the bucket's name, which is a secret.

# shellcheck disable=SC2154  # bin/stage sets state, work, home, verb, alloc and others

prepare_store() {
    # Settings of whoever started us must not change what rclone does.
    for name in $(env | sed -n 's/^\(\(RCLONE\|AWS\)_[A-Za-z0-9_]*\)=.*/\1/p'); do
        unset "$name"
    done
    rclone=$home/bin/rclone
    if [ ! -x "$rclone" ]; then
        rclone=$(command -v rclone) ||
            misconfigured "There is no rclone in BRIDGE_HOME/bin or on the PATH"
    fi
    # Names are keys and keys are names, byte by byte.
    RCLONE_LOCAL_ENCODING=Raw
    RCLONE_CONFIG=/dev/null
    # Patience is ours: between two tries the owner of the bucket is looked at.
    RCLONE_RETRIES=1
    RCLONE_LOW_LEVEL_RETRIES=2
    RCLONE_CONTIMEOUT=20s
    RCLONE_TIMEOUT=60s
    RCLONE_STATS=0
    export RCLONE_LOCAL_ENCODING RCLONE_CONFIG RCLONE_RETRIES RCLONE_LOW_LEVEL_RETRIES
    export RCLONE_CONTIMEOUT RCLONE_TIMEOUT RCLONE_STATS
    read_keys
}

# The group's keys from etc/s3.conf: plain NAME=value lines, nothing is evaluated.
read_keys() {
    conf=$home/etc/s3.conf
    s3_server='' s3_access='' s3_secret='' s3_region=us-east-1 s3_ca=''
    [ -r "$conf" ] || return 0 # a node without access: every call is denied
    [ -z "$(find -L "$conf" -perm /077)" ] ||
        misconfigured "BRIDGE_HOME/etc/s3.conf can be read by others: chmod 600 it"
    carriage_return=$(printf '\r')
    while IFS= read -r line || [ -n "$line" ]; do
        line=${line%"$carriage_return"}
        case $line in
        S3_SERVER=*) s3_server=${line#*=} ;;
        S3_ACCESS=*) s3_access=${line#*=} ;;
        S3_SECRET=*) s3_secret=${line#*=} ;;
        S3_REGION=?*) s3_region=${line#*=} ;;
        S3_CA=*) s3_ca=${line#*=} ;;
        esac
    done <"$conf"
    case $s3_server in
    '' | http://?* | https://?*) ;;
    *) misconfigured "S3_SERVER in BRIDGE_HOME/etc/s3.conf must begin with http:// or https://" ;;
    esac
}

has_keys() {
    [ -n "$s3_server" ] && [ -n "$s3_access" ] && [ -n "$s3_secret" ]
}

# Become rclone. For a subshell: the secrets are exported there and nowhere else.
exec_rclone() { # seconds rclone-arguments…
    export RCLONE_CONFIG_S3_TYPE=s3
    # "Other" is path style and SigV4, and expects nothing that only one server has.
    export RCLONE_CONFIG_S3_PROVIDER=Other
    export RCLONE_CONFIG_S3_FORCE_PATH_STYLE=true
    export RCLONE_CONFIG_S3_ENDPOINT="$s3_server"
    export RCLONE_CONFIG_S3_REGION="$s3_region"
    export RCLONE_CONFIG_S3_ACCESS_KEY_ID="$s3_access"
    export RCLONE_CONFIG_S3_SECRET_ACCESS_KEY="$s3_secret"
    export RCLONE_CONFIG_S3_ENCODING=Raw
    # A missing bucket must stay missing.
    export RCLONE_CONFIG_S3_NO_CHECK_BUCKET=true
    # The answer to a PUT holds the checksum. A HEAD after it could see another
    # attempt's object, and rclone would then delete that as damaged.
    export RCLONE_CONFIG_S3_NO_HEAD=true
    export RCLONE_CONFIG_S3_USE_DATA_INTEGRITY_PROTECTIONS=false
    # The MD5 of a whole large object is needed only to compare it later (attempt 2…);
    # each of its parts has its own.
    [ "$attempt" -gt 1 ] || export RCLONE_CONFIG_S3_DISABLE_CHECKSUM=true
    export RCLONE_CONFIG_JOB_TYPE=alias
    export RCLONE_CONFIG_JOB_REMOTE="s3:$BRIDGE_BUCKET"
    export RCLONE_CONFIG_CODE_TYPE=alias
    export RCLONE_CONFIG_CODE_REMOTE="s3:${BRIDGE_CODE_BUCKET:-}"
    [ -z "$s3_ca" ] || export RCLONE_CA_CERT="$s3_ca"
    seconds=$1
    shift
    # In the foreground it stays in our process group, where a kill finds it.
    exec timeout --foreground --kill-after=10 "$seconds" "$rclone" "$@"
}

# Run rclone: its output goes to work/out, its log to work/log. When it fails,
# `trouble` says why: missing, denied, disk, or away for all that may pass.
call_rclone() { # seconds rclone-arguments…
    trouble=denied
    if ! has_keys; then
        echo "There are no S3 keys in $home/etc/s3.conf" >"$work/log"
        return 1
    fi
    (exec_rclone "$@") >"$work/out" 2>"$work/log" &
    child=$!
    await_child && return
    set -- "$?"
    if log_says 'NoSuchBucket|NoSuchKey|directory not found|object not found'; then
        trouble=missing
    elif log_says 'StatusCode: 40[13]'; then
        trouble=denied
    # The second is rclone's own, before it writes a file that will not fit.
    elif log_says 'no space left on device|remaining disk space|disk quota exceeded'; then
        trouble=disk
    else
        trouble=away
    fi
    return "$1"
}

log_says() { # extended regular expression
    grep -Eiq -e "$1" "$work/log"
}

# Try until the storage gives an answer, or until `deadline`. No access is an answer
# for stage in. Stage out waits for that too: results can be had only once, and keys
# that were rotated may reach this machine a little later.
patiently() { # command…
    pause=1
    until "$@"; do
        case $verb,$trouble in
        *,away | out,denied) ;;
        *) return 1 ;;
        esac
        pause_before_retry || return 1
    done
    renew_patience
}

# Wait twice as long as the last time; fails when the deadline has passed.
pause_before_retry() {
    seconds_left=$((deadline - $(now)))
    [ "$seconds_left" -gt 0 ] || return 1
    [ "$pause" -le "$seconds_left" ] || pause=$seconds_left
    nap "$pause"
    pause=$((pause * 2))
    [ "$pause" -le 30 ] || pause=30
    read_keys
}

# Stage in has one limit for all it does; stage out gives up only when nothing moved
# for as long as its patience.
renew_patience() {
    [ "$verb" = in ] || deadline=$(($(now) + patience))
}

# How long a call on small objects may take.
call_limit() {
    if [ "$verb" = in ]; then
        seconds_left=$((deadline - $(now)))
        [ "$seconds_left" -gt 0 ] || seconds_left=1
    else
        seconds_left=300
    fi
    echo "$seconds_left"
}

# Bring objects of the job's bucket to work/fetched; those that are not there stay away.
fetch() { # keys…
    rm -rf "$work/fetched"
    # An empty list would fetch nothing and be a success.
    printf '%s\n' "$@" >"$work/keys" || machine_full
    call_rclone "$(call_limit)" copy job: "$work/fetched" \
        --files-from-raw "$work/keys" --no-traverse
}

# Write an object of the job's bucket from the file of the same name below work/put.
put() { # key
    printf '%s\n' "$1" >"$work/keys" || machine_full
    call_rclone "$(call_limit)" copy "$work/put" job: \
        --files-from-raw "$work/keys" --no-traverse --no-check-dest
}

# Remove the objects of the job's bucket that a file lists.
delete_listed() { # file
    call_rclone "$(call_limit)" delete job: --files-from-raw "$1" --no-traverse
}

input_missing() {
    explain
    # Clients look for this sentence word by word.
    finish "$INPUT_MISSING" "Input files missing"
}

# The storage cannot be used: end with what `trouble` means.
give_up() {
    case $verb,$trouble in
    *,missing | in,denied) input_missing ;;
    *,disk) machine_full ;;
    esac
    explain
    case $trouble in
    denied) finish "$STORAGE" "The storage refuses the keys of this machine" ;;
    *) finish "$STORAGE" "The storage did not answer for as long as we wait" ;;
    esac
}

machine_full() {
    finish "$MISCONFIGURED" "The disk of this machine is full"
}

# For the operator, on standard error: what rclone said last, without the buckets' names.
explain() {
    [ -s "$work/log" ] || return 0
    awk '
        function without(text, secret,   at) {
            while (secret != "" && (at = index(text, secret)) > 0)
                text = substr(text, 1, at - 1) "…" substr(text, at + length(secret))
            return text
        }
        { last = $0 }
        END {
            last = without(last, ENVIRON["BRIDGE_BUCKET"])
            print "rclone: " without(last, ENVIRON["BRIDGE_CODE_BUCKET"])
        }
    ' "$work/log" >&2
}
