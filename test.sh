#!/bin/sh
# Word accuracy on the seven scene-text-recognition test sets, as one table.
#
#   sh test.sh [DATA_ROOT] [flags of main.py]
#
# DATA_ROOT (default ./dataset) holds the LMDB folders by their usual names. A set that is not there is a - in the table
# and a line on stderr; with none at all: exit status 1. PYTHON names the interpreter (default python3).
set -eu
case "${1:-}" in
    -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;;
    '' | -*) root=./dataset ;;
    *) root=$1; shift ;;
esac
here=$(dirname "$0")

# Prints the first of the folders that holds an LMDB.
first_of() {
    for name in "$@"; do
        if [ -f "$root/$name/data.mdb" ]; then
            printf '%s' "$root/$name"
            return
        fi
    done
    printf 'test.sh: not found in %s: %s\n' "$root" "$(printf '%s or ' "$@" | sed 's/ or $//')" >&2
}

ic15=$(first_of ic15_1811 ic15_2077)
ic13=$(first_of ic13_1015)
ic03=$(first_of ic03_867 ic03_860)
cute80=$(first_of cute80_288 CUTE80)
svt=$(first_of svt_647)
svtp=$(first_of svtp_645 svt_p_645)
iiit5k=$(first_of iiit5k_3000 IIIT5K_3000)
if [ -z "$ic15$ic13$ic03$cute80$svt$svtp$iiit5k" ]; then
    printf 'test.sh: no test set in %s; build them with utils/create_lmdb.py or name their folder: sh test.sh DATA_ROOT\n' \
        "$root" >&2
    exit 1
fi
exec "${PYTHON:-python3}" "$here/main.py" --test --logs_dir ./logs_test \
    --test_data_dir "ic15=$ic15" "ic13=$ic13" "ic03=$ic03" "CUTE80=$cute80" "svt=$svt" "svtp=$svtp" "IIIT5K=$iiit5k" "$@"
