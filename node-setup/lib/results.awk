# Of lines "size mtime path", those that may become objects of the bucket. Writes to
# the file `skipped` how many may not: reserved names, not UTF-8, too long for a key.

BEGIN {
    tail = "[\200-\277]"
    utf8 = "^([\001-\177]|[\302-\337]" tail "|\340[\240-\277]" tail \
        "|[\341-\354\356\357]" tail tail "|\355[\200-\237]" tail \
        "|\360[\220-\277]" tail tail "|[\361-\363]" tail tail tail \
        "|\364[\200-\217]" tail tail ")*$"
    split("run.sh run.tgz leruli.job leruli.bucket .bridge", names, " ")
    for (i in names) reserved[names[i]] = 1
}

{
    path = $0
    sub(/^[^ ]* [^ ]* /, "", path)
    first = path
    sub(/\/.*/, "", first)
    if (first in reserved && (first == path || first == ".bridge")) counts["reserved"]++
    else if (path ~ /[\200-\377]/ && path !~ utf8) counts["encoding"]++
    else if (length(path) > 1024) counts["long"]++
    else print
}

END { print counts["reserved"] + 0, counts["encoding"] + 0, counts["long"] + 0 >skipped }
