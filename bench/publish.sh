#!/usr/bin/env bash
# Measures what the README shows, on a quiet machine, into bench/results/$1.json; all of it takes about ten minutes.
#
#     bench/publish.sh NAME [PART …]        PARTS: resnet50 vgg16 mobilenet_v2 alexnet pooled batch images kernels threads
#
# A part's records replace those of the same name, so one that was disturbed can be repeated.
set -euo pipefail
cd "$(dirname "$0")/.."
name=$1
shift
all="forward,grad_input,grad_weight"

bench() { "${CONVCORE:-.venv/bin/convcore}" bench --json "bench/results/$name.json" --append "$@"; }

for part in "${@:-resnet50 vgg16 mobilenet_v2 alexnet pooled batch images kernels threads}"; do
    for part in $part; do
        case $part in
        resnet50 | vgg16 | mobilenet_v2) bench --problems "$part" --direction $all --batch 1 --budget 0.5 ;;
        alexnet) bench --problems alexnet --direction $all --backends cpu,opencl-resident,torch,jax,tinygrad,numpy ;;
        pooled) bench --problems resnet50 --direction $all --batch 1 --allocator pooled --budget 0.5 ;;
        batch) bench --problems resnet50 --batch 16 --budget 0.5 ;;
        images)
            bench --problems image512 --backends cpu,opencv,scipy,torch,gputools
            bench --problems image2048 --backends cpu,opencv
            ;;
        kernels) bench --problems kernels ;;
        threads) bench --problems resnet50 --batch 1 --threads 1 --budget 0.5 ;;
        *) echo "no part is called $part" >&2 && exit 2 ;;
        esac
    done
done
