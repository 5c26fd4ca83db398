#!/bin/sh
# cluster.sh: one database in an etcd cluster and a bucket, several processes, and a server that dies
#
#   sh examples/cluster.sh [SECONDS]     24 unless told, at least 9
#
# Starts three etcd servers and an S3 server on this machine, has two processes move
# money between accounts while a third counts it, kills the etcd that leads with
# kill -9 meanwhile, brings it back, and shows that no transfer was lost or made
# twice, how a cache file on this machine saves requests, and what was asked of the servers.
#
# Installs what is missing (Debian and its kin: with apt-get, as root or through
# sudo; the S3 server, s3rver, with npm in ~/.cache/pagestore/s3rver), and builds in
# build/demo. Everything else is in a new directory below TMPDIR, and gone with the
# servers at the end, also after Ctrl-C. PAGESTORE_BIN=DIR: nothing is installed or
# built; pagestore and teller are in DIR.
set -eu

# --- saying things -------------------------------------------------------

if [ -t 1 ]; then
	bold=$(printf '\033[1m') plain=$(printf '\033[0m')
else
	bold='' plain=''
fi

step() {
	printf '\n%s== %s%s\n' "$bold" "$*" "$plain"
}

fail() {
	printf 'cluster.sh: %s\n' "$*" >&2
	exit 1
}

# --- what it needs ---------------------------------------------------------

missing_packages() {
	command -v cc >/dev/null || command -v gcc >/dev/null || printf 'gcc '
	[ -f /usr/include/stdio.h ] || printf 'libc6-dev '
	command -v cmake >/dev/null || printf 'cmake '
	command -v ninja >/dev/null || printf 'ninja-build '
	command -v pkg-config >/dev/null || printf 'pkg-config '
	command -v etcd >/dev/null || printf 'etcd-server '
	command -v node >/dev/null || printf 'nodejs '
	[ -f "$s3rver/node_modules/s3rver/package.json" ] || command -v npm >/dev/null || printf 'npm '
	for library in libzstd:libzstd-dev libxxhash:libxxhash-dev lmdb:liblmdb-dev libcurl:libcurl4-openssl-dev \
		jansson:libjansson-dev; do
		pkg-config --exists "${library%%:*}" 2>/dev/null || printf '%s ' "${library#*:}"
	done
}

# Run a command with its output in a log, shown only when it fails.
quietly() {
	"$@" >"$work/log" 2>&1 && return
	tail -n 30 "$work/log" >&2
	fail "failed: $*"
}

install_missing() {
	missing=$(missing_packages)
	if [ -n "$missing" ]; then
		command -v apt-get >/dev/null || fail "please install these first (by their Debian names): $missing"
		as_root=
		if [ "$(id -u)" -ne 0 ]; then
			command -v sudo >/dev/null || fail "run it as root, or install these first: $missing"
			as_root=sudo
		fi
		printf '$ %s apt-get install %s\n' "$as_root" "$missing"
		quietly $as_root apt-get -qq update
		# shellcheck disable=SC2086 # a list of words
		quietly $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing
	fi
	if [ ! -f "$s3rver/node_modules/s3rver/package.json" ]; then
		printf '$ npm install --prefix %s s3rver\n' "$s3rver"
		mkdir -p "$s3rver"
		quietly npm install --no-audit --no-fund --prefix "$s3rver" s3rver@3.7.1
	fi
}

build_programs() {
	quietly cmake -S "$root" -B "$root/build/demo" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
		-DPAGESTORE_BUILD_TESTS=OFF
	printf '$ cmake --build build/demo --target pagestore-cli pagestore-teller\n'
	quietly cmake --build "$root/build/demo" --target pagestore-cli pagestore-teller
	bin=$root/build/demo/examples
}

# --- servers -----------------------------------------------------------------

# Nothing outlives this script by long, whatever becomes of it: each process has an end set.
bounded() {
	# shellcheck disable=SC2016 # for the inner shell
	timeout -k 5 $((seconds + 120)) sh -c 'echo $$ >"$1"; shift; exec "$@"' sh "$@" 8>&-
}

pid_of() {
	cat "$work/$1.pid" 2>/dev/null || echo none
}

# end SIGNAL NAME: a process that was started under this name
end() {
	[ ! -f "$work/$2.pid" ] || kill "-$1" "$(pid_of "$2")" 2>/dev/null || :
}

stop_all() {
	trap '' INT TERM
	for name in etcd1 etcd2 etcd3 s3 writer1 writer2 reader; do
		end KILL $name
	done
	wait
	rm -rf "$work"
}

free_ports() {
	node -e 'const n = +process.argv[1], servers = [];
for (let i = 0; i < n; i++) servers.push(require("net").createServer().listen(0, "127.0.0.1", () => {
	if (servers.every(s => s.address())) { console.log(servers.map(s => s.address().port).join(" ")); process.exit(0); }
}));' "$1"
}

client_port() {
	echo "$ports" | cut -d ' ' -f "$1"
}

peer_port() {
	echo "$ports" | cut -d ' ' -f $(($1 + 3))
}

start_etcd() {
	bounded "$work/etcd$1.pid" etcd --name "etcd$1" --data-dir "$work/etcd$1" \
		--listen-client-urls "http://127.0.0.1:$(client_port "$1")" \
		--advertise-client-urls "http://127.0.0.1:$(client_port "$1")" \
		--listen-peer-urls "http://127.0.0.1:$(peer_port "$1")" \
		--initial-advertise-peer-urls "http://127.0.0.1:$(peer_port "$1")" \
		--initial-cluster "$(for i in 1 2 3; do printf 'etcd%d=http://127.0.0.1:%d,' $i "$(peer_port $i)"; done | sed 's/,$//')" \
		>>"$work/etcd$1.log" 2>&1 &
}

start_s3() {
	mkfifo "$work/s3.in"
	exec 8<>"$work/s3.in" # it ends with its input, which is this script's
	bounded "$work/s3.pid" node "$root/tests/support/s3rver.js" "$s3rver" bank 0 '' <"$work/s3.in" \
		>"$work/s3.port" 2>"$work/s3.log" &
	waits=0
	until [ -s "$work/s3.port" ]; do
		waits=$((waits + 1))
		[ $waits -lt 300 ] || fail "the S3 server does not start: $(tail -n 3 "$work/s3.log")"
		sleep 0.1
	done
	export AWS_ACCESS_KEY_ID=S3RVER AWS_SECRET_ACCESS_KEY=S3RVER # this server knows nobody else
}

# Which of the three leads, when all that run agree; nothing, when they do not.
leader() {
	node -e 'const http = require("http"), ports = process.argv.slice(1), said = {};
let left = ports.length;
const done = () => {
	if (--left) return;
	const known = Object.values(said), leads = known[0] && known[0].leader;
	if (known.length < 2 || !leads || leads === "0" || known.some(s => s.leader !== leads)) return;
	const at = Object.keys(said).find(i => said[i].header.member_id === leads);
	if (at) console.log(+at + 1);
};
ports.forEach((port, i) => {
	const options = { port, method: "POST", path: "/v3/maintenance/status", timeout: 1000 };
	const request = http.request(options, reply => {
		let text = "";
		reply.on("data", part => (text += part));
		reply.on("end", () => { try { said[i] = JSON.parse(text); } catch {} done(); });
	});
	request.on("timeout", () => request.destroy());
	request.on("error", done);
	request.end("{}");
});' "$(client_port 1)" "$(client_port 2)" "$(client_port 3)"
}

await_leader() {
	waits=0
	while :; do
		leads=$(leader)
		[ -z "$leads" ] || return 0
		waits=$((waits + 1))
		[ $waits -lt 60 ] || fail "the etcd cluster does not get ready: $(tail -n 3 "$work/etcd1.log")"
		sleep 0.3
	done
}

start_cluster() {
	ports=$(free_ports 6)
	for i in 1 2 3; do
		start_etcd $i
	done
	start_s3
	await_leader
	for i in 1 2 3; do
		if [ $i = "$leads" ]; then
			echo "etcd $i on port $(client_port $i), the leader"
		else
			echo "etcd $i on port $(client_port $i)"
		fi
	done
	echo "S3, a bucket \"bank\", on port $(cat "$work/s3.port")"
	PAGESTORE_URL="etcd://127.0.0.1:$(client_port 1),127.0.0.1:$(client_port 2),127.0.0.1:$(client_port 3)/bank"
	PAGESTORE_URL="$PAGESTORE_URL?blob=s3://bank/pages?endpoint=http://127.0.0.1:$(cat "$work/s3.port")"
	export PAGESTORE_URL
	echo "PAGESTORE_URL='$PAGESTORE_URL'"
}

# --- the bank -------------------------------------------------------------------

start_teller() {
	bounded "$work/$1.pid" "$bin/teller" "$PAGESTORE_URL" "$2" "$1" "$seconds" >"$work/$1.out" &
	eval "$1=$!"
}

# await NAME: it has to end well
await() {
	eval "wait \$$1" || fail "$1 failed"
}

run_tellers() {
	start_teller writer1 move
	start_teller writer2 move
	start_teller reader audit
	sleep $((seconds / 3))
	await_leader
	victim=$leads
	echo "  --  kill -9 of etcd $victim, which leads"
	end KILL "etcd$victim"
	sleep 1
	await_leader
	echo "  --  etcd $leads leads now"
	sleep $((seconds / 3))
	echo "  --  etcd $victim is started again"
	start_etcd "$victim"
	for name in writer1 writer2 reader; do
		await $name
	done
}

number_of_transfers() {
	cat "$work/writer1.out" "$work/writer2.out" | awk '/ transfers/ { sum += $2 } END { print sum + 0 }'
}

show_results() {
	for name in writer1 writer2 reader; do
		head -n 1 "$work/$name.out"
	done
	transfers=$(number_of_transfers)
	commits=$("$bin/pagestore" stat bank --json | sed -n 's/.*"commit_count":\([0-9]*\).*/\1/p')
	echo "$transfers transfers were confirmed; the database has $commits commits, one of which opened the accounts."
	[ "$commits" -eq $((transfers + 1)) ] || fail "that does not go together"
}

# What S3 is asked for all of the bank's pages.
export_bank() {
	printf '$ pagestore export bank - --stats\n'
	"$bin/pagestore" export bank - --stats 2>"$work/stats" >"$work/bank"
	sed -n '1p;/^  s3 *get/p' "$work/stats"
}

show_cache() {
	export_bank
	PAGESTORE_URL="$PAGESTORE_URL&cache=$work/cache&cache_size=64M"
	# shellcheck disable=SC2016 # as one would type it
	printf '$ PAGESTORE_URL="$PAGESTORE_URL&cache=%s&cache_size=64M"\n$ pagestore follow bank --once --fetch all\n' "$work/cache"
	"$bin/pagestore" follow bank --once --fetch all
	export_bank
}

main() {
	step "Three etcd servers and an S3 server"
	start_cluster
	step "A bank"
	"$bin/teller" "$PAGESTORE_URL" open
	step "Two processes move money, one counts it, for $seconds seconds"
	run_tellers
	step "Nothing is lost, nothing happened twice"
	show_results
	step "Into the bucket with it, and counted once more"
	printf '$ pagestore maintain bank --all\n'
	"$bin/pagestore" maintain bank --all
	printf '$ pagestore verify bank\n'
	"$bin/pagestore" verify bank
	"$bin/teller" "$PAGESTORE_URL" audit afterwards 0
	step "A copy on this machine: S3 is asked who it is, and for no page"
	show_cache
	step "What writer1 asked of the servers"
	sed 1d "$work/writer1.out"
	printf '\nThe servers are stopped, and all of this is gone.\n'
}

seconds=${1:-24}
case $seconds in
*[!0-9]* | '') fail "how many seconds? sh examples/cluster.sh 24" ;;
esac
[ "$seconds" -ge 9 ] || fail "it takes at least 9 seconds"
root=$(cd "$(dirname "$0")/.." && pwd)
s3rver=${PAGESTORE_S3RVER:-${XDG_CACHE_HOME:-$HOME/.cache}/pagestore/s3rver}
work=$(mktemp -d "${TMPDIR:-/tmp}/pagestore-cluster.XXXXXX")
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
bin=${PAGESTORE_BIN:-}
if [ -z "$bin" ]; then
	step "What it needs"
	install_missing
	build_programs
fi
main
