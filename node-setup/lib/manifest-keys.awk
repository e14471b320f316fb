# The keys that a manifest of an attempt lower than `below` lists, one per line, as
# lib/results.sh wrote it: a first line with the attempt, then one line per object.
# Never a key that is not a result's, whatever the manifest says.

NR == 1 {
    if (!match($0, /"attempt":[0-9]+/)) exit
    if (substr($0, RSTART + 10, RLENGTH - 10) + 0 >= below + 0) exit
    next
}

/^\{"key":".*","size":[0-9]+,"sha256":"[0-9a-f]*"\},?$/ {
    key = substr($0, 9)
    match(key, /","size":[0-9]+,"sha256":"[0-9a-f]*"\},?$/)
    key = plain(substr(key, 1, RSTART - 1))
    if (key == "" || key == "run.tgz" || key ~ /^(\/|\.bridge\/)/) next
    if (key ~ /(^|\/)\.?\.?(\/|$)/ || key ~ /[[:cntrl:]]/) next
    print key
}

function plain(text,   at, result) {
    while ((at = index(text, "\\")) > 0) {
        result = result substr(text, 1, at - 1) substr(text, at + 1, 1)
        text = substr(text, at + 2)
    }
    return result text
}
