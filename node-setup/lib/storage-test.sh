# shellcheck shell=sh
# The self-test of the group's storage, with this node's keys. Sourced by bin/selftest and, for
# its check, by get-started.sh.

# shellcheck disable=SC2154  # set by bin/selftest and what it sources

test_bucket=

test_storage() {
    if readable_by_others "$etc/s3.conf"; then
        finding fail storage "$etc/s3.conf can be read by others" "chmod 600 $etc/s3.conf"
        return
    fi
    make_test_bucket || return
    echo canary >"$scratch/canary"
    if ! s3 copyto "$scratch/canary" "s3:$test_bucket/canary"; then
        finding fail storage "an object cannot be written: $(s3_trouble)" \
            "The keys in $keys_name need the right to put objects"
    elif [ "$(s3 cat "s3:$test_bucket/canary" && cat "$scratch/s3.out")" != canary ]; then
        finding fail storage "an object cannot be read back: $(s3_trouble)" \
            "The keys in $keys_name need the right to get objects"
    elif ! s3 deletefile "s3:$test_bucket/canary"; then
        finding fail storage "an object cannot be deleted: $(s3_trouble)" \
            "The keys in $keys_name need the right to delete objects"
    else
        finding ok storage "an object goes there and comes back"
    fi
    remove_test_bucket
}

# A bucket like that of a job: a name that nobody can guess. Sets `test_bucket`.
make_test_bucket() {
    test_bucket=$(cat /proc/sys/kernel/random/uuid)
    s3 mkdir "s3:$test_bucket" && return
    finding fail storage "a bucket cannot be made: $(s3_trouble)" \
        "Correct S3_SERVER, S3_ACCESS and S3_SECRET in $keys_name; the keys need the right to make buckets"
    test_bucket=
    return 1
}

remove_test_bucket() {
    [ -n "$test_bucket" ] || return 0
    s3 purge "s3:$test_bucket"
    test_bucket=
}

# Rclone with the group's keys in its environment alone: output to s3.out, log to s3.log.
s3() { # rclone arguments…
    (
        ca=$(conf_value "$etc/s3.conf" S3_CA)
        region=$(conf_value "$etc/s3.conf" S3_REGION)
        access=$(conf_value "$etc/s3.conf" S3_ACCESS)
        secret=$(conf_value "$etc/s3.conf" S3_SECRET)
        for name in $(env | sed -n 's/^\(\(RCLONE\|AWS\)_[A-Za-z0-9_]*\)=.*/\1/p'); do
            unset "$name"
        done
        export RCLONE_CONFIG=/dev/null RCLONE_RETRIES=1 RCLONE_LOW_LEVEL_RETRIES=2
        export RCLONE_CONTIMEOUT=10s RCLONE_TIMEOUT=30s
        export RCLONE_CONFIG_S3_TYPE=s3 RCLONE_CONFIG_S3_PROVIDER=Other
        export RCLONE_CONFIG_S3_FORCE_PATH_STYLE=true
        RCLONE_CONFIG_S3_ENDPOINT=$(conf_value "$etc/s3.conf" S3_SERVER)
        export RCLONE_CONFIG_S3_ENDPOINT RCLONE_CONFIG_S3_REGION="${region:-us-east-1}"
        export RCLONE_CONFIG_S3_ACCESS_KEY_ID="$access"
        export RCLONE_CONFIG_S3_SECRET_ACCESS_KEY="$secret"
        export RCLONE_CONFIG_S3_USE_DATA_INTEGRITY_PROTECTIONS=false
        # What makes and removes the bucket itself.
        [ "$1" = mkdir ] || export RCLONE_CONFIG_S3_NO_CHECK_BUCKET=true
        [ -z "$ca" ] || export RCLONE_CA_CERT="$ca"
        exec timeout --kill-after=5 60 "$(rclone_program)" "$@"
    ) >"$scratch/s3.out" 2>"$scratch/s3.log"
}

# The node's own, or before there is one the system's; nothing if there is none.
rclone_program() {
    if [ -x "$dir/bin/rclone" ]; then
        echo "$dir/bin/rclone"
    else
        command -v rclone
    fi
}

# What the storage said, without the bucket's name and for people.
s3_trouble() {
    if grep -q 'StatusCode: 40[13]' "$scratch/s3.log"; then
        echo "the storage refuses the keys"
    elif grep -q 'connection refused\|no such host\|i/o timeout\|deadline exceeded' "$scratch/s3.log"; then
        echo "the storage does not answer"
    elif grep -q 'x509' "$scratch/s3.log"; then
        echo "its certificate is not trusted here; name its CA's file in S3_CA="
    else
        tail -n 1 "$scratch/s3.log" | sed "s/${test_bucket:-no-bucket}/…/g" | cut -c 1-200
    fi
}
