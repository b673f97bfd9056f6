#!/bin/sh
# The words that the shipped models are trained and validated on, into ./dataset.
#
# Needs, as folders of images with a gt.txt in ./real, the training sets of IIIT5K, SVT, ICDAR 2015 and ICDAR 2003,
# TextZoom's train2 as pairs (each line of gt.txt: high resolution, low resolution, label, with tabs between), words of
# COCO-Text, of born-digital pictures (ICDAR 2013), of WildReceipt and of SROIE, and the five test sets after --apart,
# whose words are kept out.
# Fonts and photographs come from Debian. Without these fonts the renderer takes those of the machine; the folders of
# photographs must exist:
#   xargs apt-get install -y --no-install-recommends plasma-workspace-wallpapers lomiri-wallpapers-16.04 \
#     lomiri-wallpapers-20.04 < lib/wordsets/rendering/font_packages.txt
set -eu

for set in iiit5k_train svt_train ic15_train ic03_train textzoom_train2 cocotext_train borndigital_train \
    wildreceipt_train sroie_train iiit5k_3000 svt_647 ic13_1015 cute80_288 textzoom_test_easy; do
    test -f ./real/$set/gt.txt || { echo "recipes/data.sh: ./real/$set/gt.txt is missing" >&2; exit 1; }
done

# What is there already is left alone.
render() {
    test -f "$2/data.mdb" ||
        python3 utils/render_words.py --background_dir /usr/share/wallpapers /usr/share/backgrounds "$@"
}
pack() {
    test -f "$4/data.mdb" || python3 utils/create_lmdb.py "$@"
}
split_words() {
    test -f "$2/train.odgt" || python3 -m utils.split_words "$@"
}
render --out ./dataset/words_40k --count 40000 --seed 7 --font_split train
render --out ./dataset/words_60k --count 60000 --seed 8 --font_split train
render --out ./dataset/words_200k --count 200000 --seed 9 --font_split train
render --out ./dataset/words_100k --count 100000 --seed 10 --font_split train
render --out ./dataset/words_s21 --count 100000 --seed 21 --font_split train
render --out ./dataset/words_s23 --count 160000 --seed 23 --font_split train
render --out ./dataset/words_s24 --count 150000 --seed 24 --font_split train
render --out ./dataset/words_s25 --count 120000 --seed 25 --font_split train
render --out ./dataset/words_s26 --count 100000 --seed 26 --font_split train
render --out ./dataset/words_s27 --count 140000 --seed 27 --font_split train
render --out ./dataset/words_s28 --count 120000 --seed 28 --font_split train
render --out ./dataset/words_s29 --count 120000 --seed 29 --font_split train
render --out ./dataset/words_val --count 1000 --seed 99 --font_split val
render --out ./dataset/words_val4k --count 4000 --seed 98 --font_split val

split_words --out ./dataset/lists \
    --input ./real/iiit5k_train ./real/svt_train ./real/ic15_train ./real/ic03_train ./real/textzoom_train2 \
    --apart ./real/iiit5k_3000 ./real/svt_647 ./real/ic13_1015 ./real/cute80_288 ./real/textzoom_test_easy
pack --input ./dataset/lists/train.odgt --output ./dataset/real_train
pack --input ./dataset/lists/val.odgt --output ./dataset/real_val
pack --input ./dataset/lists/val.odgt --output ./dataset/real_val_small \
    --max_width 64 --max_height 32

# What the recognizer is trained further on besides: born-digital words, receipts, and words of COCO-Text.
split_words --out ./dataset/lists_new \
    --input ./real/cocotext_train ./real/borndigital_train ./real/wildreceipt_train ./real/sroie_train \
    --apart ./real/iiit5k_3000 ./real/svt_647 ./real/ic13_1015 ./real/cute80_288 ./real/textzoom_test_easy
pack --input ./dataset/lists_new/train.odgt --output ./dataset/real_train_new
pack --input ./dataset/lists_new/val.odgt --output ./dataset/real_val_new

# For textsr and textsr_x2: the real words that are at least 28 pixels high, and TextZoom's pairs without those that
# validate or are near a test word.
cat ./dataset/lists/train.odgt ./dataset/lists_new/train.odgt > ./dataset/lists/all.odgt
pack --input ./dataset/lists/all.odgt --output ./dataset/real_tall --min_height 27
grep -o 'textzoom_train2/images/[^"]*' ./dataset/lists/train.odgt | sed 's#textzoom_train2/##' > ./dataset/lists/pairs.txt
grep -F -f ./dataset/lists/pairs.txt ./real/textzoom_train2/gt.txt > ./real/textzoom_train2/pairs_train.txt
pack --input ./real/textzoom_train2/pairs_train.txt --output ./dataset/textzoom_pairs
