# What the scenarios share: they run as root in a booted Debian system and say what holds, one line each, in the form of
# TAP. A scenario ends with 0 when all of it held. Sourced, not run.
#
#   TURNOUT_DEB       the package
#   TURNOUT_DEB_NEXT  a later version of it
#   TURNOUT_MODELS    the folder of the test models; default as in a checkout

set -u
TURNOUT_MODELS=${TURNOUT_MODELS:-$(dirname "$0")/../../models}
# Emulated machines are slow: every wait is for a condition, and this is only where patience ends.
PATIENCE=${TURNOUT_PATIENCE:-120}
WORK=$(mktemp -d /var/tmp/turnout-scenario.XXXXXX)
chmod 755 "$WORK"
count=0 failed=0 load_pids=

# check WHAT COMMAND...: one line, by whether the command succeeds; what it printed explains a failure.
check() {
	local what=$1 out status=0
	shift
	out=$("$@" 2>&1) || status=$?
	count=$((count + 1))
	if [ $status = 0 ]; then
		echo "ok $count - $what"
	else
		failed=$((failed + 1))
		echo "not ok $count - $what"
		printf '%s\n' "$out" | sed 's/^/#   /'
	fi
}

# wait_for COMMAND...: until it succeeds, or patience ends.
wait_for() {
	local end=$((SECONDS + PATIENCE))
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || {
			echo "not within $PATIENCE s: $*"
			return 1
		}
		sleep 0.1
	done
}

not() { ! "$@"; }
equal() { [ "$1" = "$2" ] || { echo "found \`$1\`, expected \`$2\`"; return 1; }; }
exits() {
	local wanted=$1 status=0
	shift
	"$@" || status=$?
	equal "exit code $status" "exit code $wanted"
}
output_has() {
	local wanted=$1 out
	shift
	out=$("$@" 2>&1) || true
	case $out in *"$wanted"*) ;; *) printf 'no `%s` in:\n%s\n' "$wanted" "$out"; return 1 ;; esac
}
active() { equal "$(systemctl is-active "$1")" active; }
main_pid() { systemctl show -P MainPID "$1"; }

# -- the product, as its users see it

# Somebody in the group, who is not root.
operator() { runuser -u turnout-operator -- "$@"; }

ensure_installed() {
	if ! systemctl is-active -q turnoutd.service; then
		check 'the package installs' dpkg -i "$TURNOUT_DEB"
	fi
	id turnout-operator >/dev/null 2>&1 || useradd --create-home --groups turnout turnout-operator
	check 'the daemon is ready' wait_for turnoutctl status
}

# prepare MODEL VERSION: a signed folder, imported.
prepare() {
	local folder=$WORK/$1-$2
	[ -f "$WORK/release.pem" ] || {
		turnoutctl key generate "$WORK/release.pem"
		turnoutctl trust add "$WORK/release.pub.pem" --issuer scenario --models '*'
	}
	cp -r "$TURNOUT_MODELS/$1/$2" "$folder"
	turnoutctl manifest new "$folder" --model "$1" --version "$2" &&
		turnoutctl manifest sign "$folder" --key "$WORK/release.pem" &&
		turnoutctl model import "$folder"
}

# A plan that goes on for a while: long enough to interrupt, short enough to wait for.
canary() {
	cat >"$WORK/canary.yaml" <<-EOF
		steps: [{percent: 20}, {percent: 50}, {percent: 100}]
		window: ${1:-2s}
		windows: {look_back: 3, consecutive: 2}
		objectives: {p95_ms: 20000, error_rate: 0.01}
		minimum_requests: 2
	EOF
}

endpoint() { echo "http://127.0.0.1:$(port "$1")/v2/models/$1/infer"; }
# values KEY COMMAND...: what a JSON document says under this key, one a line.
values() {
	local key=$1
	shift
	"$@" --output json | tr -d ' \n' | grep -o "\"$key\":[^],}]*" | cut -d: -f2- | tr -d '"'
}
port() {
	turnoutctl status --output json | tr -d ' \n' |
		sed "s/.*\"model\":\"$1\",[^[]*\"endpoints\":\[\"127.0.0.1:\([0-9]*\)\".*/\1/"
}
# The first of the model's test requests, as a file. It is there whole or not at all: who was told of it may be about to read.
request() {
	local file=$WORK/$1.json
	[ -f "$file" ] || {
		sed -n '2s/.*"body"://;2s/},*$//p' "$TURNOUT_MODELS/requests/$1.json" >"$file.new"
		mv "$file.new" "$file"
	}
	echo "$file"
}
infer() { curl -sSf -o /dev/null -w '%{http_code}' -d @"$(request "$1")" "$(endpoint "$1")"; }
state_of() { values state turnoutctl release show "$1" | head -n 1; }
is_in() { equal "$(state_of "$1")" "$2"; }

# load MODEL: requests over four connections, a few each second, one line for each: the status of the answer, curl's exit
# code, how many connections it took, from which port, after how long, curl's error. Written line by line, or the last
# thousand would be lost with curl's buffer.
load() {
	local body endpoint
	body=$(request "$1") endpoint=$(endpoint "$1")
	: >"$WORK/answers"
	for _ in 1 2 3 4; do
		stdbuf -oL curl -s --rate 8/s -o /dev/null \
			-w '%{http_code} %{exitcode} %{num_connects} %{local_port} %{time_total} %{errormsg}\n' \
			-d @"$body" "$endpoint#[1-9999999]" >>"$WORK/answers" 2>/dev/null &
		load_pids="$load_pids $!"
	done
	wait_for test -s "$WORK/answers"
}
load_stop() {
	kill $load_pids 2>/dev/null
	wait $load_pids 2>/dev/null
	load_pids=
	echo "# $(wc -l <"$WORK/answers") requests, $(grep -vc '^200 0 ' "$WORK/answers") without a good answer"
}
no_request_failed() {
	local bad
	[ -s "$WORK/answers" ] || { echo 'there was no load'; return 1; }
	bad=$(grep -vn '^200 0 ' "$WORK/answers" | head -n 10)
	[ -z "$bad" ] || { printf 'no good answer, of %d:\n%s\n' "$(wc -l <"$WORK/answers")" "$bad"; return 1; }
}

finish() {
	[ -z "$load_pids" ] || load_stop
	rm -rf "$WORK"
	echo "1..$count"
	[ $failed = 0 ] || {
		echo "# $failed of $count failed; the end of the daemon's log:"
		journalctl -n 40 --no-pager -u turnoutd -u turnout-launcher 2>/dev/null | sed 's/^/#   /'
		exit 1
	}
	echo "# all $count hold"
	exit 0
}
