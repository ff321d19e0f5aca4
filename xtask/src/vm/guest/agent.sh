#!/bin/bash
# Runs in a guest, and does what the host says: each line is "NUMBER SECONDS COMMAND". A command's output goes back line by
# line as "o NUMBER TEXT", so that it is there when the guest dies; its end as "x NUMBER CODE", after an empty line, because
# the output may have ended without a newline.
set -u
port=/dev/virtio-ports/turnout.agent
[ -e "$port" ] || udevadm wait --timeout=60 "$port"
exec 3<>"$port"

# The second disk is what the host has brought: programs and scenarios, at the paths they have on the host.
if [ -b /dev/vdb ] && mkdir -p /run/turnout-vm && mount -o ro -t ext4 /dev/vdb /run/turnout-vm; then
    . /run/turnout-vm/environment
    mkdir -p "$TURNOUT_CHECKOUT" /var/tmp/turnout-built
    mount --bind /run/turnout-vm/checkout "$TURNOUT_CHECKOUT"
    mount --bind /var/tmp/turnout-built "$TURNOUT_CHECKOUT/target/tmp"
fi

echo "ready $(uname -r)" >&3
while IFS=' ' read -r number seconds command <&3; do
    timeout --kill-after=5 "$seconds" bash -c "$command" < /dev/null 2>&1 |
        sed -u "s/^/o $number /" >&3
    printf '\nx %s %s\n' "$number" "${PIPESTATUS[0]}" >&3
done
