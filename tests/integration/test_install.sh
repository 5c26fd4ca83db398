#!/bin/sh
# test_install.sh: an installation can be used, in each of the ways the README says
#
#   sh test_install.sh BUILD-DIRECTORY
#
# Installs what is built there into a new directory and moves that, then builds and
# runs examples/quickstart.c against it with find_package() and with pkg-config, and
# against the sources with add_subdirectory().
set -u

[ $# -eq 1 ] || { echo "usage: test_install.sh BUILD-DIRECTORY" >&2; exit 2; }
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/pagestore-install.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
log=$work/log

fail() {
	tail -n 20 "$log"
	echo "FAILED: $*"
	exit 1
}

# The program works: it prints both versions of its page.
runs() {
	"$1" >"$work/out" 2>>"$log" || fail "$2: the program fails"
	grep -q 'good morning' "$work/out" && grep -q 'good night' "$work/out" || fail "$2: it prints something else"
	echo "passed: $2"
}

# project NAME LINE…: a CMake project of these lines, with the program, built
project() {
	name=$1
	mkdir "$work/$name"
	cp "$root/examples/quickstart.c" "$work/$name/main.c"
	shift
	{
		printf 'cmake_minimum_required(VERSION 3.21)\nproject(consumer LANGUAGES C)\n'
		printf '%s\n' "$@"
		printf 'add_executable(consumer main.c)\ntarget_link_libraries(consumer pagestore::pagestore)\n'
	} >"$work/$name/CMakeLists.txt"
	cmake -S "$work/$name" -B "$work/$name/build" -G Ninja "-DCMAKE_PREFIX_PATH=$work/moved" >>"$log" 2>&1 ||
		fail "$name: cannot be configured"
	cmake --build "$work/$name/build" -j 2 >>"$log" 2>&1 || fail "$name: cannot be built"
}

cmake --install "$1" --prefix "$work/first" >"$log" 2>&1 || fail "cmake --install"
mv "$work/first" "$work/moved"

project find_package 'find_package(pagestore 0.1 REQUIRED)'
runs "$work/find_package/build/consumer" find_package

PKG_CONFIG_PATH=$(dirname "$(find "$work/moved" -name pagestore.pc)")
export PKG_CONFIG_PATH
# shellcheck disable=SC2046 # lists of options
cc $(pkg-config --static --cflags pagestore) "$root/examples/quickstart.c" -o "$work/by-pkg-config" \
	$(pkg-config --static --libs pagestore) >>"$log" 2>&1 || fail "pkg-config: cannot be built"
runs "$work/by-pkg-config" pkg-config

project add_subdirectory "add_subdirectory($root pagestore)"
runs "$work/add_subdirectory/build/consumer" add_subdirectory
for target in pagestore-cli test_util; do
	! grep -qw "$target" "$work/add_subdirectory/build/build.ninja" ||
		fail "add_subdirectory: a subdirectory should not build $target"
done
