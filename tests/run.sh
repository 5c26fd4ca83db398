#!/bin/sh
# run.sh: build pagestore and run all of its tests, from nothing
#
#   sh tests/run.sh [--quick | --long] [--only STAGE]… [-h]
#
#   --quick        what takes some 22 minutes on two cores (the default)
#   --long         sets PGS_TEST_LONG=1 for the tests (the simulator: 20,000 seeds), runs those that start real
#                  servers (etcd, S3) under all sanitizers, too, and fuzzes each target for a minute
#   --only STAGE   only this stage, and the builds it needs; may be repeated
#   -h             this text
#
# Stages, in order:
#   gcc         everything built with gcc, warnings being errors; all tests but the next stage's
#   scripts     headers, symbols, layers, installation, README: tests/integration
#   clang       everything built with clang, warnings being errors
#   asan        all tests under the address and undefined-behaviour sanitizers, a few on real servers among them
#   tsan        the threaded tests under the thread sanitizer; --long: the slow ones too
#   fuzz        every decoder on its corpus, with sanitizers; --long: and on new inputs
#   server      the tests on real servers, which they start: etcd and S3. They wait more than they work, so this
#               runs beside the next stages
#   cppcheck    static analysis of lib, backends and examples
#   clang-tidy  more of it: .clang-tidy has the checks; --long: following more paths through each function
#   valgrind    a few short tests under memcheck
#
# Packages that are missing are installed first: with apt-get, as root or through
# sudo. Without either, it says which. An S3 server for the tests comes from npm,
# into ~/.cache/pagestore/s3rver (or PAGESTORE_S3RVER). Builds are in build/, logs in
# build/logs. It stops at the first stage that fails. What was skipped, and why, is told at
# the end. With CI=true nothing is skipped: a missing tool or a skipped test is a failure.
# PGS_TEST_JOBS is the number of jobs at once (default: one per core).
#
# The last line is "N passed, N failed". Exit status: 0 when nothing failed.
set -u

all_stages="gcc scripts clang asan tsan fuzz server cppcheck clang-tidy valgrind"
root=$(cd "$(dirname "$0")/.." && pwd -P) || exit 2
logs=$root/build/logs
jobs=${PGS_TEST_JOBS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)}
s3rver_version=3.7.1
passed=0 failed=0
long=no only='' ci=no beside=''
[ "${CI:-}" != true ] || ci=yes

usage() {
	sed -n '2,/^set -u/{/^#/!d;s/^# \{0,1\}//;p;}' "$root/tests/run.sh"
}

finish() {
	join_beside
	if [ -s "$logs/skipped" ]; then
		printf 'skipped:\n'
		sort -u "$logs/skipped" | sed 's/^/  /'
	fi
	printf '%d passed, %d failed\n' "$passed" "$failed"
	[ "$failed" -eq 0 ]
	exit
}

# --- what it needs ---------------------------------------------------------

has() {
	command -v "$1" >/dev/null 2>&1
}

need() {
	has "$1" || printf '%s ' "$2"
}

# Print the Debian names of missing packages without which nothing can be built.
missing_packages() {
	need gcc gcc
	need g++ g++
	[ -f /usr/include/stdio.h ] || printf 'libc6-dev '
	need clang clang
	need cmake cmake
	need ninja ninja-build
	need pkg-config pkg-config
	for library in libzstd:libzstd-dev libxxhash:libxxhash-dev lmdb:liblmdb-dev libcurl:libcurl4-openssl-dev \
		jansson:libjansson-dev cmocka:libcmocka-dev sqlite3:libsqlite3-dev; do
		pkg-config --exists "${library%%:*}" 2>/dev/null || printf '%s ' "${library#*:}"
	done
}

# … and of those without which a stage or a test is skipped.
missing_extras() {
	need sqlite3 sqlite3
	[ -x /usr/bin/python3 ] || printf 'python3 '
	need etcd etcd-server
	need openssl openssl
	need node nodejs
	has_s3rver || need npm npm
	[ -f /usr/share/unicode/UnicodeData.txt ] || printf 'unicode-data '
	need cppcheck cppcheck
	need clang-tidy clang-tidy
	need valgrind 'valgrind libc6-dbg'
}

# The sanitizers' runtime is a package of its own, named after clang's version.
missing_runtime() {
	has clang || return 0
	echo 'int main(void) { return 0; }' >"$logs/probe.c"
	clang -fsanitize=address "$logs/probe.c" -o "$logs/probe" >/dev/null 2>&1 &&
		clang -fsanitize=thread "$logs/probe.c" -o "$logs/probe" >/dev/null 2>&1 && return 0
	printf 'libclang-rt-%s-dev ' "$(clang -dumpversion | cut -d . -f 1)"
}

# The S3 server of the tests: a package of npm, outside of this tree.
has_s3rver() {
	[ -f "$PAGESTORE_S3RVER/node_modules/s3rver/package.json" ]
}

install_s3rver() {
	! has_s3rver && has npm && has node || return 0
	printf 'installing s3rver %s in %s\n' "$s3rver_version" "$PAGESTORE_S3RVER"
	mkdir -p "$PAGESTORE_S3RVER" &&
		npm install --no-audit --no-fund --prefix "$PAGESTORE_S3RVER" "s3rver@$s3rver_version" >"$logs/npm.log" 2>&1 ||
		printf 'could not install it: see %s\n' "$logs/npm.log"
}

can_install() {
	has apt-get && { [ "$(id -u)" -eq 0 ] || has sudo; }
}

install_packages() {
	as_root=sudo
	[ "$(id -u)" -ne 0 ] || as_root=
	printf 'installing %s\n' "$*"
	{
		$as_root apt-get -qq update &&
			$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@"
	} >"$logs/apt.log" 2>&1 && return
	tail -n 10 "$logs/apt.log"
	printf 'could not install them: see %s\n' "$logs/apt.log"
}

install_missing() {
	missing=$(missing_packages; missing_extras)
	# shellcheck disable=SC2086 # lists of words
	if can_install; then
		[ -z "$missing" ] || install_packages $missing
		missing=$(missing_runtime)
		[ -z "$missing" ] || install_packages $missing
	fi
	missing=$(missing_packages; missing_runtime)
	extras=$(missing_extras)
	[ -z "$missing$extras" ] || printf 'please install (by their Debian names): %s\n' "$missing$extras"
	[ -z "$missing" ] && { [ -z "$extras" ] || [ $ci = no ]; } && return
	failed=1
	finish
}

# --- building and testing, within a stage ----------------------------------

# build PRESET [TARGET…]: in build/PRESET
build() {
	preset=$1
	shift
	timeout=300
	[ $long = no ] || timeout=3600
	cmake --preset "$preset" -DPAGESTORE_TEST_TIMEOUT=$timeout
	cmake --build "build/$preset" -j "$jobs" ${1:+--target "$@"}
}

# Add to this stage's counts.
count() {
	echo "$1 $2 ${3:-0}" >>"$logs/$stage.count"
}

# A number in the head of ctest's report.
reported() {
	sed -n "s/.*[[:space:]]$1=\"\\([0-9]*\\)\".*/\\1/p" "$logs/$stage.xml" | head -n 1
}

# The skipped tests of ctest's report, each with the first line it said.
list_skipped() {
	sed -n '/<testcase /{s/.* name="\([^"]*\)".*/\1/;h;}
		/<skipped /,/<\/testcase>/{/<system-out>/{s/.*<system-out>//;s/<.*//;H;g;s/\n/: /p;};}' "$logs/$stage.xml"
}

# run_ctest PRESET ARGUMENT…
run_ctest() {
	preset=$1 result=0
	shift
	rm -f "$logs/$stage.xml"
	# One more than there are cores: some tests mostly wait.
	steadily ctest --test-dir "build/$preset" -j $((jobs + 1)) --output-on-failure --no-tests=error \
		--output-junit "$logs/$stage.xml" "$@" || result=$?
	[ -f "$logs/$stage.xml" ] || return 1
	skipped=$(($(reported skipped) + $(reported disabled)))
	list_skipped >>"$logs/skipped"
	count $(($(reported tests) - $(reported failures) - skipped)) "$(reported failures)" $skipped
	if [ $skipped -gt 0 ] && [ $ci = yes ]; then
		echo "$skipped tests were skipped"
		return 1
	fi
	return $result
}

# Run with addresses in their usual places, where that is allowed: the thread
# sanitizer cannot start under the widest randomization.
steadily() {
	if [ "$stage" = tsan ] && setarch "$(uname -m)" -R true 2>/dev/null; then
		setarch "$(uname -m)" -R "$@"
	else
		"$@"
	fi
}

# skip_without TOOL: says whether the stage ends here
skip_without() {
	has "$1" && return 1
	echo "skipped: there is no $1"
	echo "stage $stage: there is no $1" >>"$logs/skipped"
	count 0 0 1
	[ $ci = no ] || exit 1
}

# --- the stages --------------------------------------------------------------

stage_gcc() {
	build gcc
	run_ctest gcc -LE 'integration|server'
}

stage_scripts() {
	build gcc
	run_ctest gcc -L integration
}

stage_clang() {
	build clang
	count 1 0
}

stage_asan() {
	build asan
	if [ $long = yes ]; then
		run_ctest asan -LE integration -E '^fuzz_.*_replay$'
	else
		run_ctest asan -LE 'integration|once' -E '^fuzz_.*_replay$'
	fi
}

stage_tsan() {
	build tsan pagestore_threaded_tests
	if [ $long = yes ]; then
		run_ctest tsan -L threads
	else
		run_ctest tsan -L threads -LE 'slow|once'
	fi
}

stage_fuzz() {
	build asan
	if grep -q "fuzz_.*_replay" build/asan/fuzz/CTestTestfile.cmake; then
		run_ctest asan -R '^fuzz_.*_replay$'
	else
		count 0 0 1
		[ $ci = no ]
	fi
	[ $long = no ] || fuzz_on
}

# A minute of new inputs for each target; what it finds stays in build/fuzz/found.
fuzz_on() {
	build fuzz
	mkdir -p build/fuzz/found
	for target in build/fuzz/fuzz/fuzz_*; do
		[ -x "$target" ] && [ -f "$target" ] || continue
		name=${target##*/fuzz_}
		mkdir -p "build/fuzz/new/$name"
		"$target" -max_total_time=60 -timeout=10 -print_final_stats=1 -artifact_prefix=build/fuzz/found/ \
			"build/fuzz/new/$name" "fuzz/corpus/$name" || { count 0 1; return 1; }
		count 1 0
	done
}

# Built already: see start_beside(). Much runs beside it, and servers on a machine that is late with everything now and
# then miss what a test waits for: what fails is run once more, and said.
stage_server() {
	run_ctest gcc -L server -j $((2 * jobs)) --repeat until-pass:2
}

stage_cppcheck() {
	! skip_without cppcheck || return 0
	cppcheck --version
	# Findings in headers of the system's libraries are not ours.
	cppcheck -j "$jobs" -q --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
		--std=c11 -D_GNU_SOURCE -Iinclude -Ilib -I. lib backends examples
	count 1 0
}

stage_clang_tidy() {
	! skip_without clang-tidy || return 0
	build gcc
	# The analyzer gives a function up after so many steps (its default is 225,000): nearly all ends sooner, and the
	# few that do not take most of the time.
	effort=''
	[ $long = yes ] || for word in -Xclang -analyzer-config -Xclang max-nodes=50000; do
		effort="$effort --extra-arg=$word"
	done
	# shellcheck disable=SC2086 # a list of words
	find lib backends examples -name '*.c' | sort | xargs -n 4 -P "$jobs" clang-tidy -p build/gcc --quiet $effort \
		2>"$logs/clang-tidy.counts" # how many warnings it has suppressed
	count 1 0
}

# Short programs that need no large maps and start no processes.
stage_valgrind() {
	! skip_without valgrind || return 0
	build gcc
	for program in build/gcc/tests/test_util build/gcc/tests/test_codec_* build/gcc/tests/test_golden \
		build/gcc/tests/test_memory build/gcc/examples/quickstart; do
		[ -x "$program" ] && [ -f "$program" ] || continue
		echo "$program"
		valgrind -q --leak-check=full --errors-for-leak-kinds=definite,possible --error-exitcode=9 "$program" ||
			{ count 0 1; return 1; }
		count 1 0
	done
}

# --- running them ------------------------------------------------------------

wanted() {
	[ -z "$only" ] && return
	case " $only " in
	*" $1 "*) return 0 ;;
	*) return 1 ;;
	esac
}

# Add up this stage's counts. A stage that fails has failed at least once.
add_counts() {
	stage_passed=0 stage_failed=0 stage_skipped=0
	while read -r p f s; do
		stage_passed=$((stage_passed + p)) stage_failed=$((stage_failed + f)) stage_skipped=$((stage_skipped + s))
	done <"$logs/$stage.count"
	[ "$1" -eq 0 ] || [ $stage_failed -gt 0 ] || stage_failed=1
	passed=$((passed + stage_passed)) failed=$((failed + stage_failed))
}

run_stage() {
	stage=$1 function=stage_$(echo "$1" | tr - _) start=$(date +%s)
	: >"$logs/$stage.count"
	(
		set -e
		"$function"
	) >"$logs/$stage.log" 2>&1
	result=$?
	end_stage $result $(($(date +%s) - start))
}

# end_stage RESULT SECONDS
end_stage() {
	add_counts "$1"
	printf '%-11s%4d s  %d passed, %d failed' "$stage" "$2" $stage_passed $stage_failed
	[ $stage_skipped -eq 0 ] || printf ', %d skipped' $stage_skipped
	printf '\n'
	[ "$1" -eq 0 ] && return
	tail -n 40 "$logs/$stage.log"
	printf 'stage %s failed: all of its output is in %s\n' "$stage" "$logs/$stage.log"
	finish
}

# Start the stage `server` in the background. What it needs is built first: two builds cannot be in one folder.
start_beside() {
	stage=server start=$(date +%s)
	: >"$logs/$stage.count"
	(
		set -e
		build gcc
	) >"$logs/$stage.log" 2>&1 || end_stage 1 $(($(date +%s) - start))
	(
		set +e
		(
			set -e
			stage_server
		) >>"$logs/$stage.log" 2>&1
		echo "$? $(($(date +%s) - start))" >"$logs/$stage.result"
	) &
	beside=$!
}

# Its result, once.
join_beside() {
	[ -n "$beside" ] || return 0
	wait "$beside"
	beside='' stage=server
	read -r result seconds <"$logs/$stage.result"
	end_stage "$result" "$seconds"
	again=$(sed -n '/\*\*\*Skipped/d;s/.* Test *#[0-9]*: \([a-z0-9_]*\) .*\*\*\*.*/\1/p' "$logs/$stage.log" | sort -u)
	# shellcheck disable=SC2086 # a list of words
	[ -z "$again" ] || printf 'passed only when run again: %s\n' "$(echo $again)"
}

while [ $# -gt 0 ]; do
	case $1 in
	--quick) long=no ;;
	--long) long=yes ;;
	--only)
		case " $all_stages " in
		*" ${2:-none} "*) only="$only $2" ;;
		*) echo "run.sh: no such stage; there are: $all_stages" >&2; exit 2 ;;
		esac
		shift
		;;
	-h | --help) usage; exit 0 ;;
	*) echo "run.sh: unknown option $1; -h lists them" >&2; exit 2 ;;
	esac
	shift
done

cd "$root" || exit 2
mkdir -p "$logs" || exit 2
[ $long = no ] || export PGS_TEST_LONG=1
export PAGESTORE_S3RVER="${PAGESTORE_S3RVER:-${XDG_CACHE_HOME:-$HOME/.cache}/pagestore/s3rver}"
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_stack_use_after_return=1}"
export TSAN_OPTIONS="${TSAN_OPTIONS:-second_deadlock_stack=1}"
: >"$logs/skipped"
install_missing
install_s3rver
for name in $all_stages; do
	wanted "$name" || continue
	case $name in
	server) start_beside ;;
	*) run_stage "$name" ;;
	esac
done
finish
