# shellcheck shell=sh
# Run directory -> bucket: every regular file that is new or changed, joblog.txt and
# joberr.txt always, and at the end the manifest. Sourced by bin/stage.
#
# The job may have put anything into the run directory and anything in its place. All
# work is done from the opened directory; no link is followed. Lists of files are
# lines "size mtime path"; names with control characters are in none of them.
#
# On a full disk these lists come out short. Every write of one is checked: what is
# missing from them would be taken for uploaded, and the run directory be removed.

# shellcheck disable=SC2154  # set by bin/stage, store.sh and owner.sh

# A batch ends when this much, or half a minute, is over; a file as large as this is a
# batch of its own. Between batches the owner is looked at.
BATCH_SECONDS=30
BATCH_BYTES=268435456
LARGE_FILE=67108864

identify() { # directory
    stat -c '%d:%i' -- "$1"
}

list_files() { # directory
    find "$1" -xdev -type f ! -path '*[[:cntrl:]]*' -printf '%s %T@ %P\n' | sort
}

# What stage out will compare with.
record_rundir() {
    if ! (cd -P "$rundir" && list_files .) >"$state/inputs" ||
        ! identify "$rundir" >"$state/rundir.id"; then
        misconfigured "The run directory cannot be read"
    fi
}

upload_results() {
    enter_rundir
    renew_patience
    make_logs
    # A job may take its own files' permissions away.
    chmod -R u+rX . 2>/dev/null
    batch_files=500
    : >"$work/uploaded" || machine_full
    : >"$work/sums" || machine_full
    owner_seen=0
    for _ in 1 2 3; do
        # The second look finds what changed meanwhile, usually nothing.
        list_results || machine_full
        comm -13 "$work/uploaded" "$work/results" >"$work/todo" || machine_full
        [ -s "$work/todo" ] || break
        upload_todo
        sort -u "$work/uploaded" -o "$work/uploaded" || machine_full
    done
    comm -12 "$work/uploaded" "$work/results" >"$work/listed" || machine_full
    seal
    finish 0 "$(summary)"
}

# Go where stage in put the input, and nowhere else: the job could have put a link to
# some folder of this machine in its place.
enter_rundir() {
    read -r expected <"$state/rundir.id"
    if [ ! -L "$rundir" ] && cd -P "$rundir" 2>/dev/null && [ "$(identify .)" = "$expected" ]; then
        return
    fi
    finish "$RUNDIR_REPLACED" "The job replaced its run directory; nothing was uploaded"
}

# Anything but a regular file under these names is replaced by an empty one.
make_logs() {
    for log in joblog.txt joberr.txt; do
        if [ -L "$log" ] || [ ! -f "$log" ]; then
            rm -rf "./$log"
            (set -C && : >"./$log")
        fi
    done
}

# What is new or changed, to work/results.
list_results() {
    list_files . >"$work/files" &&
        comm -13 "$state/inputs" "$work/files" >"$work/changed" &&
        awk -v skipped="$work/skipped" -f "$lib/results.awk" "$work/changed" >"$work/results"
}

upload_todo() {
    pause=1
    while [ -s "$work/todo" ]; do
        take_batch || machine_full
        hash_batch || machine_full
        [ -s "$work/batch" ] || continue
        insist_on_owner
        upload_batch && continue
        # What failed is in todo again.
        [ "$trouble" != missing ] || give_up
        pause_before_retry || give_up
    done
}

# The next files of todo to work/batch.
take_batch() {
    awk -v files="$batch_files" -v bytes="$BATCH_BYTES" -v large="$LARGE_FILE" \
        -v batch="$work/batch" -v rest="$work/rest" '
        BEGIN { printf "" >batch; printf "" >rest }
        full { print >rest; next }
        NR > 1 && (NR > files || sum + $1 > bytes || $1 >= large) { full = 1; print >rest; next }
        { print >batch; sum += $1; if ($1 >= large) full = 1 }
    ' "$work/todo" && mv -f "$work/rest" "$work/todo"
}

# SHA-256 of the batch to work/sums; what cannot be read leaves the batch.
hash_batch() {
    cut -d ' ' -f 3- "$work/batch" | tr '\n' '\0' >"$work/names" || return
    # Unreadable files are no failure, but what tr cannot write is.
    xargs -0 sha256sum -z -- <"$work/names" 2>/dev/null | tr '\0' '\n' >"$work/batch-sums" &
    child=$!
    await_child &&
        cat "$work/batch-sums" >>"$work/sums" &&
        cut -c 67- "$work/batch-sums" >"$work/names" &&
        select_named "$work/names" "$work/batch" >"$work/readable" &&
        mv -f "$work/readable" "$work/batch"
}

# The lines of a list whose path is, or with "-v" is not, in a file of names.
select_named() { # [-v] names list
    wanted=1
    [ "$1" != -v ] || { wanted=0 && shift; }
    awk -v wanted="$wanted" '
        { path = $0; sub(/^[^ ]* [^ ]* /, "", path) }
        FILENAME == ARGV[1] { named[$0]; next }
        (path in named) == wanted
    ' "$1" "$2"
}

# Upload the batch. What got there is added to work/uploaded; what did not and may
# later goes back to work/todo. Fails when the storage is in the way.
upload_batch() {
    cut -d ' ' -f 3- "$work/batch" >"$work/keys" || machine_full
    began=$(now)
    # rclone opens its own working directory, which is the one that we have open.
    # Of a batch that takes too long, what is under way is brought to its end.
    call_rclone 2147483647 copy /proc/self/cwd job: --files-from-raw "$work/keys" \
        --no-traverse --no-check-dest --transfers 8 --log-level INFO \
        --max-duration "${BATCH_SECONDS}s" --cutoff-mode soft \
        --s3-upload-cutoff 64Mi --s3-chunk-size 16Mi --s3-upload-concurrency 4
    code=$?
    sed -n 's/^[0-9/]* [0-9:]* INFO  : \(.*\): Copied ([^()]*)$/\1/p' "$work/log" >"$work/copied" ||
        machine_full
    select_named "$work/copied" "$work/batch" >>"$work/uploaded" || machine_full
    select_named -v "$work/copied" "$work/batch" >"$work/failed" || machine_full
    [ "$code" -ne 0 ] || adapt_batch $(($(now) - began))
    if [ -s "$work/copied" ]; then
        renew_patience
        pause=1
    fi
    [ -s "$work/failed" ] || return 0
    if [ "$code" -eq 0 ] || is_local_trouble; then
        # Files that changed or went: the next look at the folder decides.
        return 0
    fi
    cat "$work/failed" >>"$work/todo" || machine_full
    log_says 'max transfer duration reached' || return 1
    batch_files=$((batch_files / 2 + 1))
}

# Whether nothing but files of the run directory was in the way.
is_local_trouble() {
    sed -n '/ ERROR : .*: Failed to copy: /p' "$work/log" >"$work/errors"
    [ -s "$work/errors" ] && ! grep -Evq \
        'source file is being updated|: permission denied|: no such file or directory' "$work/errors"
}

adapt_batch() { # seconds it took
    if [ "$1" -lt $((BATCH_SECONDS / 3)) ] && [ "$batch_files" -lt 20000 ]; then
        batch_files=$((batch_files * 2))
    fi
}

# The manifest comes last. Whoever was here before us in a later attempt may still be
# writing, so then everything is looked at once more, and put again if it differs.
seal() {
    mkdir -p "$work/put/.bridge" || machine_full
    write_manifest >"$work/put/.bridge/manifest" || machine_full
    [ $(($(now) - owner_seen)) -lt "$BATCH_SECONDS" ] || insist_on_owner
    patiently put .bridge/manifest || give_up
    [ "$attempt" -gt 1 ] || return 0
    cut -d ' ' -f 3- "$work/listed" >"$work/listed-keys" || machine_full
    for _ in 1 2 3 4 5; do
        insist_on_owner
        patiently compare_listed || give_up
        # This goes by MD5, where the store has it, and by size.
        if ! log_says ': Copied \(' && is_manifest_there; then
            return 0
        fi
        insist_on_owner
        patiently put .bridge/manifest || give_up
    done
    finish "$STORAGE" "Something else keeps writing to the bucket"
}

compare_listed() {
    call_rclone 2147483647 copy /proc/self/cwd job: --files-from-raw "$work/listed-keys" \
        --no-traverse --checksum --transfers 8 --log-level INFO \
        --s3-upload-cutoff 64Mi --s3-chunk-size 16Mi --s3-upload-concurrency 4
}

is_manifest_there() {
    patiently fetch .bridge/manifest || give_up
    cmp -s "$work/fetched/.bridge/manifest" "$work/put/.bridge/manifest"
}

write_manifest() {
    printf '{"version":1,"attempt":%s,"alloc":"%s","files":[\n' "$attempt" "$alloc" && awk '
        FILENAME == ARGV[1] { sums[substr($0, 67)] = substr($0, 1, 64); next }
        {
            path = $0
            sub(/^[^ ]* [^ ]* /, "", path)
            key = path
            gsub(/["\\]/, "\\\\&", key)
            printf "%s{\"key\":\"%s\",\"size\":%s,\"sha256\":\"%s\"}", comma, key, $1, sums[path]
            comma = ",\n"
        }
    ' "$work/sums" "$work/listed" && printf '\n]}\n'
}

# One sentence: how many files were uploaded, and how many not and why.
summary() {
    control=$(find . -xdev -type f -path '*[[:cntrl:]]*' -printf x | wc -c)
    unsteady=$(comm -13 "$work/listed" "$work/results" | wc -l)
    read -r reserved encoding long <"$work/skipped"
    left_out=
    leave_out "$control" "with control characters in their names"
    leave_out "$encoding" "whose names are not UTF-8"
    leave_out "$long" "whose paths are longer than 1024 bytes"
    leave_out "$reserved" "with reserved names"
    leave_out "$unsteady" "that could not be read or kept changing"
    echo "$(wc -l <"$work/listed") files uploaded${left_out:+; left out: $left_out}"
}

leave_out() { # count which
    [ "$1" -eq 0 ] || left_out="${left_out:+$left_out, }$1 $2"
}
