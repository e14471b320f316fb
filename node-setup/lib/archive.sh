# shellcheck shell=sh
# run.tgz -> run directory, refusing what would leave it. Sourced by bin/stage.
#
# The archive is made by users. It is listed and judged first, then extracted by the
# same tar; the run directory is ours alone until main starts.

# shellcheck disable=SC2154  # set by bin/stage and store.sh

input_invalid() { # sentence
    finish "$INPUT_INVALID" "run.tgz cannot be used: $1"
}

unpack_input() {
    input=$work/input/run.tgz
    check_sum
    check_archive
    make_rundir
    extract_archive
    settle_rundir
    rm -rf "$work/input"
}

check_sum() {
    expected=${BRIDGE_INPUT_SHA256:-}
    [ -n "$expected" ] || return 0
    sha256sum <"$input" >"$work/sum" &
    child=$!
    await_child
    read -r sum _ <"$work/sum"
    [ "$sum" = "$(printf '%s' "$expected" | tr A-F a-f)" ] ||
        input_invalid "it is not the file that was submitted (its SHA-256 differs)"
}

# The archive's content, cut at the limit. Leaves work/gzip.code, and work/too-large
# if there would have been more.
unpacked() {
    # Headers and padding take up to 1.5 KiB a member.
    most=$((max_mb * 1048576 + max_files * 1536 + 1048576))
    {
        gzip -dc <"$input" 2>/dev/null
        echo "$?" >"$work/gzip.code"
    } | {
        head -c "$most"
        [ "$(head -c 1 | wc -c)" -eq 0 ] || : >"$work/too-large"
    }
}

# Become tar with a limit on memory: a header may claim to be any number of bytes long.
exec_tar() { # arguments…
    ulimit -v 4194304
    exec tar --file=- --numeric-owner "$@" 2>"$work/tar.log"
}

check_archive() {
    unpacked | {
        (exec_tar --list --verbose --quoting-style=c --absolute-names)
        echo "$?" >"$work/tar.code"
    } | awk -v max_files="$max_files" -v max_bytes=$((max_mb * 1048576)) \
        -f "$lib/archive.awk" >"$work/verdict" &
    child=$!
    await_child
    read -r verdict sentence <"$work/verdict"
    [ "$verdict" != refused ] || input_invalid "$sentence"
    [ ! -e "$work/too-large" ] || input_invalid "it unpacks to more than $max_mb MiB"
    read -r gzip_code <"$work/gzip.code"
    read -r tar_code <"$work/tar.code"
    [ "$gzip_code,$tar_code" = 0,0 ] || input_invalid "it is damaged or no gzip'ed tar archive"
    [ "$verdict" = fine ] || input_invalid "$sentence"
}

# Empty, ours, and no link: whoever starts us may have made it.
make_rundir() {
    if [ -L "$rundir" ] || { [ -e "$rundir" ] && [ ! -d "$rundir" ]; }; then
        misconfigured "BRIDGE_RUNDIR exists and is no folder"
    fi
    if [ -d "$rundir" ]; then
        chmod -R u+rwX "$rundir" 2>/dev/null
        find "$rundir" -mindepth 1 -delete || misconfigured "BRIDGE_RUNDIR cannot be emptied"
    else
        mkdir -p "$rundir" || misconfigured "BRIDGE_RUNDIR cannot be made"
    fi
}

# Of a name with members of several kinds the last one wins, which tar alone does not
# ensure: such names are left out at first and extracted one by one. run.sh is one.
extract_archive() {
    sed -n 's/^exclude //p' "$work/verdict" >"$work/exclude"
    sed -n 's/^again //p' "$work/verdict" >"$work/again"
    extract --anchored --no-wildcards --exclude-from="$work/exclude"
    while read -r occurrence member; do
        rm -rf "${rundir:?}/$member"
        extract --no-recursion --occurrence="$occurrence" -- "$member"
    done <"$work/again"
}

extract() { # tar arguments…
    unpacked | exec_tar --extract --directory="$rundir" --no-same-owner \
        --no-same-permissions --delay-directory-restore "$@" &
    child=$!
    await_child && return
    ! grep -Eiq 'no space left on device|disk quota exceeded' "$work/tar.log" || machine_full
    input_invalid "it could not be unpacked"
}

# Modes that the job and we can work with, and nothing under a name that is ours.
settle_rundir() {
    # GNU chmod -R follows no link that it meets.
    chmod -R u+rwX,a-s,-t "$rundir" || input_invalid "it could not be unpacked"
    if [ ! -f "$rundir/run.sh" ] || [ -L "$rundir/run.sh" ]; then
        input_invalid "its run.sh is not a regular file"
    fi
    rm -rf "$rundir/joblog.txt" "$rundir/joberr.txt" "$rundir/run.tgz" "$rundir/.bridge"
}
