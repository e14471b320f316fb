# The manifest.json of a docker save archive that holds exactly one image, written anew
# with its configuration and layers and without its tags. Fails for any other.

{ text = text $0 "\n" }

END {
    depth = 0
    while (text != "") {
        if (match(text, /^[ \t\r\n]+/)) {
            skip(RLENGTH)
            continue
        }
        if (match(text, /^"[^"\\]*"/)) {
            see_string(substr(text, 2, RLENGTH - 2))
            skip(RLENGTH)
            continue
        }
        if (match(text, /^[a-z0-9.+-]+/)) {
            skip(RLENGTH)
            continue
        }
        see_mark(substr(text, 1, 1))
        skip(1)
    }
    if (depth != 0 || images != 1 || configs != 1 || lists != 1) exit 1
    printf "[{\"Config\":\"%s\",\"RepoTags\":null,\"Layers\":[%s]}]\n", config, layers
}

function skip(length_) {
    text = substr(text, length_ + 1)
}

# depth 1: the list of images; depth 2: an image's fields; depth 3: what is in these.
function see_mark(mark) {
    if (mark == "[" || mark == "{") {
        depth++
        if ((depth == 1) != (mark == "[" && opened == 0)) exit 1
        opened = 1
        if (depth == 2) {
            if (mark != "{") exit 1
            images++
            field = ""
        }
        if (depth == 3 && field == "Layers") {
            if (mark != "[") exit 1
            lists++
        }
    } else if (mark == "]" || mark == "}") {
        if (--depth < 0) exit 1
    } else if (mark == ",") {
        if (depth == 2) field = ""
    } else if (mark != ":") {
        exit 1
    }
}

function see_string(value) {
    if (depth < 2) exit 1
    if (depth == 2 && field == "") field = value
    else if (depth == 2 && field == "Config") {
        config = value
        configs++
    } else if (depth == 3 && field == "Layers") layers = layers (layers == "" ? "" : ",") "\"" value "\""
}
