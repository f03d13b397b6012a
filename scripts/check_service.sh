#!/usr/bin/env bash
# The service as programs and people meet it: schemathesis against its OpenAPI document, then the page in a real
# browser. Needs Python, Node.js and Chromium (with Debian's package where it is missing). scripts/check_service.sh
# [PROGRAM]
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
program=${1:-$target/release/albef}
images=data/drawings/drawings-val-style/fxemoji
export ALBEF_MODEL=$PWD/models/mini
work=$(mktemp -d)
trap 'kill "${service:-}" 2>/dev/null || true; rm -rf "$work"' EXIT

tools=$(realpath -m "$target/schemathesis")
[ -x "$tools/bin/python" ] || python3 -m venv "$tools"
"$tools/bin/python" -m pip install --quiet "schemathesis==4.32.5"
"$program" -q serve "$images" --index "$work/index" --bind 127.0.0.1:0 >"$work/address" &
service=$!
for _ in $(seq 600); do [ -s "$work/address" ] && break; sleep 0.1; done
address=$(cat "$work/address")
# A document cannot say that base64 must be an image, so that requests which fit it may be refused.
# It leaves a cache where it runs.
(cd "$work" && "$tools/bin/schemathesis" run "$address/openapi.json" --max-examples 30 --seed 1 \
    --exclude-checks positive_data_acceptance --warnings off)
kill -TERM "$service"
wait "$service"

command -v chromium >/dev/null || { apt-get update -qq; apt-get install -y -qq chromium >/dev/null; }
(cd tests/page && npm ci --no-audit --no-fund --silent)
# A model for questions, of one step.
cat >"$work/questions.json" <<EOF
[{"dataset": "vqa", "image": "1f313.png", "question": "is it red?", "question_id": 1, "answer": ["yes"]},
 {"dataset": "vqa", "image": "1f34f.png", "question": "is it red?", "question_id": 2, "answer": ["no"]}]
EOF
"$program" -q finetune vqa configs/vqa.yaml --output "$work/questions" --set "train_file=[$work/questions.json]" \
    --set "vqa_root=$images" --set "checkpoint=$ALBEF_MODEL" --set image_res=48 --set batch_size_train=2 \
    --set schedular.epochs=1
node tests/page/test.mjs "$program" "$images" "$target/page" "$work/questions/model"
