# shellcheck shell=sh
# The fence in the bucket: the object .bridge/owner names the attempt and the alloc
# that may write there. Sourced by bin/stage.
#
# A higher attempt, or another alloc of the same one, has the bucket: then we change
# nothing any more. A lower attempt is a ghost, over which we write. Another job never
# gives way: the service has forgotten it (its database came from a backup) and had the
# same folder handed in once more.

# shellcheck disable=SC2154  # set by bin/stage and store.sh

# Sets `holder`: none, mine, lower, other or foreign.
judge_owner() { # file
    holder=none owner_attempt='' owner_alloc='' owner_job=''
    [ -f "$1" ] || return 0
    # shellcheck disable=SC2034  # the rest of the line is ignored
    read -r owner_attempt owner_alloc owner_job rest <"$1"
    is_number "$owner_attempt" || return 0
    # Services and stages of before named no job.
    is_job_id "$owner_job" || owner_job=
    if [ -n "$job" ] && [ -n "$owner_job" ] && [ "$owner_job" != "$job" ]; then
        holder=foreign
    elif [ "$owner_attempt" -lt "$attempt" ]; then
        holder=lower
    elif [ "$owner_attempt" -eq "$attempt" ] && [ "$owner_alloc" = "$alloc" ]; then
        holder=mine
    else
        holder=other
    fi
}

superseded() {
    finish "$SUPERSEDED" "Superseded by another attempt"
}

# The bucket is not ours, `holder` says whose.
not_ours() {
    case $verb,$holder in
    in,foreign) finish "$TAKEN" "Not run: the folder already belongs to job $owner_job, handed\
 over before. If that has ended, its results are in the bucket" ;;
    *) superseded ;;
    esac
}

# Write ourselves into the bucket and read it back. The first attempt in a bucket
# without owner does not: only another alloc of the same attempt could be there at the
# same moment, and whichever wrote first learns it before it uploads.
claim() {
    unowned=$holder,$attempt
    mkdir -p "$work/put/.bridge" || machine_full
    printf '%s %s%s\n' "$attempt" "$alloc" "${job:+ $job}" >"$work/put/.bridge/owner" || machine_full
    tries=0
    while [ "$tries" -lt 5 ]; do
        tries=$((tries + 1))
        patiently put .bridge/owner || give_up
        [ "$unowned" != none,1 ] || return 0
        patiently fetch .bridge/owner || give_up
        judge_owner "$work/fetched/.bridge/owner"
        case $holder in
        mine) return 0 ;;
        other | foreign) not_ours ;;
        esac
    done
    finish "$STORAGE" "The storage does not keep what is written to it"
}

# Before anything is written by stage out.
insist_on_owner() {
    patiently fetch .bridge/owner || give_up
    judge_owner "$work/fetched/.bridge/owner"
    case $holder in
    mine) ;;
    other | foreign) not_ours ;;
    *) claim ;;
    esac
    owner_seen=$(now)
}

# The bucket's input to work/input, and the bucket ours.
take_bucket() {
    set -- .bridge/owner run.tgz
    [ "$attempt" -eq 1 ] || set -- "$@" .bridge/manifest
    patiently fetch "$@" || give_up
    judge_owner "$work/fetched/.bridge/owner"
    case $holder in
    other | foreign) not_ours ;;
    esac
    [ -f "$work/fetched/run.tgz" ] || input_missing
    mv "$work/fetched" "$work/input"
    first=$holder,$attempt
    claim
    [ "$first" = none,1 ] || remove_remains
}

# What an earlier attempt has left: unfinished uploads, and what its manifest lists.
remove_remains() {
    # Some stores cannot list unfinished uploads; the check after our own upload
    # finds what one of these may still become.
    call_rclone "$(call_limit)" backend cleanup job: -o max-age=0s ||
        log_says NoSuchUpload || explain
    [ -f "$work/input/.bridge/manifest" ] || return 0
    awk -v below="$attempt" -f "$lib/manifest-keys.awk" "$work/input/.bridge/manifest" \
        >"$work/remains" || machine_full
    if [ -s "$work/remains" ]; then
        patiently delete_listed "$work/remains" || give_up
        # Last, so that a broken clean-up can be done again.
        echo .bridge/manifest >"$work/remains" || machine_full
        patiently delete_listed "$work/remains" || give_up
    fi
}
