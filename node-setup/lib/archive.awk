# Judges the members of an archive. Reads what
#     tar --list --verbose --quoting-style=c --numeric-owner --absolute-names
# prints: a line per member with mode, owner, size, date, time and the name in double
# quotes, in which every odd character is escaped. Variables: max_files, max_bytes.
#
# Prints "fine", or "refused" or "lacking" with the reason. After "fine" come lines
# "exclude NAME" and "again OCCURRENCE NAME" for names whose last member has to be
# extracted by itself.

{
    if (++members > max_files + 0) refuse("it holds more than " max_files " members")
    kind = substr($0, 1, 1)
    if (!match($0, /"([^"\\]|\\.)*"/)) refuse("a member of it cannot be read")
    name = substr($0, RSTART + 1, RLENGTH - 2)
    rest = substr($0, RSTART + RLENGTH)
    key = inside(name)

    if (kind == "-") {
        bytes += $3
        if (bytes > max_bytes + 0) refuse("it unpacks to more than " max_bytes / 1048576 " MiB")
    } else if (kind == "h") {
        target = inside(quoted(rest, " link to "))
        if (!(target in kinds)) refuse("a hard link in it leads out of it")
        # What leads to a symbolic link is one.
        kind = (target in links) ? "l" : "-"
        note_parents(target)
    } else if (kind == "l") {
        quoted(rest, " -> ")
    } else if (kind != "d") {
        refuse("it holds a device, a FIFO or another special file")
    }
    if (key == "" && kind != "d") refuse("a member of it has no name")
    if (kind == "l") links[key] = 1
    note_parents(key)
    note(key, kind, name)
}

END {
    if (refused) exit
    for (path in links)
        if (path in parents) refuse("a member's path leads through a link")
    if (refused) exit
    for (path in several) judge_several(path)
    if (refused) exit
    if (!("run.sh" in kinds)) lack("it holds no run.sh")
    else if (kinds["run.sh"] != "-") lack("its run.sh is not a regular file")
    else {
        print "fine"
        for (i = 1; i <= lines; i++) print line[i]
    }
}

function refuse(reason) {
    if (!refused) print "refused " reason
    refused = 1
    exit
}

# Wrong only if the archive was read to its end, which the caller knows.
function lack(reason) {
    print "lacking " reason
}

# The name in quotes after a separator.
function quoted(text, separator) {
    if (index(text, separator "\"") != 1 || text !~ /"([^"\\]|\\.)*"$/)
        refuse("a link in it cannot be read")
    return substr(text, length(separator) + 2, length(text) - length(separator) - 2)
}

# A path without ./ and double slashes; refuses what is not below the run directory.
function inside(path,   parts, count, i, result) {
    if (path ~ /^\//) refuse("it holds an absolute path")
    if (real_length(path) > 4000) refuse("it holds a path that is too long")
    count = split(path, parts, "/")
    for (i = 1; i <= count; i++) {
        if (parts[i] == "" || parts[i] == ".") continue
        if (parts[i] == "..") refuse("it holds a path with ..")
        if (real_length(parts[i]) > 255) refuse("it holds a name that is too long")
        result = (result == "") ? parts[i] : result "/" parts[i]
    }
    return result
}

function real_length(text) {
    if (length(text) <= 255) return length(text)
    gsub(/\\[0-7][0-7][0-7]/, "x", text)
    gsub(/\\./, "x", text)
    return length(text)
}

function note_parents(path) {
    while (match(path, /\/[^\/]*$/)) {
        path = substr(path, 1, RSTART - 1)
        if (path in parents) return
        parents[path] = 1
    }
}

function note(path, type, spelled) {
    sub(/\/+$/, "", spelled)
    if (path in kinds && (type == "l" || kinds[path] != type || path == "run.sh"))
        several[path] = 1
    kinds[path] = type
    spellings[path] = (path in spellings) ? spellings[path] "\n" spelled : spelled
    last[path] = spelled
    occurrence[path] = ++seen[spelled]
}

function judge_several(path,   parts, count, i) {
    # Members below it would be left out together with it (of run.sh that is meant),
    # and the shell could not read back an odd name.
    if ((path in parents && path != "run.sh") || spellings[path] ~ /\\|(^|\n) | (\n|$)/) {
        refuse("it holds members of several kinds under one name")
        return
    }
    count = split(spellings[path], parts, "\n")
    for (i = 1; i <= count; i++) line[++lines] = "exclude " parts[i]
    line[++lines] = "again " occurrence[path] " " last[path]
}
