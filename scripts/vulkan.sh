#!/usr/bin/env bash
# Computes on a Vulkan device and on the CPU and compares: the golden fixtures, a few steps of
# pre-training with a stop in between, and the trained model in use; it exits with another code than 0
# if they differ. LIBRARY_TESTS=1 adds the library's tests of devices, which are a second long build.
# Without a graphics card it takes Mesa's software driver, which this installs on Debian.
#
#   scripts/vulkan.sh [STEPS]
#
# DEVICE names another device, for instance vulkan:1; TOLERANCE is the relative difference of the
# losses that is allowed; ONLY limits the fixtures to some kinds, separated by commas. Not a part of
# .ci/run: the build takes long and the driver is a package.
set -euo pipefail
cd "$(dirname "$0")/.."
steps=${1:-6}
device=${DEVICE:-vulkan}
tolerance=${TOLERANCE:-2e-3}
target=target/vulkan

if ! compgen -G '/usr/share/vulkan/icd.d/*.json' && ! compgen -G '/etc/vulkan/icd.d/*.json'; then
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" apt-get install -y -q --no-install-recommends mesa-vulkan-drivers
fi

cargo build --profile device-check --locked -p albef-cli --features vulkan --target-dir "$target"
albef=$target/device-check/albef
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The software driver crashes on SPIR-V that Burn writes itself; see wgsl_only.c.
if "$albef" doctor | grep -q '^vulkan:0: .*software, wgpu<spirv>'; then
    cc -O1 -shared -fPIC -o "$work/driver.so" scripts/lavapipe/wgsl_only.c -ldl
    printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "%s", "api_version": "1.3.0"}}' \
        "$work/driver.so" >"$work/driver.json"
    export VK_DRIVER_FILES=$work/driver.json VK_ICD_FILENAMES=$work/driver.json
fi
"$albef" doctor

echo "== golden fixtures on $device"
"$albef" doctor --golden tests/golden --device "$device" ${ONLY:+--only "$ONLY"}

# All that training draws takes part: dropout, distillation, hard negatives, masked words.
train() { # DEVICE FOLDER STEPS [ARGUMENT…]
    local on=$1 folder=$2 last=$3
    shift 3
    "$albef" pretrain configs/nano.yaml --output "$folder" --device "$on" "$@" \
        --set 'train_file=[data/drawings/drawings_val.json]' --set image_root=data/drawings \
        --set batch_size=8 --set image_res=32 --set max_steps="$last" --set seed=5 \
        --set dropout=0.1 --set momentum_dropout=0.1 --set alpha=0.4
}
losses() {
    grep -o '"\(step\|train_loss_[a-z]*\)":[-0-9.e]*' "$1/log.jsonl" | tr -d '"' | tr ':' ' '
}
compare() { # WHAT: two columns of names and numbers side by side on standard input
    awk -v what="$1" -v allowed="$tolerance" '
        function size(x) { return x < 0 ? -x : x }
        NF != 4 || $1 != $3 { print what ": the lists differ: " $0; bad = 1; exit }
        { d = size($2 - $4) / (size($4) > 1 ? size($4) : 1); if (d > worst) worst = d; n++
          if (d > allowed) { print what ": " $1 " is " $2 " instead of " $4; bad = 1 } }
        END { printf "%s: %d numbers, worst difference %.1e, %.1e allowed\n", what, n, worst, allowed
              exit bad || n == 0 }'
}

echo "== $steps steps of pre-training on cpu and on $device"
train cpu "$work/cpu" "$steps"
train "$device" "$work/device" $((steps / 2))
train "$device" "$work/device" "$steps" --resume
paste -d ' ' <(losses "$work/device") <(losses "$work/cpu") | compare losses

echo "== one model in use on cpu and on $device"
picture=data/drawings/drawings-val/twemoji/1f30d.png
used() { # DEVICE
    "$albef" match "$picture" "globe showing Europe-Africa" --model "$work/cpu/model" \
        --device "$1" --json | grep -o '"[a-z_]*":[-0-9.e]*' | tr -d '"' | tr ':' ' '
}
paste -d ' ' <(used "$device") <(used cpu) | compare match
if [ -n "${LIBRARY_TESTS:-}" ]; then
    echo "== the library's tests of devices"
    cargo test --profile device-check --locked -p albef --features vulkan --lib --target-dir "$target" plain_tests::devices
fi
echo "$device agrees with the cpu"
